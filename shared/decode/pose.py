"""Output tensors of a pose network -> objects with keypoints. Pure, and all in arrays.

Boxes, scores and classes (shared/decode/boxes.py), and keypoints (300 x 2k or 3k, pixels of the
input): x, y and, where the network says it, a score each. Equal in value to modlib's
``pp_yolo_pose_ultralytics``, but for points outside the image, which go to its edge as Ultralytics
puts them there, and for rows below the threshold.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.decode.boxes import BOX_TENSORS, find_objects
from shared.decode.columns import BOX_STEPS, SCORE_STEPS, Columns, Whole, steps
from shared.decode.results import NOT_FINITE, SHAPES, Decoded, Problem, Tensor, Tensors, are_finite
from shared.decode.written import decoded

PLAIN, SCORED = 2, 3  # Numbers of a keypoint: x, y; x, y, score.


def find_pose(
    tensors: Tensors,
    *,
    keypoints: int,
    size: tuple[int, int],
    labels: tuple[str, ...],
    threshold: float,
) -> Columns | Problem:
    """Return the objects of one inference whose score reaches the threshold, best first.

    Args:
        tensors: Boxes, scores, classes, keypoints.
        keypoints: How many an object has.
        size: Width and height of the network's input.
        labels: Names by class.
        threshold: 0 to 1.
    """
    if len(tensors) != BOX_TENSORS + 1:
        return Problem(SHAPES)
    rows, points = tensors[1].size, tensors[-1]
    if not _fit(points, rows=rows, keypoints=keypoints):
        return Problem(SHAPES)
    found = find_objects(tensors[:BOX_TENSORS], size=size, labels=labels, threshold=threshold)
    if isinstance(found, Problem):
        return found
    if not are_finite(points):
        return Problem(NOT_FINITE)
    numbers = points.reshape(rows, keypoints, -1)[found.rows].astype(np.float64)
    return replace(found, keypoints=_steps(numbers, size))


def decode_pose(
    tensors: Tensors,
    *,
    keypoints: int,
    size: tuple[int, int],
    labels: tuple[str, ...],
    threshold: float,
) -> Decoded:
    """Return what ``find_pose`` finds, as objects."""
    return decoded(
        find_pose(tensors, keypoints=keypoints, size=size, labels=labels, threshold=threshold)
    )


def _fit(points: Tensor, *, rows: int, keypoints: int) -> bool:
    numbers = points.size // (rows * keypoints) if rows * keypoints else 0
    return numbers in (PLAIN, SCORED) and points.shape[-1] == keypoints * numbers


def _steps(numbers: NDArray[np.float64], size: tuple[int, int]) -> Whole:
    """Return x, y and score of every keypoint; 1 where the network gives it no score."""
    if numbers.shape[-1] == PLAIN:
        numbers = np.concatenate([numbers, np.ones((*numbers.shape[:-1], 1))], axis=-1)
    width, height = size
    scale = np.array([BOX_STEPS / width, BOX_STEPS / height, SCORE_STEPS])
    return steps(numbers, scale, np.array([BOX_STEPS, BOX_STEPS, SCORE_STEPS]))
