"""How much of one processor core a process takes, as the kernel counts it."""

import os
from pathlib import Path
from time import monotonic, sleep

IDLE_SECONDS = 10.0  # A hundred turns of the agent's loop, two of its `health`.


def permille_of_a_core(pid: int, seconds: float = IDLE_SECONDS) -> float:
    """Return what a process takes in that time, of a core, in permille."""
    begun, before = monotonic(), _seconds(pid)
    sleep(seconds)
    return (_seconds(pid) - before) / (monotonic() - begun) * 1000


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")
