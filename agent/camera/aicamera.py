"""The Raspberry Pi AI Camera through Sony's modlib.

Taken from it: which network is packaged how, the deployment, the stream. Not taken, because of what
its 1.5.0 does:

- it exposes neither the sensor's times nor the network's name, copies every image, and blocks for
  ever in ``get_frame`` once its thread died: ``_parse_request`` is ours (agent/camera/arrivals.py);
- it opens the kernel's progress in debugfs as if everybody were root: what cannot be opened is left
  out;
- it forks a process that draws a progress bar, which keeps our pipes open after we are killed, and
  ``start`` waits for it for ever where it cannot read: there is none;
- it asks on standard input whether to use an old package: it is given a packaged network, only.
"""

import io
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from agent.camera.arrivals import OUTPUT_KEY, Arrivals
from agent.camera.camera import Camera, Captured, FailedError, Pixels, read_file
from agent.camera.rpk import check_rpk
from agent.camera.upload import watched
from agent.camera.wire import Job
from shared.decode.results import Tensors
from shared.errors import MalformedError
from shared.release import Manifest

SENSOR_MODEL = "imx500"
DEBUGFS = "/sys/kernel/debug/"
BUSY_TEXT = "Device or resource busy"  # EBUSY in words: libcamera and modlib pass on no number.
TEXT_CHARACTERS = 300
INJECTION_TIMEOUT_MS = 5000  # As modlib's own: an injecting sensor gives no frame for a while.

_log = logging.getLogger(__name__)


class Request(Protocol):
    """A completed request of modlib: what libcamera knows about one frame."""

    @property
    def metadata(self) -> Mapping[str, object]:
        """Return the frame's metadata by name."""
        ...

    @property
    def image(self) -> Pixels:
        """Return a copy of the picture."""
        ...


def ai_camera(job: Job, manifest: Manifest, stopping: threading.Event) -> Camera:
    """Return the camera of a job.

    Raises:
        FailedError: modlib or libcamera is not installed, or there is no such camera.
    """
    arrivals = Arrivals(job.frame_rate, stopping)

    def take(request: Request) -> None:
        arrivals.take(request.metadata, lambda: request.image[..., ::-1])  # BGR, modlib says.

    device, model = open_device(job, manifest, take)
    return _AiCamera(device, model, arrivals, has_injected=job.injects)


def open_device(
    job: Job, manifest: Manifest, take: Callable[[Request], None], *, injects: bool = False
) -> tuple[Any, Any]:
    """Return modlib's device and model of a job; ``take`` gets every request, on its thread.

    Raises:
        FailedError: modlib or libcamera is not installed, or there is no such camera.
    """
    rpk = packaged(job, manifest)
    try:
        from modlib.devices.ai_camera import ai_camera as library  # noqa: PLC0415 - Only on a Pi.
        from modlib.devices.ai_camera import imx500, utils  # noqa: PLC0415
        from modlib.models import MODEL_TYPE, Model  # noqa: PLC0415

        _tame(imx500)
        if injects:  # Before libcamera looks for cameras: that is when it reads this.
            utils.setup_libcamera_config_file(camera_timeout_value_ms=INJECTION_TIMEOUT_MS)
        cameras = library.CM.global_cameras
    except ImportError as error:
        text = f"no AI camera here: modlib with the system's libcamera is needed ({error})"
        raise FailedError("unavailable", text[:TEXT_CHARACTERS]) from error
    except (RuntimeError, OSError) as error:  # libcamera is too old, or its own manager fails.
        raise failed(error, code="unavailable") from error

    class Device(library.AiCamera):  # type: ignore[misc]  # modlib has no types.
        """modlib's camera, which hands every request to us."""

        def _parse_request(self, req: Request) -> None:
            take(req)
            if OUTPUT_KEY in req.metadata:
                self.dps.update()  # modlib compares it with the rate of requests, and warns.

    class Packaged(Model):  # type: ignore[misc]
        """The release as modlib wants it; decoding is ours."""

        def post_process(self, output_tensors: list[object]) -> None:
            """Do nothing: ``_parse_request`` is ours, so nobody calls this."""

    number = nth_sensor(job.camera, [camera.get("Model") for camera in cameras])
    rate = round(job.frame_rate)
    try:
        device = Device(headless=True, frame_rate=rate, num=number, data_injection=injects)
    except (RuntimeError, IndexError, OSError) as error:
        raise failed(error, code="missing") from error
    model = Packaged(
        model_file=str(rpk),
        model_type=MODEL_TYPE.RPK_PACKAGED,
        color_format=manifest.input.color,
        preserve_aspect_ratio=False,  # Boxes refer to the whole picture.
    )
    return device, model


