"""A moving scene with known truth: what the simulated camera looks at, and what examples train on.

``draw`` is a pure function of (seed, frame, size): whoever knows these three knows what is in the
picture and where, so a test, the demo or an evaluation compares detections with the truth without
any message between them. Circles, squares and triangles drift over a textured background, turn,
appear and vanish; one that is hidden for the most part is not in the truth.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CLASS_NAMES = ("circle", "square", "triangle")
OBJECTS_MAX = 5
VISIBLE_SHARE_MIN = 0.4  # Of a shape's own pixels; less is no fair question to a detector.
_SCENES_CACHED = 4  # Training walks through many seeds; a camera stays with one.
_SIDES = {"square": 4, "triangle": 3}
_CIRCLE_CORNERS = 32
_INSIDE = 1.5  # Pixels towards the middle, where an extreme point's own colour is sure to be.
_NOISE_LEVELS = 9  # Grey levels of sensor noise, symmetric around zero.

Size = int | tuple[int, int]
Pixels = NDArray[np.uint8]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One object of the truth, normalised to the picture.

    Attributes:
        box: What is seen of it, x_min, y_min, x_max, y_max.
        outline: Corners of the whole shape, hidden parts too; a circle has many.
        extremes: Its topmost, rightmost, lowest and leftmost point; 2 seen, 1 hidden, 0 outside.
    """

    class_: int
    label: str
    box: tuple[float, float, float, float]
    outline: tuple[Point, ...]
    extremes: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True, slots=True)
class _Shape:
    class_: int
    color: tuple[int, int, int]
    radius: float  # Of the circle around it, as a share of the shorter side.
    start: tuple[float, float]
    speed: tuple[float, float]  # Of the room that it moves in, per frame.
    angle: float
    turn: float  # Radians per frame.
    period: int  # It is there for `shown` of every `period` frames, shifted by `phase`.
    shown: int
    phase: int


@dataclass(frozen=True, slots=True)
class _Scene:
    background: Pixels
    noise: NDArray[np.int16]
    shapes: tuple[_Shape, ...]


def draw(seed: int, frame: int, size: Size) -> tuple[Pixels, tuple[Drawn, ...]]:
    """Return the picture (uint8, height x width x 3, RGB) and what is in it.

    Args:
        seed: Which scene: background, shapes, colours and ways.
        frame: Which moment of it.
        size: Width and height in pixels; one number for a square.
    """
    width, height = (size, size) if isinstance(size, int) else size
    scene = _scene(seed, width, height)
    image = Image.fromarray(scene.background)
    owners = Image.new("L", (width, height), 0)
    present = [shape for shape in scene.shapes if _is_present(shape, frame)]
    areas = [
        _paint(shape, frame, image=image, owners=owners, number=number)
        for number, shape in enumerate(present, start=1)
    ]
    truth = _truth(present, areas, np.asarray(owners), frame)
    return _add_noise(np.asarray(image), scene.noise, frame), truth


def _is_present(shape: _Shape, frame: int) -> bool:
    return (frame + shape.phase) % shape.period < shape.shown


def _paint(
    shape: _Shape, frame: int, *, image: Image.Image, owners: Image.Image, number: int
) -> int:
    """Draw the shape over what is there; return how many pixels it has by itself."""
    alone = Image.new("L", image.size, 0)
    outline = _outline(shape, frame, image.size)
    for canvas, fill in ((image, shape.color), (owners, number), (alone, 1)):
        pen = ImageDraw.Draw(canvas)
        if CLASS_NAMES[shape.class_] == "circle":
            pen.ellipse([*outline[0], *outline[1]], fill=fill)
        else:
            pen.polygon(outline, fill=fill)
    return int(np.count_nonzero(np.asarray(alone)))


