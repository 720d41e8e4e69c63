"""Write pictures of rollouts as SVG: the same renderables that a terminal shows."""

import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console

from controller.cli.render import picture
from controller.status import RolloutStatus

COLUMNS = 100
_WEB_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def write_svg(path: Path, rollouts: Sequence[RolloutStatus]) -> None:
    """Write the rollouts below each other; the file refers to nothing on the web."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    for rollout in rollouts:
        console.print(picture(rollout))
    svg = console.export_svg(title="fleetctl rollout watch")
    path.write_text(_WEB_FONT.sub("", svg), encoding="utf-8")