class _AiCamera:
    """Camera: one modlib device with one network."""

    def __init__(
        self,
        device: Any,  # noqa: ANN401
        model: object,
        arrivals: Arrivals,
        *,
        has_injected: bool,
    ) -> None:
        self._device = device
        self._has_injected = has_injected
        self._model = model
        self._arrivals = arrivals

    def start(self, report: Callable[[int], None]) -> None:
        try:
            self._device.deploy(self._model)
            _log.info("the sensor is %s", self._device.get_device_id())
            if self._has_injected:
                end_injection(self._device)
            with watched(self._device.imx500.get_fw_upload_progress, report):
                self._device.start()
        except (RuntimeError, ValueError, OSError) as error:
            raise failed(error, code="start_failed") from error

    def read(self) -> Captured | None:
        return self._arrivals.next()

    def picture(self) -> Pixels | None:
        return self._arrivals.picture()

    def infer(self, image: Pixels) -> Tensors | None:  # noqa: ARG002
        return None  # Only a stream of its own can: agent/camera/injection.py.

    def stop(self) -> None:
        self._device.stop()


def end_injection(device: Any) -> None:  # noqa: ANN401
    """Let the sensor look through its lens again: modlib only ever turns injection on."""
    from modlib.devices.ai_camera import imx500  # noqa: PLC0415

    control = imx500.v4l2_control()
    control.id, control.value = imx500.ENABLE_INJECTION_CTRL_ID, 0
    try:
        imx500.fcntl.ioctl(device.imx500.device_fd, imx500.VIDIOC_S_CTRL, control)
    except OSError as error:  # A kernel without injection has none to turn off.
        _log.info("injection cannot be turned off: %s", error)


def packaged(job: Job, manifest: Manifest) -> Path:
    """Return the packaged network of a job, which the kernel would take unseen.

    Raises:
        FailedError: It has none, or one that is not for this release.
    """
    if job.rpk is None:
        raise FailedError("release", f"{manifest.release}: expected a packaged network, got none")
    path = Path(job.rpk)
    try:
        check_rpk(read_file(path), manifest)
    except MalformedError as error:
        raise FailedError("release", f"{path.name}: {error.text}") from error
    return path


def nth_sensor(wanted: int, models: list[object]) -> int:
    """Return which of the machine's cameras is the AI Camera with that number.

    Raises:
        FailedError: There are not so many AI Cameras.
    """
    sensors = [number for number, model in enumerate(models) if model == SENSOR_MODEL]
    if wanted >= len(sensors):
        text = f"expected an AI Camera number {wanted}, libcamera sees {len(sensors)} of them"
        raise FailedError("missing", f"{text} and {len(models)} cameras")
    return sensors[wanted]


def failed(error: Exception, *, code: str) -> FailedError:
    """Return a library's error as it goes to the parent; EBUSY keeps its own code.

    picamera2 says in its own words that something failed, and leaves the reason to the cause.
    """
    words, cause = f"{type(error).__name__}: {error}", error.__cause__
    while cause is not None:
        words, cause = f"{words} ({cause})", cause.__cause__
    return FailedError("busy" if BUSY_TEXT in words else code, words[:TEXT_CHARACTERS])


def _tame(imx500: Any) -> None:  # noqa: ANN401 - A module of modlib.
    """Let its driver class work without root, and without a process of its own."""
    imx500.open = _open_where_allowed
    imx500.IMX500.show_network_fw_progress_bar = lambda _: None


def _open_where_allowed(path: str, mode: str = "r", buffering: int = -1) -> IO[Any]:
    """Open a file as the built-in function does; what debugfs refuses is an empty file."""
    try:
        return open(path, mode, buffering)  # noqa: PTH123 - It stands in for that function.
    except OSError:
        if not path.startswith(DEBUGFS):
            raise
        return io.StringIO()
