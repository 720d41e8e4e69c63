"""The machine around the sensor: its files below /sys and /dev, its ioctls, its libcamera.

Put in place in a camera child, for the names that modlib and picamera2 use and no others. Both
libraries themselves stay as they are installed.
"""

import builtins
import ctypes
import errno
import fcntl
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from unittest.mock import MagicMock

from agent.camera.twin import libcamera
from agent.camera.twin.sensor import DEVICE_ID, Sensor
from agent.camera.wire import Job
from shared.release import Manifest

PREFIXES = (
    "/sys/class/video4linux/v4l-subdev", "/sys/kernel/debug/imx500-fw:",
    "/sys/kernel/debug/rp2040-spi:", "/dev/v4l-subdev", "/dev/dma_heap/",
)  # fmt: skip
DEBUGFS = "/sys/kernel/debug/"
HEAP = "/dev/dma_heap/vidbuf_cached"
BRIDGE = "/base/axi/pcie@1000120000/rp1"
OTHER_CAMERA = f"{BRIDGE}/i2c@90000/imx708@1a"  # Comes first, as libraries sort them.
BUSES = ("i2c@88000", "i2c@80000", "i2c@70000", "i2c@60000")  # libcamera's order is backwards.
FIRST_SUBDEV = 2  # The first two belong to the receiver.
# Modules of the system that picamera2 imports for screens and recordings; never called here.
NEVER_CALLED = ("pykms", "prctl")
# The kind and number of an ioctl: linux/videodev2.h, dma-heap.h, dma-buf.h.
GET_CONTROL, SET_CONTROL = (ord("V"), 27), (ord("V"), 28)
GET_CONTROLS, SET_CONTROLS = (ord("V"), 71), (ord("V"), 72)
ALLOCATE, BUFFER_KIND = (ord("H"), 0), ord("b")
# The driver's own controls.
ROI, NETWORK_FD, DEVICE_ID_CONTROL = 0x00982900, 0x00982901, 0x00982902
INJECT, INPUT_FD, INPUT_COUNT = 0x00982903, 0x00982904, 0x00982905


def put_in_place(job: Job, manifest: Manifest) -> None:
    """Let this process see a machine with the AI Cameras that the job needs, and another camera."""
    ids = [OTHER_CAMERA, *(f"{BRIDGE}/{bus}/imx500@1a" for bus in BUSES[: job.camera + 1])]
    plug_in([Sensor(job, manifest, one, is_free=one == ids[-1]) for one in ids])


def plug_in(sensors: list[Sensor]) -> None:
    """Let this process see a machine with these sensors, and a libcamera that knows them."""
    libcamera.attach(sensors)
    sys.modules["libcamera"] = libcamera
    for name in NEVER_CALLED:
        if name not in sys.modules and find_spec(name) is None:
            sys.modules[name] = MagicMock(name=name)
    _Machine(sensors).take_over()
    _lead_modlib_to(libcamera)


def _lead_modlib_to(module: Any) -> None:  # noqa: ANN401
    """Let modlib find this libcamera where it would look for the system's."""
    try:
        from modlib.devices.ai_camera import utils  # noqa: PLC0415 - Where it is installed.
    except ImportError:
        return
    utils._import_global_package = lambda _name, _path: module  # noqa: SLF001


