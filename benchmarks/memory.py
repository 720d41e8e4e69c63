"""How much memory a process takes: its own share of what is mapped (PSS), and all of it (RSS)."""

from dataclasses import dataclass
from pathlib import Path

_KIBIBYTE = 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process."""

    pss_bytes: int
    rss_bytes: int


def memory_of(pid: int) -> Memory:
    """Return the memory of a process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])  # The first is an address.
    pss, rss = (int(fields[name].removesuffix("kB")) for name in ("Pss", "Rss"))
    return Memory(pss * _KIBIBYTE, rss * _KIBIBYTE)


def only_child_of(pid: int) -> int:
    """Return the process that this one started."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(child)
