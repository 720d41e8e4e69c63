"""How accurate a network is, by Ultralytics' own validators. Imports torch.

The float model, our simulator graph and, where given, the network of Ultralytics' own export see
the same pictures one by one, at the network's exact size. The two graphs stand in for a model that
has its NMS inside, with a score threshold that lets the doubtful objects through: the mean average
precision counts them, too.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal, SupportsFloat

import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.engine.validator import BaseValidator
from ultralytics.models.yolo.classify import ClassificationValidator
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.models.yolo.pose import PoseValidator
from ultralytics.models.yolo.segment import SegmentationValidator

from controller.export.facts import Facts
from controller.export.foreign import lower_foreign, read_foreign
from controller.export.pack import FILE_NAMES
from controller.export.pictures import HeldOut
from controller.export.receipt import DIGITS, METRICS, ClassScore, Pictures, Receipt, Score
from shared.decode.results import Tensors
from shared.errors import ExportError
from shared.graph import Graph
from shared.limits import OBJECTS_PER_FRAME_MAX
from shared.release import Input, Task

SCORE_THRESHOLD = 0.001  # Ultralytics' own for validation; 0.25 would cut the curve off.
IOU_THRESHOLD = 0.7
VALIDATORS: dict[Task, type[BaseValidator]] = {
    "detect": DetectionValidator,
    "pose": PoseValidator,
    "segment": SegmentationValidator,
    "classify": ClassificationValidator,
}
MAIN = {"detect": "box", "pose": "pose", "segment": "seg"}  # Ultralytics' names of the metrics.

Kind = Literal["float", "quantised", "stock"]
Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one network reached.

    Attributes:
        scores: The task's metrics, in their order.
        classes: Objects and main metric by class.
        milliseconds: Of a frame, the median, on this machine.
    """

    scores: tuple[float, ...]
    classes: dict[int, tuple[int, float]]
    milliseconds: float


