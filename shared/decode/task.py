"""The decoder of a release. Pure."""

from collections.abc import Callable
from functools import partial

from shared.decode.classify import decode_classify
from shared.decode.detect import decode_detect
from shared.decode.results import Decoded, Tensors
from shared.errors import UnsupportedError
from shared.release import Manifest

Decoder = Callable[[Tensors], Decoded]


def decoder_of(manifest: Manifest, labels: tuple[str, ...], *, threshold: float) -> Decoder:
    """Return what turns this release's output tensors into objects or classes.

    Raises:
        UnsupportedError: This version cannot decode its task.
    """
    if manifest.task == "detect":
        size = (manifest.input.width, manifest.input.height)
        return partial(decode_detect, size=size, labels=labels, threshold=threshold)
    if manifest.task == "classify":
        return partial(decode_classify, labels=labels, threshold=threshold)
    raise UnsupportedError(f"{manifest.release}: this version does not decode {manifest.task}")
