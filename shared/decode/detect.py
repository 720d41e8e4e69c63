"""Output tensors of a detector -> objects. Pure, and all in arrays.

The tensors are the sensor's, after its NMS: boxes (300 x 4, pixels of the input, x_min, y_min,
x_max, y_max), scores (300), classes (300), number of valid rows. With or without a batch of one.
Equal in value to modlib's ``pp_od_yolo_ultralytics``, but for boxes cut at the image's edge.
"""

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

TENSORS = 4


def decode_detect(
    tensors: Tensors, *, size: tuple[int, int], labels: tuple[str, ...], threshold: float
) -> Decoded:
    """Return the objects of one inference whose score reaches the threshold, best first.

    Args:
        tensors: Boxes, scores, classes, number of valid rows.
        size: Width and height of the network's input.
        labels: Names by class.
        threshold: 0 to 1.
    """
    if not _fit(tensors):
        return Decoded(objects=(), problems=(SHAPES,))
    boxes = tensors[0].reshape(-1, 4).astype(np.float64)
    scores = tensors[1].reshape(-1).astype(np.float64)
    classes, count = tensors[2].reshape(-1), tensors[3].reshape(-1)[0]
    problems = _problems(boxes, scores, classes.astype(np.float64), float(count), len(labels))
    if problems:
        return Decoded(objects=(), problems=problems)
    rows = np.flatnonzero(scores[: int(count)] >= threshold)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    scaled = boxes[rows] / np.array([*size, *size], np.float64)
    return Decoded(objects=_objects(scaled, scores[rows], classes[rows].astype(np.int64), labels))


def _fit(tensors: Tensors) -> bool:
    if len(tensors) != TENSORS:
        return False
    boxes, scores, classes, count = (tensor.size for tensor in tensors)
    return boxes == 4 * scores == 4 * classes and count == 1


def _problems(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    classes: NDArray[np.float64],
    count: float,
    labels: int,
) -> tuple[str, ...]:
    if not are_finite(boxes, scores, classes):
        return (NOT_FINITE,)
    if not 0 <= count <= len(scores):  # NaN is not between them either.
        return (COUNT_OUT_OF_RANGE,)
    found = classes[: int(count)]
    if bool(((found < 0) | (found >= labels)).any()):
        return (CLASS_OUT_OF_RANGE,)
    return ()


def _objects(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    classes: NDArray[np.int64],
    labels: tuple[str, ...],
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
