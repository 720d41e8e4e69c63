"""Requests of libcamera -> frames: what both drivers of the AI Camera read of a request's metadata.

libcamera parses the sensor's tensors into the metadata of the request (its helper for the IMX500):
``CnnOutputTensor`` (floats, one tensor behind the other), ``CnnOutputTensorInfo`` (a C structure),
``CnnKpiInfo`` (microseconds of the network and of the DSP). A frame without a fresh inference has
none of them; one that repeats an inference shows the same count of the sensor again.

Only the newest frame is kept: who is late must not work through what is old.
"""

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.camera.camera import Captured, FailedError, Pixels
from shared.decode.results import Tensors
from shared.errors import MalformedError

WAIT_SECONDS = 0.5  # How often a reader without frames looks whether it shall stop.
OUTPUT_KEY, INFO_KEY, KPI_KEY = "CnnOutputTensor", "CnnOutputTensorInfo", "CnnKpiInfo"
TIMESTAMP_KEY, DURATION_KEY = "SensorTimestamp", "FrameDuration"
PICTURE_SECONDS = 2.0  # A stream that gives no request meanwhile is about to be restarted.
US_PER_MS, NS_PER_US, NS_PER_SECOND = 1000.0, 1000, 1e9
AGE_SECONDS_MAX = 10.0  # An older time of capture is another clock's.
NAME_BYTES, TENSORS_MAX, DIMENSIONS_MAX = 64, 16, 16
_TENSOR = struct.Struct(f"<II{DIMENSIONS_MAX}H")
_HEAD = struct.Struct(f"<{NAME_BYTES}sI")
_COUNT_AT = _HEAD.size + TENSORS_MAX * _TENSOR.size  # libcamera before 0.6 ends here.

Metadata = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class OutputInfo:
    """CnnOutputTensorInfo; ``count`` is the sensor's own, of eight bits, where libcamera has it."""

    network_name: str
    shapes: tuple[tuple[int, ...], ...]
    count: int | None


class Arrivals:
    """Takes requests on a library's thread, and gives the newest frame to the child's loop."""

    def __init__(self, frame_rate: float, stopping: threading.Event) -> None:
        """Begin before the first frame."""
        self._frame_ns = NS_PER_SECOND / frame_rate
        self._stopping = stopping
        self._newest: deque[Captured | FailedError] = deque(maxlen=1)
        self._arrived = threading.Condition()
        self._frame = -1
        self._timestamp: int | None = None
        self._count: int | None = None
        self._is_wanted = False
        self._picture: Pixels | None = None

    def take(self, metadata: Metadata, look: Callable[[], Pixels] | None = None) -> None:
        """Take one request; an exception would kill the library's thread in silence.

        Args:
            metadata: What libcamera says of it.
            look: Copies its image, which takes long: asked only while somebody wants one.
        """
        result: Captured | FailedError
        try:
            if self._is_wanted and look is not None:
                self._show(look())
            result = self._captured(metadata)
        except Exception as error:  # noqa: BLE001 - Whatever it is, the parent must hear of it.
            result = FailedError("crashed", f"frame {self._frame}: {error!r}"[:300])
        with self._arrived:
            self._newest.append(result)
            self._arrived.notify_all()

    def next(self) -> Captured | None:
        """Return the newest frame that was not returned yet, or None once it shall stop.

        Raises:
            FailedError: The request could not be read.
        """
        while not self._stopping.is_set():
            with self._arrived:
                if not self._newest:
                    self._arrived.wait(WAIT_SECONDS)
                    continue
                newest = self._newest.popleft()
            if isinstance(newest, FailedError):
                raise newest
            return newest
        return None

    def picture(self) -> Pixels | None:
        """Return the image of the next request, or None where none comes in time."""
        with self._arrived:
            self._picture, self._is_wanted = None, True
            self._arrived.wait_for(lambda: self._picture is not None, PICTURE_SECONDS)
            self._is_wanted = False
            return self._picture

    def _show(self, picture: Pixels) -> None:
        with self._arrived:
            self._picture, self._is_wanted = picture, False
            self._arrived.notify_all()

    def _captured(self, metadata: Metadata) -> Captured:
        timestamp = _whole(metadata.get(TIMESTAMP_KEY))
        self._frame += self._frames_since(timestamp, _whole(metadata.get(DURATION_KEY)))
        self._timestamp = timestamp
        captured = Captured(self._frame, captured_at(timestamp))
        numbers, raw = metadata.get(OUTPUT_KEY), metadata.get(INFO_KEY)
        if not numbers or not raw:
            return captured
        info = parse_info(bytes(raw))  # type: ignore[call-overload]  # bytes, or a tuple of them.
        if info.count is not None and info.count == self._count:
            return captured  # The sensor has not inferred since.
        self._count = info.count
        times = metadata.get(KPI_KEY) or (None, None)
        dnn, dsp = times[0], times[1]  # type: ignore[index]
        return Captured(
            captured.frame,
            captured.at,
            tensors=split_tensors(np.fromiter(numbers, np.float32), info),  # type: ignore[call-overload]
            network_name=info.network_name,
            dnn_ms=None if dnn is None else dnn / US_PER_MS,
            dsp_ms=None if dsp is None else dsp / US_PER_MS,
        )

    def _frames_since(self, timestamp: int | None, duration_us: int | None) -> int:
        """Return how many frames the sensor made since the last request: those between are lost."""
        if timestamp is None or self._timestamp is None:
            return 1
        length = duration_us * NS_PER_US if duration_us else self._frame_ns
        return max(1, round((timestamp - self._timestamp) / length))


