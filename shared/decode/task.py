"""The decoder of a release. Pure."""

from collections.abc import Callable
from functools import partial
from typing import assert_never

from shared.decode.classify import decode_classify
from shared.decode.detect import decode_detect
from shared.decode.pose import decode_pose
from shared.decode.results import Decoded, Tensors
from shared.decode.segment import decode_segment
from shared.release import Manifest

Decoder = Callable[[Tensors], Decoded]


def decoder_of(manifest: Manifest, labels: tuple[str, ...], *, threshold: float) -> Decoder:
    """Return what turns this release's output tensors into objects or classes."""
    size = (manifest.input.width, manifest.input.height)
    match manifest.task:
        case "detect":
            return partial(decode_detect, size=size, labels=labels, threshold=threshold)
        case "pose":
            points = manifest.decode.keypoints or 0  # None is refused where manifests are opened.
            return partial(
                decode_pose, keypoints=points, size=size, labels=labels, threshold=threshold
            )
        case "segment":
            return partial(decode_segment, size=size, labels=labels, threshold=threshold)
        case "classify":
            return partial(decode_classify, labels=labels, threshold=threshold)
        case _:
            assert_never(manifest.task)
