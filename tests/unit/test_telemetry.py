import gc
import json
import sys
from itertools import pairwise
from typing import TypedDict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import telemetry
from agent.camera.wire import FrameSeen
from agent.telemetry import Published, Stream, Telemetry
from shared.bus import Bus, BusEvent, Inbox
from shared.detections import Class, Detections, Object, encode_detections
from shared.limits import DETECTIONS_BYTES, PACKED_FRAMES_MAX
from shared.packed import decode_packed

LABELS = ("person", "car")
STREAM = Stream("helmet@8", "detect", LABELS)


class Numbers(TypedDict):
    rate_hz: float
    threshold_permille: int


def state(**changes: float) -> Telemetry:
    numbers: Numbers = {"rate_hz": changes.get("rate_hz", 5.0), "threshold_permille": 500}
    return telemetry.started(telemetry.telemetry("r-1", now=0.0, **numbers), STREAM)


def frame(number: int, *labels: str, score: float = 0.9) -> FrameSeen:
    objects = tuple(
        Object(label=label, class_=LABELS.index(label), score=score, box=(0.1, 0.2, 0.3, 0.4))
        for label in labels
    )
    return FrameSeen(frame=number, at=1.5, is_valid=True, dnn_ms=58.8, objects=objects)


def shown(
    machine: Telemetry, frames: list[FrameSeen], *, rate: float
) -> tuple[Telemetry, list[Published]]:
    out = []
    for index, seen in enumerate(frames):
        machine, published = telemetry.show(machine, seen, index / rate)
        out.append(published)
    return machine, out


def test_a_message_reads_as_the_protocol_says() -> None:
    _, published = telemetry.show(state(), frame(87, "person"), 0.0)

    assert published.detections is not None
    assert json.loads(published.detections) == {
        "v": 1,
        "at": "1970-01-01T00:00:01.500Z",
        "run": "r-1",
        "seq": 0,
        "frame": 87,
        "release": "helmet@8",
        "task": "detect",
        "dnn_ms": 58.8,
        "objects": [{"label": "person", "class": 0, "score": 0.9, "box": [0.1, 0.2, 0.3, 0.4]}],
    }


def test_nothing_seen_is_published_as_an_empty_list() -> None:
    _, published = telemetry.show(state(), frame(1), 0.0)

    assert published.detections is not None
    assert json.loads(published.detections)["objects"] == []


def test_a_classifier_has_classes_and_no_objects() -> None:
    guess = Class(label="car", class_=1, score=0.7)
    seen = FrameSeen(frame=1, at=1.0, is_valid=True, classes=(guess,))

    _, published = telemetry.show(state(), seen, 0.0)

    assert published.detections is not None
    assert published.counts is not None
    document = json.loads(published.detections)
    assert document["classes"] == [{"label": "car", "class": 1, "score": 0.7}]
    assert "objects" not in document
    assert json.loads(published.counts)["top"] == {"label": "car", "score": 0.7}


def test_objects_below_the_threshold_are_neither_sent_nor_counted() -> None:
    _, published = telemetry.show(state(), frame(1, "person", score=0.499), 0.0)

    assert published.detections is not None
    assert published.counts is not None
    assert json.loads(published.detections)["objects"] == []
    assert json.loads(published.counts)["total"] == 0


def test_too_early_frames_are_dropped_and_leave_gaps_in_seq() -> None:
    machine, published = shown(state(), [frame(i) for i in range(160)], rate=16.0)

    sent = [json.loads(p.detections) for p in published if p.detections is not None]
    assert 48 <= len(sent) <= 52
    assert machine.seq == 160
    assert [d["seq"] for d in sent] == [d["frame"] for d in sent]
    assert max(b["seq"] - a["seq"] for a, b in pairwise(sent)) <= 4


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=80), st.floats(0.5, 30))
def test_the_rate_holds_for_any_arrival(gaps: list[float], rate_hz: float) -> None:
    machine, now, sent = state(rate_hz=rate_hz), 0.0, 0
    for gap in gaps:
        now += gap
        machine, published = telemetry.show(machine, frame(1), now)
        sent += published.detections is not None

    assert sent <= now * rate_hz + 2.5


def test_frames_at_the_rate_itself_all_go_out_in_spite_of_jitter() -> None:
    machine, sent = state(), 0
    for index in range(50):
        jitter = 0.03 if index % 2 else -0.03
        machine, published = telemetry.show(machine, frame(index), 1 + index / 5 + jitter)
        sent += published.detections is not None

    assert sent == 50


def test_a_rate_of_zero_sends_no_detections_but_counts() -> None:
    machine, published = telemetry.show(state(rate_hz=0.0), frame(1, "car"), 0.0)

    assert published.detections is None
    assert published.counts is not None
    assert machine.seq == 1


