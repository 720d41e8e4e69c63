"""``fleetctl model bench``: a table of models, like the vendor's, of what was measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.cli.fleet import opened
from controller.cli.predicting import opened_network
from controller.cli.terminal import Format, Terminal, output_option

if TYPE_CHECKING:
    from controller.export.comparison import Model

NOTE = (
    "graph, ms: the simulator graph on this machine, one thread. sensor: from agents with a real"
    " camera; empty where there is none."
)


@click.command()
@click.argument("networks", metavar="MODEL...", nargs=-1, required=True)
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Also write the table as Markdown.")  # fmt: skip
@output_option
def bench(*, networks: tuple[str, ...], markdown: Path | None, output: Format) -> None:
    """Put models beside each other: size, accuracy, speed, memory.

    MODEL is a release of the store (helmet@8) or a package's folder. Accuracy is what the release's
    receipt says (`fleetctl model eval` measures it where there is none).
    """
    from controller.export.comparison import COLUMNS, cells_of  # noqa: PLC0415 - for --help

    terminal = Terminal(output)
    models = []
    for network in networks:
        with terminal.step(f"Measuring {network}"):
            models.append(_measured(terminal, network))
    rows = [cells_of(model) for model in models]
    terminal.table(COLUMNS, rows, documents=models, empty="")
    terminal.say(NOTE)
    if markdown is not None:
        markdown.write_text(f"{markdown_table(COLUMNS, rows)}\n{NOTE}\n", encoding="utf-8")


def _measured(terminal: Terminal, network: str) -> "Model":
    from controller.export.comparison import (  # noqa: PLC0415
        model_of,
        read_folder,
        seen_on_cameras,
    )
    from controller.export.receipt import read_receipt  # noqa: PLC0415

    with opened_network(terminal, network) as package:
        if Path(network).is_dir():
            packer_bytes, receipt = read_folder(Path(network))
            name = Path(network).resolve().name
            return model_of(name, package, packer_bytes=packer_bytes, receipt=receipt)
        with opened() as controller:
            status, manifest = controller.show_release(network)
            data = controller.read_release(network, "receipt")
            on_camera = seen_on_cameras(
                controller.list_devices(), release=network, manifest_sha256=status.manifest_sha256
            )
        packer = manifest.file("network")
        return model_of(
            network,
            package,
            packer_bytes=None if packer is None else packer.bytes,
            receipt=None if data is None else read_receipt(data),
            on_camera=on_camera,
        )


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under headings as a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
