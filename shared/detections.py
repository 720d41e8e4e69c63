"""What a camera saw in one frame, and its friendly JSON (docs/protocol.md). Pure.

Boxes are x_min, y_min, x_max, y_max, normalised to the image, origin top left.
"""

import msgspec

from shared.limits import DETECTIONS_BYTES
from shared.messages import Document

KEYPOINT_BYTES_MIN = len("[0.0,0.0,0.0],")


class Mask(msgspec.Struct, frozen=True, kw_only=True):
    """Which pixels are an object's: height and width, and COCO's compressed run lengths."""

    size: tuple[int, int]
    counts: str


class Object(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One object. ``class_`` is the index of its label; score 0..1; box normalised.

    Attributes:
        keypoints: Of a pose: x, y, score, normalised.
        mask: Of a segmentation: of the whole image, a quarter of its pixels each way.
    """

    label: str
    class_: int = msgspec.field(name="class")
    score: float
    box: tuple[float, float, float, float]
    keypoints: tuple[tuple[float, float, float], ...] | None = None
    mask: Mask | None = None


class Class(msgspec.Struct, frozen=True, kw_only=True):
    """One guess of a classifier."""

    label: str
    class_: int = msgspec.field(name="class")
    score: float


class Detections(Document, frozen=True, kw_only=True):
    """One frame. Exactly one of ``objects`` and ``classes`` is set; empty means nothing seen."""

    at: str
    run: str
    seq: int
    frame: int
    release: str
    task: str
    dnn_ms: float | None
    objects: tuple[Object, ...] | msgspec.UnsetType = msgspec.UNSET
    classes: tuple[Class, ...] | msgspec.UnsetType = msgspec.UNSET
    truncated: int | msgspec.UnsetType = msgspec.UNSET


def encode_detections(detections: Detections, *, bytes_max: int = DETECTIONS_BYTES) -> bytes:
    """Return the frame as JSON; what does not fit loses its worst-scored objects and says so.

    Objects and classes come best first from shared/decode, so the first ones are kept.
    """
    data = msgspec.json.encode(detections)
    if len(data) <= bytes_max:
        return data
    kept, lost = 0, len(_seen(detections))
    while lost - kept > 1:  # `kept` fits (nobody's frame alone is 64 KiB), `lost` does not.
        middle = (kept + lost) // 2
        if len(msgspec.json.encode(_truncate(detections, middle))) <= bytes_max:
            kept = middle
        else:
            lost = middle
    return msgspec.json.encode(_truncate(detections, kept))


def _seen(detections: Detections) -> tuple[Object, ...] | tuple[Class, ...]:
    if isinstance(detections.objects, tuple):
        return detections.objects
    return detections.classes if isinstance(detections.classes, tuple) else ()


def _truncate(detections: Detections, kept: int) -> Detections:
    truncated = len(_seen(detections)) - kept
    if isinstance(detections.objects, tuple):
        objects = detections.objects[:kept]
        return msgspec.structs.replace(detections, objects=objects, truncated=truncated)
    classes = _seen(detections)[:kept]
    return msgspec.structs.replace(detections, classes=classes, truncated=truncated)
