"""``fleetctl model check``: whether a model can be built, in seconds and without torch."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.cli.exits import Exit
from controller.cli.sizes import imgsz_option
from controller.cli.terminal import Format, Terminal, output_option

if TYPE_CHECKING:
    from controller.export.wire import MixedPrecision


@click.command()
@click.argument("weights", metavar="MODEL", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path),
              help="The data set that would calibrate it.")  # fmt: skip
@imgsz_option
@click.option("--mixed-precision", type=click.Choice(("auto", "always", "never")), default="auto",
              show_default=True, help="When weights may take fewer bits than eight.")  # fmt: skip
@output_option
def check(
    *,
    weights: Path,
    data: Path | None,
    imgsz: tuple[int, int],
    mixed_precision: "MixedPrecision",
    output: Format,
) -> int:
    """Say whether MODEL can be built for the IMX500, and what to do where it cannot.

    MODEL is a .pt file of Ultralytics, which is read without running anything in it, or a .yaml
    structure. `model build` looks at the same before it begins. Exit 1 where something is refused.
    """
    from controller.export.preflight import examine  # noqa: PLC0415 - for --help
    from controller.export.wire import BuildRequest  # noqa: PLC0415

    height, width = imgsz
    request = BuildRequest(
        model=str(weights),
        data=str(data or ""),
        out="",
        height=height,
        width=width,
        mixed_precision=mixed_precision,
    )
    findings = list(examine(request, work=Path(tempfile.gettempdir())))
    rows = [(one.verdict, one.what, one.found, one.remedy) for one in findings]
    Terminal(output).table(("", "what", "found", "what to do"), rows, documents=findings, empty="")
    is_refused = any(one.verdict == "refused" for one in findings)
    return Exit.ERROR if is_refused else Exit.OK
