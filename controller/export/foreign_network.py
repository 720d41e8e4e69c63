"""What the ONNX file of an Ultralytics export says of its network. Imports onnx."""

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from controller.export.lower import NMS_OPERATIONS
from shared.errors import ExportError

_DIMENSIONS = 4  # Of an image tensor: batch, colours, height, width.


@dataclass(frozen=True, slots=True)
class Read:
    """Metadata, width and height of the input, types of the outputs, lowest score of the NMS."""

    metadata: dict[str, str]
    size: tuple[int, int]
    dtypes: tuple[str, ...]
    score_threshold: float | None


def read_network(path: Path) -> Read:
    """Return what the file says.

    Raises:
        ExportError: It is no ONNX file, or its input has no size.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's exceptions share no public base class.
        raise ExportError(f"{path} is not an ONNX file: {str(error)[:200]}") from error
    graph = model.graph
    inputs = [value.type.tensor_type.shape.dim for value in graph.input]
    sides = [side.dim_value for side in inputs[0]] if len(inputs) == 1 else []
    if len(sides) != _DIMENSIONS or min(sides[2:]) < 1:
        raise ExportError(f"expected one input of images with a fixed size in {path}, got {sides}")
    return Read(
        metadata={one.key: one.value for one in model.metadata_props},
        size=(sides[3], sides[2]),
        dtypes=tuple(_dtype(value) for value in graph.output),
        score_threshold=_score_threshold(graph),
    )


def _score_threshold(graph: onnx.GraphProto) -> float | None:
    for node in graph.node:
        if node.op_type in NMS_OPERATIONS:
            values = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            return float(values["score_threshold"])
    return None


def _dtype(value: onnx.ValueInfoProto) -> str:
    return str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name)
