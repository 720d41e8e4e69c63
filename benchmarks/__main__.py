"""The numbers of the main job, by fleet size; exit 1 where a larger fleet costs more bytes."""

import argparse
import signal
import sys
from collections.abc import Sequence
from time import strftime

from benchmarks import frames, report
from benchmarks.fleet import Say, Size
from benchmarks.rollout import Result, measure
from controller.cli.terminal import Terminal
from shared.errors import FleetError

SIZES = (1, 10, 50, 200)
AGENTS_MAX = 500
# Without the documents that tell people how it goes (`told_bytes`). 0.5 % of 3 MB are 75 bytes for
# each of 200 agents, less than any message to each of them; a block sent twice is 4 %.
GROWTH_MAX = 1.005
INTERRUPTED = 130


def main() -> int:
    """Measure each size."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # What was started is ended, too.
    try:
        results = _measure(arguments.agents, is_json=arguments.output == "json")
    except FleetError as error:
        _say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    if arguments.output == "table":
        report.show(Terminal("table"), results)
    grown = [result for result in results if result.bytes_ratio > GROWTH_MAX]
    for result in grown:
        _say(
            f"bench: expected a controller that sends at most {GROWTH_MAX} times what it sends to"
            f" {results[0].agents}, got {result.bytes_ratio:.3f} for {result.agents} agents"
        )
    return 1 if grown else 0


def _measure(sizes: Sequence[int], *, is_json: bool) -> list[Result]:
    _say("measuring from output tensors to message")
    frame = frames.measure()
    results: list[Result] = []
    for agents in sizes:
        smallest = results[0] if results else None
        result = measure(Size(agents), frame, smallest, _teller(f"{agents} agents: "))
        results.append(result)
        if is_json:
            report.write_json(result)
    return results


def _teller(prefix: str) -> Say:
    return lambda text: _say(prefix + text)


def _say(text: str) -> None:
    sys.stderr.write(f"{strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--agents", type=_sizes, default=SIZES, metavar="N,...", help="fleet sizes, smallest first"
    )
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="json: a line a size"
    )
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(sorted({int(word) for word in text.split(",")}))
    if not 1 <= sizes[0] <= sizes[-1] <= AGENTS_MAX:
        raise argparse.ArgumentTypeError(f"expected 1 to {AGENTS_MAX} agents")
    return sizes


if __name__ == "__main__":
    sys.exit(main())
