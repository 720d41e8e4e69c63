"""The chain itself: Ultralytics prepares, MCT quantises, Sony's converter converts. Imports torch.

Ultralytics loads the model and the calibration pictures. Where it would do Sony's two steps, it
calls us instead (it looks ``torch2imx`` and ``_inference`` up when it needs them), so that bits,
batches, names and converter flags are ours.
"""

import ctypes
import gc
import hashlib
import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
import ultralytics.utils.export.imx as stock
from ultralytics import YOLO

from controller.export.convert import memory_bytes, memory_report, output_shapes
from controller.export.events import write_events
from controller.export.facts import OUTPUTS, Facts
from controller.export.fit import judge, predict_bytes
from controller.export.heads import inference_centred
from controller.export.lower import lower
from controller.export.measure import add_proof
from controller.export.network import FULL_CHANNELS
from controller.export.outliers import clip_outliers
from controller.export.pack import FILE_NAMES, convert_into
from controller.export.pictures import digest_of
from controller.export.provenance import network_name, provenance_of, weights_sha256
from controller.export.quantise import Batches, batches_of, export_onnx, quantise
from controller.export.search import weights_budget
from controller.export.wire import KEPT, BuildRequest, Job, Progress
from shared.decode.labels import write_labels
from shared.errors import ExportError, RefusedError
from shared.release import Input, Output, Task

Tell = Callable[[Progress], None]


@dataclass(slots=True)
class _Chain:
    """One build under way."""

    request: BuildRequest
    folder: Path
    package: Path
    weights: Path
    weights_sha256: str
    tell: Tell
    calibrated: frozenset[str] = frozenset()  # Digests of the pictures.
    facts: list[Facts] = field(default_factory=list)


def build(job: Job, *, tell: Tell) -> Facts:
    """Build the package in the job's folder ``package``; return what is known of it.

    Raises:
        ExportError: The model cannot be loaded, quantised or converted.
    """
    _seed(job.request.seed)
    folder, given = Path(job.folder), Path(job.request.model)
    chain = _Chain(
        request=job.request,
        folder=folder,
        package=folder / "package",
        weights=folder / "model.pt",
        weights_sha256=weights_sha256(given),
        tell=tell,
    )
    chain.package.mkdir()
    model = _load(chain)
    if job.request.tensorboard is not None:
        write_events(job.request.tensorboard)
    stock._inference = inference_centred  # noqa: SLF001 - see above.
    stock.torch2imx = lambda model, **given: _export(
        chain, model, given["dataset"](), metadata=given["metadata"]
    )
    model.export(
        format="imx",
        data=job.request.data,
        imgsz=[job.request.height, job.request.width],
        fraction=job.request.fraction,
        batch=1,
        device=job.request.device,
        workers=1,
    )
    if not chain.facts:
        raise ExportError("Ultralytics ended without having reached the export")
    add_proof(
        chain.package,
        chain.request,
        weights=str(chain.weights),
        calibrated=chain.calibrated,
        tell=tell,
    )
    return chain.facts[0]


def _seed(seed: int) -> None:
    """Make every library choose alike in two builds."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - it is MCT that uses it.
    torch.manual_seed(seed)


def _load(chain: _Chain) -> YOLO:
    given = chain.request.model
    try:
        if Path(given).suffix == ".pt":
            shutil.copyfile(given, chain.weights)  # Ultralytics writes beside the model.
        else:
            YOLO(given).save(str(chain.weights))
        model = YOLO(str(chain.weights))
    except Exception as error:
        why = str(error).replace(str(chain.weights), given)  # It knows only our copy.
        raise ExportError(
            f"{given} does not load as a YOLO model: {why}. Only load models whose origin you trust"
        ) from error
    if model.task not in OUTPUTS:
        known = ", ".join(OUTPUTS)
        raise ExportError(f"expected a model for {known}, got one for {model.task}")
    try:
        write_labels(_labels(model))  # Now, not after minutes.
    except RefusedError as error:
        raise ExportError(f"the model's class names do not do: {error}") from error
    return model


def _labels(model: YOLO | torch.nn.Module) -> tuple[str, ...]:
    return tuple(str(label) for label in model.names.values())


def _export(
    chain: _Chain,
    model: torch.nn.Module,
    dataset: Iterable[dict[str, torch.Tensor]],
    *,
    metadata: Mapping[str, object],
) -> str:
    """Take the place of ``torch2imx``: quantise, convert, lower; return the package's folder."""
    batches = batches_of(
        dataset,
        images=chain.request.calibration_images,
        told=lambda done, total: chain.tell(
            Progress("quantise", done, total, "calibration pictures")
        ),
    )
    calibration, chain.calibrated = _calibration(batches)
    name = network_name(
        chain.request,
        weights_sha256=chain.weights_sha256,
        calibration_sha256=calibration["sha256"],
    )
    network = chain.folder / f"{name}.onnx"
    side = max(chain.request.height, chain.request.width)
    clipped = clip_outliers(model, batches, side_pixels=side)
    if clipped:
        chain.tell(Progress("quantise", text=f"clipped: {', '.join(clipped)}"))
    _quantise(chain, model, network, batches)
    convert_into(network, chain.folder, chain.package, tell=chain.tell)
    facts = _facts(chain, model, network, calibration)
    chain.tell(Progress("lower", text="the simulator graph"))
    labels = _labels(model)
    lower(network, chain.package / FILE_NAMES["simulator"], facts=facts, labels=labels)
    (chain.package / FILE_NAMES["labels"]).write_bytes(write_labels(labels))
    if chain.request.keep is not None:
        _keep(chain, network, metadata)
    chain.facts.append(facts)
    return str(chain.package)


