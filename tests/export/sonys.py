"""What the simulator graph is compared with. Imports torch, so tests import it late.

Tiny networks with the operations of a YOLO, quantised and written by the exporter's own functions;
Sony's operators on them; and the NMS of Sony and of Ultralytics.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import edgemdt_cl.pytorch.nms.nms_ort  # noqa: F401 - registers the NMS with onnxruntime.
import numpy as np
import onnxruntime
import torch
from edgemdt_cl.pytorch.nms.nms_with_indices import _multiclass_nms_with_indices_impl
from mct_quantizers import get_ort_session_options
from numpy.typing import NDArray
from ultralytics.utils.nms import non_max_suppression

from controller.export.quantise import export_onnx, quantise
from controller.export.wire import BuildRequest
from shared.graph import Nms, Suppressed

SIDE = 32
CELLS = SIDE // 4
CLASSES = 3
BINS = 8
OBJECTS_MAX = 6

Floats = NDArray[np.float32]


class Dfl(torch.nn.Module):
    """As YOLO's: a distribution over distances becomes their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(BINS, 1, 1, bias=False)
        self.conv.weight.data[:] = torch.arange(float(BINS)).view(1, BINS, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, _, cells = x.shape
        shares = x.view(-1, 4, BINS, cells).transpose(2, 1).softmax(1)
        return self.conv(shares).view(-1, 4, cells)


class Detector(torch.nn.Module):
    """A detector of 64 cells with a YOLO head's operations and no training."""

    task = "detect"

    def __init__(self, *, moved_cells: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv2d(3, 8, 3, 2, 1)
        self.second = torch.nn.Conv2d(8, 8, 3, 2, 1)
        self.boxes = torch.nn.Conv2d(8, 4 * BINS, 1)
        self.scores = torch.nn.Conv2d(8, CLASSES, 1)
        for value in self.parameters():
            value.data.mul_(3)  # So that scores and boxes differ from cell to cell.
        self.scores.bias.data -= 1.5
        self.dfl = Dfl()
        cells = torch.arange(float(CELLS)) + 0.5
        y, x = torch.meshgrid(cells, cells, indexing="ij")
        self.register_buffer(
            "anchors", torch.stack([x.flatten(), y.flatten()])[None] - CELLS / 2 + moved_cells
        )

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        silu = torch.nn.functional.silu
        features = silu(self.second(silu(self.first(images))))
        distances = self.dfl(self.boxes(features).view(-1, 4 * BINS, CELLS**2))
        left_top, right_bottom = distances.chunk(2, 1)
        corners = torch.cat([self.anchors - left_top, self.anchors + right_bottom], 1)
        scores = self.scores(features).view(-1, CLASSES, CELLS**2).sigmoid()
        return (corners * 4 + SIDE / 2).transpose(1, 2), scores.permute(0, 2, 1)


class Classifier(torch.nn.Module):
    task = "classify"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv2d(3, 8, 3, 2, 1)
        self.last = torch.nn.Linear(8, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = torch.nn.functional.silu(self.first(images)).mean((2, 3))
        return self.last(features).softmax(1)


class Odd(torch.nn.Module):
    """What the sensor cannot do: a running sum."""

    task = "classify"

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(self.first(images), 2)


def exported(
    model: Detector | Classifier | Odd, folder: Path, *, batch: int = 4, method: str = "mse"
) -> Path:
    """Quantise and write a network with the exporter's own functions."""
    pictures = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))

    def batches() -> Iterator[list[torch.Tensor]]:
        for chunk in pictures.split(batch):
            yield [chunk]

    request = BuildRequest(
        model="", data="", out="", objects_max=OBJECTS_MAX, iou_permille=500, error_method=method
    )
    quantised = quantise(model.eval(), request, batches=batches)
    target = folder / f"n{model.task}.onnx"
    export_onnx(quantised, target, task=model.task, request=request, batches=batches)
    return target


def operators_on(network: Path) -> Callable[[Floats], list[Floats]]:
    """Return what runs Sony's operators on a network as it was exported, without optimisations."""
    options = get_ort_session_options()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        str(network), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda values: session.run(None, {name: values})


def suppressed_by_sony(boxes: Floats, scores: Floats, nms: Nms) -> Suppressed:
    out = _multiclass_nms_with_indices_impl(
        torch.from_numpy(boxes[None]),
        torch.from_numpy(scores[None]),
        nms.score_threshold,
        nms.iou_threshold,
        nms.max_detections,
    )
    count = int(out.n_valid)
    tensors = (out.boxes, out.scores, out.labels, out.indices)
    return Suppressed(*(tensor[0, :count].numpy() for tensor in tensors))


def suppressed_by_ultralytics(boxes: Floats, scores: Floats, nms: Nms) -> Floats:
    """Return a row for each object: box, score, class."""
    low, high = boxes[:, :2], boxes[:, 2:]
    rows = np.hstack([(low + high) / 2, high - low, scores]).T
    (found,) = non_max_suppression(
        torch.from_numpy(rows[None]),
        nms.score_threshold,
        nms.iou_threshold,
        multi_label=True,
        max_det=nms.max_detections,
    )
    return found.numpy()
