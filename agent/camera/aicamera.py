"""The Raspberry Pi AI Camera through Sony's modlib.

modlib exposes neither the sensor's times nor the network's name, copies every image, and blocks for
ever in ``get_frame`` when its thread dies. So this driver gives its camera object a
``_parse_request`` of its own: it takes tensors, name and times from the request's metadata, keeps
only the newest frame, and never touches the image. Written from modlib 1.5.0's sources; not yet run
on a sensor.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from agent.camera.camera import Camera, Captured, FailedError, Pixels
from agent.camera.wire import Job
from shared.decode.results import Tensors
from shared.release import Manifest

WAIT_SECONDS = 0.5  # How often a reader without frames looks whether it shall stop.
ERRNO_BUSY = 16
OUTPUT_KEY, INFO_KEY, KPI_KEY = "CnnOutputTensor", "CnnOutputTensorInfo", "CnnKpiInfo"
US_PER_MS = 1000.0


class Request(Protocol):
    """A completed request of modlib: what libcamera knows about one frame."""

    @property
    def metadata(self) -> Mapping[str, Sequence[float]]:
        """Return the frame's metadata by name."""
        ...


class TensorInfo(Protocol):
    """One output tensor in the sensor's own description."""

    size: Sequence[int]
    num_dimensions: int


class OutputInfo(Protocol):
    """modlib's view of CnnOutputTensorInfo."""

    network_name: bytes
    num_tensors: int
    info: Sequence[TensorInfo]


class Device(Protocol):
    """What we use of modlib's AiCamera."""

    _parse_request: Callable[[Request], None]

    def deploy(self, model: object) -> None:
        """Hand the package to the kernel; the upload happens in ``start``."""

    def start(self) -> None:
        """Upload and start; blocks."""

    def stop(self) -> None:
        """Stop; the object is dead afterwards."""

    def _parse_output_tensor_info(self, request: Request) -> OutputInfo:
        """Return the description of the outputs."""
        ...


def ai_camera(job: Job, manifest: Manifest, stopping: threading.Event) -> Camera:
    """Return the camera of a job.

    Raises:
        FailedError: modlib or libcamera is not installed, or there is no such camera.
    """
    if job.rpk is None or not Path(job.rpk).is_file():
        raise FailedError("release", f"{manifest.release}: expected a packaged network, got none")
    try:
        from modlib.devices import AiCamera  # noqa: PLC0415 - Only on a Pi.
        from modlib.models import MODEL_TYPE, Model  # noqa: PLC0415

        device = AiCamera(headless=True, frame_rate=round(job.frame_rate), num=job.camera)
    except ImportError as error:
        text = f"no AI camera here: modlib with the system's libcamera is needed ({error})"
        raise FailedError("unavailable", text) from error
    except (RuntimeError, IndexError, OSError) as error:
        raise _failed(error, code="missing") from error

    class Packaged(Model):  # type: ignore[misc]  # modlib has no types.
        """The release as modlib wants it; decoding is ours."""

        def post_process(self, output_tensors: list[object]) -> None:
            """Do nothing: ``_parse_request`` is ours, so nobody calls this."""

    model = Packaged(
        model_file=job.rpk,
        model_type=MODEL_TYPE.RPK_PACKAGED,
        color_format=manifest.input.color,
        preserve_aspect_ratio=False,  # Boxes refer to the whole picture.
    )
    return _AiCamera(device, model, stopping)


class _AiCamera:
    """Camera: one modlib device with one network."""

    def __init__(self, device: Device, model: object, stopping: threading.Event) -> None:
        self._device = device
        self._model = model
        self._stopping = stopping
        self._frames: deque[Captured | FailedError] = deque(maxlen=1)
        self._arrived = threading.Condition()
        self._count = -1
        device._parse_request = self._parse  # noqa: SLF001 - The only place that sees the metadata.

    def start(self, report: Callable[[int], None]) -> None:
        """Deploy and start. The progress lies in debugfs, which a service rarely may read."""
        try:
            self._device.deploy(self._model)
            self._device.start()
        except (RuntimeError, ValueError, OSError) as error:
            raise _failed(error, code="start_failed") from error
        report(1000)

    def read(self) -> Captured | None:
        while not self._stopping.is_set():
            with self._arrived:
                if not self._frames:
                    self._arrived.wait(WAIT_SECONDS)
                    continue
                newest = self._frames.popleft()
            if isinstance(newest, FailedError):
                raise newest
            return newest
        return None

    def infer(self, image: Pixels) -> Tensors | None:  # noqa: ARG002
        return None  # Injection waits for a sensor to prove it on.

    def stop(self) -> None:
        self._device.stop()

    def _parse(self, request: Request) -> None:
        """Take one request, on modlib's thread, which an exception would kill in silence."""
        self._count += 1
        result: Captured | FailedError
        try:
            result = self._captured(Captured(self._count, time.time()), request)
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            result = FailedError("crashed", f"frame {self._count}: {error}")
        with self._arrived:
            self._frames.append(result)
            self._arrived.notify()

    def _captured(self, captured: Captured, request: Request) -> Captured:
        numbers = request.metadata.get(OUTPUT_KEY)
        if not numbers:
            return captured
        info = self._device._parse_output_tensor_info(request)  # noqa: SLF001 - As above.
        times = request.metadata.get(KPI_KEY)
        return replace(
            captured,
            tensors=split_tensors(np.fromiter(numbers, np.float32), info),
            network_name=info.network_name.decode("ascii", "replace"),
            dnn_ms=None if not times else times[0] / US_PER_MS,
            dsp_ms=None if not times else times[1] / US_PER_MS,
        )


def split_tensors(
    numbers: "np.ndarray[tuple[int], np.dtype[np.float32]]", info: OutputInfo
) -> Tensors:
    """Return the output tensors that lie one behind the other; the sensor counts columns first."""
    tensors = []
    offset = 0
    for tensor in info.info[: info.num_tensors]:
        shape = tuple(tensor.size[: tensor.num_dimensions])
        length = int(np.prod(shape))
        tensors.append(numbers[offset : offset + length].reshape(shape, order="F"))
        offset += length
    return tuple(tensors)


def _failed(error: Exception, *, code: str) -> FailedError:
    is_busy = isinstance(error, OSError) and error.errno == ERRNO_BUSY
    return FailedError("busy" if is_busy else code, f"{type(error).__name__}: {error}"[:300])
