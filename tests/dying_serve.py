"""``python -m tests.dying_serve N [ARGUMENTS]``: a real ``fleetctl`` that dies at its Nth commit.

SQLite tells each statement before it does it, so with an odd N the Nth transaction is lost, and
with an even one the kernel kills us at the first statement after it: nothing that follows from it
has been done. Nothing of the controller is replaced: Python's audit events give the connection.
"""

import os
import signal
import sqlite3
import sys

from controller.cli.app import run


def die_at(number: int) -> None:
    """End this process with SIGKILL around its Nth COMMIT."""
    seen = 0
    wanted, is_after = (number + 1) // 2, number % 2 == 0

    def trace(statement: str) -> None:
        nonlocal seen
        if seen == wanted and is_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if statement == "COMMIT":
            seen += 1
            if seen == wanted and not is_after:
                os.kill(os.getpid(), signal.SIGKILL)

    made: list[sqlite3.Connection] = []

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if made and event != "sqlite3.connect/handle":
            made.pop().set_trace_callback(trace)  # It is ready only after its own event.
        elif event == "sqlite3.connect/handle":
            connection = arguments[0]
            assert isinstance(connection, sqlite3.Connection)
            made.append(connection)

    sys.addaudithook(hear)


if __name__ == "__main__":
    die_at(int(sys.argv[1]))
    sys.exit(run(sys.argv[2:]))
