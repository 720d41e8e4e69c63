"""Untrained networks of real heads, quantised by the exporter's own functions. Imports torch."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
import ultralytics
import ultralytics.utils.export.imx as stock
import yaml
from numpy.typing import NDArray
from onnx import numpy_helper
from ultralytics import YOLO
from ultralytics.utils.tal import make_anchors

from controller.export.heads import inference_centred
from controller.export.quantise import export_onnx, quantise
from controller.export.wire import BuildRequest

WIDTH = 0.0625  # The heads' arithmetic does not depend on it, and it is fast.
STRIDES = (8, 16, 32)

STOCK = stock._inference
OURS = inference_centred
Head = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def quantised(
    source: str,
    folder: Path,
    *,
    height: int,
    width: int,
    head: Head = OURS,
    prepare: Callable[[torch.nn.Module], None] = lambda _: None,
) -> tuple[Path, str]:
    """Return the quantised ONNX file of a structure such as ``11/yolo11-pose``, and its task."""
    network = folder / f"n{source.rpartition('/')[2]}-{head is OURS}.onnx"
    tasks = list[str]()

    def export(model: torch.nn.Module, **_: object) -> str:
        pictures = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))

        def batches() -> Iterator[list[torch.Tensor]]:
            yield [pictures]

        request = BuildRequest(model="", data="", out="", height=height, width=width)
        prepare(model)
        made = quantise(model, request, batches=batches)
        export_onnx(made, network, task=model.task, request=request, batches=batches)
        tasks.append(model.task)
        return str(folder)

    stock._inference, stock.torch2imx = head, export
    YOLO(_narrow(source, folder)).export(
        format="imx", imgsz=[height, width], device="cpu", data=str(folder)
    )
    return network, tasks[0]


def anchors(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the float anchors (2 x N, in cells) and strides (1 x N) of Ultralytics."""
    maps = [torch.zeros(1, 1, height // stride, width // stride) for stride in STRIDES]
    points, strides = make_anchors(maps, torch.tensor(STRIDES), 0.5)
    return points.T.numpy(), strides.T.numpy()


def constants(network: Path) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return each constant with a number an anchor: as it was, and as the sensor gets it."""
    graph = onnx.load(network).graph
    held = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            held[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    found = []
    for node in graph.node:
        if node.domain != "mct_quantizers" or node.input[0] not in held:
            continue
        values = np.asarray(held[node.input[0]], np.float32)
        if values.ndim < 2 or "Weights" not in node.op_type or values.shape[-1] < 100:
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        given = held[node.input[1]] if len(node.input) > 1 else attributes["threshold"]
        step = _shaped(given, attributes, values.ndim) / 2 ** (
            attributes["num_bits"] - int(attributes["signed"])
        )
        low = -(2 ** (attributes["num_bits"] - 1)) if attributes["signed"] else 0
        high = low + 2 ** attributes["num_bits"] - 1
        found.append((values, np.clip(np.round(values / step), low, high) * step))
    return found


def _shaped(given: object, attributes: dict[str, int], dimensions: int) -> NDArray[np.float32]:
    thresholds = np.asarray(given, np.float32).reshape(-1)
    if thresholds.size == 1:
        return thresholds
    shape = [1] * dimensions
    shape[attributes["channel_axis"]] = -1
    return thresholds.reshape(shape)


def _narrow(source: str, folder: Path) -> str:
    path = Path(ultralytics.__file__).parent / "cfg" / "models" / f"{source}.yaml"
    structure = yaml.safe_load(path.read_text())
    depth, _, channels = structure["scales"]["n"]
    structure |= {"scales": {"n": [depth, WIDTH, channels]}, "nc": 3}
    if "kpt_shape" in structure:
        structure["kpt_shape"] = [4, 3]
    family = path.stem.partition("-")[0]
    target = folder / path.name.replace(family, f"{family}n")
    target.write_text(yaml.safe_dump(structure))
    return str(target)
