"""The exporter's child process: ``python -m controller.export.child``.

It works in the folder that the parent gave, tells how far it is, ends when the parent is gone, and
explains what it can explain. What the libraries print lands in the parent's log.
"""

import io
import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

import msgspec

from controller.export.wire import (
    LINE_BYTES,
    Built,
    Evaluated,
    Failed,
    ImportJob,
    Job,
    Message,
    Order,
    Progress,
)
from shared.errors import ExportError

FAILURE_CHARACTERS_MAX = 2_000
SECONDS_BETWEEN_STEPS = 1.0  # Of one progress bar.


def main() -> int:
    """Read the order, carry it out, and send the outcome; return the exit code."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # From here on, what a library prints is no message.
    order: Order = msgspec.json.decode(_read_line(), type=Order)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        outcome = _carry_out(order, lambda progress: _send(out, progress))
    except ExportError as error:
        _send(out, Failed(str(error)))
        return 1
    except ImportError as error:
        what_to_do = "Run, in imxfleet's folder: make export"
        _send(out, Failed(f"the export extra is not installed: {error}. {what_to_do}"))
        return 1
    except Exception as error:  # noqa: BLE001 - any library's; the log has its traceback.
        what = f"{type(error).__name__}: {error}"[:FAILURE_CHARACTERS_MAX]
        with suppress(OSError):  # The log may be what filled the disk.
            traceback.print_exc()
        _send(out, Failed(f"the exporter failed: {what}"))
        return 1
    _send(out, outcome)
    return 0


def _carry_out(order: Order, tell: Callable[[Progress], None]) -> Built | Evaluated:
    """Import what it takes, which takes seconds: first show a sign of life."""
    if isinstance(order, ImportJob):
        from controller.export.importing import import_network  # noqa: PLC0415

        return Built(import_network(order, tell=tell))
    tell(Progress("load", text="torch, Ultralytics and Sony's tools"))
    if isinstance(order, Job):
        _tell_bars(tell)
        from controller.export.chain import build  # noqa: PLC0415

        return Built(build(order, tell=tell))
    from controller.export.measure import evaluate  # noqa: PLC0415

    return evaluate(order, tell=tell)


def _tell_bars(tell: Callable[[Progress], None]) -> None:
    """Make MCT's progress bars messages: it has no other way to say how far it is.

    It takes ``tqdm`` by name when it is imported, so this comes first.
    """
    import tqdm  # noqa: PLC0415 - it is the export extra's.

    class Told(tqdm.tqdm):  # type: ignore[misc]
        def __init__(self, *values: Any, **options: Any) -> None:  # noqa: ANN401 - as tqdm's own.
            quiet: dict[str, Any] = {"file": io.StringIO(), "mininterval": SECONDS_BETWEEN_STEPS}
            super().__init__(*values, **{**options, **quiet})

        def display(self, *_: object, **__: object) -> None:
            text = (self.desc or "layers").strip(": ").lower()
            tell(Progress("quantise", int(self.n), int(self.total or 0), text))

    tqdm.tqdm = Told


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
