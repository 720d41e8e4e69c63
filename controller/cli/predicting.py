"""``fleetctl model predict``: what an exported network sees, without a fleet and without torch."""

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from controller.cli.fleet import opened
from controller.cli.terminal import Format, Terminal, output_option
from shared.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.export.predict import Package, Prediction, Predictor
    from controller.export.sources import Picture, Source

NAMES_SHOWN = 6  # Of the objects in a line.


@click.command()
@click.argument("network", metavar="RELEASE_OR_FOLDER")
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.option("--conf", type=click.FloatRange(0, 1),
              help="The lowest score that is shown; the release's own without it.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Draw what is seen into copies of the pictures.")  # fmt: skip
@output_option
def predict(
    *, network: str, source: Path, conf: float | None, out: Path | None, output: Format
) -> None:
    """Show what a network sees in a picture, a folder of pictures or a video.

    The network is a release of the store (helmet@8), a package's folder, or a folder that
    Ultralytics itself exported (yolo11n_imx_model). It runs as a simulated camera runs it: the
    quantised network, on this machine's processor. Boxes are in the picture's own pixels.
    """
    from controller.export.predict import Predictor  # noqa: PLC0415 - --help needs no onnxruntime.
    from controller.export.sources import open_source  # noqa: PLC0415

    terminal = Terminal(output)
    pictures = open_source(source)
    with opened_network(terminal, network) as package:
        predictor = Predictor(package, threshold=conf)
        if predictor.undercut is not None:
            terminal.say(
                f"Shown from a score of {conf:g}; on a sensor, the network itself puts out nothing"
                f" below {predictor.undercut:g}.", style="yellow",
            )  # fmt: skip
        _predict_all(terminal, predictor, pictures, out)


@contextmanager
def opened_network(terminal: Terminal, network: str) -> "Iterator[Package]":
    """Give what it takes to predict with a release or folder, and say what its owner should know.

    Raises:
        ExportError: It is neither.
    """
    from controller.export.foreign import foreign_package, is_foreign  # noqa: PLC0415
    from controller.export.predict import read_package  # noqa: PLC0415

    folder = Path(network)
    if not folder.is_dir():
        if "@" not in network:
            raise ExportError(
                f"expected a release (helmet@8) or the folder of an exported model, got {network}"
            )
        yield _stored(network)
    elif is_foreign(folder):
        with tempfile.TemporaryDirectory(prefix="imxfleet-predict-") as work:
            with terminal.step(f"Making the simulator graph of {folder.name}"):
                package, warnings = foreign_package(folder, Path(work))
            for warning in warnings:
                terminal.say(f"Warning: {folder.name}: {warning}", style="yellow")
            yield package
    else:
        yield read_package(folder)


def _stored(release: str) -> "Package":
    from controller.export.predict import Package as Found  # noqa: PLC0415

    with opened() as controller:
        _, manifest = controller.show_release(release)
        graph = controller.read_release(release, "simulator")
        labels = controller.read_release(release, "labels")
    if graph is None or labels is None:
        raise ExportError(f"{release} has no simulator graph with labels: nothing to predict with")
    return Found(manifest, graph, labels)


def _predict_all(
    terminal: Terminal, predictor: "Predictor", source: "Source", out: Path | None
) -> None:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    documents: list[object] = []
    of = f" of {source.count}" if source.count else ""
    for number, picture in enumerate(source.pictures, start=1):
        seen = predictor.predict(picture.pixels)
        drawn = None if out is None else _draw(picture, seen, out)
        document = {"picture": picture.name, **_built(seen)}
        if drawn is not None:
            document["drawn"] = str(drawn)
        if terminal.format in {"json", "yaml"}:
            documents.append(document)
        else:
            terminal.document(document)
        terminal.say(f"{number}{of} {picture.name}: {words_of(seen)}, {seen.ms:.0f} ms")
    if terminal.format in {"json", "yaml"}:
        terminal.document(documents)
    if out is not None:
        terminal.say(f"Drawn in {out}")


def words_of(seen: "Prediction") -> str:
    """Return what is seen, for people."""
    if seen.problems:
        return f"the network's values are no good ({', '.join(seen.problems)})"
    if seen.classes is not None:
        return ", ".join(f"{one.label} {one.score:.2f}" for one in seen.classes) or "nothing"
    objects = seen.objects or ()
    counts: dict[str, int] = {}
    for one in objects:
        counts[one.label] = counts.get(one.label, 0) + 1
    shown = [f"{count} {label}" for label, count in list(counts.items())[:NAMES_SHOWN]]
    rest = len(counts) - len(shown)
    return ", ".join(shown + ([f"{rest} other classes"] if rest else [])) or "nothing"


def _built(seen: "Prediction") -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(seen)
    return {name: value for name, value in fields.items() if value is not None}


def _draw(picture: "Picture", seen: "Prediction", out: Path) -> Path:
    from controller.export.drawing import draw  # noqa: PLC0415

    path = out / picture.file_name
    image = draw(picture.pixels, objects=seen.objects or (), classes=seen.classes or ())
    image.save(path)
    return path