def test_counts_go_out_on_change_at_most_once_a_second_with_zeros() -> None:
    frames = [frame(i, *(["person"] * (1 + (i // 4) % 2))) for i in range(64)]

    _, published = shown(state(), frames, rate=16.0)

    times = [i / 16 for i, p in enumerate(published) if p.counts is not None]
    first = published[0].counts
    assert first is not None
    assert json.loads(first)["counts"] == {"person": 1, "car": 0}
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(times))
    assert len(times) >= 3


def test_counts_that_stay_the_same_are_not_repeated() -> None:
    _, published = shown(state(), [frame(i, "car") for i in range(64)], rate=16.0)

    assert sum(p.counts is not None for p in published) == 1


def test_a_new_release_counts_anew_and_seq_goes_on() -> None:
    machine, _ = shown(state(), [frame(i, "car") for i in range(5)], rate=16.0)

    machine = telemetry.started(machine, Stream("helmet@9", "detect", ("car",)))
    machine, published = telemetry.show(machine, frame(0, "car"), 9.0)

    assert published.detections is not None
    assert published.counts is not None
    assert json.loads(published.detections)["seq"] == 5
    assert json.loads(published.counts)["counts"] == {"car": 1}


def test_more_than_a_hundred_labels_are_listed_only_once_seen() -> None:
    labels = ("person", "car", *(f"label-{i}" for i in range(200)))
    machine = telemetry.started(state(), Stream("coco@1", "detect", labels))
    machine, _ = telemetry.show(machine, frame(0, "person"), 0.0)

    machine, published = telemetry.show(machine, frame(1, "car"), 2.0)

    assert published.counts is not None
    assert json.loads(published.counts)["counts"] == {"car": 1, "person": 0}


def test_what_is_there_is_counted_however_many_labels_were_seen_before() -> None:
    labels = tuple(f"label-{number:03}" for number in range(300))
    machine = telemetry.started(state(), Stream("imagenet@1", "classify", labels))
    for second, label in enumerate(labels):
        machine, published = telemetry.show(machine, guess(label), 2.0 * second)

    assert published.counts is not None
    counts = json.loads(published.counts)["counts"]
    assert counts["label-299"] == 1
    assert len(counts) == telemetry.COUNTS_LABELS_MAX


def test_counts_of_the_longest_labels_fit() -> None:
    labels = tuple("\N{BRAIN}" * 61 + f"{number:03}" for number in range(100))
    machine = telemetry.started(state(), Stream("brains@1", "classify", labels))

    _, published = telemetry.show(machine, guess(labels[0]), 0.0)

    assert published.counts is not None
    assert json.loads(published.counts)["counts"].keys() == set(labels)


def guess(label: str) -> FrameSeen:
    classes = (Class(label=label, class_=0, score=0.9),)
    return FrameSeen(frame=0, at=1.5, is_valid=True, dnn_ms=58.8, classes=classes)


def test_rates_are_measured_between_two_looks() -> None:
    machine, _ = shown(state(), [frame(i) for i in range(160)], rate=16.0)
    machine = telemetry.lost(machine, Published(detections=b"", frames=1))

    machine, health = telemetry.measure(machine, 10.0)
    _, later = telemetry.measure(machine, 20.0)

    assert health.fps == 16.0
    assert 4.6 <= health.dps <= 5.2
    assert (health.dnn_ms, health.dropped) == (58.8, 1)
    assert (later.fps, later.dnn_ms, later.dropped) == (0.0, None, 1)


@pytest.mark.parametrize("label", ["person", "\N{SNOWMAN}" * 60])
def test_what_does_not_fit_keeps_the_best_and_says_how_many_are_gone(label: str) -> None:
    objects = tuple(
        Object(label=label, class_=0, score=1 - i / 1000, box=(0.1234, 0.2345, 0.3456, 0.4567))
        for i in range(300)
    )
    detections = Detections(
        at="x", run="r", seq=0, frame=0, release="a@1", task="detect", dnn_ms=1.0, objects=objects
    )
    whole = len(msgspec.json.encode(detections))

    data = encode_detections(detections)
    half = encode_detections(detections, bytes_max=whole // 2)

    assert len(data) <= DETECTIONS_BYTES
    document = json.loads(half)
    kept = document["objects"]
    assert len(half) <= whole // 2 < len(half) + 400, "as many as fit"
    assert document["truncated"] == 300 - len(kept)
    assert [o["score"] for o in kept] == [o.score for o in objects[: len(kept)]]
    assert ("truncated" in json.loads(data)) == (whole > DETECTIONS_BYTES)


def packed(machine: Telemetry) -> Telemetry:
    return telemetry.set_limits(
        machine, rate_hz=machine.rate_hz, threshold_permille=500, encoding="packed"
    )


def read(published: Published) -> tuple[Detections, ...]:
    assert published.packed is not None
    return decode_packed(published.packed)


def test_packed_every_frame_goes_out_in_as_many_messages_as_the_rate_allows() -> None:
    machine, published = shown(packed(state()), [frame(i, "car") for i in range(160)], rate=16.0)

    messages = [read(p) for p in published if p.packed is not None]
    frames = [one for message in messages for one in message]
    assert 48 <= len(messages) <= 52
    assert [one.seq for one in frames] == list(range(len(frames)))
    assert len(frames) + len(machine.batch) == 160
    assert machine.window.dropped == 0
    assert all(p.detections is None for p in published)


def test_packed_a_slow_rate_keeps_the_newest_sixteen_frames() -> None:
    machine, published = shown(
        packed(state(rate_hz=1.0)), [frame(i) for i in range(121)], rate=30.0
    )

    messages = [read(p) for p in published if p.packed is not None]
    assert 4 <= len(messages) <= 6
    assert [len(message) for message in messages[1:]] == [16] * (len(messages) - 1)
    assert all(b.seq - a.seq == 1 for m in messages for a, b in pairwise(m))
    sent = sum(map(len, messages))
    assert machine.window.dropped == 121 - sent - len(machine.batch)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.0, 1.5), min_size=1, max_size=60), st.integers(1, 30))
def test_packed_frames_are_young_few_and_each_is_sent_or_counted(
    gaps: list[float], rate_hz: int
) -> None:
    machine, now, sent, came = packed(state(rate_hz=rate_hz)), 0.0, 0, []
    for number, gap in enumerate(gaps):
        now += gap
        came.append(now)
        machine, published = telemetry.show(machine, frame(number), now)
        if published.packed is not None:
            frames = read(published)
            sent += len(frames)
            assert published.frames == len(frames) <= PACKED_FRAMES_MAX
            assert all(now - came[one.frame] <= telemetry.BATCH_SECONDS for one in frames)

    assert sent + machine.window.dropped + len(machine.batch) == len(gaps)


def waiting(*, rate_hz: float) -> Telemetry:
    """Two frames went out at once, as after any pause; the third one waits."""
    machine = packed(state(rate_hz=rate_hz))
    for number, now in enumerate((10.0, 10.05, 10.06)):
        machine, published = telemetry.show(machine, frame(number), now)
        assert (published.packed is None) == (number == 2)
    return machine


def test_packed_frames_of_a_camera_that_stopped_go_out_when_they_are_due() -> None:
    machine, early = telemetry.flush(waiting(rate_hz=5.0), 10.1)
    machine, due = telemetry.flush(machine, 10.2)
    machine, nothing = telemetry.flush(machine, 10.9)

    assert early == nothing == telemetry.NOTHING
    assert [one.seq for one in read(due)] == [2]


def test_packed_frames_that_are_too_old_are_dropped_and_counted() -> None:
    machine, published = telemetry.flush(waiting(rate_hz=1.0), 11.2)

    assert published == telemetry.NOTHING
    assert (machine.window.dropped, machine.batch) == (1, ())


def test_packed_frames_never_mix_two_releases() -> None:
    machine = telemetry.started(waiting(rate_hz=1.0), Stream("helmet@9", "detect", LABELS))

    machine, published = telemetry.show(machine, frame(0), 11.0)

    assert {one.release for one in read(published)} == {"helmet@9"}
    assert machine.window.dropped == 1


def test_the_encoding_changes_at_run_time_and_leaves_nothing_behind() -> None:
    machine = telemetry.set_limits(waiting(rate_hz=1.0), rate_hz=5.0, threshold_permille=500)

    machine, published = telemetry.show(machine, frame(3), 12.0)

    assert published.packed is None
    assert published.detections is not None
    assert json.loads(published.detections)["seq"] == 3
    assert machine.window.dropped == 1


@pytest.mark.parametrize("encoding", ["json", "packed"])
def test_an_hour_without_a_broker_is_counted_and_takes_no_memory(
    encoding: telemetry.Encoding,
) -> None:
    bus = Bus("mqtt://127.0.0.1:1", "nobody", Inbox[BusEvent]())  # Never started: never connected.
    machine = telemetry.set_limits(state(), rate_hz=5, threshold_permille=500, encoding=encoding)
    seen, sizes, lost_frames = frame(0, "person"), [], 0
    for number in range(5 * 3600):
        now = number / 5
        machine, published = telemetry.show(machine, seen, now)
        for payload in (published.detections, published.packed):
            if payload is not None and not bus.publish("t", payload):
                machine = telemetry.lost(machine, published)
                lost_frames += published.frames
        if number % 4_500 == 1_000:
            gc.collect()
            sizes.append(sys.getallocatedblocks())

    assert len(sizes) == 4
    assert sizes[-1] - sizes[0] < 1_000  # Blocks of memory; one a frame were 13,500.
    assert machine.window.dropped == lost_frames
    assert lost_frames + len(machine.batch) == 18_000
    assert lost_frames >= 17_900
    assert machine.window.sent == 0
