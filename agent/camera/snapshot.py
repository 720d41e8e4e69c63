"""A picture with what was found drawn into it, as a JPEG that fits a message."""

import io

import numpy as np
from PIL import Image, ImageDraw

from agent.camera.camera import Pixels
from shared.decode.results import Decoded
from shared.limits import IMAGE_BYTES

QUALITIES = (85, 70, 50)
SIDE_MIN = 64  # Below it nobody sees anything; a JPEG of that size always fits.
_COLORS = ("#ff3838", "#48f90a", "#00c2ff", "#ffb21d", "#cb38ff", "#3ddb86", "#ff95c8", "#344593")
_LINE_SHARE = 200  # One pixel of a line for so many of the picture's shorter side.
_POINT = 2


def snapshot(picture: Pixels, decoded: Decoded, *, bytes_max: int = IMAGE_BYTES) -> bytes:
    """Return the picture as JPEG with boxes, keypoints and names drawn; smaller until it fits.

    Args:
        picture: uint8, height x width x 3, RGB.
        decoded: What the network found in it.
        bytes_max: How long the JPEG may be.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    _draw(image, decoded)
    while True:
        for quality in QUALITIES:
            data = _jpeg(image, quality)
            if len(data) <= bytes_max or min(image.size) <= SIDE_MIN:
                return data
        image = image.resize((max(image.width // 2, 1), max(image.height // 2, 1)))


def _draw(image: Image.Image, decoded: Decoded) -> None:
    pen = ImageDraw.Draw(image)
    width, height = image.size
    line = max(1, min(image.size) // _LINE_SHARE)
    for thing in reversed(decoded.objects or ()):  # The best one lies on top.
        color = _COLORS[thing.class_ % len(_COLORS)]
        left, top, right, bottom = thing.box
        corner = (left * width, top * height)
        pen.rectangle((*corner, right * width, bottom * height), outline=color, width=line)
        for x, y, _ in thing.keypoints or ():
            at = x * width, y * height
            pen.ellipse(
                (at[0] - _POINT, at[1] - _POINT, at[0] + _POINT, at[1] + _POINT), fill=color
            )
        _write(pen, corner, f"{thing.label} {thing.score:.2f}", color)
    for row, guess in enumerate(decoded.classes or ()):
        _write(pen, (2, 2 + 12 * row), f"{guess.label} {guess.score:.2f}", _COLORS[0])


def _write(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, color: str) -> None:
    shown = text.encode("latin-1", "replace").decode("latin-1")  # What the built-in font can draw.
    pen.rectangle(pen.textbbox(at, shown), fill=color)
    pen.text(at, shown, fill="black")


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
