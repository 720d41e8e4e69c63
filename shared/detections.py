"""What a camera saw in one frame, and its friendly JSON (docs/protocol.md). Pure.

Boxes are x_min, y_min, x_max, y_max, normalised to the image, origin top left.
"""

import msgspec

from shared.messages import Document


class Object(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One object. ``class_`` is the index of its label; score 0..1; box normalised."""

    label: str
    class_: int = msgspec.field(name="class")
    score: float
    box: tuple[float, float, float, float]
    keypoints: tuple[tuple[float, float, float], ...] | None = None
    mask: dict[str, str | tuple[int, int]] | None = None


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
