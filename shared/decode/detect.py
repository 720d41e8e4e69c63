"""Output tensors of a detector -> objects. Pure, and all in arrays.

Boxes, scores and classes (shared/decode/boxes.py), and the number of valid rows. Equal in value to
modlib's ``pp_od_yolo_ultralytics``, but for boxes cut at the image's edge.
"""

from shared.decode.boxes import BOX_TENSORS, find_objects
from shared.decode.columns import Columns
from shared.decode.results import SHAPES, Decoded, Problem, Tensors
from shared.decode.written import decoded


def find_detect(
    tensors: Tensors, *, size: tuple[int, int], labels: tuple[str, ...], threshold: float
) -> Columns | Problem:
    """Return the objects of one inference whose score reaches the threshold, best first.

    Args:
        tensors: Boxes, scores, classes, number of valid rows.
        size: Width and height of the network's input.
        labels: Names by class.
        threshold: 0 to 1.
    """
    if len(tensors) != BOX_TENSORS + 1 or tensors[-1].size != 1:
        return Problem(SHAPES)
    count = float(tensors[-1].reshape(-1)[0])
    return find_objects(
        tensors[:BOX_TENSORS], size=size, labels=labels, threshold=threshold, count=count
    )


def decode_detect(
    tensors: Tensors, *, size: tuple[int, int], labels: tuple[str, ...], threshold: float
) -> Decoded:
    """Return what ``find_detect`` finds, as objects."""
    return decoded(find_detect(tensors, size=size, labels=labels, threshold=threshold))
