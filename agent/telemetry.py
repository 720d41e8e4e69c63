"""Frames of one camera become what is published: detections, counts, rates. Pure.

Messages go out at most ``rate_hz`` times a second. As JSON each holds one frame: one that comes
too early is left out, and ``seq`` counts it all the same, so a subscriber sees the gap. Packed,
each holds what came since the last one: at most 16 frames, none older than a second, the oldest
dropped first.
Counts go out on change, at most once a second, with every label of the release, zeros included.
Only proven frames come in here
(agent.health.is_proven): a frame without a valid inference is never published, so "nothing seen"
and "no result" never look alike.
"""

from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from msgspec import UNSET

from agent.camera.wire import FrameSeen
from shared.detections import Class, Detections, Object, encode_detections
from shared.limits import PACKED_FRAMES_MAX
from shared.messages import CameraHealth, Counts, encode, time_text
from shared.packed import encode_packed

Encoding = Literal["json", "packed"]

BATCH_SECONDS = 1.0  # No packed frame goes out later than that after it came.
COUNTS_SECONDS = 1.0
COUNTS_LABELS_MAX = 100  # Beyond it, only the labels seen since the camera's start.
COUNTS_BYTES = 32_768  # 100 labels of 64 characters, of four bytes each, are below it.
SLACK = 0.25  # Of a period: cameras jitter, and 5 Hz of 5 frames a second must not become 2.5.


@dataclass(frozen=True, slots=True)
class Stream:
    """What runs on the camera; a new one starts with every start of a camera."""

    release: str
    task: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """What ``measure`` counts since its last call; ``dropped`` grows for ever."""

    began_at: float
    frames: int = 0
    sent: int = 0
    dropped: int = 0
    dnn_ms: float | None = None
    dsp_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """One camera's telemetry in one run of the agent.

    Attributes:
        run: The agent's run; ``seq`` starts at 0 in each.
        next_at: When the next detections may go out.
        batch: Frames that wait for their packed message, and when each came.
        shown: The counts (or the top class) that were published last; None: none yet.
        seen_labels: Labels seen since the camera's start, where there are too many to list.
    """

    run: str
    rate_hz: float
    threshold_permille: int
    window: Window
    encoding: Encoding = "json"
    stream: Stream | None = None
    seq: int = 0
    next_at: float = 0.0
    batch: tuple[tuple[float, Detections], ...] = ()
    counts_at: float | None = None
    shown: dict[str, int] | None = None
    counts: bytes | None = None
    seen_labels: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Published:
    """What goes out now: payloads, by their topics.

    Attributes:
        image: A JPEG; b"": there is none.
        frames: How many frames the first or second one holds.
    """

    detections: bytes | None = None
    packed: bytes | None = None
    counts: bytes | None = None
    image: bytes | None = None
    events: tuple[bytes, ...] = ()
    frames: int = 0


NOTHING = Published()


def telemetry(run: str, *, rate_hz: float, threshold_permille: int, now: float) -> Telemetry:
    """Return the telemetry of a camera before anything runs on it."""
    return Telemetry(run, rate_hz, threshold_permille, Window(began_at=now))


def started(state: Telemetry, stream: Stream) -> Telemetry:
    """Return the telemetry after a start of the camera: ``seq`` goes on, counts begin anew."""
    state = _emptied(state)
    return replace(state, stream=stream, shown=None, counts_at=None, seen_labels=frozenset())


def set_limits(
    state: Telemetry, *, rate_hz: float, threshold_permille: int, encoding: Encoding = "json"
) -> Telemetry:
    """Return the telemetry with other settings."""
    state = state if encoding == state.encoding else _emptied(state)
    return replace(state, rate_hz=rate_hz, threshold_permille=threshold_permille, encoding=encoding)


def lost(state: Telemetry, published: Published) -> Telemetry:
    """Return the telemetry after the bus had no connection for its frames."""
    window, frames = state.window, published.frames
    return replace(
        state,
        window=replace(window, dropped=window.dropped + frames, sent=window.sent - frames),
    )


def show(state: Telemetry, frame: FrameSeen, now: float) -> tuple[Telemetry, Published]:
    """Return the telemetry after a proven frame, and what it publishes."""
    assert state.stream is not None, "a frame before the camera's start"
    seen = kept(frame, state.threshold_permille)
    frames = state.window.frames + 1
    window = replace(state.window, frames=frames, dnn_ms=frame.dnn_ms, dsp_ms=frame.dsp_ms)
    state = replace(state, window=window)
    state, counts = _count(state, frame, seen, now)
    seq, state = state.seq, replace(state, seq=state.seq + 1)
    if state.rate_hz <= 0:
        return state, Published(counts=counts)
    if state.encoding == "packed":
        state = _added(state, _detections(state, frame, seen, seq), now)
        state, published = flush(state, now)
        return state, replace(published, counts=counts)
    if not _is_time(state, now):
        return state, Published(counts=counts)
    payload = encode_detections(_detections(state, frame, seen, seq))
    return _sent(state, 1, now), Published(detections=payload, counts=counts, frames=1)


