"""Output tensors of a segmentation network -> objects with masks. Pure, and all in arrays.

Boxes, scores and classes (shared/decode/boxes.py), coefficients (300 x 32) and prototypes (32 x a
quarter of the input's height x a quarter of its width). A mask is where the prototypes, weighted by
an object's coefficients, are above zero (a sigmoid above one half), inside the object's box; it
stays at the prototypes' resolution. Equal to Ultralytics' ``process_mask`` before it is scaled up,
and in value to modlib's ``pp_yolo_segment_ultralytics``, but for the pixels that the left and the
upper side of a box cut through: modlib counts them in, Ultralytics and we do not.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.decode.boxes import BOX_TENSORS, Floats, find_objects
from shared.decode.columns import Columns
from shared.decode.results import NOT_FINITE, SHAPES, Decoded, Problem, Tensor, Tensors, are_finite
from shared.decode.rle import Cut, encode_cuts
from shared.decode.written import decoded

PIXELS = 4  # Of the input's, each way, for one of a mask.
PROTOTYPES_DIMENSIONS = 3
TENSORS = BOX_TENSORS + 2


def find_segment(
    tensors: Tensors, *, size: tuple[int, int], labels: tuple[str, ...], threshold: float
) -> Columns | Problem:
    """Return the objects of one inference whose score reaches the threshold, best first.

    Args:
        tensors: Boxes, scores, classes, coefficients, prototypes.
        size: Width and height of the network's input.
        labels: Names by class.
        threshold: 0 to 1.
    """
    if len(tensors) != TENSORS or not _fit(tensors, size):
        return Problem(SHAPES)
    found = find_objects(tensors[:BOX_TENSORS], size=size, labels=labels, threshold=threshold)
    if isinstance(found, Problem):
        return found
    *_, coefficients, prototypes = tensors
    if not are_finite(coefficients, prototypes):
        return Problem(NOT_FINITE)
    weights = coefficients.reshape(tensors[1].size, -1)[found.rows].astype(np.float32)
    number, height, width = prototypes.shape[-3:]
    cuts = _cuts(weights, prototypes.reshape(number, height, width), found.pixels / PIXELS)
    return replace(found, masks=encode_cuts(cuts, size=(height, width)))


def decode_segment(
    tensors: Tensors, *, size: tuple[int, int], labels: tuple[str, ...], threshold: float
) -> Decoded:
    """Return what ``find_segment`` finds, as objects."""
    return decoded(find_segment(tensors, size=size, labels=labels, threshold=threshold))


def _fit(tensors: Tensors, size: tuple[int, int]) -> bool:
    _, scores, _, coefficients, prototypes = tensors
    if prototypes.ndim < PROTOTYPES_DIMENSIONS:
        return False
    *batch, number, height, width = prototypes.shape
    return (
        batch in ([], [1])
        and (width * PIXELS, height * PIXELS) == size
        and coefficients.size == scores.size * number
        and coefficients.shape[-1] == number
    )


def _cuts(weights: NDArray[np.float32], prototypes: Tensor, boxes: Floats) -> list[Cut]:
    """Return what is inside of each object's box: no product is made outside of it."""
    _, height, width = prototypes.shape
    # A pixel's numbers side by side: a product reads what is inside of the box and nothing else.
    turned = np.ascontiguousarray(prototypes.transpose(1, 2, 0), np.float32)
    ends = np.array([width, height, width, height], np.float64)
    corners = np.clip(np.ceil(boxes), 0, ends).astype(np.intp)
    return [
        Cut(left, top, (turned[top:bottom, left:right] @ weight > 0).T)
        for weight, (left, top, right, bottom) in zip(weights, corners.tolist(), strict=True)
    ]
