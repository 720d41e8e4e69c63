"""What a camera saw in one frame, or what happened to one object, in a line. Pure."""

from collections import Counter

import msgspec

from shared.detections import Class, Detections, Object
from shared.messages import Happening, TrackEvent

OBJECTS_SHOWN = 4
_WORDS: dict[Happening, str] = {"enter": "entered", "dwell": "is still there", "leave": "left"}


def seen_words(detections: Detections) -> str:
    """Return the frame's objects or classes: ``2 circle, 1 square (best 0.91)``."""
    found = [*_set(detections.objects), *_set(detections.classes)]
    if not found:
        return "nothing seen"
    counts = Counter(item.label for item in found)
    shown = [f"{number} {label}" for label, number in counts.most_common(OBJECTS_SHOWN)]
    more = ["..."] if len(counts) > OBJECTS_SHOWN else []
    best = max(item.score for item in found)
    return f"{', '.join([*shown, *more])} (best {best:.2f})"


def frame_line(device: str, camera: int, detections: Detections) -> str:
    """Return one line for a frame: when, where, which release, what."""
    dnn = f"{detections.dnn_ms:5.1f} ms" if detections.dnn_ms is not None else "      - "
    at = detections.at[11:23]
    return f"{at}  {device}/{camera}  {detections.release}  {dnn}  {seen_words(detections)}"


def event_line(device: str, camera: int, event: TrackEvent) -> str:
    """Return one line for a tracked object: when, where, which release, what."""
    stayed = f" after {event.dwell_ms / 1000:.1f} s" if event.event != "enter" else ""
    what = f"{event.label} #{event.track} {_WORDS[event.event]}{stayed}"
    return f"{event.at[11:23]}  {device}/{camera}  {event.release}      -     {what}"


def _set(
    items: tuple[Object, ...] | tuple[Class, ...] | msgspec.UnsetType,
) -> tuple[Object, ...] | tuple[Class, ...]:
    return () if isinstance(items, msgspec.UnsetType) else items
