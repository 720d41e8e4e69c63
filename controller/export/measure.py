"""What proves a package: its receipt and its golden set. Imports torch.

A build adds both to its package; whether it is accurate enough to be signed is decided from the
receipt alone. ``model eval`` measures any package again, on any data, beside Ultralytics' export.
"""

from collections.abc import Callable
from pathlib import Path

from controller.export.evaluate import (
    Kind,
    Measured,
    Told,
    iou_of,
    measure_float,
    measure_graph,
    open_graph,
    receipt_of,
    stock_graph,
)
from controller.export.facts import Facts, read_facts
from controller.export.goldens import TRIED_MAX, golden_of
from controller.export.pack import FILE_NAMES, files_of
from controller.export.pictures import HeldOut, held_out
from controller.export.receipt import encode_receipt
from controller.export.wire import BuildRequest, EvalRequest, Evaluated, Progress
from shared.decode.labels import read_labels
from shared.graph import Graph

Tell = Callable[[Progress], None]


def add_proof(
    package: Path, request: BuildRequest, *, weights: str, calibrated: frozenset[str], tell: Tell
) -> None:
    """Add receipt and golden set to a package; without labelled pictures there is no receipt.

    Args:
        package: The folder, complete but for them.
        request: The data, and how many pictures.
        weights: The model before quantisation.
        calibrated: Digests of the pictures that it was quantised with.
        tell: Is told how far it is.

    Raises:
        ExportError: The data does not read.
    """
    if not request.eval_images and not request.golden_images:
        return
    facts, labels = _read(package)
    pictures = held_out(
        request.data,
        facts=facts,
        labels=labels,
        images=request.eval_images or TRIED_MAX,
        calibrated=calibrated,
    )
    _add_golden(package, pictures, count=request.golden_images, tell=tell)
    if request.eval_images:
        graphs: dict[Kind, Graph] = {"quantised": open_graph(_simulator(package))}
        measured = _measured(
            graphs, pictures, facts=facts, labels=labels, weights=weights, tell=tell
        )
        if measured["quantised"].classes:  # Else nothing is true of any picture.
            receipt = receipt_of(facts, pictures, measured, files=_sizes(package))
            (package / FILE_NAMES["receipt"]).write_bytes(encode_receipt(receipt))


def evaluate(request: EvalRequest, *, tell: Tell) -> Evaluated:
    """Measure a package.

    Raises:
        ExportError: Package, data or model do not read, or are not for each other.
    """
    package = Path(request.package)
    facts, labels = _read(package)
    graphs: dict[Kind, Graph] = {"quantised": open_graph(_simulator(package))}
    if request.stock is not None:
        graphs["stock"] = stock_graph(Path(request.stock), facts=facts, labels=labels)
    pictures = held_out(
        request.data, facts=facts, labels=labels, images=request.images, calibrated=None
    )
    measured = _measured(
        graphs, pictures, facts=facts, labels=labels, weights=request.model, tell=tell
    )
    return Evaluated(
        receipt=receipt_of(facts, pictures, measured, files=_sizes(package)),
        milliseconds={kind: one.milliseconds for kind, one in measured.items()},
    )


def _read(package: Path) -> tuple[Facts, tuple[str, ...]]:
    facts = read_facts(package / FILE_NAMES["simulator"])
    return facts, read_labels((package / FILE_NAMES["labels"]).read_bytes())


def _simulator(package: Path) -> bytes:
    return (package / FILE_NAMES["simulator"]).read_bytes()


def _sizes(package: Path) -> dict[str, int]:
    """Return bytes by name; the receipt cannot tell its own."""
    paths = {role: path for role, path in files_of(package).items() if role != "receipt"}
    return {path.name: path.stat().st_size for path in paths.values()}


def _add_golden(package: Path, pictures: HeldOut, *, count: int, tell: Tell) -> None:
    if not count or not pictures.is_held_out:
        return
    tell(Progress("golden", text="pictures and what the network makes of them"))
    golden = golden_of(pictures.pictures(), graph=Graph(_simulator(package)), count=count)
    if golden:
        (package / FILE_NAMES["golden"]).write_bytes(golden)


def _measured(
    graphs: dict[Kind, Graph],
    pictures: HeldOut,
    *,
    facts: Facts,
    labels: tuple[str, ...],
    weights: str | None,
    tell: Tell,
) -> dict[Kind, Measured]:
    def told(kind: Kind) -> Told:
        total = len(pictures.rows)
        return lambda done: tell(Progress("evaluate", done, total, kind))

    measured: dict[Kind, Measured] = {
        kind: measure_graph(graph, facts=facts, labels=labels, held_out=pictures, told=told(kind))
        for kind, graph in graphs.items()
    }
    if weights is not None:
        measured["float"] = measure_float(
            weights, facts=facts, held_out=pictures, iou=iou_of(graphs["quantised"]),
            told=told("float"),
        )  # fmt: skip
    return measured
