"""Play seeds and print what the oracles saw: ``python -m controller.simulation --histories N``."""

import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence

from controller.simulation.state import DEVICES, Violation
from controller.simulation.world import World

PROGRESS_HISTORIES = 100


def main(arguments: Sequence[str]) -> int:
    """Play the seeds; print each kind of violation with its count and its first seed."""
    parser = ArgumentParser(
        prog="python -m controller.simulation",
        description="Play seeded histories of a fleet; exit 1 if an oracle objects.",
    )
    parser.add_argument("--histories", type=int, default=100, help="how many to play (100)")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first one (0)")
    parser.add_argument("--devices", type=int, default=DEVICES, help=f"in the fleet ({DEVICES})")
    asked = parser.parse_args(arguments)
    counts: Counter[Violation] = Counter()
    seeds: dict[Violation, int] = {}
    for seed in range(asked.first, asked.first + asked.histories):
        for violation in World(seed, asked.devices).play():
            counts[violation] += 1
            seeds.setdefault(violation, seed)
        played = seed - asked.first + 1
        if played % PROGRESS_HISTORIES == 0:
            _say(f"{played} of {asked.histories} played, {sum(counts.values())} violations")
    for violation in counts:
        print(f"{counts[violation]:6} {violation.value} (seed {seeds[violation]})")  # noqa: T201
    print(f"{asked.histories} histories, {sum(counts.values())} violations")  # noqa: T201
    return 1 if counts else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
