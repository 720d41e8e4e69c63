"""Output tensors of a pose network -> objects with keypoints. Pure, and all in arrays.

Boxes, scores and classes (shared/decode/boxes.py), and keypoints (300 x 2k or 3k, pixels of the
input): x, y and, where the network says it, a score each. Equal in value to modlib's
``pp_yolo_pose_ultralytics``, but for points outside the image, which go to its edge as Ultralytics
puts them there, and for rows below the threshold.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.decode.boxes import BOX_TENSORS, Found, find_objects, refused
from shared.decode.results import (
    BOX_DIGITS,
    NOT_FINITE,
    SCORE_DIGITS,
    SHAPES,
    Decoded,
    Tensor,
    Tensors,
    are_finite,
)
from shared.detections import Object

PLAIN, SCORED = 2, 3  # Numbers of a keypoint: x, y; x, y, score.


def decode_pose(
    tensors: Tensors,
    *,
    keypoints: int,
    size: tuple[int, int],
    labels: tuple[str, ...],
    threshold: float,
) -> Decoded:
    """Return the objects of one inference whose score reaches the threshold, best first.

    Args:
        tensors: Boxes, scores, classes, keypoints.
        keypoints: How many an object has.
        size: Width and height of the network's input.
        labels: Names by class.
        threshold: 0 to 1.
    """
    if len(tensors) != BOX_TENSORS + 1:
        return refused(SHAPES)
    rows, points = tensors[1].size, tensors[-1]
    if not _fit(points, rows=rows, keypoints=keypoints):
        return refused(SHAPES)
    found = find_objects(tensors[:BOX_TENSORS], size=size, labels=labels, threshold=threshold)
    if isinstance(found, Decoded):
        return found
    if not are_finite(points):
        return refused(NOT_FINITE)
    numbers = points.reshape(rows, keypoints, -1)[found.rows].astype(np.float64)
    return Decoded(objects=_with_keypoints(found, numbers, size))


def _fit(points: Tensor, *, rows: int, keypoints: int) -> bool:
    numbers = points.size // (rows * keypoints) if rows * keypoints else 0
    return numbers in (PLAIN, SCORED) and points.shape[-1] == keypoints * numbers


def _with_keypoints(
    found: Found, numbers: NDArray[np.float64], size: tuple[int, int]
) -> tuple[Object, ...]:
    places = np.clip(numbers[..., :PLAIN] / np.array(size, np.float64), 0.0, 1.0)
    scores = numbers[..., PLAIN] if numbers.shape[-1] == SCORED else np.ones(places.shape[:-1])
    rounded = [places.round(BOX_DIGITS), scores.round(SCORE_DIGITS)[..., None]]
    return tuple(
        msgspec.structs.replace(thing, keypoints=tuple((x, y, score) for x, y, score in points))
        for thing, points in zip(
            found.objects, np.concatenate(rounded, axis=-1).tolist(), strict=True
        )
    )
