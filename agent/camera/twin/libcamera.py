"""A stand-in for libcamera's Python module, as far as modlib and picamera2 call it.

Cameras are the sensors that were attached (agent/camera/twin/sensor.py); a request that is queued
comes back with the metadata that libcamera's helper for the IMX500 would have set. Pictures stay
black: nobody here looks at them.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from types import SimpleNamespace
from typing import Any, ClassVar

from agent.camera.twin import values
from agent.camera.twin.sensor import SENSOR_SIZE, Frame, Sensor
from agent.camera.twin.values import (
    ColorSpace,
    ControlId,
    ControlInfo,
    ControlType,
    Orientation,
    PixelFormat,
    Rectangle,
    SensorConfiguration,
    Size,
    StreamRole,
    Transform,
)

__all__ = [
    "Camera", "CameraConfiguration", "CameraManager", "ColorSpace", "ControlId", "ControlInfo",
    "ControlType", "FrameBuffer", "FrameBufferAllocator", "FrameMetadata", "Orientation",
    "PixelFormat", "Rectangle", "Request", "SensorConfiguration", "Size", "StreamConfiguration",
    "StreamRole", "Transform", "attach", "controls", "properties",
]  # fmt: skip

VERSION = "v0.7.0+twin"
STOP_SECONDS = 5.0
RAW_MODES = (("SRGGB10_CSI2P", Size(2028, 1520)), ("SRGGB10_CSI2P", Size(4056, 3040)))
BITS_PER_PIXEL = {"RGB888": 24, "BGR888": 24, "XBGR8888": 32, "XRGB8888": 32, "YUV420": 12}
RAW_BITS = 10
DURATION_LIMITS_US = (33_328, 11_767_556)  # What the sensor's full-width binned mode can do.

_TYPES = {
    "NoiseReductionMode": ControlType.Integer32, "FrameDurationLimits": ControlType.Integer64,
    "ScalerCrop": ControlType.Rectangle, "CnnEnableInputTensor": ControlType.Bool,
    "ExposureTime": ControlType.Integer32, "ExposureTimeMode": ControlType.Integer32,
    "AnalogueGain": ControlType.Float, "AnalogueGainMode": ControlType.Integer32,
    "CnnOutputTensor": ControlType.Float, "CnnOutputTensorInfo": ControlType.Byte,
    "CnnKpiInfo": ControlType.Integer32, "SensorTimestamp": ControlType.Integer64,
    "FrameDuration": ControlType.Integer64,
}  # fmt: skip
_IDS = {name: ControlId(number, name, kind) for number, (name, kind) in enumerate(_TYPES.items())}
_PROPERTIES = {name: ControlId(number, name, ControlType.String) for number, name in enumerate(
    ("Model", "Location", "Rotation", "ColorFilterArrangement", "PixelArraySize"))}  # fmt: skip
controls = SimpleNamespace(
    draft=SimpleNamespace(NoiseReductionModeEnum=values.NoiseReductionModeEnum), **_IDS
)
properties = SimpleNamespace(
    draft=SimpleNamespace(ColorFilterArrangementEnum=values.ColorFilterArrangementEnum),
    **_PROPERTIES,
)
_libcamera = values  # picamera2 asks for two types by the binding's own name.


class FrameMetadata:
    """What became of one buffer."""

    class Status(Enum):
        """Whether it was filled."""

        Success, Error, Cancelled = range(3)

    def __init__(self, length: int) -> None:
        """Begin filled."""
        self.status = FrameMetadata.Status.Success
        self.sequence = 0
        self.timestamp = 0
        self.planes = [SimpleNamespace(bytes_used=length)]


class FrameBuffer:
    """Memory for a picture."""

    class Plane:
        """A part of it."""

        def __init__(self, fd: int = -1, offset: int = 0, length: int = 0) -> None:
            """Name the memory."""
            self.fd, self.offset, self.length = fd, offset, length

    def __init__(self, planes: "list[FrameBuffer.Plane]", cookie: int = 0) -> None:
        """Take the planes."""
        self.planes, self.cookie = planes, cookie
        self.metadata = FrameMetadata(sum(plane.length for plane in planes))


class FrameBufferAllocator:
    """Asked for by name only; both libraries bring their own."""


class Stream:
    """One of the pictures that a request carries."""

    def __init__(self, configuration: "StreamConfiguration") -> None:
        """Know what was asked for."""
        self.configuration = configuration


class _Formats:
    """The sensor's modes."""

    @property
    def pixel_formats(self) -> list[PixelFormat]:
        return list(dict.fromkeys(PixelFormat(name) for name, _ in RAW_MODES))

    def sizes(self, pixel_format: PixelFormat) -> list[Size]:
        return [size for name, size in RAW_MODES if name == pixel_format.name]


