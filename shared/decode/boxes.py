"""What detect, pose and segment have in common: boxes, scores and classes -> objects. Pure.

The tensors are the sensor's, after its NMS: boxes (300 x 4, pixels of the input, x_min, y_min,
x_max, y_max), scores (300), classes (300). With or without a batch of one. A detector says how many
rows are valid; where the network does not say it, a score of 0 is padding.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.decode.results import (
    BOX_DIGITS,
    CLASS_OUT_OF_RANGE,
    COUNT_OUT_OF_RANGE,
    NOT_FINITE,
    SCORE_DIGITS,
    SHAPES,
    Decoded,
    Tensors,
    are_finite,
)
from shared.detections import Object

BOX_TENSORS = 3

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Found:
    """What reaches the threshold, best first.

    Attributes:
        rows: Where each object stands in the tensors.
        boxes: In pixels, not cut at the image's edge.
        objects: With class, score and box.
    """

    rows: NDArray[np.intp]
    boxes: Floats
    objects: tuple[Object, ...]


def find_objects(
    tensors: Tensors,
    *,
    size: tuple[int, int],
    labels: tuple[str, ...],
    threshold: float,
    count: float | None = None,
) -> Found | Decoded:
    """Return the objects whose score reaches the threshold, or what is wrong with the values.

    Args:
        tensors: Boxes, scores, classes.
        size: Width and height of the network's input.
        labels: Names by class.
        threshold: 0 to 1.
        count: Number of valid rows; None: those with a score.
    """
    if len(tensors) != BOX_TENSORS or tensors[0].size != 4 * tensors[1].size:
        return refused(SHAPES)
    if tensors[1].size != tensors[2].size:
        return refused(SHAPES)
    boxes = tensors[0].reshape(-1, 4).astype(np.float64)
    scores = tensors[1].reshape(-1).astype(np.float64)
    classes = tensors[2].reshape(-1).astype(np.float64)  # So that NaN is seen.
    if not are_finite(boxes, scores, classes):
        return refused(NOT_FINITE)
    if count is not None and not 0 <= count <= len(scores):  # NaN is not between them either.
        return refused(COUNT_OUT_OF_RANGE)
    is_valid = scores > 0 if count is None else np.arange(len(scores)) < int(count)
    if bool(((classes < 0) | (classes >= len(labels)))[is_valid].any()):
        return refused(CLASS_OUT_OF_RANGE)
    rows = np.flatnonzero(is_valid & (scores >= threshold))
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    scaled = boxes[rows] / np.array([*size, *size], np.float64)
    objects = _objects(scaled, scores[rows], classes[rows].astype(np.int64), labels)
    return Found(rows, boxes[rows], objects)


def refused(problem: str) -> Decoded:
    """Return an inference whose values cannot be trusted."""
    return Decoded(objects=(), problems=(problem,))


def _objects(
    boxes: Floats, scores: Floats, classes: NDArray[np.int64], labels: tuple[str, ...]
) -> tuple[Object, ...]:
    rounded = np.clip(boxes, 0.0, 1.0).round(BOX_DIGITS).tolist()
    return tuple(
        Object(
            label=labels[class_], class_=class_, score=score, box=(box[0], box[1], box[2], box[3])
        )
        for box, score, class_ in zip(
            rounded, scores.round(SCORE_DIGITS).tolist(), classes.tolist(), strict=True
        )
    )
