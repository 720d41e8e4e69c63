"""What detect, pose and segment have in common: boxes, scores and classes -> objects. Pure.

The tensors are the sensor's, after its NMS: boxes (300 x 4, pixels of the input, x_min, y_min,
x_max, y_max), scores (300), classes (300). With or without a batch of one. A detector says how many
rows are valid; where the network does not say it, a score of 0 is padding.
"""

import numpy as np
from numpy.typing import NDArray

from shared.decode.columns import BOX_STEPS, SCORE_STEPS, Columns, Whole, steps
from shared.decode.results import (
    CLASS_OUT_OF_RANGE,
    COUNT_OUT_OF_RANGE,
    NOT_FINITE,
    SHAPES,
    Problem,
    Tensors,
    are_finite,
)

BOX_TENSORS = 3
SCORE, CLASS = 4, 5  # After the four numbers of a box.

Floats = NDArray[np.float64]


def find_objects(
    tensors: Tensors,
    *,
    size: tuple[int, int],
    labels: tuple[str, ...],
    threshold: float,
    count: float | None = None,
) -> Columns | Problem:
    """Return the objects whose score reaches the threshold, or what is wrong with the values.

    Args:
        tensors: Boxes, scores, classes.
        size: Width and height of the network's input.
        labels: Names by class.
        threshold: 0 to 1.
        count: Number of valid rows; None: those with a score.
    """
    if len(tensors) != BOX_TENSORS or tensors[0].size != 4 * tensors[1].size:
        return Problem(SHAPES)
    if tensors[1].size != tensors[2].size:
        return Problem(SHAPES)
    numbers = _side_by_side(tensors)
    if not are_finite(numbers):
        return Problem(NOT_FINITE)
    if count is not None and not 0 <= count <= len(numbers):  # NaN is not between them either.
        return Problem(COUNT_OUT_OF_RANGE)
    numbers = numbers if count is None else numbers[: int(count)]
    order = _order(numbers[:, SCORE])
    numbers = numbers if order is None else numbers[order]
    valid = len(numbers) if count is not None else np.count_nonzero(numbers[:, SCORE] > 0)
    if _is_out_of_range(numbers[:valid, CLASS], len(labels)):
        return Problem(CLASS_OUT_OF_RANGE)
    kept = np.count_nonzero(numbers[:valid, SCORE] >= threshold)
    rows = np.arange(kept) if order is None else order[:kept]
    return _columns(numbers[:kept], rows=rows, size=size, labels=labels)


def _order(scores: Floats) -> Whole | None:
    """Return the rows best first, or None where they are, as the sensor's NMS leaves them."""
    return None if (scores[:-1] >= scores[1:]).all() else np.argsort(-scores, kind="stable")


def _side_by_side(tensors: Tensors) -> Floats:
    """Return box, score and class of every row, so that one step does what three would."""
    numbers = np.empty((tensors[1].size, CLASS + 1), np.float64)  # Classes, too, so NaN is seen.
    numbers[:, :SCORE] = tensors[0].reshape(-1, SCORE)
    numbers[:, SCORE] = tensors[1].reshape(-1)
    numbers[:, CLASS] = tensors[2].reshape(-1)
    return numbers


def _columns(
    numbers: Floats, *, rows: Whole, size: tuple[int, int], labels: tuple[str, ...]
) -> Columns:
    width, height = size
    return Columns(
        labels=labels,
        rows=rows,
        pixels=numbers[:, :SCORE],
        classes=numbers[:, CLASS].astype(np.intp),
        scores=steps(numbers[:, SCORE], SCORE_STEPS),
        boxes=steps(numbers[:, :SCORE], BOX_STEPS, whole=(width, height, width, height)),
    )


def _is_out_of_range(classes: Floats, number: int) -> bool:
    return bool(len(classes)) and not 0 <= classes.min() <= classes.max() < number
