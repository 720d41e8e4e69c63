"""What to predict on: a picture, a folder of pictures, or a video frame by frame."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shared.errors import ExportError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: the name it goes by, a file name for what is drawn of it, its pixels in RGB."""

    name: str
    file_name: str
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Source:
    """All pictures; ``count`` is 0 where it is not known before."""

    count: int
    pictures: Iterator[Picture]


def open_source(path: Path) -> Source:
    """Return the pictures of a file or folder, in the order of their names.

    Raises:
        ExportError: There is nothing to look at, or no OpenCV for a video.
    """
    if path.is_dir():
        paths = sorted(one for one in path.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ExportError(f"expected pictures ({kinds}) in the folder {path}, found none")
        return Source(len(paths), map(_read, paths))
    if not path.is_file():
        raise ExportError(f"there is no picture, folder or video {path}")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Source(1, iter([_read(path)]))
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _video(path)
    kinds = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise ExportError(f"expected a picture, a folder or a video ({kinds}), got {path}")


def _read(path: Path) -> Picture:
    try:
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(path) as image,
        ):
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError, Warning) as error:
        raise ExportError(f"the picture {path} does not read: {error}") from error
    return Picture(path.name, f"{path.name}.png", np.asarray(upright))


def _video(path: Path) -> Source:
    try:
        import cv2  # noqa: PLC0415 - large, optional, and only for videos.
    except ImportError as error:
        raise ExportError(
            f"the video {path.name} needs OpenCV: pip install opencv-python-headless; or give "
            "pictures"
        ) from error
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise ExportError(f"the video {path} does not read")

    def frames() -> Iterator[Picture]:
        number = 0
        while True:
            is_read, frame = video.read()
            if not is_read:
                break
            number += 1
            pixels: Pixels = np.ascontiguousarray(frame[..., ::-1])
            yield Picture(f"{path.name} frame {number}", f"{path.name}-{number:06}.png", pixels)
        video.release()
        if number == 0:
            raise ExportError(f"the video {path} has no frame")

    return Source(max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0), frames())
