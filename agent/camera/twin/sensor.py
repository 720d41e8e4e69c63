"""The sensor: which network it holds, what it infers on a drawn scene, and what it does wrong.

It runs what was uploaded and nothing else: the packaged network holds the simulator graph in its
blocks (agent/camera/twin/packager.py), so a stale or a foreign package shows, as on silicon, by its
name and its shapes. A frame's metadata have the layout of libcamera's helper for the IMX500.
"""

import errno
import os
import struct
import threading
import time
from dataclasses import dataclass

import numpy as np

from agent.camera.camera import FailedError, Pixels
from agent.camera.faults import Faults
from agent.camera.rpk import FOOTER, FOOTER_BYTES, HEADER_BYTES, MAGIC, PackagedNetwork, read_rpk
from agent.camera.simulated import DNN_SHARE, DSP_SHARE, Source, open_source
from agent.camera.wire import Job
from shared.decode.results import Tensors
from shared.errors import MalformedError
from shared.graph import Graph
from shared.release import Manifest

SENSOR_SIZE = (4056, 3040)
DEVICE_ID = (0x0064F0D6, 0x09D00B07, 0x00001012, 0x00000000)  # Four words, as the driver tells it.
NETWORK_BYTES_MAX = 16 * 1024 * 1024
UPLOAD_STEPS = 20
NETWORK_STAGE = 2
NAME_BYTES, TENSORS_MAX, DIMENSIONS_MAX = 64, 16, 16
POLL_SECONDS = 0.2
WIDTH_STEP = 32  # Of an input's rows in the sensor's memory.


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of the stream, by the names of libcamera's controls."""

    number: int
    metadata: dict[str, object]


@dataclass(frozen=True, slots=True)
class Network:
    """What was uploaded."""

    info: PackagedNetwork
    graph: Graph