class Sensor(torch.nn.Module):  # type: ignore[misc]  # torch is not there for mypy.
    """A simulator graph in a model's clothes: what Ultralytics' validators take it for."""

    end2end = True  # Its NMS is inside.

    def __init__(self, graph: Graph, *, task: Task, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.names = dict(enumerate(labels))
        self._graph = graph
        self._task: Task = task

    def __deepcopy__(self, memo: object) -> "Sensor":
        """Return itself: a validator copies what it is given, and a session cannot be copied."""
        return self

    def forward(self, images: torch.Tensor) -> "torch.Tensor | tuple[torch.Tensor, ...]":
        """Return what a validator expects of one picture (1 x 3 x height x width, 0..1)."""
        pixels = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
        return _as_validated(self._graph.run(np.ascontiguousarray(pixels)), self._task)


def _as_validated(tensors: Tensors, task: Task) -> "torch.Tensor | tuple[torch.Tensor, ...]":
    """Return outputs in the form that Ultralytics' own backend for this sensor gives them."""
    outputs = [torch.from_numpy(tensor.astype(np.float32)) for tensor in tensors]
    if task == "classify":
        return outputs[0]
    boxes, scores, labels, *extra = outputs
    rows = [boxes, scores[..., None], labels[..., None]]
    if task == "detect":
        return torch.cat(rows, -1)
    found = torch.cat([*rows, extra[0]], -1)
    return found if task == "pose" else (found, extra[1])


def measure_float(
    weights: str, *, facts: Facts, held_out: HeldOut, iou: float, told: Told
) -> Measured:
    """Return the accuracy of the model before quantisation.

    Raises:
        ExportError: It does not load, or is for another task.
    """
    try:
        model = YOLO(weights)
    except Exception as error:
        raise ExportError(f"{weights} does not load as a YOLO model: {error}") from error
    if model.task != facts.task:
        raise ExportError(f"expected a model for {facts.task}, {weights} is for {model.task}")
    return _measure(model.model, facts.task, held_out, iou=iou, told=told)


def measure_graph(
    graph: Graph, *, facts: Facts, labels: tuple[str, ...], held_out: HeldOut, told: Told
) -> Measured:
    """Return the accuracy of a quantised network, which ``open_graph`` opened."""
    sensor = Sensor(graph, task=facts.task, labels=labels)
    return _measure(sensor, facts.task, held_out, iou=IOU_THRESHOLD, told=told)


def open_graph(data: bytes) -> Graph:
    """Return a simulator graph that lets the doubtful objects through."""
    return Graph(data, score_threshold=SCORE_THRESHOLD)


def iou_of(graph: Graph) -> float:
    """Return the overlap at which a network suppresses, to have the float model do the same."""
    return IOU_THRESHOLD if graph.nms is None else graph.nms.iou_threshold


def stock_graph(folder: Path, *, facts: Facts, labels: tuple[str, ...]) -> Graph:
    """Return the network of a folder that Ultralytics' own export left.

    Raises:
        ExportError: It is no such folder, or its network is not for the same task and pictures.
    """
    foreign = read_foreign(folder)
    expected = (facts.task, facts.input, labels)
    found = (foreign.facts.task, foreign.facts.input, foreign.labels)
    if found != expected:
        raise ExportError(
            f"expected a network like the one that is measured in {folder}: {_words(expected)}; "
            f"got {_words(found)}"
        )
    with tempfile.TemporaryDirectory() as scratch:
        lower_foreign(foreign, Path(scratch), facts=foreign.facts)
        return open_graph((Path(scratch) / FILE_NAMES["simulator"]).read_bytes())


def _words(network: tuple[Task, Input, tuple[str, ...]]) -> str:
    task, size, labels = network
    return f"{task} at {size.width} x {size.height}, classes {', '.join(labels)[:200]}"


def receipt_of(
    facts: Facts, held_out: HeldOut, measured: Mapping[Kind, Measured], *, files: dict[str, int]
) -> Receipt:
    """Return the receipt of what was measured; ``quantised`` at least."""
    quantised = measured["quantised"]
    float32, stock = measured.get("float"), measured.get("stock")
    scores = tuple(
        Score(
            metric=metric,
            float32=None if float32 is None else float32.scores[number],
            quantised=quantised.scores[number],
            stock=None if stock is None else stock.scores[number],
        )
        for number, metric in enumerate(METRICS[facts.task])
    )
    classes = tuple(
        ClassScore(
            class_,
            objects,
            None if float32 is None else float32.classes[class_][1],
            score,
            None if stock is None else stock.classes[class_][1],
        )
        for class_, (objects, score) in sorted(quantised.classes.items())
    )
    return Receipt(
        task=facts.task,
        network_name=facts.network_name,
        scores=scores,
        classes=classes,
        pictures=Pictures(
            split=held_out.split,
            count=len(held_out.rows),
            objects=sum(objects for objects, _ in quantised.classes.values()),
            is_held_out=held_out.is_held_out,
            sha256=held_out.sha256(),
        ),
        files=files,
        memory_bytes=facts.memory_bytes,
    )


def _measure(
    model: torch.nn.Module, task: Task, held_out: HeldOut, *, iou: float, told: Told
) -> Measured:
    milliseconds = _timed(model)
    with tempfile.TemporaryDirectory() as scratch:
        validator = VALIDATORS[task](
            dataloader=held_out.loader(),
            save_dir=Path(scratch),
            args={
                "task": task, "data": held_out.data, "split": held_out.split, "batch": 1,
                "conf": SCORE_THRESHOLD, "iou": iou, "max_det": OBJECTS_PER_FRAME_MAX,
                "rect": False, "plots": False, "device": "cpu", "workers": 0,
                "nms": False if isinstance(model, Sensor) else None,
            },
        )  # fmt: skip
        validator.add_callback("on_val_batch_end", lambda its: told(its.batch_i + 1))
        try:
            validator(model=model)
        except Exception as error:  # Ultralytics and torch raise whatever came up.
            raise ExportError(f"accuracy cannot be measured: {error}") from error
    scores, classes = _guesses(validator) if task == "classify" else _objects(validator, task)
    return Measured(scores, classes, median(milliseconds))


def _timed(model: torch.nn.Module) -> list[float]:
    """Return a list that grows by the milliseconds of every frame that the model sees."""
    began: list[float] = [0.0]
    taken: list[float] = []

    def before(*_: object) -> None:
        began[0] = time.perf_counter()

    def after(*_: object) -> None:
        taken.append((time.perf_counter() - began[0]) * 1000)

    model.register_forward_pre_hook(before)
    model.register_forward_hook(after)
    return taken


def _objects(
    validator: BaseValidator, task: Task
) -> tuple[tuple[float, ...], dict[int, tuple[int, float]]]:
    metrics = validator.metrics
    main = getattr(metrics, MAIN[task])
    found = [main.map, main.map50]
    if main is not metrics.box:
        found += [metrics.box.map, metrics.box.map50]
    classes = {
        int(class_): (int(metrics.nt_per_class[class_]), _rounded(main.ap[number]))
        for number, class_ in enumerate(main.ap_class_index)
    }
    return tuple(_rounded(score) for score in found), classes


def _guesses(
    validator: BaseValidator,
) -> tuple[tuple[float, ...], dict[int, tuple[int, float]]]:
    targets, guesses = torch.cat(validator.targets), torch.cat(validator.pred)
    is_right = (guesses[:, 0] == targets).float()
    classes = {
        int(class_): (int((targets == class_).sum()), _rounded(is_right[targets == class_].mean()))
        for class_ in targets.unique()
    }
    metrics = validator.metrics
    return (_rounded(metrics.top1), _rounded(metrics.top5)), classes


def _rounded(score: SupportsFloat) -> float:
    return round(float(score), DIGITS)
