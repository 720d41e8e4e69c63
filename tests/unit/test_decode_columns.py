"""A frame's objects written as text are those that Python objects would be written as."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.decode.columns import Columns, json_of, objects_of, steps
from shared.detections import KEYPOINT_BYTES_MIN, Mask, Object
from tests.columns import columns_of

LABELS = ("person", 'a "quoted" \\ name', "\N{SNOWMAN}" * 60, "b")
ROOM = 10**9
share = st.integers(0, 10_000).map(lambda step: step / 10_000)
score = st.integers(0, 1_000).map(lambda step: step / 1_000)
class_ = st.integers(0, len(LABELS) - 1)
box = st.tuples(share, share, share, share)
plain = st.builds(
    lambda class_, score, box: Object(label=LABELS[class_], class_=class_, score=score, box=box),
    class_,
    score,
    box,
)
posed = st.builds(
    lambda one, points: msgspec.structs.replace(one, keypoints=points),
    plain,
    st.tuples(*[st.tuples(share, share, score)] * 3),
)
masked = st.builds(
    lambda one, counts: msgspec.structs.replace(one, mask=Mask(size=(4, 5), counts=counts)),
    plain,
    st.text("0123:;<=>?@[\\]^_`abcdefghijklmno", min_size=1, max_size=9),
)
some_objects = st.one_of(
    *(st.lists(kind, max_size=12).map(tuple) for kind in (plain, posed, masked))
)


@settings(max_examples=300, deadline=None)
@given(some_objects)
def test_the_text_reads_as_the_objects_do(objects: tuple[Object, ...]) -> None:
    columns = columns_of(objects, LABELS)

    text = json_of(columns, bytes_max=ROOM)

    assert msgspec.json.decode(text, type=tuple[Object, ...]) == objects
    assert objects_of(columns) == objects


@pytest.mark.parametrize("room", [0, 1, 100, 1000, 5000])
def test_only_what_no_message_can_carry_goes_without_its_mask(room: int) -> None:
    mask = Mask(size=(4, 5), counts="0123\\" * 20)
    objects = tuple(
        Object(label="b", class_=3, score=1.0, box=(0, 0, 1, 1), mask=mask) for _ in range(50)
    )

    found = read(columns_of(objects, LABELS), room)

    kept = sum(one.mask is not None for one in found)
    assert len(found) == 50
    assert [one.mask for one in found[:kept]] == [mask] * kept
    each = len(msgspec.json.encode(mask))
    assert (kept - 1) * each <= room
    assert kept == 50 or kept * (each + 10) > room


@pytest.mark.parametrize("room", [0, 1, 100, 1000, 5000])
def test_only_what_no_message_can_carry_goes_without_its_keypoints(room: int) -> None:
    points = ((0.25, 0.5, 0.75),) * 4
    objects = tuple(
        Object(label="b", class_=3, score=1.0, box=(0, 0, 1, 1), keypoints=points)
        for _ in range(50)
    )

    found = read(columns_of(objects, LABELS), room)

    kept = sum(one.keypoints is not None for one in found)
    assert len(found) == 50
    assert [one.keypoints for one in found[:kept]] == [points] * kept
    assert kept == min(50, room // (4 * KEYPOINT_BYTES_MIN) + 1)


def test_what_is_outside_of_a_whole_goes_to_its_edge_and_the_rest_to_the_next_step() -> None:
    values = np.array([-np.float64(3), 0.0, 0.12344, 0.12346, 1.0, 7.5])
    whole = np.array(10_000.0)

    assert steps(values, whole, whole).tolist() == [0, 0, 1234, 1235, 10_000, 10_000]
    assert steps(values * 640, whole / 640, whole).tolist() == [0, 0, 1234, 1235, 10_000, 10_000]


def read(columns: Columns, room: int) -> tuple[Object, ...]:
    return msgspec.json.decode(json_of(columns, bytes_max=room), type=tuple[Object, ...])
