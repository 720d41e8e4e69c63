"""The Raspberry Pi AI Camera through picamera2, where modlib's libcamera does not load.

picamera2 is the system's (``apt install python3-picamera2``), so the agent's environment must see
the system's packages. Its IMX500 class asks ``sudo`` for the progress of an upload when it may not
read it; a service does not: then the progress is unknown.
"""

import logging
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.camera.aicamera import TEXT_CHARACTERS, failed, nth_sensor, packaged
from agent.camera.arrivals import Arrivals
from agent.camera.camera import Camera, Captured, FailedError, Pixels
from agent.camera.upload import watched
from agent.camera.wire import Job
from shared.decode.results import Tensors
from shared.release import Manifest

RGB = 3  # Of the four bytes of a preview's pixel: picamera2's XBGR8888 has red first.
BUFFERS = 12  # As in picamera2's own examples for this sensor: inference lags behind the picture.
DEBUGFS = Path("/sys/kernel/debug")

_log = logging.getLogger(__name__)


def pi_camera(job: Job, manifest: Manifest, stopping: threading.Event) -> Camera:
    """Return the camera of a job.

    Raises:
        FailedError: picamera2 or libcamera is not installed, or there is no such camera.
    """
    rpk = packaged(job, manifest)
    try:
        from picamera2 import Picamera2  # noqa: PLC0415 - Only on a Pi.
        from picamera2.devices.imx500 import IMX500  # noqa: PLC0415

        cameras = Picamera2.global_camera_info()
    except (ImportError, AttributeError) as error:
        text = f"no AI camera here: picamera2 with the system's libcamera is needed ({error})"
        raise FailedError("unavailable", text[:TEXT_CHARACTERS]) from error
    number = nth_sensor(job.camera, [camera.get("Model") for camera in cameras])

    class Sensor(IMX500):  # type: ignore[misc]  # picamera2 has no types.
        """picamera2's driver of the sensor, without a process of its own for each look."""

        def _fw_progress_read(self) -> str:
            return _read(f"imx500-fw:{self.imx500_device_id}/fw_progress")

        def _fw_progress_chunk_read(self) -> str:
            return _read(f"rp2040-spi:{self.spi_device_id}/transfer_progress")

    def start(arrivals: Arrivals, report: Callable[[int], None]) -> Any:  # noqa: ANN401
        sensor = Sensor(str(rpk), camera_id=cameras[number]["Id"])
        _log.info("the sensor is %s", sensor.get_device_id())
        camera = Picamera2(number)
        camera.pre_callback = lambda request: arrivals.take(
            request.get_metadata(), lambda: request.make_array("main")[..., :RGB]
        )
        rate = {"FrameRate": round(job.frame_rate)}
        configuration = camera.create_preview_configuration(controls=rate, buffer_count=BUFFERS)
        with watched(sensor.get_fw_upload_progress, report):
            camera.start(configuration, show_preview=False)
        return camera, sensor

    return _PiCamera(start, Arrivals(job.frame_rate, stopping))


class _PiCamera:
    """Camera: one sensor with one network."""

    def __init__(self, start: Callable[..., Any], arrivals: Arrivals) -> None:
        self._start = start
        self._arrivals = arrivals
        self._held: Any = None

    def start(self, report: Callable[[int], None]) -> None:
        try:
            self._held = self._start(self._arrivals, report)
        except (RuntimeError, ValueError, OSError) as error:
            raise failed(error, code="start_failed") from error

    def read(self) -> Captured | None:
        return self._arrivals.next()

    def picture(self) -> Pixels | None:
        return self._arrivals.picture()

    def infer(self, image: Pixels) -> Tensors | None:  # noqa: ARG002
        return None  # picamera2 itself calls injection finicky.

    def stop(self) -> None:
        if self._held is not None:
            self._held[0].close()


def _read(name: str) -> str:
    """Return a file of debugfs.

    Raises:
        CalledProcessError: It cannot be read: what picamera2 expects then.
    """
    path = f"{DEBUGFS}/{name}"
    try:
        with open(path) as file:  # noqa: PTH123 - What a twin stands in for.
            return file.read()
    except OSError as error:
        raise subprocess.CalledProcessError(1, ["cat", path]) from error
