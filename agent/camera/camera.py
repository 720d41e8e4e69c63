"""What the child's loop asks of a camera, whichever kind it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.decode.results import Tensors
from shared.errors import CameraError, LimitError, StorageError
from shared.files import read_bounded
from shared.limits import FILE_BYTES

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Captured:
    """One frame; ``tensors`` is None where it carries no fresh inference."""

    frame: int
    at: float
    tensors: Tensors | None = None
    network_name: str = ""
    dnn_ms: float | None = None
    dsp_ms: float | None = None


class FailedError(CameraError):
    """A camera failed in a way that has a code on the wire (agent/camera/wire.py)."""

    def __init__(self, code: str, text: str) -> None:
        """Keep both."""
        super().__init__(text)
        self.code = code
        self.text = text


def read_file(path: Path) -> bytes:
    """Return a file of the release.

    Raises:
        FailedError: It is not there, cannot be read, or is longer than any file of a release.
    """
    try:
        data = read_bounded(path, FILE_BYTES)
    except (LimitError, StorageError) as error:
        raise FailedError("release", str(error)) from error
    if data is None:
        raise FailedError("release", f"there is no {path}")
    return data


class Camera(Protocol):
    """One camera with one network, used once: start, read until the end, stop."""

    def start(self, report: Callable[[int], None]) -> None:
        """Bring the network into the sensor and start the stream; may take minutes.

        Args:
            report: Is told the progress in permille.

        Raises:
            FailedError: It cannot be started.
        """

    def read(self) -> Captured | None:
        """Return the next frame, or None once it is being stopped.

        Raises:
            FailedError: The stream broke.
        """

    def picture(self) -> Pixels | None:
        """Return what the last frame showed, RGB, or None where it cannot be had."""

    def infer(self, image: Pixels) -> Tensors | None:
        """Return the network's outputs for an image, or None where the camera cannot inject one."""

    def stop(self) -> None:
        """Stop the stream and let go of the camera."""
