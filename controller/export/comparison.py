"""A row of the table of models: what was measured of a network, and nothing that was not.

Accuracy is the release's own receipt; milliseconds are the simulator graph's on this machine; what
a sensor does comes from agents that run the release on one. What nobody measured stays empty.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from time import perf_counter

import msgspec
import numpy as np

from controller.export.convert import read_file
from controller.export.pack import FILE_NAMES
from controller.export.predict import Package
from controller.export.receipt import Receipt, read_receipt
from controller.status import DeviceStatus
from shared.errors import ExportError, RefusedError
from shared.graph import Graph
from shared.limits import FILE_BYTES
from shared.messages import CameraReported
from shared.release import SENSOR_MEMORY_BYTES

FRAMES = 30  # Of which the median counts.
FRAMES_BEFORE = 3  # The first ones pay for what onnxruntime puts off.
SIMULATED = "simulated"
COLUMNS = (
    "model", "task", "size", "packerOut, MB", "metric", "float", "quantised", "graph, ms",
    "chip memory", "sensor, ms", "sensor, frames/s",
)  # fmt: skip
_MEGABYTE = 1e6


class OnCamera(msgspec.Struct, frozen=True, kw_only=True):
    """What agents reported of a release on real cameras: medians over the cameras.

    Attributes:
        cameras: How many.
        ms: Of the network on the sensor.
        frames_per_second: With an inference, since the release began there.
    """

    cameras: int
    ms: float | None
    frames_per_second: float | None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One network. None: it was not measured, or is not in the package.

    Attributes:
        packer_bytes: Of packerOut.zip.
        scores: By metric, the main one first, of the quantised network.
        float32: The main metric before quantisation.
        graph_ms: A frame of the simulator graph, one thread of this machine, the median.
        memory_bytes: On the sensor.
        on_camera: From real cameras.
    """

    model: str
    task: str
    width: int
    height: int
    packer_bytes: int | None
    scores: dict[str, float]
    float32: float | None
    graph_ms: float
    memory_bytes: int | None
    on_camera: OnCamera | None


def model_of(
    name: str,
    package: Package,
    *,
    packer_bytes: int | None,
    receipt: Receipt | None,
    on_camera: OnCamera | None = None,
) -> Model:
    """Measure the graph, and put beside it what is known.

    Raises:
        ExportError: The graph does not run.
    """
    manifest = package.manifest
    scores = () if receipt is None else receipt.scores
    return Model(
        model=name,
        task=manifest.task,
        width=manifest.input.width,
        height=manifest.input.height,
        packer_bytes=packer_bytes,
        scores={score.metric: score.quantised for score in scores},
        float32=None if receipt is None else receipt.main.float32,
        graph_ms=_graph_ms(package),
        memory_bytes=manifest.memory_bytes or None,
        on_camera=on_camera,
    )


def read_folder(folder: Path) -> tuple[int | None, Receipt | None]:
    """Return the length of packerOut.zip and the receipt of a package's folder, if they are there.

    Raises:
        ExportError: The receipt does not read.
    """
    packer, receipt = (folder / FILE_NAMES[role] for role in ("network", "receipt"))
    read = None
    if receipt.is_file():
        read = read_receipt(read_file(receipt, bytes_max=FILE_BYTES))
    return packer.stat().st_size if packer.is_file() else None, read


def seen_on_cameras(
    devices: Iterable[DeviceStatus], *, release: str, manifest_sha256: str
) -> OnCamera | None:
    """Return what real cameras did with this very release; None where none runs it."""
    reports = [
        camera.evidence.running
        for device in devices
        for camera in device.cameras.values()
        if camera is not None and _runs(camera, release, manifest_sha256)
    ]
    found = [one for one in reports if one is not None and one.release == release and one.seconds]
    if not found:
        return None
    milliseconds = [one.dnn_ms.p50 for one in found if one.dnn_ms is not None]
    return OnCamera(
        cameras=len(found),
        ms=round(median(milliseconds), 1) if milliseconds else None,
        frames_per_second=round(median(one.valid / one.seconds for one in found), 1),
    )


def cells_of(model: Model) -> tuple[str, ...]:
    """Return a row as people read it: what is not known is empty."""
    metrics = "/".join(_main(model))
    scores = "/".join(f"{model.scores[metric]:.3f}" for metric in _main(model))
    share = None if model.memory_bytes is None else model.memory_bytes / SENSOR_MEMORY_BYTES
    seen = model.on_camera
    rate = None if seen is None else seen.frames_per_second
    milliseconds = None if seen is None else seen.ms
    return (
        model.model,
        model.task,
        f"{model.width}x{model.height}",
        "" if model.packer_bytes is None else f"{model.packer_bytes / _MEGABYTE:.2f}",
        metrics,
        "" if model.float32 is None else f"{model.float32:.3f}",
        scores,
        f"{model.graph_ms:.1f}",
        "" if share is None else f"{share:.0%}",
        "" if milliseconds is None else f"{milliseconds:.1f}",
        "" if rate is None else f"{rate:.1f}",
    )


def _main(model: Model) -> list[str]:
    """Return the metrics that are shown: a classifier's two, else the main one."""
    return list(model.scores)[: 2 if model.task == "classify" else 1]


def _runs(camera: CameraReported, release: str, manifest_sha256: str) -> bool:
    return (
        camera.kind != SIMULATED
        and camera.release == release
        and camera.manifest_sha256 == manifest_sha256
    )


def _graph_ms(package: Package) -> float:
    size = package.manifest.input
    picture = np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), np.uint8)
    taken = []
    try:
        graph = Graph(package.graph)
        for _ in range(FRAMES_BEFORE + FRAMES):
            began = perf_counter()
            graph.run(picture)
            taken.append((perf_counter() - began) * 1000)
    except RefusedError as error:
        raise ExportError(f"{package.manifest.release}: {error.text}") from error
    return round(median(taken[FRAMES_BEFORE:]), 2)
