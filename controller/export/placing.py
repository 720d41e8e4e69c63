"""Bring a picture into the form of a network's input, and what was found back into the picture.

As Ultralytics does it: a detector's picture keeps its proportions, lies in the middle and has grey
around it; a classifier's is scaled until it covers the input, and its middle is cut out. The one
difference is rounding, by a grey level (tests/export/test_stock.py compares the two). Pure.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.decode.rle import decode_mask, encode_masks
from shared.detections import Mask, Object

GREY = 114  # Around a picture: what Ultralytics trains with.
PIXEL_DIGITS = 2
_BEFORE_HALF = 0.1  # An odd pixel of margin goes to the right and below, as with Ultralytics.
_HALF_WHITE = 128

Pixels = NDArray[np.uint8]
Size = tuple[int, int]  # Width and height.


class Located(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One object in the picture's own pixels, x_min, y_min, x_max, y_max; keypoints x, y, score."""

    label: str
    class_: int = msgspec.field(name="class")
    score: float
    box: tuple[float, float, float, float]
    keypoints: tuple[tuple[float, float, float], ...] | None = None
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A picture as the network sees it.

    Attributes:
        pixels: Height x width x 3 of the input.
        picture: Size of the picture itself.
        corner: Where its upper left corner lies in the input.
        shown: The size that it has there.
    """

    pixels: Pixels
    picture: Size
    corner: tuple[int, int]
    shown: Size

    def locate(self, seen: Object) -> Located:
        """Return an object, normalised to the input, in the picture's pixels."""
        (left, top), (right, bottom) = self._point(*seen.box[:2]), self._point(*seen.box[2:])
        points = seen.keypoints
        return Located(
            label=seen.label,
            class_=seen.class_,
            score=seen.score,
            box=(left, top, right, bottom),
            keypoints=None
            if points is None
            else tuple((*self._point(x, y), s) for x, y, s in points),
            mask=None if seen.mask is None else self._mask(seen.mask),
        )

    def _point(self, x: float, y: float) -> tuple[float, float]:
        height, width = self.pixels.shape[:2]
        sides = zip((x * width, y * height), self.corner, self.shown, self.picture, strict=True)
        placed = [
            round(min(max((value - corner) * full / shown, 0.0), float(full)), PIXEL_DIGITS)
            for value, corner, shown, full in sides
        ]
        return placed[0], placed[1]

    def _mask(self, mask: Mask) -> Mask:
        """Return the mask without the grey around the picture, in the picture's size."""
        height, width = self.pixels.shape[:2]
        across, down = mask.size[1] / width, mask.size[0] / height
        (left, top), (right, bottom) = self.corner, self.shown
        part = (left * across, top * down, (left + right) * across, (top + bottom) * down)
        image = Image.fromarray(np.where(decode_mask(mask), np.uint8(255), np.uint8(0)))
        whole = image.resize(self.picture, Image.Resampling.BILINEAR, box=part)
        return encode_masks((np.asarray(whole) >= _HALF_WHITE).T[None])[0]


def letterbox(picture: Pixels, size: Size) -> Placed:
    """Return the picture in the middle of the input, with its proportions and grey around it."""
    height, width = picture.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    shown = (max(round(width * scale), 1), max(round(height * scale), 1))
    x, y = (round((of - side) / 2 - _BEFORE_HALF) for of, side in zip(size, shown, strict=True))
    pixels = np.full((size[1], size[0], 3), GREY, np.uint8)
    pixels[y : y + shown[1], x : x + shown[0]] = _sampled(picture, shown)
    return Placed(pixels, (width, height), (x, y), shown)


def centre_crop(picture: Pixels, size: Size) -> Placed:
    """Return the middle of the picture, scaled until it covers the input."""
    height, width = picture.shape[:2]
    shown = size
    if size[0] == size[1]:  # A rectangle is stretched: so does Ultralytics.
        short, side = min(width, height), size[0]
        shown = (side * width // short, side * height // short)
    x, y = (round((side - of) / 2) for side, of in zip(shown, size, strict=True))
    image = Image.fromarray(picture).resize(shown, Image.Resampling.BILINEAR)
    pixels = np.asarray(image.crop((x, y, x + size[0], y + size[1])))
    return Placed(pixels, (width, height), (-x, -y), shown)


def _sampled(picture: Pixels, size: Size) -> Pixels:
    """Return the picture in that size, each pixel from its four neighbours, as OpenCV does.

    Pillow's own resizing averages over more of them where it makes a picture smaller, and the
    network was trained on what OpenCV makes.
    """
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    scales = (width / size[0], 0.0, 0.0, 0.0, height / size[1], 0.0)
    sides = []
    for side in np.moveaxis(picture, 2, 0):  # In floats: of bytes, Pillow would cut fractions off.
        image = Image.fromarray(side.astype(np.float32))
        sampled = image.transform(size, Image.Transform.AFFINE, scales, Image.Resampling.BILINEAR)
        sides.append(np.asarray(sampled))
    return np.stack(sides, axis=2).round().astype(np.uint8)
