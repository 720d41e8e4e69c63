"""Frames in few bytes: golden vectors, the way there and back, limits, and bytes that are none."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from shared.detections import Class, Detections, Mask, Object
from shared.errors import LimitError, MalformedError
from shared.limits import DETECTIONS_BYTES, PACKED_FRAMES_MAX
from shared.packed import decode_packed, encode_packed

ROOT = Path(__file__).resolve().parents[2]
VECTORS = json.loads((ROOT / "docs" / "packed.json").read_text(encoding="utf-8"))
AT = "2026-11-24T03:00:00.123Z"
names = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])


def frames_of(vector: dict[str, object]) -> tuple[Detections, ...]:
    return msgspec.convert(vector["frames"], tuple[Detections, ...], strict=True)


def bytes_of(vector: dict[str, list[str]]) -> bytes:
    return bytes.fromhex("".join(vector["hex"]))


def detections(number: int = 0, **changes: object) -> Detections:
    fields = {"at": AT, "run": "k3v9q2-17", "seq": number, "frame": number, "release": "helmet@8",
              "task": "detect", "dnn_ms": 58.8, "objects": (), **changes}  # fmt: skip
    return msgspec.convert(fields, Detections)


PERSON = Object(label="person", class_=0, score=0.91, box=(0.12, 0.3, 0.44, 0.95))


@names
def test_a_golden_vector_is_read_and_written(vector: dict[str, list[str]]) -> None:
    assert decode_packed(bytes_of(vector)) == frames_of(vector)
    assert encode_packed(frames_of(vector)).payload == bytes_of(vector)


def test_javascript_reads_the_golden_vectors() -> None:
    node = shutil.which("node")
    assert node is not None, "expected Node.js 18 or newer (Debian: apt install nodejs)"
    tests = ROOT / "examples" / "javascript" / "packed.test.mjs"
    ended = subprocess.run(
        [node, "--test", str(tests)], capture_output=True, text=True, check=False, timeout=120
    )

    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert f"pass {3 * len(VECTORS) + 2}" in ended.stdout


def test_javascript_reads_what_python_writes_of_a_whole_message(tmp_path: Path) -> None:
    frames = tuple(detections(n, objects=(PERSON,) * n) for n in range(PACKED_FRAMES_MAX))
    payload = encode_packed(frames)
    (tmp_path / "payload").write_bytes(payload.payload)
    script = (
        f'import {{ decodePacked }} from "{ROOT / "examples/javascript/packed.mjs"}";'
        'import { readFileSync } from "node:fs";'
        "console.log(JSON.stringify(decodePacked(readFileSync(process.argv[1]))));"
    )
    node = shutil.which("node")
    assert node is not None
    said = subprocess.run(
        [node, "--input-type=module", "-e", script, os.fspath(tmp_path / "payload")],
        capture_output=True,
        check=True,
        timeout=120,
    )

    assert payload.frames == PACKED_FRAMES_MAX
    assert msgspec.json.decode(said.stdout, type=tuple[Detections, ...]) == frames


def test_twenty_objects_take_216_bytes_beside_the_names() -> None:
    twenty, none = (encode_packed([detections(objects=(PERSON,) * n)]) for n in (20, 0))
    label = 4 + len("person")
    names = len("k3v9q2-17") + len("helmet@8")

    assert len(twenty.payload) - len(none.payload) == 20 * 10 + label
    assert len(none.payload) == 24 + names + 16


share = st.floats(0, 1)
labels = st.dictionaries(
    st.integers(0, 999), st.text(min_size=1, max_size=64), min_size=1, max_size=5
)


@st.composite
def frames(draw: st.DrawFn) -> tuple[Detections, ...]:
    task = draw(st.sampled_from(("detect", "pose", "segment", "classify")))
    named = draw(labels)
    points = draw(st.integers(1, 4))
    counts = st.text("0123:;<=>?@\\[]^_`abcdefghijklmno", min_size=1, max_size=30)

    def thing() -> Object | Class:
        class_ = draw(st.sampled_from(sorted(named)))
        if task == "classify":
            return Class(label=named[class_], class_=class_, score=draw(share))
        return Object(
            label=named[class_],
            class_=class_,
            score=draw(share),
            box=draw(st.tuples(share, share, share, share)),
            keypoints=draw(st.tuples(*[st.tuples(share, share, share)] * points))
            if task == "pose"
            else None,
            mask=Mask(size=(40, 30), counts=draw(counts)) if task == "segment" else None,
        )

    def frame(number: int) -> Detections:
        things = tuple(thing() for _ in range(draw(st.integers(0, 6))))
        return Detections(
            at=f"2026-11-24T03:00:00.{draw(st.integers(0, 999)):03}Z",
            run="k-1",
            seq=number,
            frame=number,
            release="helmet@8",
            task=task,
            dnn_ms=draw(st.none() | st.floats(0, 6_000)),
            objects=UNSET if task == "classify" else things,  # type: ignore[arg-type]
            classes=things if task == "classify" else UNSET,  # type: ignore[arg-type]
        )

    return tuple(frame(number) for number in range(draw(st.integers(1, 4))))


@settings(max_examples=200, deadline=None)
@given(frames())
def test_what_is_read_is_what_was_written_but_for_the_steps(given: tuple[Detections, ...]) -> None:
    packed = encode_packed(given)

    read = decode_packed(packed.payload)

    assert packed.frames == len(given) == len(read)
    assert decode_packed(encode_packed(read).payload) == read
    for one, other in zip(given, read, strict=True):
        assert (one.at, one.seq, one.frame, one.task) == (
            other.at,
            other.seq,
            other.frame,
            other.task,
        )
        assert (one.dnn_ms is None) == (other.dnn_ms is None)
        assert abs((one.dnn_ms or 0) - (other.dnn_ms or 0)) <= 0.0501
        for before, after in zip(things(one), things(other), strict=True):
            assert (before.label, before.class_) == (after.label, after.class_)
            assert abs(before.score - after.score) <= 0.5 / 255 + 0.0005
            if isinstance(before, Object) and isinstance(after, Object):
                assert before.mask == after.mask
                for a, b in zip(sides(before), sides(after), strict=True):
                    assert abs(a - b) <= 0.00006


def things(frame: Detections) -> tuple[Object | Class, ...]:
    found = frame.objects if isinstance(frame.objects, tuple) else frame.classes
    assert isinstance(found, tuple)
    return found


def sides(thing: Object) -> list[float]:
    return [*thing.box, *(side for point in thing.keypoints or () for side in point[:2])]


@pytest.mark.parametrize("dnn_ms", [-1.0, 7000.0, float("nan"), float("inf"), None])
def test_a_time_that_no_network_takes_is_none(dnn_ms: float | None) -> None:
    frame = msgspec.structs.replace(detections(), dnn_ms=dnn_ms)

    assert [one.dnn_ms for one in decode_packed(encode_packed([frame]).payload)] == [None]


def test_a_clock_before_1970_and_frames_that_are_out_of_order_are_taken() -> None:
    early = detections(at="1969-12-31T23:59:57.000Z")
    later, before = (detections(at=f"2026-11-24T03:00:0{second}.000Z") for second in (2, 1))

    assert decode_packed(encode_packed([early]).payload)[0].at == "1970-01-01T00:00:00.000Z"
    assert decode_packed(encode_packed([later, before]).payload) == (later, before)


def test_what_does_not_fit_loses_its_oldest_frames() -> None:
    given = [detections(n, objects=(PERSON,) * 100) for n in range(16)]

    packed = encode_packed(given, bytes_max=6_000)

    assert packed.frames == 5
    assert [frame.seq for frame in decode_packed(packed.payload)] == [11, 12, 13, 14, 15]


def test_a_frame_that_does_not_fit_alone_loses_its_worst_objects_and_says_so() -> None:
    mask = Mask(size=(160, 160), counts="o" * 20_000)
    things = tuple(
        msgspec.structs.replace(PERSON, score=round(1 - n / 100, 2), mask=mask) for n in range(9)
    )

    packed = encode_packed([detections(0), detections(1, task="segment", objects=things)][1:])

    (read,) = decode_packed(packed.payload)
    assert len(packed.payload) <= DETECTIONS_BYTES
    assert read.truncated == 6
    assert isinstance(read.objects, tuple)
    assert len(read.objects) == 3


def test_objects_that_came_without_their_keypoints_are_counted_as_left_out() -> None:
    posed = msgspec.structs.replace(PERSON, keypoints=((0.5, 0.5, 1.0),))

    packed = encode_packed([detections(task="pose", objects=(posed, PERSON, PERSON))])

    (read,) = decode_packed(packed.payload)
    assert read.objects == (posed,) or read.truncated == 2
    assert read.truncated == 2


@names
def test_every_beginning_of_a_payload_is_refused_and_one_byte_more(
    vector: dict[str, list[str]],
) -> None:
    payload = bytes_of(vector)
    for length in range(len(payload)):
        with pytest.raises(MalformedError):
            decode_packed(payload[:length])
    with pytest.raises(MalformedError):
        decode_packed(payload + b"\0")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(VECTORS), st.data())
def test_any_bytes_are_frames_or_refused(vector: dict[str, list[str]], data: st.DataObject) -> None:
    payload = bytearray(bytes_of(vector))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))

    try:
        read = decode_packed(bytes(payload))
    except MalformedError:
        return
    assert 0 < len(read) <= PACKED_FRAMES_MAX


def test_another_version_and_what_is_too_long_are_refused() -> None:
    payload = encode_packed([detections()]).payload

    with pytest.raises(MalformedError, match="expected version 1, got 2"):
        decode_packed(b"\2" + payload[1:])
    with pytest.raises(LimitError):
        decode_packed(payload + b"\0" * DETECTIONS_BYTES)
