"""The decoder of a release. Pure."""

from collections.abc import Callable
from functools import partial
from typing import assert_never

from shared.decode.classify import decode_classify
from shared.decode.columns import Columns
from shared.decode.detect import find_detect
from shared.decode.pose import find_pose
from shared.decode.results import Decoded, Problem, Tensors
from shared.decode.segment import find_segment
from shared.decode.written import Written, decoded, written
from shared.limits import DETECTIONS_BYTES
from shared.release import Manifest

Decoder = Callable[[Tensors], Decoded]
Writer = Callable[[Tensors], Written]
Found = Columns | Problem | Decoded


def decoder_of(manifest: Manifest, labels: tuple[str, ...], *, threshold: float) -> Decoder:
    """Return what turns this release's output tensors into objects or classes."""
    find = _finder_of(manifest, labels, threshold)

    def decode(tensors: Tensors) -> Decoded:
        found = find(tensors)
        return found if isinstance(found, Decoded) else decoded(found)

    return decode


def writer_of(
    manifest: Manifest,
    labels: tuple[str, ...],
    *,
    threshold: float,
    bytes_max: int = DETECTIONS_BYTES,
) -> Writer:
    """Return what turns them into JSON: the same, several times as fast.

    Args:
        manifest: Of the release.
        labels: Names by class.
        threshold: 0 to 1.
        bytes_max: What one message holds (``columns.json_of``).
    """
    find = _finder_of(manifest, labels, threshold)

    def write(tensors: Tensors) -> Written:
        found = find(tensors)
        if isinstance(found, Decoded):
            return Written(classes=found.classes, problems=found.problems)
        return written(found, bytes_max=bytes_max)

    return write


def _finder_of(
    manifest: Manifest, labels: tuple[str, ...], threshold: float
) -> Callable[[Tensors], Found]:
    size = (manifest.input.width, manifest.input.height)
    match manifest.task:
        case "detect":
            return partial(find_detect, size=size, labels=labels, threshold=threshold)
        case "pose":
            points = manifest.decode.keypoints or 0  # None is refused where manifests are opened.
            return partial(
                find_pose, keypoints=points, size=size, labels=labels, threshold=threshold
            )
        case "segment":
            return partial(find_segment, size=size, labels=labels, threshold=threshold)
        case "classify":
            return partial(decode_classify, labels=labels, threshold=threshold)
        case _:
            assert_never(manifest.task)
