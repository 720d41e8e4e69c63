from dataclasses import replace

import msgspec
import pytest

from agent.camera.wire import (
    CameraExited,
    CameraFailed,
    FrameSeen,
    GoldenCompared,
    Message,
    Streaming,
    Uploading,
)
from agent.health import (
    FIRST_VALID_SECONDS,
    HEALTHY,
    STALL_SECONDS,
    UNKNOWN,
    UPLOAD_SECONDS,
    UPLOAD_STALL_SECONDS,
    WRONG_NETWORK_FRAMES,
    Expected,
    Gate,
    State,
    is_proven,
    is_stalled,
    refusal,
)
from shared.release import Input
from tests.tinygraph import LABELS, NETWORK_NAME, manifest_of

EXPECTED = Expected(
    network_name="n1",
    shapes=((300, 4), (300,)),
    frame_rate=16,
    probe_seconds=60,
    valid_rate_permille=900,
)
GOOD = FrameSeen(
    frame=0,
    at=0.0,
    is_valid=True,
    network_name="n1",
    shapes=((1, 300, 4), (1, 300)),
    dnn_ms=50.0,
    objects=(),
)
EMPTY = FrameSeen(frame=0, at=0.0, is_valid=False)


def changed(**fields: object) -> FrameSeen:
    return msgspec.structs.replace(GOOD, **fields)


def started(expected: Expected = EXPECTED) -> Gate:
    return Gate(expected, started_at=0.0).observe(Streaming(), 10.0)


def fed(gate: Gate, messages: list[Message], *, begin: float = 10.0, step: float = 1.0) -> Gate:
    for index, message in enumerate(messages):
        gate = gate.observe(message, begin + index * step)
    return gate


def test_good_frames_for_the_probe_time_are_healthy_and_not_a_second_before() -> None:
    gate = fed(started(), [GOOD] * 61)

    assert gate.judge(69.9) == UNKNOWN
    assert gate.judge(70.0) == HEALTHY
    assert gate.probed_seconds(40.0) == 30.0


def test_zero_detections_are_no_failure() -> None:
    assert GOOD.objects == ()
    assert fed(started(), [GOOD] * 61).judge(70.0) == HEALTHY


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (changed(shapes=((1, 300, 3), (1, 300))), "wrong_shapes"),
        (changed(shapes=((1, 300, 4),)), "wrong_shapes"),
        (changed(problems=("not_finite",)), "bad_values"),
    ],
)
def test_one_frame_is_enough_to_fail(frame: FrameSeen, code: str) -> None:
    first = fed(started(), [frame])
    later = fed(started(), [GOOD] * 10 + [frame] + [GOOD] * 60)

    assert first.judge(10.0).code == code
    assert later.judge(80.0).code == code


def test_frames_of_the_old_network_in_flight_are_forgiven_but_not_many() -> None:
    old = changed(network_name="n0", shapes=((1, 5),))
    forgiven = fed(started(), [old] * (WRONG_NETWORK_FRAMES - 1) + [GOOD] * 61)
    wrong = fed(started(), [old] * WRONG_NETWORK_FRAMES)
    back = fed(started(), [GOOD, old])

    assert forgiven.judge(78.0) == HEALTHY
    assert wrong.judge(20.0).code == "wrong_network"
    assert back.judge(12.0).code == "wrong_network"


def test_an_unknown_name_is_no_proof() -> None:
    gate = fed(started(), [changed(network_name="")] * WRONG_NETWORK_FRAMES)

    assert gate.judge(20.0).code == "wrong_network"


def test_an_upload_that_does_not_end_in_time_fails() -> None:
    gate = Gate(EXPECTED, started_at=0.0)

    assert gate.judge(UPLOAD_SECONDS) == UNKNOWN
    assert gate.judge(UPLOAD_SECONDS + 1).code == "upload_timeout"


def test_an_upload_that_stops_moving_fails_where_its_progress_can_be_seen() -> None:
    gate = Gate(EXPECTED, started_at=0.0).observe(Uploading(done_permille=100), 5.0)
    gate = gate.observe(Uploading(done_permille=100), 100.0)
    moving = gate.observe(Uploading(done_permille=200), 100.0)

    assert gate.judge(5 + UPLOAD_STALL_SECONDS + 1).code == "upload_timeout"
    assert moving.judge(5 + UPLOAD_STALL_SECONDS + 1) == UNKNOWN


