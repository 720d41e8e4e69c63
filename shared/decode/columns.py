"""What a network found, in columns: as objects for people and tests, as JSON for the way out. Pure.

Making 300 Python objects of a frame, each with a box of floats, and writing them as JSON takes
several times as long as everything before. So the way out never makes them: numbers are whole
thousandths and ten-thousandths here, their text is looked up in a table, for all at once, and every
number or name is filled up with blanks, which JSON allows there, to words of eight bytes, so that a
frame's text is put together as an array of 64-bit numbers.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.detections import KEYPOINT_BYTES_MIN, Mask, Object

BOX_STEPS = 10_000  # A ten-thousandth of an image is a tenth of a pixel: no sensor sees better.
SCORE_STEPS = 1_000  # Scores are counted in 256ths.
_SIDES = 4

Whole = NDArray[np.intp]
Floats = NDArray[np.float64]
Words = NDArray[np.uint64]  # Eight bytes of text each.
WORD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Columns:
    """Objects that reach the threshold, best first; a row each.

    Attributes:
        labels: Names by class.
        rows: Where each object stands in the tensors.
        pixels: Boxes in pixels of the input, not cut at its edge.
        numbers: x_min, y_min, x_max, y_max in ten-thousandths of the image, score in thousandths.
        keypoints: Of a pose: x, y in ten-thousandths, score in thousandths; objects x points x 3.
        masks: Of a segmentation.
    """

    labels: tuple[str, ...]
    rows: Whole
    pixels: Floats
    classes: Whole
    numbers: Whole
    keypoints: Whole | None = None
    masks: tuple[Mask, ...] | None = None

    @property
    def scores(self) -> Floats:
        """Return the scores, 0 to 1."""
        return self.numbers[:, _SIDES] / SCORE_STEPS


def steps(values: Floats, scale: Floats, whole: Floats | NDArray[np.int_]) -> Whole:
    """Return values as whole steps of a scale; what is outside of 0 to the whole goes to its edge.

    All columns at once, and not by np.clip: a frame of a detector is some forty calls of numpy, and
    what they cost is their number.
    """
    scaled = values * scale
    np.maximum(scaled, 0, out=scaled)
    np.minimum(scaled, whole, out=scaled)
    return np.rint(scaled, out=scaled).astype(np.intp)


def objects_of(columns: Columns) -> tuple[Object, ...]:
    """Return the columns as objects."""
    boxes = (columns.numbers[:, :_SIDES] / BOX_STEPS).tolist()
    scores = (columns.numbers[:, _SIDES] / SCORE_STEPS).tolist()
    masks = columns.masks or (None,) * len(scores)
    points = _points(columns)
    return tuple(
        Object(
            label=columns.labels[class_],
            class_=class_,
            score=score,
            box=(box[0], box[1], box[2], box[3]),
            keypoints=keypoints,
            mask=mask,
        )
        for class_, score, box, keypoints, mask in zip(
            columns.classes.tolist(), scores, boxes, points, masks, strict=True
        )
    )


def json_of(columns: Columns, *, bytes_max: int) -> bytes:
    """Return the columns as the JSON array that ``objects_of`` would be written as.

    Args:
        columns: What was found.
        bytes_max: What one message holds. Where the better objects alone are more, an object goes
            without keypoints and mask: it is counted, and never sent.
    """
    if columns.masks is not None:
        return _list(_with_masks(columns, bytes_max))
    if columns.keypoints is None:
        return _list([_rows(columns).tobytes()])
    each = columns.keypoints.shape[1] * KEYPOINT_BYTES_MIN
    whole = bytes_max // each + 1
    points = _keypoint_words(columns.keypoints[:whole])
    rows = _rows(columns)
    rows[:whole, -1] -= _CLOSED
    full = [rows[:whole], _KEYPOINTS, points, _KEYPOINTS_END]
    return _list([_text(full), rows[whole:].tobytes()])


Point = tuple[float, float, float]


def _points(columns: Columns) -> Iterator[tuple[Point, ...] | None]:
    if columns.keypoints is None:
        yield from (None for _ in columns.rows)
        return
    shares = columns.keypoints / np.array([BOX_STEPS, BOX_STEPS, SCORE_STEPS])
    for row in shares.tolist():
        yield tuple((x, y, score) for x, y, score in row)


def _list(pieces: Iterable[bytes]) -> bytes:
    return b"[%b]" % b"".join(pieces).rstrip(b", ")


def _rows(columns: Columns) -> Words:
    """Return class, label, box and score of every object; the last word has the brace."""
    heads, numbers = _heads(columns.labels), _numbers()
    length = heads.shape[1]
    words = np.empty((len(columns.rows), length + _SIDES + 2), np.uint64)
    words[:, :length] = heads[columns.classes]
    text = numbers[columns.numbers + _FIRSTS]
    words[:, length:-2] = text[:, :_SIDES]
    words[:, -3] += _BRACKET
    words[:, -2] = _SCORE
    words[:, -1] = text[:, _SIDES]
    return words


def _keypoint_words(keypoints: Whole) -> Words:
    """Return the points of every object: [x,y,score], [x,y,score]."""
    words = np.empty(keypoints.shape, np.uint64)
    words[..., 0] = _table("[{:.4f},", BOX_STEPS)[keypoints[..., 0]]
    words[..., 1] = _table("{:.4f},", BOX_STEPS)[keypoints[..., 1]]
    words[..., 2] = _table("{:.3f}],", SCORE_STEPS)[keypoints[..., 2]]
    words[:, -1:, 2] = _table("{:.3f}]", SCORE_STEPS)[keypoints[:, -1:, 2]]
    return words.reshape(len(keypoints), -1)


def _with_masks(columns: Columns, bytes_max: int) -> Iterator[bytes]:
    rows = _rows(columns)
    rows[:, -1] -= _CLOSED
    text, length = rows.tobytes(), rows.shape[1] * WORD_BYTES
    room = bytes_max
    for number, mask in enumerate(columns.masks or ()):
        tail = b',"mask":' + msgspec.json.encode(mask)
        yield text[number * length : (number + 1) * length]
        yield tail if room >= 0 else b""
        yield b"},"
        room -= len(tail)


def _text(parts: Sequence[Words]) -> bytes:
    """Return the parts side by side, row after row; a part of one row goes into every row."""
    number = len(parts[0])
    words = [part if len(part) == number else part.repeat(number, axis=0) for part in parts]
    return np.concatenate(words, axis=1).tobytes()


def _words(texts: Iterable[bytes]) -> Words:
    """Return texts as words of eight bytes, a row each, filled up with blanks."""
    lines = list(texts)
    width = -(-max(map(len, lines)) // WORD_BYTES) * WORD_BYTES
    text = b"".join(line.ljust(width) for line in lines)
    return np.frombuffer(text, np.uint64).reshape(len(lines), -1)


# In 64 bits, what one text is more than another is a number, whichever byte comes first.
_SCORE = _words([b'"score":'])[0, 0]
_BRACKET = np.subtract(*_words([b"0.0000],", b"0.0000, "])[:, 0])
_CLOSED = np.subtract(*_words([b"0.000},", b"0.000"])[:, 0])
_KEYPOINTS, _KEYPOINTS_END = _words([b',"keypoints":[']), _words([b"]},"])
_FIRSTS = np.array([0] * _SIDES + [BOX_STEPS + 1])  # Where in ``_numbers`` each column's begin.


@lru_cache(maxsize=1)
def _numbers() -> Words:
    """Return the text of every share of a box, and of every score with the brace that ends it."""
    return np.concatenate([_table("{:.4f}, ", BOX_STEPS), _table("{:.3f}}},", SCORE_STEPS)])


@lru_cache(maxsize=4)  # As many as there are cameras: a release's labels do not change.
def _heads(labels: tuple[str, ...]) -> Words:
    """Return how an object of each class begins."""
    return _words(
        b'{"label":%b,"class":%d,"box":[' % (msgspec.json.encode(label), class_)
        for class_, label in enumerate(labels)
    )


@lru_cache(maxsize=8)
def _table(form: str, number: int) -> Words:
    """Return the text of every share of 1 in so many steps: a word each."""
    return _words(form.format(step / number).encode() for step in range(number + 1))[:, 0]
