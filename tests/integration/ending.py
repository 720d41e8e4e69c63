"""Commands that start processes of their own: how they are ended, and what is left of them."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep


def processes_below(folder: Path) -> list[int]:
    """Return the processes that were started with a path below the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command:
                found.append(int(entry.name))
    return found


def wait_until_none(folder: Path) -> list[int]:
    deadline = monotonic() + 20.0
    while (left := processes_below(folder)) and monotonic() < deadline:
        sleep(0.1)
    return left


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def end_once_there(
    command: Sequence[str], folder: Path, pattern: str, *, number: int, seconds_max: float
) -> None:
    """Start a command, and send it a signal once a file below its folder is there."""
    process = subprocess.Popen(
        command, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = monotonic() + seconds_max
        while not any(folder.glob(pattern)):
            assert monotonic() < deadline
            assert process.poll() is None
            sleep(0.05)
        process.send_signal(number)
        process.wait(60.0)
    finally:
        process.kill()
        process.wait()
