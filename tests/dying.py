"""``python -m tests.dying PHASE [PATH] -- run ...``: a real agent that a power cut ends on time.

It is killed by the kernel right after the rename that makes its journal say ``PHASE`` (as JSON
text, so that ``"is_reboot_due":true`` may be asked for, too): the phase is on disk, and nothing of
what it stands for has been done. With ``PATH``: at the first touch of a path with that in its name
afterwards, in the middle of the work. Python's audit events tell; nothing of the agent is replaced.
"""

import os
import signal
import sys
from pathlib import Path

from agent.__main__ import main


def die_in(said: bytes, touched: str) -> None:
    """End this process with SIGKILL once the journal says so, or at the touch after that."""
    is_said = False

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal is_said
        if is_said and touched in str(arguments[:2]):
            is_said = False  # The kill is an event, too.
            os.kill(os.getpid(), signal.SIGKILL)
        elif event == "os.rename" and str(arguments[1]).endswith("/journal.json"):
            is_said = said in Path(str(arguments[0])).read_bytes().replace(b" ", b"")

    sys.addaudithook(hear)


if __name__ == "__main__":
    at = sys.argv.index("--")
    phase, path = (*sys.argv[1:at], "")[:2]
    sys.argv = [sys.argv[0], *sys.argv[at + 1 :]]
    die_in(phase.encode(), path)
    main()
