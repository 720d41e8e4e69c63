"""The exporter's child process: ``python -m controller.export.child``.

It works in the folder that the parent gave, tells how far it is, ends when the parent is gone, and
explains what it can explain. What the libraries print lands in the parent's log.
"""

import os
import signal
import threading
from typing import IO

import msgspec

from controller.export.facts import Facts
from controller.export.wire import LINE_BYTES, Built, Failed, Job, Message, Progress
from shared.errors import ExportError


def main() -> int:
    """Read the job, build, and send the outcome; return the exit code."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # From here on, what a library prints is no message.
    job = msgspec.json.decode(_read_line(), type=Job)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        facts = _build(job, out)
    except ExportError as error:
        _send(out, Failed(str(error)))
        return 1
    _send(out, Built(facts))
    return 0


def _build(job: Job, out: IO[bytes]) -> Facts:
    _send(out, Progress("load", text="torch, Ultralytics and Sony's tools"))
    from controller.export.chain import build  # noqa: PLC0415 - seconds: first show a sign of life.

    return build(job, tell=lambda progress: _send(out, progress))


def _send(out: IO[bytes], message: Message) -> None:
    out.write(msgspec.json.encode(message) + b"\n")
    out.flush()


def _read_line() -> bytes:
    with open(0, "rb", buffering=0, closefd=False) as pipe:
        return pipe.readline(LINE_BYTES)


def _end_with_parent() -> None:
    """End the whole process group, the converter's Java too, once the parent's pipe closes."""
    while os.read(0, 1):  # Not sys.stdin: its lock would be held when the interpreter ends.
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    # The thread that waits for the parent holds standard input: an orderly exit would wait for it.
    os._exit(main())
