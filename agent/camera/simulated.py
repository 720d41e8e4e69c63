"""A camera without a sensor: the release's own quantised graph on a scene, at a set frame rate.

Frame ``n`` is what the scene shows at ``n`` frames after the start, so who knows the scene's seed
knows the truth of every frame number. A host that cannot keep up skips frames, as a real one does.

``dnn_ms`` is what the simulated sensor needs: a fixed share of the time that the release's frame
rate leaves it. It is not the processor's time on this host: the sensor does its work beside the
host, and a busy test machine must not fail a good release as slow.

It can do everything wrong that cameras are known to do (agent/camera/wire.py lists the faults).
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from agent.camera.camera import Camera, Captured, FailedError, Pixels, read_file
from agent.camera.scene import draw
from agent.camera.wire import Fault, FaultKind, Job
from shared.decode.boxes import BOX_TENSORS
from shared.decode.results import Tensor, Tensors
from shared.errors import MalformedError
from shared.graph import Graph
from shared.release import Manifest

DNN_SHARE = 0.8  # Of a frame's time at the release's own frame rate; the exporter leaves that much.
DSP_SHARE = 0.1
IMAGES_MAX = 1_000  # Of a folder, in the order of their names.
PERMILLE = 1000
UPLOAD_STEPS = 20
CLASS_OUT_OF_RANGE = 10_000
CRASH_CODE = 70

Size = tuple[int, int]


class Source(Protocol):
    """What the simulated camera looks at."""

    def picture(self, frame: int) -> Pixels:
        """Return the picture at that frame (uint8, height x width x 3, RGB)."""
        ...


def simulated_camera(job: Job, manifest: Manifest, stopping: threading.Event) -> Camera:
    """Return the simulated camera of a job.

    Raises:
        FailedError: The release's graph or the scene cannot be used.
    """
    file = manifest.file("simulator")
    if file is None:
        raise FailedError("release", f"{manifest.release} has no simulator graph")
    size = (manifest.input.width, manifest.input.height)
    try:
        graph = Graph(read_file(Path(job.folder) / file.name))
    except MalformedError as error:
        raise FailedError("release", f"{file.name}: {error.text}") from error
    if graph.input_size not in (None, size):
        raise FailedError(
            "release", f"expected an input of {size}, the graph has {graph.input_size}"
        )
    source = open_source(job.simulation.scene, job.simulation.seed, size)
    return _Simulated(job, manifest, graph=graph, source=source, stopping=stopping)


def open_source(scene: str, seed: int, size: Size) -> Source:
    """Return ``shapes``, ``folder:<path>`` or ``video:<path>`` in the size of the network's input.

    Raises:
        FailedError: It cannot be read here.
    """
    kind, _, path = scene.partition(":")
    match kind:
        case "shapes":
            return _Shapes(seed, size)
        case "folder":
            return _Folder(Path(path), size)
        case "video":
            return _Video(Path(path), size)
        case _:
            raise FailedError(
                "missing", f"expected shapes, folder:<path> or video:<path>, got {scene[:80]!r}"
            )


class _Simulated:
    """Camera: reads the source in time, runs the graph, does wrong what it is told to."""

    def __init__(
        self,
        job: Job,
        manifest: Manifest,
        *,
        graph: Graph,
        source: Source,
        stopping: threading.Event,
    ) -> None:
        self._job = job
        self._manifest = manifest
        self._graph = graph
        self._source = source
        self._stopping = stopping
        self._faults = tuple(
            fault for fault in job.simulation.faults if fault.release in (None, manifest.release)
        )
        self._started_at = 0.0
        self._frame = -1

    def start(self, report: Callable[[int], None]) -> None:
        self._fail_to_start()
        upload = self._fault("slow_upload")
        for step in range(1, UPLOAD_STEPS + 1):
            if upload is not None and self._stopping.wait(upload.value / UPLOAD_STEPS):
                return
            report(PERMILLE * step // UPLOAD_STEPS)
        self._started_at = time.monotonic()

    def read(self) -> Captured | None:
        while not self._stopping.is_set():
            frame = self._next_frame()
            if self._stopping.wait(max(0.0, self._due(frame) - time.monotonic())):
                return None
            self._frame = frame
            self._misbehave()
            if self._fault("stall") is None:
                return self._captured(frame)
        return None

    def infer(self, image: Pixels) -> Tensors | None:
        return self._graph.run(image)

    def stop(self) -> None:
        """Nothing is held."""

    def _captured(self, frame: int) -> Captured:
        at = time.time()
        if self._fault("no_valid_output") is not None or self._is_thinned(frame):
            return Captured(frame, at)
        picture = self._source.picture(frame)
        if self._manifest.input.color == "BGR":
            picture = picture[..., ::-1]
        return self._spoilt(
            Captured(
                frame,
                at,
                tensors=self._graph.run(picture),
                network_name=self._graph.network_name,
                dnn_ms=round(DNN_SHARE * PERMILLE / self._manifest.frame_rate, 1),
                dsp_ms=round(DSP_SHARE * PERMILLE / self._manifest.frame_rate, 1),
            )
        )

    def _due(self, frame: int) -> float:
        return self._started_at + frame / self._job.frame_rate

    def _next_frame(self) -> int:
        """Return the next frame, or the newest one for a host that fell behind."""
        newest = int((time.monotonic() - self._started_at) * self._job.frame_rate)
        return max(self._frame + 1, newest)

    def _fault(self, kind: FaultKind) -> Fault | None:
        """Return the fault of that kind if it is on by now."""
        seconds = time.monotonic() - self._started_at if self._started_at else 0.0
        found = (f for f in self._faults if f.kind == kind and f.after_seconds <= seconds)
        return next(found, None)

    def _fail_to_start(self) -> None:
        self._misbehave()
        bridge = self._fault("dead_bridge")
        if bridge is not None and self._job.starts >= bridge.value:
            raise FailedError("start_failed", f"the bridge is dead after {self._job.starts} starts")
        if self._fault("busy") is not None:
            raise FailedError("busy", "[Errno 16] Device or resource busy")
        if self._fault("failed_start") is not None:
            raise FailedError("start_failed", "the sensor did not start")

    def _misbehave(self) -> None:
        if self._fault("crash") is not None:
            os._exit(CRASH_CODE)  # As native code dies: nothing is said, nothing is cleaned up.
        if self._fault("hang") is not None:
            os.kill(os.getpid(), signal.SIGSTOP)  # Every thread: as if the driver held the process.

    def _is_thinned(self, frame: int) -> bool:
        """Say whether a low rate leaves this frame without an inference, evenly spread."""
        fault = self._fault("low_rate")
        if fault is None:
            return False
        share = fault.value / PERMILLE
        return int((frame + 1) * share) == int(frame * share)

    def _spoilt(self, captured: Captured) -> Captured:
        assert captured.tensors is not None
        tensors = captured.tensors
        if self._fault("wrong_shapes") is not None:
            tensors = (tensors[0][..., :-1], *tensors[1:])
        if self._fault("not_finite") is not None:
            tensors = tuple(np.full(t.shape, np.nan, np.float32) for t in tensors)
        if self._fault("class_out_of_range") is not None:
            tensors = tuple(_class_out_of_range(tensors))
        slow = self._fault("slow_dnn")
        factor = 1.0 if slow is None else slow.value
        name = captured.network_name + ("x" if self._fault("wrong_name") is not None else "")
        assert captured.dnn_ms is not None
        dnn_ms = captured.dnn_ms * factor
        return replace(captured, tensors=tensors, network_name=name, dnn_ms=dnn_ms)


def _class_out_of_range(tensors: Tensors) -> list[Tensor]:
    """Return tensors with one sure object of a class that no label names."""
    changed = [np.array(tensor) for tensor in tensors]
    if len(changed) >= BOX_TENSORS:
        changed[1].flat[0], changed[2].flat[0] = 1, CLASS_OUT_OF_RANGE
    if changed[-1].size == 1:  # A detector's number of valid rows.
        changed[-1].flat[0] = 1
    return changed


class _Shapes:
    """Source: the drawn scene."""

    def __init__(self, seed: int, size: Size) -> None:
        self._seed, self._size = seed, size

    def picture(self, frame: int) -> Pixels:
        return draw(self._seed, frame, self._size)[0]


class _Folder:
    """Source: the images of a folder by name, one a frame, over and over."""

    def __init__(self, path: Path, size: Size) -> None:
        suffixes = (".jpg", ".jpeg", ".png", ".bmp")
        try:
            names = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes)
        except OSError as error:
            raise FailedError("missing", f"cannot read the folder {path}: {error}") from error
        if not names:
            raise FailedError("missing", f"expected images in {path}, found none")
        self._paths, self._size = names[:IMAGES_MAX], size

    def picture(self, frame: int) -> Pixels:
        path = self._paths[frame % len(self._paths)]
        try:
            with Image.open(path) as image:
                resized = image.convert("RGB").resize(self._size)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise FailedError("missing", f"cannot read {path}: {error}") from error
        return np.asarray(resized)


class _Video:
    """Source: a video file, one of its frames a frame, over and over."""

    def __init__(self, path: Path, size: Size) -> None:
        try:
            import cv2  # noqa: PLC0415 - Large, optional, and only for videos.
        except ImportError as error:
            text = "a video needs opencv: pip install opencv-python-headless"
            raise FailedError("unavailable", text) from error
        self._cv2 = cv2
        self._video = cv2.VideoCapture(str(path))
        self._path, self._size = path, size
        if not self._video.isOpened():
            raise FailedError("missing", f"cannot read the video {path}")

    def picture(self, frame: int) -> Pixels:  # noqa: ARG002 - A video knows its own order.
        is_read, picture = self._video.read()
        if not is_read:
            self._video.set(self._cv2.CAP_PROP_POS_FRAMES, 0)
            is_read, picture = self._video.read()
        if not is_read:
            raise FailedError("missing", f"the video {self._path} has no frame")
        resized: Pixels = self._cv2.resize(picture, self._size)[..., ::-1]
        return resized
