"""The golden set: signed inputs with the outputs that they must give. Pure.

Agreement is the share of expected objects that were found again: same class and an IoU of at least
one half, of the boxes and, where there are any, of the masks; keypoints not far away, those the
least that the network itself doubts. For a classifier, the same top class.
"""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.decode.results import Decoded, Tensor, Tensors
from shared.decode.rle import decode_mask
from shared.decode.task import Decoder
from shared.detections import Mask, Object
from shared.errors import LimitError, MalformedError

INPUTS_MAX = 8
GOLDEN_BYTES = 12 * 1024 * 1024  # Unpacked: eight inputs of 640 x 640 are 9.8 MB.
IOU_MIN = 0.5
KEYPOINTS_APART_MAX = 0.1  # Their mean distance, as a share of the box's diagonal.

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Example:
    """One input and what comes out of it."""

    image: NDArray[np.uint8]
    outputs: Tensors


def read_golden(data: bytes, *, size: tuple[int, int], outputs: int) -> tuple[Example, ...]:
    """Return the examples of a golden file.

    Args:
        data: The .npz file: ``input_<i>`` and ``output_<i>_<k>``.
        size: Width and height of the network's input.
        outputs: How many output tensors the network has.

    Raises:
        LimitError: It unpacks to more than its limit, or has too many inputs.
        MalformedError: It is not a golden file of this network.
    """
    try:
        _check_size(data)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            count = sum(name.startswith("input_") for name in arrays.files)
            if not 1 <= count <= INPUTS_MAX:
                raise LimitError(f"expected 1 to {INPUTS_MAX} golden inputs, got {count}")
            return tuple(_example(arrays, i, size, outputs) for i in range(count))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise MalformedError(f"not a golden file: {str(error)[:200]}") from error


def agreement_permille(
    examples: tuple[Example, ...], *, run: Callable[[NDArray[np.uint8]], Tensors], decode: Decoder
) -> int:
    """Return how many permille of the expected objects a network finds again.

    Raises:
        MalformedError: What is expected is not what this release's network can put out.
    """
    expected = found = 0
    for number, example in enumerate(examples):
        wanted, seen = decode(example.outputs), decode(run(example.image))
        if wanted.problems:
            problems = ", ".join(wanted.problems)
            raise MalformedError(f"golden output {number}: expected sound values, got {problems}")
        expected += _count(wanted)
        found += matches(wanted, seen)
    return 1000 if expected == 0 else 1000 * found // expected


def matches(wanted: Decoded, seen: Decoded) -> int:
    """Return how many of the wanted objects (or whether the top class) are among those seen."""
    if wanted.classes:
        top = seen.classes[0] if seen.classes else None
        return int(top is not None and top.class_ == wanted.classes[0].class_)
    free = list(seen.objects or ())
    return sum(_take(free, target) for target in wanted.objects or ())


def iou(one: Box, other: Box) -> float:
    """Return the share of two boxes' union that they have in common."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0.0) * max(height, 0.0)
    union = _area(one) + _area(other) - common
    return common / union if union > 0 else 0.0


def _take(free: list[Object], target: Object) -> bool:
    """Say whether a free object matches the target, and use it up: it matches only once."""
    rivals = [rival for rival in free if _is_alike(rival, target)]
    if not rivals:
        return False
    free.remove(max(rivals, key=lambda rival: iou(rival.box, target.box)))
    return True


def _is_alike(rival: Object, target: Object) -> bool:
    if rival.class_ != target.class_ or iou(rival.box, target.box) < IOU_MIN:
        return False
    return _are_near(rival, target) and _is_same_shape(rival.mask, target.mask)


def _are_near(rival: Object, target: Object) -> bool:
    points, wanted = (np.array(one.keypoints or ()) for one in (rival, target))
    if points.shape != wanted.shape:
        return False
    if not wanted.size or not wanted[:, 2].any():
        return True
    distances = np.hypot(*(points - wanted)[:, :2].T)
    diagonal = np.hypot(target.box[2] - target.box[0], target.box[3] - target.box[1])
    apart = np.average(distances, weights=wanted[:, 2])
    return bool(apart <= KEYPOINTS_APART_MAX * diagonal)


def _is_same_shape(mask: Mask | None, wanted: Mask | None) -> bool:
    if mask is None or wanted is None or mask.size != wanted.size:
        return mask is wanted
    one, other = decode_mask(mask), decode_mask(wanted)
    union = np.count_nonzero(one | other)
    return union == 0 or bool(np.count_nonzero(one & other) / union >= IOU_MIN)


def _count(decoded: Decoded) -> int:
    return 1 if decoded.classes else len(decoded.objects or ())


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _check_size(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > GOLDEN_BYTES:
        raise LimitError(f"expected a golden set of at most {GOLDEN_BYTES} bytes, got {size}")


def _example(
    arrays: "np.lib.npyio.NpzFile", number: int, size: tuple[int, int], outputs: int
) -> Example:
    image: Tensor = arrays[f"input_{number}"]
    if image.dtype != np.uint8 or image.shape != (size[1], size[0], 3):
        raise MalformedError(f"golden input {number}: expected uint8 {size[1]} x {size[0]} x 3")
    tensors = tuple(np.asarray(arrays[f"output_{number}_{k}"]) for k in range(outputs))
    return Example(image.astype(np.uint8), tensors)