def test_frames_without_inference_are_no_valid_output() -> None:
    gate = fed(started(), [EMPTY] * 120)

    assert gate.judge(10 + FIRST_VALID_SECONDS) == UNKNOWN
    assert gate.judge(10 + FIRST_VALID_SECONDS + 1).code == "no_valid_output"


def test_too_few_valid_frames_fail_at_the_end_of_the_probe() -> None:
    enough = fed(started(), ([GOOD] * 9 + [EMPTY]) * 6 + [GOOD] * 2)
    too_few = fed(started(), ([GOOD] * 8 + [EMPTY] * 2) * 6 + [GOOD] * 2)

    assert enough.judge(71.0) == HEALTHY
    assert too_few.judge(71.0).code == "low_valid_rate"


def test_frames_before_the_first_valid_one_do_not_count_against_the_rate() -> None:
    gate = fed(started(), [EMPTY] * 60 + [GOOD] * 61)

    assert gate.judge(131.0) == HEALTHY


def test_a_host_that_skips_frames_fails_nobody() -> None:
    gate = fed(started(), [GOOD] * 5, step=15.0)

    assert gate.judge(70.0) == HEALTHY


def test_a_stall_fails_the_probe() -> None:
    gate = fed(started(), [GOOD] * 5)

    assert gate.judge(14 + STALL_SECONDS) == UNKNOWN
    assert gate.judge(14 + STALL_SECONDS + 1).code == "stalled"


def test_a_slow_network_fails_and_one_late_inference_does_not() -> None:
    slow = fed(started(), [changed(dnn_ms=63.0)] * 61)
    late = fed(started(), [GOOD] * 40 + [changed(dnn_ms=63.0)] + [GOOD] * 20)
    none = fed(started(), [changed(dnn_ms=0.0)] * 61)

    assert slow.judge(70.0).code == "slow_dnn"
    assert late.judge(70.0) == HEALTHY
    assert none.judge(70.0).code == "slow_dnn"


def test_what_the_child_says_of_its_end_is_the_verdict_and_the_first_word_stays() -> None:
    failed = started().observe(CameraFailed(code="busy", text="EBUSY"), 11.0)
    both = failed.observe(CameraExited(0, 1, 1), 12.0)
    crashed = started().observe(CameraExited(0, 1, -11), 12.0)

    assert both.judge(13.0).code == "busy"
    assert crashed.judge(13.0).code == "crashed"


def test_a_golden_set_must_agree_where_there_is_one() -> None:
    gate = fed(started(replace(EXPECTED, golden_permille_min=950)), [GOOD] * 61)

    assert gate.judge(70.0) == UNKNOWN
    assert gate.observe(GoldenCompared(found_permille=950), 70.0).judge(70.0) == HEALTHY
    assert gate.observe(GoldenCompared(found_permille=949), 70.0).judge(70.0).code == "golden"


def test_a_golden_set_that_never_answers_fails_in_the_end() -> None:
    gate = fed(started(replace(EXPECTED, golden_permille_min=950)), [GOOD] * 190)

    assert gate.judge(199.0).code == "golden"


@pytest.mark.parametrize(
    ("changes", "labels", "code"),
    [
        ({"input": Input(width=656, height=320, color="RGB")}, 3, "input_size"),
        ({"input": Input(width=320, height=63, color="RGB")}, 3, "input_size"),
        ({"memory_bytes": 8_388_481}, 3, "memory"),
        ({"files": ()}, 3, "files"),
        ({}, 2, "labels"),
    ],
)
def test_what_cannot_fit_is_refused_before_the_old_release_stops(
    changes: dict[str, object], labels: int, code: str
) -> None:
    manifest = manifest_of({"simulator.onnx": ("simulator", b"x")})
    bad = msgspec.structs.replace(manifest, **changes)
    verdict = refusal(bad, kind="simulated", labels=labels)

    assert refusal(manifest, kind="simulated", labels=len(LABELS)) is None
    assert refusal(manifest, kind="modlib", labels=len(LABELS)) is not None
    assert verdict is not None
    assert (verdict.state, verdict.code) == (State.UNHEALTHY, code)


def test_after_the_commit_only_proven_frames_keep_a_stream_alive() -> None:
    assert is_proven(GOOD, EXPECTED)
    assert not is_proven(EMPTY, EXPECTED)
    assert not is_proven(changed(network_name=NETWORK_NAME), EXPECTED)
    assert not is_proven(changed(problems=("not_finite",)), EXPECTED)
    assert not is_stalled(5.0, 5.0 + STALL_SECONDS)
    assert is_stalled(5.0, 5.1 + STALL_SECONDS)
