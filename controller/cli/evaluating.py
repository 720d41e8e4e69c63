"""``fleetctl model eval``: how accurate an exported network is, beside the one it came from."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.cli.accuracy import print_receipt, receipt_document
from controller.cli.building import teller
from controller.cli.fleet import opened
from controller.cli.predicting import opened_network
from controller.cli.release import size_words
from controller.cli.terminal import Format, Terminal, output_option

if TYPE_CHECKING:
    from controller.export.wire import Evaluated

_PERCENT = 10  # Of permille.


@click.command(name="eval")
@click.argument("network", metavar="RELEASE_OR_FOLDER")
@click.option("--data", required=True, type=click.Path(path_type=Path),
              help="The data set: its test split, or its validation split.")  # fmt: skip
@click.option("--model", "weights", type=click.Path(path_type=Path), metavar="MODEL.pt",
              help="The model before quantisation, measured beside it.")  # fmt: skip
@click.option("--stock", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="What `yolo export format=imx` left, measured beside it.")  # fmt: skip
@click.option("--images", type=click.IntRange(1), default=300, show_default=True,
              help="How many pictures at most.")  # fmt: skip
@output_option
def evaluate(
    *,
    network: str,
    data: Path,
    weights: Path | None,
    stock: Path | None,
    images: int,
    output: Format,
) -> None:
    """Measure the accuracy of an exported network with Ultralytics' own validators.

    NETWORK is a release of the store (helmet@8), a package's folder, or a folder that Ultralytics
    itself exported. Needs the export extra. Milliseconds are of this machine, not of a sensor.
    """
    from controller.export.build import evaluate_package  # noqa: PLC0415 - for --help
    from controller.export.wire import EvalRequest  # noqa: PLC0415
    from shared.decode.labels import read_labels  # noqa: PLC0415

    terminal = Terminal(output)
    with _package(terminal, network) as package:
        request = EvalRequest(
            package=str(package),
            data=str(data.resolve()),
            model=None if weights is None else str(weights.resolve()),
            stock=None if stock is None else str(stock.resolve()),
            images=images,
        )
        with terminal.step(f"Measuring {network}") as tell:
            evaluated = evaluate_package(request, progress=teller(tell, is_live=terminal.is_live))
        labels = read_labels((package / "labels.txt").read_bytes())
    document = receipt_document(evaluated.receipt, labels)
    terminal.document({"receipt": document, "milliseconds": evaluated.milliseconds})
    if terminal.is_table:
        print_receipt(terminal, evaluated.receipt, labels)
        terminal.facts(_facts(evaluated), document=None)


@contextmanager
def _package(terminal: Terminal, network: str) -> Iterator[Path]:
    """Give the folder of a package, made for the time being where there is none."""
    folder = Path(network)
    if (folder / "simulator.onnx").is_file():
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="imxfleet-eval-") as scratch:
        made = Path(scratch)
        with opened_network(terminal, network) as found:
            (made / "simulator.onnx").write_bytes(found.graph)
            (made / "labels.txt").write_bytes(found.labels)
        if not folder.is_dir():
            _write_stored(network, made)
        yield made


def _write_stored(release: str, folder: Path) -> None:
    """Write the release's other files, whose sizes belong to the result."""
    with opened() as controller:
        _, manifest = controller.show_release(release)
        for file in manifest.files:
            data = controller.read_release(release, file.role)
            assert data is not None
            (folder / file.name).write_bytes(data)


def _facts(evaluated: "Evaluated") -> dict[str, str]:
    receipt = evaluated.receipt
    share = f"{receipt.memory_permille / _PERCENT:.0f} % of the sensor's"
    return {
        **{
            f"ms per frame, {kind}": f"{ms:.1f} (median, this machine)"
            for kind, ms in evaluated.milliseconds.items()
        },
        **{name: size_words(size) for name, size in receipt.files.items()},
        "memory": f"{size_words(receipt.memory_bytes)}, {share}"
        if receipt.memory_bytes
        else "unknown",
    }
