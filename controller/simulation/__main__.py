"""Play seeds and print what the oracles saw: ``python -m controller.simulation FIRST LAST``."""

import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence

from controller.simulation.state import DEVICES
from controller.simulation.world import World


def main(arguments: Sequence[str]) -> int:
    """Play the seeds; print each kind of violation with its count and its first seed."""
    parser = ArgumentParser(
        prog="python -m controller.simulation",
        description="Play seeded histories of a fleet; exit 1 if an oracle objects.",
    )
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--devices", type=int, default=DEVICES)
    asked = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    seeds: dict[str, int] = {}
    for seed in range(asked.first, asked.last):
        for violation in World(seed, asked.devices).play():
            counts[violation] += 1
            seeds.setdefault(violation, seed)
    for violation, count in sorted(counts.items()):
        print(f"{count:6} {violation} (seed {seeds[violation]})")  # noqa: T201
    print(f"{asked.last - asked.first} histories, {sum(counts.values())} violations")  # noqa: T201
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
