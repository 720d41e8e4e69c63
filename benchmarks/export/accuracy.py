"""How accurate networks are on held-out pictures: one evaluator for all, in a process of its own.

    python -m benchmarks.export.accuracy ASKED.json > scores.json

The evaluator is the exporter's (controller/export/evaluate.py), the one behind every receipt.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.export.shapes import ROOT, environment
from controller.export.convert import read_file
from controller.export.facts import read_facts
from controller.export.pack import FILE_NAMES
from controller.export.receipt import METRICS
from shared.decode.labels import read_labels
from shared.errors import OperatorError
from shared.limits import FILE_BYTES

LOG_BYTES = 2_000


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure: weights before quantisation, our package, and a folder of stock export."""

    weights: str
    data: str
    package: str
    images: int
    stock: str | None = None


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """The task's main metric on pictures that calibrated nothing; None: not measured."""

    metric: str
    images: int
    float32: float
    quantised: float
    milliseconds: float  # Of our graph, the median on this machine.
    stock: float | None = None


def measure(asked: Asked) -> Accuracy:
    """Return the accuracies.

    Raises:
        OperatorError: The evaluator failed; its last lines say why.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.export.accuracy"],
            input=msgspec.json.encode(asked),
            env=environment() | {"YOLO_CONFIG_DIR": folder},
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
    if done.returncode:
        said = done.stderr[-LOG_BYTES:].decode(errors="replace")
        raise OperatorError(f"the evaluator ended with {done.returncode}:\n{said}")
    return msgspec.json.decode(done.stdout, type=Accuracy)


def main() -> None:
    """Measure what standard input asks for."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What the libraries print is not our answer.
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    out.write(msgspec.json.encode(_measured(asked)))
    out.close()


def _measured(asked: Asked) -> Accuracy:
    from controller.export import evaluate  # noqa: PLC0415 - torch, which a parent does without.
    from controller.export.pictures import held_out  # noqa: PLC0415

    package = Path(asked.package)
    facts = read_facts(package / FILE_NAMES["simulator"])
    labels = read_labels((package / FILE_NAMES["labels"]).read_bytes())
    pictures = held_out(
        asked.data, facts=facts, labels=labels, images=asked.images, calibrated=None
    )
    data = read_file(package / FILE_NAMES["simulator"], bytes_max=FILE_BYTES)
    graph = evaluate.open_graph(data)
    float32 = evaluate.measure_float(
        asked.weights, facts=facts, held_out=pictures, iou=evaluate.iou_of(graph), told=_quiet
    )
    quantised = evaluate.measure_graph(
        graph, facts=facts, labels=labels, held_out=pictures, told=_quiet
    )
    stock = None
    if asked.stock is not None:
        theirs = evaluate.stock_graph(Path(asked.stock), facts=facts, labels=labels)
        stock = evaluate.measure_graph(
            theirs, facts=facts, labels=labels, held_out=pictures, told=_quiet
        )
    return Accuracy(
        metric=METRICS[facts.task][0],
        images=len(pictures.rows),
        float32=float32.scores[0],
        quantised=quantised.scores[0],
        milliseconds=quantised.milliseconds,
        stock=None if stock is None else stock.scores[0],
    )


def _quiet(_: int) -> None:
    """Say nothing."""


if __name__ == "__main__":
    main()
