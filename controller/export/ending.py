"""How a build ends: its package is delivered whole or not at all, and a bad end is explained."""

import resource
import shutil
import signal
from pathlib import Path

from shared.errors import ExportError

DISK_BYTES_FULL = 16 * 1024 * 1024  # What is left then is of no use to any step.
LOG_LINES_SHOWN = 12
LOG_BYTES_SHOWN = 8_192


def deliver(source: Path, target: Path) -> None:
    """Copy a folder to where it is wanted.

    Raises:
        ExportError: It cannot be written, e.g. because the disk is full; nothing of it is left.
    """
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # Of a run that was killed.
    try:
        shutil.copytree(source, part)
        part.replace(target)  # A folder that is there is empty: preflight has looked.
    except OSError as error:
        raise ExportError(f"{target} could not be written: {_reason(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def why_silent(returncode: int, log: Path, *, limit: float | None, available: int | None) -> str:
    """Say why the child ended without a word.

    Args:
        returncode: As subprocess has it: a signal is negative.
        log: What its tools printed.
        limit: The seconds after which we ended it; None: we did not.
        available: Bytes of memory that were available before it began, where that is known.
    """
    if limit is not None:
        return f"it took longer than {limit:g} s and was ended: take fewer calibration images"
    if returncode == -signal.SIGKILL:
        held = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
        before = "" if available is None else f"; {available >> 20} MB were available before it"
        return (
            "the exporter's process was killed (signal 9), as Linux does when memory is short: "
            f"it held up to {held} MB{before}. Close other programs, take fewer calibration "
            "images or a smaller --imgsz, or build on a larger machine"
        )
    return f"the exporter's process ended without a word. Its last lines:\n{_end(log)}"


def explain(error: ExportError, work: Path) -> ExportError:
    """Return the error, or that the disk is full: whatever a library made of that."""
    free = shutil.disk_usage(work).free
    if free >= DISK_BYTES_FULL:
        return error
    return ExportError(
        f"the disk with {work.parent} is full ({free >> 20} MB are free): make room there, or set "
        f"TMPDIR to a folder with room. What failed: {error}"
    )


def _reason(error: OSError) -> str:
    """Return why; of many files that could not be copied, the first one's reason."""
    if isinstance(error, shutil.Error):
        return str(error.args[0][0][2])
    return error.strerror or str(error)


def _end(log: Path) -> str:
    text = log.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace")
    return "\n".join(text.splitlines()[-LOG_LINES_SHOWN:])
