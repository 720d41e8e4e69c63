"""Memory of all processes that this one started, sampled; and the end of those that take too much.

PSS, which counts a page that several processes share once: Ultralytics' workers are forked from a
process of gigabytes, and none of those exists twice. Java's is kept apart: the converter is Java,
all else Python.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.memory import memory_of

SAMPLE_SECONDS = 0.3


@dataclass(slots=True)
class Peak:
    """The most that was seen at once, of all together and of each kind.

    Attributes:
        load_before: Of the machine: on a busy one, seconds say little.
        is_ended: Above the limit: all of it was killed.
        sessions: Who loses its parent stays in its own.
    """

    together_bytes: int = 0
    python_bytes: int = 0
    java_bytes: int = 0
    is_ended: bool = False
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    sessions: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    session: int
    name: str


@contextmanager
def watched(limit_bytes: int | None = None) -> Iterator[Peak]:
    """Sample what this process starts meanwhile; kill all of it above the limit."""
    peak, is_over = Peak(), threading.Event()
    thread = threading.Thread(target=_watch, args=(peak, is_over, limit_bytes), daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        is_over.set()
        thread.join()


def _watch(peak: Peak, is_over: threading.Event, limit_bytes: int | None) -> None:
    while not is_over.wait(SAMPLE_SECONDS):
        found = _descendants(_processes(), peak)
        held = {pid: _held_bytes(pid) for pid in found}
        java = sum(held[pid] for pid, one in found.items() if one.name == "java")
        everything = sum(held.values())
        peak.together_bytes = max(peak.together_bytes, everything)
        peak.java_bytes = max(peak.java_bytes, java)
        peak.python_bytes = max(peak.python_bytes, everything - java)
        if limit_bytes is not None and everything > limit_bytes:
            peak.is_ended = True
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _descendants(processes: dict[int, _Process], peak: Peak) -> dict[int, _Process]:
    ours = os.getsid(0)
    found: dict[int, _Process] = {}
    size = -1
    while size != len(found):  # Until nobody's child is new.
        size = len(found)
        for pid, one in processes.items():
            if one.parent == os.getpid() or one.parent in found or one.session in peak.sessions:
                found[pid] = one
                if one.session != ours:
                    peak.sessions.add(one.session)
    return found


def _processes() -> dict[int, _Process]:
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError, ValueError, IndexError):  # It ended meanwhile.
            found[int(folder.name)] = _read(folder)
    return found


def _read(folder: Path) -> _Process:
    text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return _Process(int(fields[1]), int(fields[3]), name)


def _held_bytes(pid: int) -> int:
    try:
        return memory_of(pid).pss_bytes
    except (OSError, KeyError, ValueError):  # It ended meanwhile.
        return 0
