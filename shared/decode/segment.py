"""Output tensors of a segmentation network -> objects with masks. Pure, and all in arrays.

Boxes, scores and classes (shared/decode/boxes.py), coefficients (300 x 32) and prototypes (32 x a
quarter of the input's height x a quarter of its width). A mask is where the prototypes, weighted by
an object's coefficients, are above zero (a sigmoid above one half), inside the object's box; it
stays at the prototypes' resolution. Equal to Ultralytics' ``process_mask`` before it is scaled up.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.decode.boxes import BOX_TENSORS, Floats, find_objects, refused
from shared.decode.results import NOT_FINITE, SHAPES, Decoded, Tensor, Tensors, are_finite
from shared.decode.rle import encode_masks

PIXELS = 4  # Of the input's, each way, for one of a mask.
PROTOTYPES_DIMENSIONS = 3
TENSORS = BOX_TENSORS + 2


def decode_segment(
    tensors: Tensors, *, size: tuple[int, int], labels: tuple[str, ...], threshold: float
) -> Decoded:
    """Return the objects of one inference whose score reaches the threshold, best first.

    Args:
        tensors: Boxes, scores, classes, coefficients, prototypes.
        size: Width and height of the network's input.
        labels: Names by class.
        threshold: 0 to 1.
    """
    if len(tensors) != TENSORS or not _fit(tensors, size):
        return refused(SHAPES)
    found = find_objects(tensors[:BOX_TENSORS], size=size, labels=labels, threshold=threshold)
    if isinstance(found, Decoded):
        return found
    *_, coefficients, prototypes = tensors
    if not are_finite(coefficients, prototypes):
        return refused(NOT_FINITE)
    weights = coefficients.reshape(tensors[1].size, -1)[found.rows].astype(np.float32)
    masks = encode_masks(_columns(weights, prototypes, found.boxes / PIXELS))
    return Decoded(
        objects=tuple(
            msgspec.structs.replace(thing, mask=mask)
            for thing, mask in zip(found.objects, masks, strict=True)
        )
    )


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


def _columns(weights: NDArray[np.float32], prototypes: Tensor, boxes: Floats) -> NDArray[np.bool_]:
    """Return the masks, number x width x height: run lengths are counted column by column.

    The product is made for the columns of an object's box only, of which the others are zero.
    """
    number, height, width = prototypes.shape[-3:]
    turned = prototypes.reshape(number, height, width).transpose(0, 2, 1)
    flat = np.ascontiguousarray(turned, np.float32).reshape(number, -1)
    ends = np.array([width, height, width, height], np.float64)
    corners = np.clip(np.ceil(boxes), 0, ends).astype(np.intp)
    masks = np.zeros((len(weights), width, height), np.bool_)
    for mask, weight, (left, top, right, bottom) in zip(
        masks, weights, corners.tolist(), strict=True
    ):
        values = weight @ flat[:, left * height : right * height]
        mask[left:right, top:bottom] = values.reshape(-1, height)[:, top:bottom] > 0
    return masks