def _outline(shape: _Shape, frame: int, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Return a polygon's corners, or the circle's box as two corners."""
    radius = shape.radius * min(size)
    x, y = (
        radius + _bounce(start + speed * frame) * (side - 1 - 2 * radius)
        for start, speed, side in zip(shape.start, shape.speed, size, strict=True)
    )
    name = CLASS_NAMES[shape.class_]
    if name == "circle":
        return [(x - radius, y - radius), (x + radius, y + radius)]
    first = shape.angle + shape.turn * frame
    angles = (first + 2 * pi * corner / _SIDES[name] for corner in range(_SIDES[name]))
    return [(x + radius * cos(angle), y + radius * sin(angle)) for angle in angles]


def _bounce(way: float) -> float:
    """Return where something is that runs to and fro between 0 and 1."""
    return 1 - abs(way % 2 - 1)


def _truth(
    present: list[_Shape], areas: list[int], owners: Pixels, frame: int
) -> tuple[Drawn, ...]:
    height, width = owners.shape
    truth: list[Drawn] = []
    for number, (shape, area) in enumerate(zip(present, areas, strict=True), start=1):
        rows, columns = np.nonzero(owners == number)
        if len(rows) < VISIBLE_SHARE_MIN * area or not len(rows):
            continue
        box = (
            float(columns.min() / width),
            float(rows.min() / height),
            float((columns.max() + 1) / width),
            float((rows.max() + 1) / height),
        )
        corners = _corners(shape, frame, (width, height))
        outline = tuple((x / width, y / height) for x, y in corners)
        extremes = _extremes(corners, owners == number)
        truth.append(Drawn(shape.class_, CLASS_NAMES[shape.class_], box, outline, extremes))
    return tuple(truth)


def _corners(shape: _Shape, frame: int, size: tuple[int, int]) -> list[Point]:
    """Return the corners of a shape in pixels; a circle as a polygon."""
    outline = _outline(shape, frame, size)
    if CLASS_NAMES[shape.class_] != "circle":
        return outline
    (left, top), (right, bottom) = outline
    radius, x, y = (right - left) / 2, (left + right) / 2, (top + bottom) / 2
    angles = (2 * pi * corner / _CIRCLE_CORNERS for corner in range(_CIRCLE_CORNERS))
    return [(x + radius * cos(angle), y + radius * sin(angle)) for angle in angles]


def _extremes(
    corners: list[Point], is_own: NDArray[np.bool_]
) -> tuple[tuple[float, float, int], ...]:
    """Return the outermost corners upwards, to the right, downwards, to the left."""
    height, width = is_own.shape
    middle = np.mean(corners, axis=0)
    found = []
    for direction in ((0, -1), (1, 0), (0, 1), (-1, 0)):
        corner = np.array(max(corners, key=lambda one: float(np.dot(one, direction))))
        inwards = corner + _INSIDE * (middle - corner) / np.linalg.norm(middle - corner)
        column, row = (int(side) for side in np.floor(inwards))
        is_inside = 0 <= column < width and 0 <= row < height
        seen = (2 if is_own[row, column] else 1) if is_inside else 0
        found.append((float(corner[0] / width), float(corner[1] / height), seen))
    return tuple(found)


def _add_noise(picture: Pixels, noise: NDArray[np.int16], frame: int) -> Pixels:
    """Shift one field of noise by a step that never repeats soon: drawing anew costs 5 ms."""
    shifted = np.roll(noise, shift=(frame * 7919) % noise.size)
    noisy: Pixels = np.clip(picture + shifted[..., None], 0, 255).astype(np.uint8)
    return noisy


@lru_cache(maxsize=_SCENES_CACHED)
def _scene(seed: int, width: int, height: int) -> _Scene:
    random = np.random.default_rng([seed, 1])
    shapes = tuple(_shape(random) for _ in range(int(random.integers(2, OBJECTS_MAX + 1))))
    noise = random.integers(-(_NOISE_LEVELS // 2), _NOISE_LEVELS // 2 + 1, (height, width))
    return _Scene(_background(random, width, height), noise.astype(np.int16), shapes)


def _background(random: np.random.Generator, width: int, height: int) -> Pixels:
    """Return soft blotches of one muted colour with finer grain on top."""
    base = random.uniform(60, 190, 3)
    layers = np.zeros((height, width, 3))
    for cells, strength in ((4, 40.0), (16, 18.0), (48, 8.0)):
        coarse = random.uniform(-strength, strength, (cells, cells))
        layer = Image.fromarray(coarse.astype(np.float32)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        layers += np.asarray(layer)[..., None]
    return np.clip(base + layers, 0, 255).astype(np.uint8)


def _shape(random: np.random.Generator) -> _Shape:
    period = int(random.integers(120, 400))
    return _Shape(
        class_=int(random.integers(0, len(CLASS_NAMES))),
        color=_color(random),
        radius=float(random.uniform(0.07, 0.18)),
        start=(float(random.uniform(0, 2)), float(random.uniform(0, 2))),
        speed=(float(random.uniform(-0.012, 0.012)), float(random.uniform(-0.012, 0.012))),
        angle=float(random.uniform(0, 2 * pi)),
        turn=float(random.uniform(-0.03, 0.03)),
        period=period,
        shown=int(period * random.uniform(0.6, 0.95)),
        phase=int(random.integers(0, period)),
    )


def _color(random: np.random.Generator) -> tuple[int, int, int]:
    """Return a colour that is saturated against the muted background: one channel high, one low."""
    high, low, between = (int(random.integers(*span)) for span in ((200, 256), (0, 60), (0, 256)))
    red, green, blue = random.permutation(np.array([high, low, between]))
    return int(red), int(green), int(blue)
