"""Print results: a table on a terminal, plain lines otherwise, a document a line as JSON."""

import sys
from collections.abc import Sequence

import msgspec

from benchmarks.fleet import Size
from benchmarks.memory import Memory
from benchmarks.rollout import Result
from controller.cli.terminal import Terminal

_MEBIBYTE = 1024 * 1024
COLUMNS = (
    "agents",
    "full + cores",
    "s to publish",
    "s to committed",
    "controller sent, bytes",
    "of the release",
    "gap, s",
    "longest",
    "agent, MiB",
    "camera, MiB",
    "idle, % of a core",
    "load before",
)


def write_json(result: Result) -> None:
    """Write a result as one line."""
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    sys.stdout.flush()


def show(terminal: Terminal, results: Sequence[Result]) -> None:
    """Show all results, and what the numbers mean."""
    terminal.table(COLUMNS, [_row(result) for result in results], documents=results, empty="")
    terminal.say(_notes(results[-1]))


def _notes(result: Result) -> str:
    frame = result.frame
    return f"""\
The release: {result.release_bytes} bytes, fetched whole by every agent, all at once.
full: the process of a Pi, with a camera child that infers; gap and memory are theirs.
cores: the same agent with a stand-in for its camera child, many in a process, at low priority.
s to committed: {result.seconds_fixed:.0f} of them are the health gate, which watches that long.
MiB: the proportional share, and in brackets all that is mapped.
idle: the agent's parent without a release, and in brackets while its camera streams.
From output tensors to message: {frame.total_us:.0f} us, {frame.objects:.1f} objects a frame
  (decode {frame.decode_us:.0f}, pipe {frame.pipe_us:.0f}, message {frame.message_us:.0f});\
 a loop with json.dumps, without checks: {frame.plain_us:.0f} us."""


def _row(result: Result) -> tuple[str, ...]:
    size = Size(result.agents)
    return (
        str(result.agents),
        str(size),
        f"{result.seconds_to_publish:.1f}",
        f"{result.seconds_to_committed:.1f}",
        str(result.controller_bytes_sent),
        f"{result.controller_bytes_sent / result.release_bytes:.3f}",
        f"{result.gap_seconds:.2f}",
        f"{result.gap_seconds_max:.2f}",
        _memory(result.agent),
        _memory(result.camera),
        f"{result.idle_permille / 10:.2f} ({result.busy_permille / 10:.2f})",
        f"{result.load_average:.1f}",
    )


def _memory(memory: Memory) -> str:
    return f"{memory.pss_bytes / _MEBIBYTE:.0f} ({memory.rss_bytes / _MEBIBYTE:.0f})"
