"""From Ultralytics' traced model to a quantised ONNX file, with Sony's MCT. Imports torch.

Eight bits everywhere but for the coordinates, which take sixteen, and no mixed-precision search
unless the network does not fit: one that does gains nothing from it, and it takes minutes.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import model_compression_toolkit as mct
import torch
from edgemdt_tpc import get_target_platform_capabilities
from ultralytics.utils.export.imx import NMSWrapper
from ultralytics.utils.patches import onnx_export_patch

from controller.export.heads import coordinate_nodes
from controller.export.histograms import collect_lean
from controller.export.wire import BuildRequest
from shared.errors import ExportError

CALIBRATION_BATCH = 5  # MCT keeps a histogram a batch and tensor: batches of one took over 24 GB.
TPC_VERSION = "4.0"  # The newest that declares 16-bit activations for an IMX500.
COORDINATE_BITS = 16
SEARCH_IMAGES = 10  # As Ultralytics does: each goes through the network once for each candidate.
Z_THRESHOLD_NONE = float("inf")

Batches = Callable[[], Iterator[list[torch.Tensor]]]
Told = Callable[[int, int], None]


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


def quantise(
    model: torch.nn.Module,
    request: BuildRequest,
    *,
    batches: Batches,
    weights_memory: float | None = None,
) -> torch.nn.Module:
    """Return the model with its weights and activations quantised after training.

    Args:
        model: Ultralytics' model, ready to be traced.
        request: Method, statistics and their options.
        batches: The calibration pictures.
        weights_memory: Bytes that the weights may take; MCT then searches for the layers that bear
            fewer bits. None: eight bits everywhere.
    """
    collect_lean()
    capabilities = get_target_platform_capabilities(tpc_version=TPC_VERSION, device_type="imx500")
    config = _core_config(model, request, is_search=weights_memory is not None)
    budget = (
        None
        if weights_memory is None
        else mct.core.ResourceUtilization(weights_memory=weights_memory)
    )
    if request.method == "gptq":
        quantised, _ = mct.gptq.pytorch_gradient_post_training_quantization(
            model=model,
            representative_data_gen=batches,
            target_resource_utilization=budget,
            core_config=config,
            gptq_config=mct.gptq.get_pytorch_gptq_config(
                n_epochs=request.gptq_epochs,
                use_hessian_based_weights=False,  # MCT's Hessian does not know softmax.
                use_hessian_sample_attention=False,
            ),
            target_platform_capabilities=capabilities,
        )
        return quantised
    quantised, _ = mct.ptq.pytorch_post_training_quantization(
        in_module=model,
        representative_data_gen=batches,
        target_resource_utilization=budget,
        core_config=config,
        target_platform_capabilities=capabilities,
    )
    return quantised


def _core_config(
    model: torch.nn.Module, request: BuildRequest, *, is_search: bool
) -> "mct.core.CoreConfig":
    bits = mct.core.BitWidthConfig()
    for name in coordinate_nodes(model):
        only = mct.core.common.network_editors.NodeNameFilter(name)
        bits.set_manual_activation_bit_width([only], COORDINATE_BITS)
    method = mct.core.QuantizationErrorMethod[request.error_method.upper()]
    z_threshold = Z_THRESHOLD_NONE if request.z_threshold is None else request.z_threshold
    return mct.core.CoreConfig(
        mixed_precision_config=(
            mct.core.MixedPrecisionQuantizationConfig(num_of_images=SEARCH_IMAGES)
            if is_search
            else None
        ),
        quantization_config=mct.core.QuantizationConfig(
            activation_error_method=method,
            z_threshold=z_threshold,
            shift_negative_activation_correction=request.shift_negative,
            concat_threshold_update=True,
        ),
        bit_width_config=bits,
    )


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