def flush(state: Telemetry, now: float) -> tuple[Telemetry, Published]:
    """Return the telemetry after the packed message that is due, if one is, and the message."""
    if not state.batch or state.rate_hz <= 0 or not _is_time(state, now):
        return state, NOTHING
    young = [frame for came_at, frame in state.batch if now - came_at <= BATCH_SECONDS]
    if not young:
        return _emptied(state), NOTHING
    packed = encode_packed(young)
    state = _dropped(replace(state, batch=()), len(state.batch) - packed.frames)
    return _sent(state, packed.frames, now), Published(packed=packed.payload, frames=packed.frames)


def _is_time(state: Telemetry, now: float) -> bool:
    return now >= state.next_at - SLACK / state.rate_hz


def _sent(state: Telemetry, frames: int, now: float) -> Telemetry:
    period = 1 / state.rate_hz
    window = replace(state.window, sent=state.window.sent + frames)
    return replace(state, next_at=max(state.next_at, now - period) + period, window=window)


def _added(state: Telemetry, frame: Detections, now: float) -> Telemetry:
    """Return the telemetry with one frame more in its batch; the oldest makes room."""
    batch = (*state.batch, (now, frame))
    state = replace(state, batch=batch[-PACKED_FRAMES_MAX:])
    return _dropped(state, len(batch) - len(state.batch))


def _emptied(state: Telemetry) -> Telemetry:
    """Return the telemetry without its batch: of a release that is gone, or too old."""
    return _dropped(replace(state, batch=()), len(state.batch))


def _dropped(state: Telemetry, frames: int) -> Telemetry:
    window = state.window
    return replace(state, window=replace(window, dropped=window.dropped + frames))


def measure(state: Telemetry, now: float) -> tuple[Telemetry, CameraHealth]:
    """Return the rates since the last call, and the telemetry that counts anew."""
    window = state.window
    seconds = max(now - window.began_at, 1e-3)
    health = CameraHealth(
        fps=round(window.frames / seconds, 1),
        dps=round(window.sent / seconds, 1),
        dnn_ms=window.dnn_ms,
        dsp_ms=window.dsp_ms,
        dropped=window.dropped,
    )
    return replace(state, window=Window(began_at=now, dropped=window.dropped)), health


def kept(
    frame: FrameSeen, threshold_permille: int
) -> tuple[tuple[Object, ...] | None, tuple[Class, ...] | None]:
    """Return objects and classes that reach the threshold; None stays None."""
    least = threshold_permille / 1000
    objects, classes = frame.objects, frame.classes
    return (
        None if objects is None else tuple(o for o in objects if o.score >= least),
        None if classes is None else tuple(c for c in classes if c.score >= least),
    )


Seen = tuple[tuple[Object, ...] | None, tuple[Class, ...] | None]


def _detections(state: Telemetry, frame: FrameSeen, seen: Seen, seq: int) -> Detections:
    assert state.stream is not None
    objects, classes = seen
    return Detections(
        at=_time(frame.at),
        run=state.run,
        seq=seq,
        frame=frame.frame,
        release=state.stream.release,
        task=state.stream.task,
        dnn_ms=frame.dnn_ms,
        objects=UNSET if objects is None else objects,
        classes=UNSET if classes is None else classes,
    )


def _count(
    state: Telemetry, frame: FrameSeen, seen: Seen, now: float
) -> tuple[Telemetry, bytes | None]:
    """Return the counts where they changed and the last ones are a second old."""
    stream = state.stream
    assert stream is not None
    objects, classes = seen
    found = Counter(o.label for o in objects or ()) or Counter(c.label for c in (classes or ())[:1])
    state = replace(state, seen_labels=state.seen_labels | found.keys())
    listed = _listed(stream.labels, found.keys(), state.seen_labels)
    counts = {label: found[label] for label in listed}
    is_early = state.counts_at is not None and now - state.counts_at < COUNTS_SECONDS
    if counts == state.shown or is_early:
        return state, None
    document = Counts(
        at=_time(frame.at),
        release=stream.release,
        total=found.total(),
        counts=counts,
        top=_top(classes),
    )
    payload = encode(document, bytes_max=COUNTS_BYTES)
    return replace(state, shown=counts, counts_at=now, counts=payload), payload


def _top(classes: tuple[Class, ...] | None) -> dict[str, str | float] | None:
    return {"label": classes[0].label, "score": classes[0].score} if classes else None


def _listed(
    labels: tuple[str, ...], found: AbstractSet[str], seen: frozenset[str]
) -> tuple[str, ...]:
    """Return whose counts are told; where they are too many, what is there now comes first."""
    if len(labels) <= COUNTS_LABELS_MAX:
        return labels
    return tuple(sorted((*sorted(found), *sorted(seen - found))[:COUNTS_LABELS_MAX]))


def _time(at: float) -> str:
    return time_text(datetime.fromtimestamp(at, UTC))
