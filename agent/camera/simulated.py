"""A camera without a sensor: the release's own quantised graph on a scene, at a set frame rate.

Frame ``n`` is what the scene shows at ``n`` frames after the start, so who knows the scene's seed
knows the truth of every frame number. A host that cannot keep up skips frames, as a real one does.

``dnn_ms`` is what the simulated sensor needs: a fixed share of the time that the release's frame
rate leaves it. It is not the processor's time on this host: the sensor does its work beside the
host, and a busy test machine must not fail a good release as slow.

It can do everything wrong that cameras are known to do (agent/camera/faults.py).
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from agent.camera.camera import Camera, Captured, FailedError, Pixels, read_file
from agent.camera.faults import Faults
from agent.camera.scene import draw
from agent.camera.wire import Job
from shared.decode.results import Tensors
from shared.errors import MalformedError
from shared.graph import Graph
from shared.release import Manifest

DNN_SHARE = 0.8  # Of a frame's time at the release's own frame rate; the exporter leaves that much.
DSP_SHARE = 0.1
IMAGES_MAX = 1_000  # Of a folder, in the order of their names.
PERMILLE = 1000
UPLOAD_STEPS = 20
HANG_SECONDS = 0.2

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
        self._faults = Faults(job, manifest)
        self._started_at = 0.0
        self._frame = -1
        self._has_inferred = False
        self._picture: Pixels | None = None

    def start(self, report: Callable[[int], None]) -> None:
        self._fail_to_start()
        upload = self._faults.find("slow_upload")
        for step in range(1, UPLOAD_STEPS + 1):
            if upload is not None and self._stopping.wait(upload.value / UPLOAD_STEPS):
                return
            report(PERMILLE * step // UPLOAD_STEPS)
        self._started_at = time.monotonic()
        self._faults.started()

    def read(self) -> Captured | None:
        while not self._stopping.is_set():
            frame = self._next_frame()
            if self._stopping.wait(max(0.0, self._due(frame) - time.monotonic())):
                return None
            self._frame = frame
            self._faults.misbehave()
            if not self._faults.is_on("stall"):
                return self._captured(frame)
        return None

    def picture(self) -> Pixels | None:
        return self._picture

    def infer(self, image: Pixels) -> Tensors | None:
        return self._graph.run(image)

    def stop(self) -> None:
        """Hold nothing, but hang if told to."""
        while self._faults.is_on("hang_in_stop"):
            time.sleep(HANG_SECONDS)

    def _captured(self, frame: int) -> Captured:
        at = time.time()
        if self._has_no_inference(frame):
            return Captured(frame, at)
        picture = self._picture = self._source.picture(frame)
        if self._manifest.input.color == "BGR":
            picture = picture[..., ::-1]
        frame_ms = PERMILLE / self._manifest.frame_rate
        return Captured(
            frame,
            at,
            tensors=self._faults.spoilt(self._graph.run(picture)),
            network_name=self._faults.renamed(self._graph.network_name),
            dnn_ms=round(DNN_SHARE * frame_ms, 1) * self._faults.slowness(),
            dsp_ms=round(DSP_SHARE * frame_ms, 1),
        )

    def _has_no_inference(self, frame: int) -> bool:
        """Say whether there is none, or only one that was delivered before."""
        is_stale = self._faults.is_on("stale_output") and self._has_inferred
        self._has_inferred = True
        return is_stale or self._faults.is_on("no_valid_output") or self._faults.is_thinned(frame)

    def _due(self, frame: int) -> float:
        return self._started_at + frame / self._job.frame_rate

    def _next_frame(self) -> int:
        """Return the next frame, or the newest one for a host that fell behind."""
        newest = int((time.monotonic() - self._started_at) * self._job.frame_rate)
        return max(self._frame + 1, newest)

    def _fail_to_start(self) -> None:
        self._faults.misbehave()
        bridge = self._faults.find("dead_bridge")
        if bridge is not None and self._job.starts >= bridge.value:
            raise FailedError("start_failed", f"the bridge is dead after {self._job.starts} starts")
        if self._faults.is_on("busy"):
            raise FailedError("busy", "[Errno 16] Device or resource busy")
        if self._faults.is_on("failed_start"):
            raise FailedError("start_failed", "the sensor did not start")


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
