"""From Ultralytics' traced model to a quantised ONNX file, with Sony's MCT. Imports torch.

Eight bits everywhere but for the coordinates, which take sixteen, and no mixed-precision search:
a network that fits at eight bits gains nothing from it, and it takes minutes. The anchors of the
detection head are taken relative to the image's centre, because their quantised constants are then
exact up to 1,024 px; stock anchors lose 0.19 of mAP at 640 px.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import model_compression_toolkit as mct
import torch
from edgemdt_tpc import get_target_platform_capabilities
from ultralytics.utils.export.imx import NMSWrapper
from ultralytics.utils.patches import onnx_export_patch

from controller.export.wire import BuildRequest
from shared.errors import ExportError

CALIBRATION_BATCH = 5  # MCT keeps a histogram a batch and tensor: batches of one took over 24 GB.
TPC_VERSION = "4.0"  # The newest that declares 16-bit activations for an IMX500.
COORDINATE_BITS = 16
_COORDINATE_OPERATIONS = frozenset({"sub", "add", "mul", "cat"})

Batches = Callable[[], Iterator[list[torch.Tensor]]]
Told = Callable[[int, int], None]


def inference_centred(
    head: torch.nn.Module, outputs: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return boxes (1, N, 4) in pixels, x_min y_min x_max y_max, and scores (1, N, classes).

    Takes the place of the exported head's own decoding (bound to the head as a method).
    """
    anchors, strides = head.anchors.unsqueeze(0), head.strides  # In cells; pixels a cell.
    centre = ((anchors + 0.5) * strides).amax(-1, keepdim=True) / 2  # Half the width and height.
    offset = anchors - centre / strides
    left_top, right_bottom = head.dfl(outputs["boxes"]).chunk(2, 1)
    corners = torch.cat([offset - left_top, offset + right_bottom], 1) * strides
    boxes = corners + torch.cat([centre, centre], 1)
    return boxes.transpose(1, 2), outputs["scores"].sigmoid().permute(0, 2, 1)


def batches_of(dataset: Iterable[dict[str, torch.Tensor]], *, images: int, told: Told) -> Batches:
    """Return a generator function over calibration batches, pixels in 0..1.

    Args:
        dataset: Ultralytics' loader: uint8 pictures under the key ``img``.
        images: How many at most.
        told: Is called with the number of images that were taken so far, and of all.
    """
    pictures = [one for batch in dataset for one in batch["img"].split(1)][:images]
    if not pictures:
        raise ExportError("the data set gave no calibration picture")

    def generate() -> Iterator[list[torch.Tensor]]:
        for start in range(0, len(pictures), CALIBRATION_BATCH):
            chunk = pictures[start : start + CALIBRATION_BATCH]
            yield [torch.cat(chunk) / 255.0]
            told(start + len(chunk), len(pictures))

    return generate


def quantise(model: torch.nn.Module, *, batches: Batches) -> torch.nn.Module:
    """Return the model with its weights and activations quantised after training."""
    bits = mct.core.BitWidthConfig()
    for name in coordinate_nodes(model):
        only = mct.core.common.network_editors.NodeNameFilter(name)
        bits.set_manual_activation_bit_width([only], COORDINATE_BITS)
    config = mct.core.CoreConfig(
        quantization_config=mct.core.QuantizationConfig(concat_threshold_update=True),
        bit_width_config=bits,
    )
    quantised, _ = mct.ptq.pytorch_post_training_quantization(
        in_module=model,
        representative_data_gen=batches,
        core_config=config,
        target_platform_capabilities=get_target_platform_capabilities(
            tpc_version=TPC_VERSION, device_type="imx500"
        ),
    )
    return quantised


def coordinate_nodes(model: torch.nn.Module) -> tuple[str, ...]:
    """Return the names of the nodes that compute coordinates; none in a classifier.

    By structure, not by number: everything downstream of the convolution that turns the
    distribution of a side into its distance.
    """
    graph = torch.fx.symbolic_trace(model).graph
    downstream: set[torch.fx.Node] = set()
    for node in graph.nodes:
        is_source = node.op == "call_module" and str(node.target).endswith("dfl.conv")
        if is_source or downstream.intersection(node.all_input_nodes):
            downstream.add(node)
    return tuple(
        node.name
        for node in graph.nodes
        if node in downstream and _operation(node) in _COORDINATE_OPERATIONS
    )


def _operation(node: torch.fx.Node) -> str:
    """Return the operation's name; ``tensor - proxy`` is traced as a method."""
    match node.op:
        case "call_method":
            return str(node.target)
        case "call_function":
            return str(getattr(node.target, "__name__", ""))
        case _:
            return ""


def export_onnx(
    quantised: torch.nn.Module, target: Path, *, task: str, request: BuildRequest, batches: Batches
) -> None:
    """Write the quantised network, with its NMS unless it classifies, as Sony's kind of ONNX."""
    model = quantised
    if task != "classify":
        model = NMSWrapper(
            model=quantised,
            score_threshold=request.threshold_permille / 1000,
            iou_threshold=request.iou_permille / 1000,
            max_detections=request.objects_max,
            task=task,
        )
    with onnx_export_patch():
        mct.exporter.pytorch_export_model(
            model=model, save_model_path=str(target), repr_dataset=batches
        )
