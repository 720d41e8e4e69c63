"""What MCT shows of a quantisation in TensorBoard: graph, statistics, histograms. Imports torch.

MCT 2.5.1 writes each node's output shapes, and ends with a TypeError at a node with several
outputs, of which a YOLO network has many (``chunk``): their shapes are lists within a list. They
are spread out here before it writes them.
"""

from collections.abc import Iterator
from typing import Any

import model_compression_toolkit as mct
from model_compression_toolkit.core.common.visualization import tensorboard_writer

_node_properties = tensorboard_writer.get_node_properties


def write_events(folder: str) -> None:
    """Have MCT write its log and event files below a folder, from now on."""
    tensorboard_writer.get_node_properties = _with_flat_shapes
    mct.set_log_folder(folder)


def _with_flat_shapes(attributes: dict[str, Any], output_shapes: Any = None) -> dict[str, Any]:  # noqa: ANN401
    shapes = None if output_shapes is None else list(_flat(output_shapes))
    properties: dict[str, Any] = _node_properties(attributes, shapes)
    return properties


def _flat(shapes: Any) -> Iterator[list[int]]:  # noqa: ANN401 - lists of lists of whatever depth.
    for shape in shapes:
        if any(isinstance(side, (list, tuple)) for side in shape):
            yield from _flat(shape)
        else:
            yield [int(side) for side in shape if side is not None]
