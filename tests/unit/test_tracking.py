"""Who enters, stays and leaves: in pure values, and with the real tracker on a recorded video."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import tracking
from agent.camera.tracks import NO_TRACK, Tracker
from agent.camera.wire import FrameSeen
from agent.tracking import TRACKS_MAX, Tracks
from shared.detections import Object
from shared.messages import TrackEvent
from tests.columns import columns_of

RECORDED = Path(__file__).parents[1] / "modlib" / "recordings" / "tea.json"


def frame(at: float, *numbers: int, label: str = "person") -> FrameSeen:
    thing = Object(label=label, class_=0, score=0.9, box=(0.0, 0.0, 0.1, 0.1))
    return FrameSeen(
        frame=0, at=at, is_valid=True, objects=(thing,) * len(numbers), tracks=tuple(numbers)
    )


def played(
    frames: list[FrameSeen], tracks: Tracks | None = None
) -> tuple[Tracks, list[TrackEvent]]:
    tracks, events = tracks or Tracks("helmet@8"), []
    for one in frames:
        tracks, told = tracking.followed(tracks, one)
        events += told
    return tracks, events


def there(number: int, begin: float, end: float) -> list[FrameSeen]:
    return [frame(begin + i / 10, number) for i in range(round((end - begin) * 10) + 1)]


def told(events: list[TrackEvent]) -> list[tuple[str, int, int]]:
    return [(event.event, event.track, event.dwell_ms) for event in events]


def test_who_stays_enters_dwells_ever_more_rarely_and_leaves() -> None:
    _, events = played([*there(1, 100, 145), frame(147.5)])

    assert told(events) == [
        ("enter", 1, 500), ("dwell", 1, 10_000), ("dwell", 1, 20_000), ("dwell", 1, 40_000),
        ("leave", 1, 45_000),
    ]  # fmt: skip


def test_an_event_reads_as_the_protocol_says() -> None:
    _, events = played(there(7, 0, 0.5))

    assert json.loads(tracking.encoded(events[0])) == {
        "v": 1, "at": "1970-01-01T00:00:00.500Z", "release": "helmet@8", "event": "enter",
        "track": 7, "label": "person", "class": 0, "dwell_ms": 500,
    }  # fmt: skip


def test_what_flickers_or_has_no_track_enters_nothing() -> None:
    flickers = [
        one for second in range(9) for one in (frame(5 * second, 1 + second), frame(5 * second + 3))
    ]

    assert played(flickers)[1] == []
    assert played([frame(i / 10, NO_TRACK) for i in range(50)])[1] == []


def test_who_is_hidden_for_less_than_two_seconds_has_not_left() -> None:
    _, events = played([*there(1, 0, 3), frame(4.9), *there(1, 5, 8)])

    assert told(events) == [("enter", 1, 500)]


def test_after_a_start_of_the_camera_who_was_there_has_left_and_numbers_go_on() -> None:
    tracks, _ = played([*there(3, 0, 2)])

    tracks, left = tracking.begun(tracks, "helmet@9")
    _, events = played(there(1, 10, 11), tracks)

    assert told(list(left)) == [("leave", 3, 2000)]
    assert left[0].release == "helmet@8"
    assert told(events) == [("enter", 4, 500)]
    assert events[0].release == "helmet@9"


def test_a_clock_that_is_set_back_ends_tracks_and_nothing_else() -> None:
    _, events = played([*there(1, 1000, 1002), frame(5.0), *there(2, 6, 7)])

    assert told(events) == [("enter", 1, 500), ("leave", 1, 2000), ("enter", 2, 500)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 400), max_size=300), min_size=1, max_size=30))
def test_whatever_comes_each_enters_once_before_it_leaves_and_few_are_followed(
    frames: list[list[int]],
) -> None:
    tracks, events = Tracks("helmet@8"), []
    for second, numbers in enumerate(frames):
        tracks, news = tracking.followed(tracks, frame(second * 0.7, *dict.fromkeys(numbers)))
        events += news
        assert len(tracks.followed) <= TRACKS_MAX
    _, news = tracking.begun(tracks, "helmet@9")

    present: set[int] = set()
    for event in [*events, *news]:
        if event.event == "enter":
            assert event.track not in present
            present.add(event.track)
        else:
            assert event.track in present
            present -= {event.track} if event.event == "leave" else set()
    assert present == set()


def test_no_more_than_a_hundred_are_followed_and_who_leaves_makes_room() -> None:
    crowd = [frame(second / 10, *range(1, 151)) for second in range(10)]
    after = [frame(5 + second / 10, *range(101, 151)) for second in range(10)]

    tracks, entered = played(crowd)
    _, later = played(after, tracks)

    assert len(entered) == len(tracks.followed) == TRACKS_MAX
    assert [one.event for one in later] == ["leave"] * 100 + ["enter"] * 50


def recorded() -> list[tuple[Object, ...]]:
    return [
        tuple(
            Object(label=f"{class_}", class_=class_, score=round(score, 3), box=tuple(box))
            for box, score, class_ in zip(
                one["bbox"], one["confidence"], one["class_id"], strict=True
            )
        )
        for one in json.loads(RECORDED.read_text())
    ]


def test_the_tracker_tells_five_things_on_a_recorded_table_apart_for_80_frames() -> None:
    tracker, seen = Tracker(least=0.5), {}
    labels = tuple(f"{class_}" for class_ in range(80))
    frames = recorded()
    for number, objects in enumerate(frames):
        tracks = tracker.update(columns_of(objects, labels), number / 15)
        assert len(tracks) == len(objects)
        for track, thing in zip(tracks, objects, strict=True):
            seen.setdefault(track, []).append(thing.label)
            assert track != NO_TRACK or thing.score < 0.5

    assert len(seen.pop(NO_TRACK)) > 80
    assert sorted(seen) == [1, 2, 3, 4, 5]
    assert all(len(set(labels)) == 1 and len(labels) >= 79 for labels in seen.values())


def test_a_tracker_of_nothing_says_nothing() -> None:
    tracker = Tracker(least=0.5)

    assert tracker.update(columns_of((), ("a",)), 1.0) == ()
    assert tracker.update(columns_of((), ("a",)), 2.0) == ()


def test_who_is_away_for_long_is_somebody_else_and_the_first_is_forgotten() -> None:
    tracker = Tracker(least=0.5)
    thing = Object(label="a", class_=0, score=0.9, box=(0.1, 0.1, 0.4, 0.4))
    columns = columns_of((thing,))

    first = [tracker.update(columns, i / 10) for i in range(10)][-1]
    for i in range(40):
        tracker.update(columns_of((), ("a",)), 1 + i / 10)
    second = [tracker.update(columns, 6 + i / 10) for i in range(10)][-1]

    assert first == (1,)
    assert second == (2,)
    assert len(tracker._numbers) == 1


@pytest.mark.parametrize("rows", [1, 300])
def test_a_full_frame_of_the_same_box_is_taken(rows: int) -> None:
    thing = Object(label="a", class_=0, score=0.9, box=(0.0, 0.0, 0.0, 0.0))
    columns = columns_of((thing,) * rows)
    whole = msgspec.structs.replace(thing, box=(0.0, 0.0, 1.0, 1.0))

    tracker = Tracker(least=0.5)

    assert len(tracker.update(columns, 1.0)) == rows
    assert len(tracker.update(columns_of((whole,) * rows), 1.1)) == rows
    assert np.all(np.array(tracker.update(columns, 1.2)) >= 0)
