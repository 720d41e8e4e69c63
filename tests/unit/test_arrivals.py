"""What libcamera says of a frame becomes a frame, whatever it says."""

import threading
import time

import numpy as np
import pytest

from agent.camera.arrivals import AGE_SECONDS_MAX, Arrivals, captured_at, parse_info
from agent.camera.camera import Captured, FailedError
from agent.camera.twin.sensor import flattened, output_info
from shared.errors import MalformedError

RATE = 20.0
FRAME_NS = int(1e9 / RATE)
BOXES = np.arange(12, dtype=np.float32).reshape(3, 4)
COUNT = np.array([2], np.float32)


def metadata(number: int = 0, *, count: int = 1, tensors: tuple = (BOXES, COUNT), **more: object):  # type: ignore[no-untyped-def,type-arg]  # noqa: ANN201
    """Return a request's metadata in libcamera's layout."""
    return {
        "SensorTimestamp": time.monotonic_ns() // 2 + number * FRAME_NS,
        "CnnOutputTensor": flattened(tensors),
        "CnnOutputTensorInfo": tuple(output_info("n1", tensors, count)),
        "CnnKpiInfo": (12_500, 2_000),
        **more,
    }


def arrived(arrivals: Arrivals, data: dict[str, object]) -> Captured:
    arrivals.take(data)
    captured = arrivals.next()
    assert captured is not None
    return captured


@pytest.fixture
def arrivals() -> Arrivals:
    return Arrivals(RATE, threading.Event())


def test_tensors_name_and_times_come_out_as_they_went_in(arrivals: Arrivals) -> None:
    captured = arrived(arrivals, metadata())

    assert captured.tensors is not None
    for tensor, wanted in zip(captured.tensors, (BOXES, COUNT), strict=True):
        assert np.array_equal(tensor, wanted)
    assert captured.network_name == "n1"
    assert (captured.dnn_ms, captured.dsp_ms) == (12.5, 2.0)


def test_a_frame_without_an_inference_has_none(arrivals: Arrivals) -> None:
    captured = arrived(arrivals, {"SensorTimestamp": 1})

    assert captured.tensors is None
    assert captured.network_name == ""


def test_an_inference_that_comes_again_is_not_valid_again(arrivals: Arrivals) -> None:
    first, again, next_one = (
        arrived(arrivals, metadata(n, count=count)) for n, count in enumerate((7, 7, 8))
    )

    assert first.tensors is not None
    assert again.tensors is None
    assert next_one.tensors is not None


def test_frames_that_nobody_fetched_leave_a_gap(arrivals: Arrivals) -> None:
    base = time.monotonic_ns()
    at = (base, base + FRAME_NS, base + 4 * FRAME_NS + FRAME_NS // 3)

    numbers = [arrived(arrivals, metadata(SensorTimestamp=one)).frame for one in at]

    assert numbers == [0, 1, 4]


def test_the_sensors_own_duration_of_a_frame_counts(arrivals: Arrivals) -> None:
    base, twice_us = time.monotonic_ns(), 2 * FRAME_NS // 1000
    at = (base, base + 2 * FRAME_NS, base + 6 * FRAME_NS)

    numbers = [
        arrived(arrivals, metadata(SensorTimestamp=one, FrameDuration=twice_us)).frame for one in at
    ]

    assert numbers == [0, 1, 3]


def test_only_the_newest_frame_waits(arrivals: Arrivals) -> None:
    base = time.monotonic_ns()
    for number in range(3):
        arrivals.take(metadata(SensorTimestamp=base + number * FRAME_NS))

    newest = arrivals.next()

    assert newest is not None
    assert newest.frame == 2


@pytest.mark.parametrize(
    "broken",
    [
        {"CnnOutputTensorInfo": b"short"},
        {"CnnOutputTensorInfo": object()},
        {"CnnOutputTensor": (1.0,)},
        {"CnnOutputTensor": ("x",) * 13},
    ],
)
def test_what_cannot_be_read_ends_the_stream_with_a_reason(
    broken: dict[str, object], arrivals: Arrivals
) -> None:
    arrivals.take(metadata(**broken))

    with pytest.raises(FailedError, match="frame 0") as error:
        arrivals.next()
    assert error.value.code == "crashed"


@pytest.mark.parametrize("odd", [{"CnnKpiInfo": ()}, {"SensorTimestamp": 2**70}])
def test_a_frame_without_times_is_a_frame(odd: dict[str, object], arrivals: Arrivals) -> None:
    assert arrived(arrivals, metadata(**odd)).tensors is not None


def test_nothing_comes_once_it_stops() -> None:
    stopping = threading.Event()
    arrivals = Arrivals(RATE, stopping)
    stopping.set()
    arrivals.take(metadata())

    assert arrivals.next() is None


def test_libcamera_before_0_6_counts_no_frames(arrivals: Arrivals) -> None:
    short = output_info("n1", (BOXES, COUNT), 0)[:708]
    frames = [arrived(arrivals, metadata(n, CnnOutputTensorInfo=short)) for n in range(2)]

    assert all(frame.tensors is not None for frame in frames)


@pytest.mark.parametrize("tensors", [17, 2**31])
def test_more_tensors_than_the_sensor_has_are_refused(tensors: int) -> None:
    data = bytearray(output_info("n1", (COUNT,), 0))
    data[64:68] = tensors.to_bytes(4, "little")

    with pytest.raises(MalformedError, match="at most 16 output tensors"):
        parse_info(bytes(data))


def test_a_time_of_capture_is_believed_where_it_can_be_one() -> None:
    now = time.time()
    second_ago = captured_at(time.monotonic_ns() - 10**9)

    assert now - 1.5 < second_ago < now - 0.5
    ancient = time.monotonic_ns() - int((AGE_SECONDS_MAX + 60) * 1e9)
    assert captured_at(ancient) >= now
    assert captured_at(None) >= now
