"""What detect, pose and segment have in common: boxes, scores and classes -> objects. Pure.

The tensors are the sensor's, after its NMS: boxes (300 x 4, pixels of the input, x_min, y_min,
x_max, y_max), scores (300), classes (300). With or without a batch of one. A detector says how many
rows are valid; where the network does not say it, a score of 0 is padding.
"""

from functools import lru_cache

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
from shared.limits import OBJECTS_PER_FRAME_MAX

BOX_TENSORS = 3
SCORE, CLASS = 4, 5  # After the four numbers of a box.
TINY = np.nextafter(0.0, 1.0)  # A score of 0 is padding.
WHOLE = np.array([BOX_STEPS] * SCORE + [SCORE_STEPS], np.float64)

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
    valid = numbers if count is not None else numbers[: _until(numbers[:, SCORE], least=TINY)]
    if len(valid) > OBJECTS_PER_FRAME_MAX:
        return Problem(COUNT_OUT_OF_RANGE)
    classes = valid[:, CLASS].astype(np.intp)
    if len(classes) and not 0 <= classes.min() <= classes.max() < len(labels):
        return Problem(CLASS_OUT_OF_RANGE)
    kept = _until(valid[:, SCORE], least=threshold)
    rows = np.arange(kept) if order is None else order[:kept]
    found = steps(valid[:kept, :CLASS], _scale(size), WHOLE)
    return Columns(
        labels=labels,
        rows=rows,
        pixels=valid[:kept, :SCORE],
        classes=classes[:kept],
        numbers=found,
    )


def _order(scores: Floats) -> Whole | None:
    """Return the rows best first, or None where they are, as the sensor's NMS leaves them."""
    return None if (scores[:-1] >= scores[1:]).all() else np.argsort(-scores, kind="stable")


def _until(scores: Floats, *, least: float) -> int:
    """Return how many scores, best first, are at least so high; mostly it is all of them."""
    is_all = not len(scores) or bool(scores[-1] >= least)
    return len(scores) if is_all else int(np.count_nonzero(scores >= least))


@lru_cache(maxsize=8)
def _scale(size: tuple[int, int]) -> Floats:
    """Return how many steps a pixel is, and a score."""
    return np.array([*(BOX_STEPS / side for side in (*size, *size)), SCORE_STEPS])


def _side_by_side(tensors: Tensors) -> Floats:
    """Return box, score and class of every row, so that one step does what three would."""
    numbers = np.empty((tensors[1].size, CLASS + 1), np.float64)  # Classes, too, so NaN is seen.
    numbers[:, :SCORE] = tensors[0].reshape(-1, SCORE)
    numbers[:, SCORE] = tensors[1].reshape(-1)
    numbers[:, CLASS] = tensors[2].reshape(-1)
    return numbers
