"""Draw what a network sees into the picture: boxes, names, scores, masks and keypoints."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from controller.export.placing import Located
from shared.decode.rle import decode_mask
from shared.detections import Class

# Apart from each other for people who do not tell red from green, too (Okabe and Ito).
COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
MASK_SHARE = 0.45  # Of its colour; the rest is the picture.
LINE_SHARE = 1 / 250  # Of the picture's shorter side.
TEXT_SHARE = 1 / 28
TEXT_PIXELS_MIN = 10
POINT_SCORE_MIN = 0.25  # A keypoint that is hardly seen is not drawn.
_DARK, _BRIGHT = (0, 0, 0), (255, 255, 255)
_LUMINANCE = (0.299, 0.587, 0.114)
_MIDDLE = 128

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]


def colour_of(class_: int) -> Colour:
    """Return the colour of a class, the same in every picture."""
    return COLOURS[class_ % len(COLOURS)]


def draw(
    picture: Pixels, *, objects: Sequence[Located] = (), classes: Sequence[Class] = ()
) -> Image.Image:
    """Return a drawn copy of the picture; the best object is drawn last, on top."""
    image = Image.fromarray(_with_masks(picture, objects))
    pen = ImageDraw.Draw(image)
    shorter = min(image.size)
    line = max(round(shorter * LINE_SHARE), 1)
    font = ImageFont.load_default(max(round(shorter * TEXT_SHARE), TEXT_PIXELS_MIN))
    for one in reversed(objects):
        colour = colour_of(one.class_)
        pen.rectangle(one.box, outline=colour, width=line)
        _draw_points(pen, one, radius=2 * line)
    for one in reversed(objects):  # After all boxes: names stay readable.
        text = f"{one.label} {one.score:.2f}"
        _draw_text(image, pen, text, (one.box[0], one.box[1]), font, colour_of(one.class_))
    for row, guess in enumerate(classes):
        text = f"{guess.label} {guess.score:.2f}"
        height = pen.textbbox((0, 0), text, font=font)[3]
        at = (0.0, float((row + 1) * (height + 2 * line + 2)))
        _draw_text(image, pen, text, at, font, colour_of(guess.class_))
    return image


def _with_masks(picture: Pixels, objects: Sequence[Located]) -> Pixels:
    mixed = picture.astype(np.float32)
    for one in reversed(objects):
        if one.mask is not None:
            where = decode_mask(one.mask)
            colour = np.array(colour_of(one.class_), np.float32)
            mixed[where] = (1 - MASK_SHARE) * mixed[where] + MASK_SHARE * colour
    return mixed.round().astype(np.uint8)


def _draw_points(pen: ImageDraw.ImageDraw, one: Located, *, radius: int) -> None:
    for x, y, score in one.keypoints or ():
        if score >= POINT_SCORE_MIN:
            place = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(place, fill=colour_of(one.class_), outline=_DARK)


def _draw_text(
    image: Image.Image,
    pen: ImageDraw.ImageDraw,
    text: str,
    at: tuple[float, float],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: Colour,
) -> None:
    """Write on a plate of that colour above a point; within the picture, wherever the point is."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(at[0], 0), max(image.width - width, 0))
    y = min(max(at[1] - height, 0), max(image.height - height, 0))
    brightness = sum(share * part for share, part in zip(_LUMINANCE, colour, strict=True))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    pen.text(
        (x + 2 - left, y + 2 - top),
        text,
        font=font,
        fill=_DARK if brightness > _MIDDLE else _BRIGHT,
    )