class StreamConfiguration:
    """What one stream shall be."""

    def __init__(self, role: StreamRole) -> None:
        """Begin as libcamera proposes."""
        self.role = role
        is_raw = role is StreamRole.Raw
        self.size = RAW_MODES[0][1] if is_raw else Size(640, 480)
        self.pixel_format = PixelFormat(RAW_MODES[0][0] if is_raw else "RGB888")
        self.stride = self.frame_size = 0
        self.buffer_count = 4
        self.color_space: ColorSpace | None = None
        self.formats = _Formats()
        self.stream = Stream(self)

    def settle(self) -> None:
        """Work out the memory."""
        bits = BITS_PER_PIXEL.get(str(self.pixel_format), RAW_BITS)
        self.stride = -(-self.size.width * min(bits, 32) // 8 // 64) * 64
        self.frame_size = self.stride * self.size.height


class CameraConfiguration:
    """What all streams shall be."""

    class Status(Enum):
        """Whether it can be had."""

        Valid, Adjusted, Invalid = range(3)

    def __init__(self, roles: list[StreamRole]) -> None:
        """Propose."""
        self._streams = [StreamConfiguration(role) for role in roles]
        self.orientation = Orientation.Rotate0
        self.sensor_config: SensorConfiguration | None = None

    def __iter__(self) -> Iterator[StreamConfiguration]:
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)

    def at(self, number: int) -> StreamConfiguration:
        """Return one of them."""
        return self._streams[number]

    def validate(self) -> Status:
        """Say whether it can be had."""
        for stream in self._streams:
            stream.settle()
        return CameraConfiguration.Status.Valid


class Request:
    """One frame, asked for and delivered."""

    class Status(Enum):
        """How far it is."""

        Pending, Complete, Cancelled = range(3)

    def __init__(self, cookie: int) -> None:
        """Begin empty."""
        self.cookie = cookie
        self.status = Request.Status.Pending
        self.sequence = 0
        self.buffers: dict[Stream, FrameBuffer] = {}
        self.metadata: dict[ControlId, object] = {}

    def add_buffer(self, stream: Stream, buffer: FrameBuffer) -> None:
        """Give memory for a stream's picture."""
        self.buffers[stream] = buffer

    def set_control(self, _id: ControlId, _value: object) -> None:
        """Set a control from this frame on; none that matters here may change."""

    def reuse(self) -> None:
        """Forget what it carries."""
        self.status, self.metadata = Request.Status.Pending, {}

    def complete(self, frame: Frame) -> None:
        """Carry a frame."""
        self.metadata = {_IDS[name]: value for name, value in frame.metadata.items()}
        for buffer in self.buffers.values():
            buffer.metadata.sequence = frame.number
        self.status = Request.Status.Complete