class Sensor:
    """One sensor with its bridge."""

    def __init__(self, job: Job, manifest: Manifest, camera_id: str, *, is_free: bool) -> None:
        """Plug it in, without a network; one that is not free is another process's."""
        self.camera_id = camera_id
        self.model = camera_id.rpartition("/")[2].partition("@")[0]
        self._is_free = is_free
        self.progress = (0, 0, 0)  # Stage, bytes done, bytes in all: as debugfs has it.
        self.roi = (0, 0, *SENSOR_SIZE)
        self.faults = Faults(job, manifest)
        self._job = job
        self._manifest = manifest
        self._data = b""
        self._network: Network | None = None
        self._source: Source | None = None
        self._frame_seconds = 1.0
        self._started_at: float | None = None
        self._frame = -1
        self._count = 0
        self._stale: dict[str, object] = {}
        self._is_injecting = False
        self._injected: Pixels | None = None
        self._refusals = 0

    # What the driver asks.
    def set_network(self, fd: int) -> int:
        """Take the package in that file for the next start; errno, or 0."""
        if self._started_at is not None:
            return errno.EBUSY
        data = os.pread(fd, NETWORK_BYTES_MAX, 0)
        try:
            read_rpk(data)
        except MalformedError:
            return errno.EINVAL
        self._data = data
        return 0

    def set_roi(self, roi: tuple[int, int, int, int]) -> int:
        """Look at that part of the picture."""
        self.roi = roi
        return 0

    def set_injecting(self, *, is_on: bool) -> int:
        """Infer what is written into it, until that is turned off; errno, or 0."""
        if self.faults.is_on("no_injection"):
            return errno.EINVAL
        self._is_injecting = is_on
        return 0

    def inject(self, fd: int) -> int:
        """Infer these numbers next: planes of rows, padded as its memory wants them."""
        busy = self.faults.find("injection_busy")
        if busy is not None and self._refusals < busy.value:
            self._refusals += 1
            return errno.EREMOTEIO
        assert self._network is not None
        width, height = self._network.info.width, self._network.info.height
        wide, high = -(-width // WIDTH_STEP) * WIDTH_STEP, height + height % 2
        numbers = np.frombuffer(os.pread(fd, 3 * wide * high + 1, 0), np.int8)
        if numbers.size != 3 * wide * high:
            return errno.EINVAL
        planes = numbers.reshape(3, high, wide)[:, :height, :width].astype(np.int16) + 128
        self._injected = planes.transpose(1, 2, 0).astype(np.uint8)
        return 0

    @property
    def injected_count(self) -> int:
        """Return the count that the inference of what was injected will bear."""
        return (self._count + 1) % 256

    # What libcamera asks.
    def acquire(self) -> int:
        """Be taken by a process; errno, or 0."""
        return errno.EBUSY if self.faults.is_on("busy") or not self._is_free else 0

    def release(self) -> None:
        """Be given back."""

    def start(self, frame_seconds: float) -> int:
        """Upload the network and start; errno, or 0."""
        self.faults.misbehave()
        bridge = self.faults.find("dead_bridge")
        if bridge is not None and self._job.starts >= bridge.value:
            return errno.EREMOTEIO  # As the kernel's driver has it when the bridge is dead.
        if self.faults.is_on("failed_start"):
            return errno.EIO
        if not self._data:
            return errno.EINVAL
        self._upload()
        self._network = _network(self._data)
        size = (self._network.info.width, self._network.info.height)
        self._source = open_source(self._job.simulation.scene, self._job.simulation.seed, size)
        self._frame_seconds = frame_seconds
        self._frame = -1
        self._started_at = time.monotonic()
        self.faults.started()
        return 0

    def stop(self) -> None:
        """Stop the stream."""
        while self.faults.is_on("hang_in_stop"):
            time.sleep(POLL_SECONDS)
        self._started_at = None

    def next_frame(self, over: threading.Event) -> Frame | None:
        """Return the next frame when it is due; a host that fell behind misses some."""
        started_at = self._started_at
        if started_at is None or self._network is None:
            over.wait(POLL_SECONDS)
            return None
        newest = int((time.monotonic() - started_at) / self._frame_seconds)
        number = max(self._frame + 1, newest)
        due = started_at + number * self._frame_seconds
        if over.wait(max(0.0, due - time.monotonic())):
            return None
        self._frame = number
        self.faults.misbehave()
        if self.faults.is_on("stall"):
            return None
        return Frame(number, {**_exposure(due, self._frame_seconds), **self._inferred(number)})

    def _inferred(self, number: int) -> dict[str, object]:
        """Return the metadata of an inference, or none of them."""
        assert self._network is not None
        assert self._source is not None
        if self.faults.is_on("no_valid_output") or self.faults.is_thinned(number):
            return {}
        if self.faults.is_on("stale_output") and self._stale:
            return self._stale
        if self._is_injecting:
            return self._answered(self._network)
        picture = self._source.picture(number)
        if self._network.info.color == "BGR":
            picture = picture[..., ::-1]
        self._count = (self._count + 1) % 256
        self._stale = self._output(self._network, picture)
        return self._stale

    def _answered(self, network: Network) -> dict[str, object]:
        """Return the inference of what was injected, once."""
        image, self._injected = self._injected, None
        if image is None:
            return {}
        self._count = (self._count + 1) % 256
        return self._output(network, image)

    def _output(self, network: Network, picture: Pixels) -> dict[str, object]:
        tensors = self.faults.spoilt(self._infer(network, picture))
        frame_us = 1e6 / self._manifest.frame_rate
        dnn_us = DNN_SHARE * frame_us * self.faults.slowness()
        name = self.faults.renamed(network.graph.network_name)
        return {
            "CnnOutputTensor": flattened(tensors),
            "CnnOutputTensorInfo": tuple(output_info(name, tensors, self._count)),
            "CnnKpiInfo": (round(dnn_us), round(DSP_SHARE * frame_us)),
        }

    def _infer(self, network: Network, image: Pixels) -> Tensors:
        """Run the graph; the sensor has no batch, and puts out floats."""
        outputs = network.graph.run(np.ascontiguousarray(image))
        return tuple(np.asarray(tensor[0], np.float32) for tensor in outputs)

    def _upload(self) -> None:
        fault = self.faults.find("slow_upload")
        total = len(self._data)
        for step in range(UPLOAD_STEPS + 1):
            self.progress = (NETWORK_STAGE, total * step // UPLOAD_STEPS, total)
            if fault is not None and step < UPLOAD_STEPS:
                time.sleep(fault.value / UPLOAD_STEPS)


def output_info(name: str, tensors: Tensors, count: int) -> bytes:
    """Return CnnOutputTensorInfo as libcamera 0.6 lays it out, with its padding."""
    made = struct.pack(f"<{NAME_BYTES}sI", name.encode()[: NAME_BYTES - 1], len(tensors))
    for tensor in tensors:
        sizes = (*tensor.shape, *(0,) * (DIMENSIONS_MAX - tensor.ndim))
        made += struct.pack(f"<II{DIMENSIONS_MAX}H", tensor.size, tensor.ndim, *sizes)
    made += bytes((TENSORS_MAX - len(tensors)) * struct.calcsize(f"<II{DIMENSIONS_MAX}H"))
    return made + struct.pack("<B3x", count)


def flattened(tensors: Tensors) -> tuple[float, ...]:
    """Return all numbers one behind the other, columns first, as Python's own floats."""
    return tuple(number for tensor in tensors for number in tensor.flatten(order="F").tolist())


def _network(data: bytes) -> Network:
    """Take a package apart: its blocks hold the graph."""
    info, parts, start = read_rpk(data), [], 0
    while start < info.blocks_bytes:
        assert data[start : start + 4] == MAGIC
        (length,) = struct.unpack_from(">I", data, start + 4)
        parts.append(data[start + HEADER_BYTES : start + HEADER_BYTES + length])
        start += HEADER_BYTES + length + FOOTER_BYTES
        assert data[start - FOOTER_BYTES : start] == FOOTER
    try:
        return Network(info, Graph(b"".join(parts)))
    except MalformedError as error:
        raise FailedError("release", f"the twin cannot run this package: {error.text}") from error


def _exposure(due: float, frame_seconds: float) -> dict[str, object]:
    return {
        "SensorTimestamp": round(due * 1e9),
        "FrameDuration": round(frame_seconds * 1e6),
        "ExposureTime": 20_000,
        "AnalogueGain": 1.0,
        "ScalerCrop": (0, 0, *SENSOR_SIZE),
    }