def captured_at(timestamp_ns: int | None) -> float:
    """Return when a frame was captured, seconds since 1970, of a time on the monotonic clock."""
    now = time.time()
    if timestamp_ns is None:
        return now
    age = time.monotonic() - timestamp_ns / NS_PER_SECOND
    return now - age if 0 <= age <= AGE_SECONDS_MAX else now


def parse_info(data: bytes) -> OutputInfo:
    """Return what libcamera says of the output tensors.

    Raises:
        MalformedError: It is of another version's layout.
    """
    if len(data) < _COUNT_AT:
        raise MalformedError(f"expected {INFO_KEY} of at least {_COUNT_AT} bytes, got {len(data)}")
    name, tensors = _HEAD.unpack_from(data)
    if tensors > TENSORS_MAX:
        raise MalformedError(f"expected at most {TENSORS_MAX} output tensors, got {tensors}")
    shapes = []
    for number in range(tensors):
        _, dimensions, *sizes = _TENSOR.unpack_from(data, _HEAD.size + number * _TENSOR.size)
        if dimensions > DIMENSIONS_MAX:
            raise MalformedError(f"expected at most {DIMENSIONS_MAX} dimensions, got {dimensions}")
        shapes.append(tuple(sizes[:dimensions]))
    network_name = name.split(b"\0", 1)[0].decode("ascii", "replace")
    count = data[_COUNT_AT] if len(data) > _COUNT_AT else None
    return OutputInfo(network_name, tuple(shapes), count)


def split_tensors(numbers: NDArray[np.float32], info: OutputInfo) -> Tensors:
    """Return the output tensors that lie one behind the other; the sensor counts columns first.

    Raises:
        MalformedError: There are more or fewer numbers than the shapes say.
    """
    lengths = [int(np.prod(shape, dtype=np.int64)) for shape in info.shapes]
    if sum(lengths) != len(numbers):
        raise MalformedError(
            f"expected {sum(lengths)} numbers for {info.shapes}, got {len(numbers)}"
        )
    parts = np.split(numbers, np.cumsum(lengths)[:-1])
    pairs = zip(parts, info.shapes, strict=True)
    return tuple(part.reshape(shape, order="F") for part, shape in pairs)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