def _quantise(chain: _Chain, model: torch.nn.Module, network: Path, batches: Batches) -> None:
    """Write the quantised network: at eight bits, or squeezed where it would not fit."""
    request, budget = chain.request, None
    if request.mixed_precision == "always":
        budget = weights_budget(request, task=model.task, model=str(model))
    _write(chain, model, network, batches, budget=budget)
    _give_memory_back()
    if request.mixed_precision != "auto":
        return
    if _surely_fits(model, request):
        return
    chain.tell(Progress("fit", text="does it fit the sensor at eight bits?"))
    report = memory_report(network, chain.folder / "fit")
    if report.is_fit:
        chain.tell(Progress("fit", text=f"yes: {report.words}"))
        return
    # MCT counts kernels, one byte each at eight bits.
    kernels = sum(
        one.weight.numel()
        for one in model.modules()
        if isinstance(one, (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear))
    )
    budget = float(request.weights_memory or max(1, round(report.weights_share * kernels)))
    chain.tell(Progress("search", text=f"no: {report.words}; which layers bear fewer bits?"))
    _write(chain, model, network, batches, budget=budget)
    _give_memory_back()


def _give_memory_back() -> None:
    """Return to the system what is free: glibc keeps gigabytes, and the converter's Java comes."""
    gc.collect()
    with suppress(OSError, AttributeError):  # Another system, another C library.
        ctypes.CDLL(None).malloc_trim(0)


def _surely_fits(model: torch.nn.Module, request: BuildRequest) -> bool:
    """Say whether the converter need not be asked, which takes it half a minute."""
    parameters = sum(one.numel() for one in model.parameters())
    first = next(one for one in model.modules() if isinstance(one, torch.nn.Conv2d))
    predicted = predict_bytes(
        parameters=parameters,
        width=first.out_channels / FULL_CHANNELS,
        height_pixels=request.height,
        width_pixels=request.width,
    )
    return judge(predicted) == "fits"


def _write(
    chain: _Chain,
    model: torch.nn.Module,
    network: Path,
    batches: Batches,
    *,
    budget: float | None,
) -> None:
    quantised = quantise(model, chain.request, batches=batches, weights_memory=budget)
    chain.tell(Progress("quantise", text="writing the quantised network"))
    export_onnx(quantised, network, task=model.task, request=chain.request, batches=batches)


def _keep(chain: _Chain, network: Path, metadata: Mapping[str, object]) -> None:
    """Leave the folder that Ultralytics predicts and validates with: its own kind of export."""
    kept = chain.folder / KEPT
    shutil.copytree(chain.package, kept, ignore=shutil.ignore_patterns(FILE_NAMES["simulator"]))
    model = onnx.load(network)
    onnx.helper.set_model_props(model, {name: str(value) for name, value in metadata.items()})
    onnx.save(model, kept / network.name)


def _facts(
    chain: _Chain, model: torch.nn.Module, network: Path, calibration: Mapping[str, str]
) -> Facts:
    request = chain.request
    return Facts(
        task=model.task,
        network_name=network.stem,
        input=Input(width=request.width, height=request.height, color="RGB"),
        outputs=_outputs(model.task, network, chain.package / FILE_NAMES["dnn_params"]),
        keypoints=model.model[-1].kpt_shape[0] if model.task == "pose" else None,
        threshold_permille=request.threshold_permille,
        memory_bytes=memory_bytes(chain.package / FILE_NAMES["memory_report"]),
        provenance=provenance_of(
            request, weights_sha256=chain.weights_sha256, calibration=calibration
        ),
    )


def _outputs(task: Task, network: Path, dnn_params: Path) -> tuple[Output, ...]:
    """Return the outputs as the sensor gives them: one frame at a time, in the network's order."""
    graph = onnx.load(network, load_external_data=False).graph
    shapes = output_shapes(dnn_params)
    return tuple(
        Output(name=name, shape=(1, *shape), dtype=_dtype(value))
        for name, shape, value in zip(OUTPUTS[task], shapes, graph.output, strict=True)
    )


def _dtype(value: onnx.ValueInfoProto) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name)


def _calibration(batches: Batches) -> tuple[dict[str, str], frozenset[str]]:
    """Return how many pictures calibrate with the hash of them all, and the digest of each."""
    digest, images, each = hashlib.sha256(), 0, set[str]()
    for (batch,) in batches():
        digest.update(batch.numpy().tobytes())
        images += len(batch)
        each.update(digest_of(one) for one in batch)
    return {"images": str(images), "sha256": digest.hexdigest()}, frozenset(each)