class Camera:
    """One sensor, as libcamera offers it."""

    def __init__(self, sensor: Sensor, manager: "CameraManager") -> None:
        """Wrap a sensor."""
        self.id = sensor.camera_id
        self._sensor = sensor
        self._manager = manager
        self._queued: deque[Request] = deque()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def properties(self) -> dict[ControlId, object]:
        """Return what never changes."""
        known = {
            "Model": self._sensor.model, "Location": 2, "Rotation": 180,
            "ColorFilterArrangement": values.ColorFilterArrangementEnum.RGGB,
            "PixelArraySize": Size(*SENSOR_SIZE),
        }  # fmt: skip
        return {_PROPERTIES[name]: value for name, value in known.items()}

    @property
    def controls(self) -> dict[ControlId, ControlInfo]:
        """Return what may be set."""
        whole = Rectangle(0, 0, *SENSOR_SIZE)
        known = {
            "NoiseReductionMode": ControlInfo(0, 4, 0),
            "FrameDurationLimits": ControlInfo(*DURATION_LIMITS_US, DURATION_LIMITS_US[0]),
            "ScalerCrop": ControlInfo(Rectangle(0, 0, 128, 128), whole, whole),
            "CnnEnableInputTensor": ControlInfo(min=False, max=True, default=False),
            "ExposureTime": ControlInfo(1, 11_767_000, 20_000),
            "AnalogueGain": ControlInfo(1.0, 22.0, 1.0),
        }
        return {_IDS[name]: info for name, info in known.items()}

    def acquire(self) -> None:
        """Take it for this process."""
        _raise(self._sensor.acquire(), "Failed to acquire camera")

    def release(self) -> None:
        """Give it back."""
        self._sensor.release()

    def generate_configuration(self, roles: list[StreamRole]) -> CameraConfiguration:
        """Propose a configuration."""
        return CameraConfiguration(list(roles))

    def configure(self, _configuration: CameraConfiguration) -> None:
        """Take a configuration."""

    def create_request(self, cookie: int = 0) -> Request:
        """Return a new request."""
        return Request(cookie)

    def queue_request(self, request: Request) -> None:
        """Ask for a frame."""
        self._queued.append(request)

    def start(self, controls: Mapping[ControlId, Any] | None = None) -> None:
        """Upload the network and start the stream; blocks."""
        given = {key.name: value for key, value in (controls or {}).items()}
        longest_us = given.get("FrameDurationLimits", DURATION_LIMITS_US)[1]
        _raise(self._sensor.start(longest_us / 1e6), "Failed to start camera")
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="twin-stream", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the stream; what was asked for comes back cancelled."""
        self._sensor.stop()
        self._over.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        for request in self._queued:
            request.status = Request.Status.Cancelled
            self._manager.complete(request)
        self._queued.clear()

    def _run(self) -> None:
        while not self._over.is_set():
            frame = self._sensor.next_frame(self._over)
            if frame is None:
                continue
            if self._queued:  # Otherwise nobody asked for it: it is lost.
                request = self._queued.popleft()
                request.complete(frame)
                self._manager.complete(request)


class CameraManager:
    """All cameras of this machine."""

    version: ClassVar[str] = VERSION
    _one: ClassVar["CameraManager | None"] = None

    def __init__(self) -> None:
        """Find the sensors that were attached."""
        self.event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.cameras = [Camera(sensor, self) for sensor in _sensors]
        self._done: deque[Request] = deque()

    @classmethod
    def singleton(cls) -> "CameraManager":
        """Return the only one."""
        if cls._one is None:
            cls._one = cls()
        return cls._one

    def complete(self, request: Request) -> None:
        """Take a request that is done, from any thread."""
        self._done.append(request)
        os.eventfd_write(self.event_fd, 1)

    def get_ready_requests(self) -> list[Request]:
        """Return what is done by now."""
        try:
            os.eventfd_read(self.event_fd)
        except BlockingIOError:
            return []
        ready = []
        while self._done:
            ready.append(self._done.popleft())
        return ready


_sensors: list[Sensor] = []


def attach(sensors: list[Sensor]) -> None:
    """Plug these sensors into this machine."""
    _sensors[:] = sensors


def _raise(number: int, text: str) -> None:
    """Raise as the bindings do: a system_error of C++ is a RuntimeError without a number."""
    if number:
        raise RuntimeError(f"{text}: {os.strerror(number)}")
