"""Tracked objects become events: enter, dwell, leave. Pure.

    new --seen for half a second--> present --not seen for two seconds--> gone
     |                                 |  after 10 s, and whenever that has doubled: dwell
     +--not seen: forgotten            +--the camera starts anew: gone, too

What flickers enters nothing. A dwell that doubles tells of somebody who stays all day in a dozen
messages. At most ``TRACKS_MAX`` objects are followed at a time, so that events are bounded.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from agent.camera.wire import FrameSeen
from shared.detections import Object
from shared.limits import EVENT_BYTES
from shared.messages import Happening, TrackEvent, encode, time_text

ENTER_SECONDS = 0.5
LEAVE_SECONDS = 2.0
DWELL_SECONDS = 10.0
TRACKS_MAX = 100
MS = 1000


@dataclass(frozen=True, slots=True)
class Followed:
    """One track.

    Attributes:
        since: When it was first seen; ``last`` is when it was last seen. Capture times.
        dwell_at: After how many seconds it is told next; None: it has not entered.
    """

    label: str
    class_: int
    since: float
    last: float
    dwell_at: float | None = None


@dataclass(frozen=True, slots=True)
class Tracks:
    """The tracks of one camera in one run of the agent.

    Attributes:
        base: Added to the child's numbers, which begin anew with each start of the camera.
        highest: The highest number so far.
    """

    release: str = ""
    base: int = 0
    highest: int = 0
    followed: dict[int, Followed] = field(default_factory=dict)


Step = tuple[Tracks, tuple[TrackEvent, ...]]


def begun(tracks: Tracks, release: str) -> Step:
    """Return the tracks after a start of the camera: whoever was there has left."""
    events = _left(tracks, tracks.followed.items())
    return Tracks(release, base=tracks.highest, highest=tracks.highest), events


def followed(tracks: Tracks, frame: FrameSeen) -> Step:
    """Return the tracks after a frame, and what happened."""
    assert frame.tracks is not None
    now = frame.at
    seen = {
        tracks.base + number: thing
        for number, thing in zip(frame.tracks, frame.objects or (), strict=False)
        if number > 0
    }
    before = tracks.followed
    gone = [(n, one) for n, one in before.items() if n not in seen and _is_gone(one, now)]
    events = list(_left(tracks, gone))
    kept = {number: one for number, one in before.items() if (number, one) not in gone}
    for number, thing in seen.items():
        if number in kept or len(kept) < TRACKS_MAX:
            kept[number], told = _seen(kept.get(number), thing, now)
            events += [_event(tracks, number, kept[number], what) for what in told]
    highest = max([tracks.highest, *seen])
    return replace(tracks, followed=kept, highest=highest), tuple(events)


def encoded(event: TrackEvent) -> bytes:
    """Return an event as it goes out."""
    return encode(event, bytes_max=EVENT_BYTES)


def _seen(
    one: Followed | None, thing: Object, now: float
) -> tuple[Followed, tuple[Happening, ...]]:
    if one is None:
        return Followed(thing.label, thing.class_, since=now, last=now), ()
    one = replace(one, last=max(one.last, now))
    stayed = one.last - one.since
    if one.dwell_at is None:
        has_entered = stayed >= ENTER_SECONDS
        return (replace(one, dwell_at=DWELL_SECONDS), ("enter",)) if has_entered else (one, ())
    if stayed < one.dwell_at:
        return one, ()
    return replace(one, dwell_at=2 * max(one.dwell_at, stayed / 2)), ("dwell",)


def _is_gone(one: Followed, now: float) -> bool:
    return now - one.last > LEAVE_SECONDS or now < one.since  # Or the clock was set back.


def _left(tracks: Tracks, gone: Iterable[tuple[int, Followed]]) -> tuple[TrackEvent, ...]:
    return tuple(
        _event(tracks, number, one, "leave") for number, one in gone if one.dwell_at is not None
    )


def _event(tracks: Tracks, number: int, one: Followed, what: Happening) -> TrackEvent:
    return TrackEvent(
        at=time_text(datetime.fromtimestamp(one.last, UTC)),
        release=tracks.release,
        event=what,
        track=number,
        label=one.label,
        class_=one.class_,
        dwell_ms=round(MS * (one.last - one.since)),
    )
