"""The chain itself: Ultralytics prepares, MCT quantises, Sony's converter converts. Imports torch.

Ultralytics loads the model and the calibration pictures. Where it would do Sony's two steps, it
calls us instead (it looks ``torch2imx`` and ``_inference`` up when it needs them), so that bits,
batches, names and converter flags are ours.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
import ultralytics.utils.export.imx as stock
from ultralytics import YOLO

from controller.export.convert import convert, memory_bytes, output_shapes
from controller.export.facts import Facts
from controller.export.lower import lower
from controller.export.pack import FILE_NAMES, collect
from controller.export.quantise import Batches, batches_of, export_onnx, inference_centred, quantise
from controller.export.wire import KEPT, BuildRequest, Job, Progress
from shared.decode.labels import write_labels
from shared.errors import ExportError, RefusedError
from shared.release import Input, Output, Task

LICENCE = "AGPL-3.0"  # Of models that Ultralytics trained.
TOOLS = (
    "ultralytics-opencv-headless", "torch", "model-compression-toolkit", "mct-quantizers",
    "edge-mdt-cl", "edge-mdt-tpc", "imx500-converter", "uni-pytorch", "sdspconv", "onnx", "numpy",
)  # fmt: skip
TASKS: tuple[Task, ...] = ("detect", "classify")  # The others come with the exporter's own issue.
NAME_CHARACTERS = 12  # Of the hash: two networks of one fleet will not share it.
CONVERTER_LINES = 15  # About what it prints; only the progress bar depends on it.

Tell = Callable[[Progress], None]


@dataclass(slots=True)
class _Chain:
    """One build under way."""

    request: BuildRequest
    folder: Path
    package: Path
    weights: Path
    tell: Tell
    facts: list[Facts] = field(default_factory=list)


def build(job: Job, *, tell: Tell) -> Facts:
    """Build the package in the job's folder ``package``; return what is known of it.

    Raises:
        ExportError: The model cannot be loaded, quantised or converted.
    """
    torch.manual_seed(0)
    folder = Path(job.folder)
    chain = _Chain(job.request, folder, folder / "package", folder / "model.pt", tell)
    chain.package.mkdir()
    shutil.copyfile(job.request.model, chain.weights)  # Ultralytics writes beside the model.
    model = _load(chain)
    stock._inference = inference_centred  # noqa: SLF001 - see above.
    stock.torch2imx = lambda model, **given: _export(
        chain, model, given["dataset"](), metadata=given["metadata"]
    )
    model.export(
        format="imx",
        data=job.request.data,
        imgsz=[job.request.height, job.request.width],
        batch=1,
        device="cpu",
        workers=1,
    )
    if not chain.facts:
        raise ExportError("Ultralytics ended without having reached the export")
    return chain.facts[0]


def _load(chain: _Chain) -> YOLO:
    try:
        model = YOLO(str(chain.weights))
    except Exception as error:
        given = chain.request.model
        why = str(error).replace(str(chain.weights), given)  # It knows only our copy.
        raise ExportError(
            f"{given} does not load as a YOLO model: {why}. Only load models whose origin you trust"
        ) from error
    if model.task not in TASKS:
        raise ExportError(f"expected a model for {' or '.join(TASKS)}, got one for {model.task}")
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
    name = _name(chain, batches)
    network = chain.folder / f"{name}.onnx"
    quantised = quantise(model, batches=batches)
    chain.tell(Progress("quantise", text="writing the quantised network"))
    export_onnx(quantised, network, task=model.task, request=chain.request, batches=batches)
    _convert(chain, network)
    facts = _facts(chain, model, network, batches)
    chain.tell(Progress("lower", text="the simulator graph"))
    labels = _labels(model)
    lower(network, chain.package / FILE_NAMES["simulator"], facts=facts, labels=labels)
    (chain.package / FILE_NAMES["labels"]).write_bytes(write_labels(labels))
    if chain.request.keep is not None:
        _keep(chain, network, metadata)
    chain.facts.append(facts)
    return str(chain.package)


def _keep(chain: _Chain, network: Path, metadata: Mapping[str, object]) -> None:
    """Leave the folder that Ultralytics predicts and validates with: its own kind of export."""
    kept = chain.folder / KEPT
    shutil.copytree(chain.package, kept, ignore=shutil.ignore_patterns(FILE_NAMES["simulator"]))
    model = onnx.load(network)
    onnx.helper.set_model_props(model, {name: str(value) for name, value in metadata.items()})
    onnx.save(model, kept / network.name)


def _convert(chain: _Chain, network: Path) -> None:
    """Run the converter and keep what a release takes of its files, with no dates in them."""
    converted = chain.folder / "converted"
    converted.mkdir()
    lines = 0

    def told(line: str) -> None:
        nonlocal lines
        lines += 1
        chain.tell(Progress("convert", min(lines, CONVERTER_LINES), CONVERTER_LINES, line))

    convert(network, converted, told=told)
    collect(converted, chain.package, network=network.stem)


def _facts(chain: _Chain, model: torch.nn.Module, network: Path, batches: Batches) -> Facts:
    request = chain.request
    return Facts(
        task=model.task,
        network_name=network.stem,
        input=Input(width=request.width, height=request.height, color="RGB"),
        outputs=_outputs(model.task, network, chain.package / FILE_NAMES["dnn_params"]),
        threshold_permille=request.threshold_permille,
        memory_bytes=memory_bytes(chain.package / FILE_NAMES["memory_report"]),
        provenance={
            "arguments": json.dumps(_arguments(request), sort_keys=True),
            "calibration_sha256": _digest(batches),
            "licence": LICENCE,
            "weights_sha256": hashlib.sha256(chain.weights.read_bytes()).hexdigest(),
            **_tools(),
        },
    )


def _outputs(task: str, network: Path, dnn_params: Path) -> tuple[Output, ...]:
    """Return the outputs as the sensor gives them: one frame at a time, in the network's order."""
    names = ("boxes", "scores", "labels", "n_valid") if task == "detect" else ("scores",)
    graph = onnx.load(network, load_external_data=False).graph
    return tuple(
        Output(name=name, shape=(1, *shape), dtype=_dtype(value))
        for name, shape, value in zip(names, output_shapes(dnn_params), graph.output, strict=True)
    )


def _dtype(value: onnx.ValueInfoProto) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name)


def _name(chain: _Chain, batches: Batches) -> str:
    """Return a name that no other weights, pictures, arguments or tools give."""
    parts = {
        "weights": hashlib.sha256(chain.weights.read_bytes()).hexdigest(),
        "calibration": _digest(batches),
        "arguments": _arguments(chain.request),
        "tools": _tools(),
    }
    text = json.dumps(parts, sort_keys=True).encode()
    return f"n{hashlib.sha256(text).hexdigest()[:NAME_CHARACTERS]}"


def _arguments(request: BuildRequest) -> Mapping[str, int]:
    """Return what changes the network; where files lie and how long we wait does not."""
    return {
        "calibration_images": request.calibration_images,
        "height": request.height,
        "width": request.width,
        "iou_permille": request.iou_permille,
        "objects_max": request.objects_max,
        "threshold_permille": request.threshold_permille,
    }


def _tools() -> dict[str, str]:
    return {tool: version(tool) for tool in TOOLS}


def _digest(batches: Batches) -> str:
    digest = hashlib.sha256()
    for (batch,) in batches():
        digest.update(batch.numpy().tobytes())
    return digest.hexdigest()