class _Machine:
    """A folder that stands for the file system, and the calls that lead there."""

    def __init__(self, sensors: list[Sensor]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="imx500-twin-")
        self._root = Path(self._folder.name)
        self._nodes: dict[tuple[int, int], Sensor] = {}
        self._progress: dict[str, Sensor] = {}
        (self._root / "dev/dma_heap").mkdir(parents=True)
        (self._root / HEAP[1:]).touch()
        for number, sensor in enumerate(sensors):
            self._make(number, sensor)

    def take_over(self) -> None:
        """Replace the calls; everything of other names goes on to the real ones."""
        for module, name in ((os.path, "exists"), (os.path, "islink"), (os, "readlink")):
            setattr(module, name, self._led(getattr(module, name)))
        os.open = self._led(os.open)
        builtins.open = self._opened(builtins.open)
        fcntl.ioctl = self._ioctl_before(fcntl.ioctl)

    def _make(self, number: int, sensor: Sensor) -> None:
        """Make one sensor's files and links, as the kernel has them."""
        address = f"{10 + number}-001a"
        device = self._root / "sys/devices" / address
        (device / "driver").mkdir(parents=True)
        (device / "driver/module").symlink_to(f"../../../module/{sensor.model}")
        (self._root / "sys/module" / sensor.model).mkdir(parents=True, exist_ok=True)
        (device / "of_node").symlink_to(f"../../firmware/devicetree{sensor.camera_id}")
        subdev = f"v4l-subdev{FIRST_SUBDEV + number}"
        (self._root / "sys/class/video4linux" / subdev).mkdir(parents=True)
        link = self._root / "sys/class/video4linux" / subdev / "device"
        link.symlink_to(f"../../../devices/{address}")
        node = self._root / "dev" / subdev
        node.touch()
        self._nodes[_identity(node.stat())] = sensor
        self._progress[f"{DEBUGFS}imx500-fw:{address}/fw_progress"] = sensor
        self._progress[f"{DEBUGFS}rp2040-spi:{10 + number}-0040/transfer_progress"] = sensor

    def _led(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            return real(self._real_path(path), *arguments, **options)

        return call

    def _opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            if isinstance(path, str) and path in self._progress:
                return _ProgressFile(path, self._progress[path])
            return real(self._real_path(path), *arguments, **options)

        return call

    def _real_path(self, path: Any) -> Any:  # noqa: ANN401
        if isinstance(path, str) and path.startswith(PREFIXES):
            return str(self._root / path[1:])
        return path

    def _ioctl_before(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def ioctl(file: Any, request: int, argument: Any = 0, *rest: Any) -> Any:  # noqa: ANN401
            number = file if isinstance(file, int) else file.fileno()
            which = (request >> 8 & 0xFF, request & 0xFF)
            if which == ALLOCATE:
                argument.fd = os.memfd_create("twin-buffer")
                os.ftruncate(argument.fd, argument.len)
                return 0
            if which[0] == BUFFER_KIND:
                return 0
            sensor = self._nodes.get(_identity(os.fstat(number)))
            if sensor is None:
                return real(file, request, argument, *rest)
            return _controlled(sensor, which, argument)

        return ioctl


class _ProgressFile:
    """A file of debugfs: read anew after each seek."""

    def __init__(self, path: str, sensor: Sensor) -> None:
        if sensor.faults.is_on("closed_debugfs"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        self._is_chunk = path.endswith("transfer_progress")
        self._sensor = sensor

    def seek(self, position: int) -> int:
        return position

    def readline(self) -> str:
        """Return ``stage done total``, or what of a block in transfer is done: nothing."""
        return "0\n" if self._is_chunk else "{} {} {}\n".format(*self._sensor.progress)

    def read(self) -> str:
        return self.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""


def _controlled(sensor: Sensor, which: tuple[int, int], argument: Any) -> int:  # noqa: ANN401
    """Get or set the driver's controls; raises OSError as an ioctl does."""
    if which in (GET_CONTROLS, SET_CONTROLS):
        control = argument.controls[0]
        number = _extended(sensor, which, control)
    else:
        number = _plain(sensor, which, argument)
    if number:
        raise OSError(number, os.strerror(number))
    return 0


def _extended(sensor: Sensor, which: tuple[int, int], control: Any) -> int:  # noqa: ANN401
    words = ctypes.cast(control.p_u32, ctypes.POINTER(ctypes.c_uint32))
    if which == SET_CONTROLS and control.id == ROI:
        left, top, width, height = (int(words[n]) for n in range(4))
        return sensor.set_roi((left, top, width, height))
    if which == GET_CONTROLS and control.id == DEVICE_ID_CONTROL:
        for number, word in enumerate(DEVICE_ID):
            words[number] = word
        return 0
    return errno.EINVAL


def _plain(sensor: Sensor, which: tuple[int, int], control: Any) -> int:  # noqa: ANN401
    asked = (which, control.id)
    if asked == (SET_CONTROL, NETWORK_FD):
        return sensor.set_network(control.value)
    if asked == (SET_CONTROL, INJECT):
        return sensor.set_injecting(is_on=bool(control.value))
    if asked == (SET_CONTROL, INPUT_FD):
        return sensor.inject(control.value)
    if asked == (GET_CONTROL, INPUT_COUNT):
        control.value = sensor.injected_count
        return 0
    return errno.EINVAL


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
