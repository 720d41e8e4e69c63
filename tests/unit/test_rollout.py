"""Verdicts with values: what fails, passes, pauses; clocks that stand still; silence."""

from dataclasses import replace

import pytest

from controller.rollout import (
    Allowed,
    CameraSeen,
    Course,
    Decision,
    DeviceSeen,
    DeviceState,
    Judged,
    Reach,
    Rules,
    Standing,
    Verdict,
    VerdictKind,
    advance,
    begin,
    camera_seen,
    camera_state,
    decide,
    judge,
    next_wave,
    retried,
    worst,
)
from shared.messages import CameraReported, DeploymentReported, EndReported

RULES = Rules(
    max_failed=Allowed(permille=50),
    activation_seconds=100,
    progress_seconds=1000,
    probe_seconds=10,
    silence_seconds_min=600,
    quiet_seconds=0,
)
START = Course(reaches=(Reach(frozenset({"a"}), 0),))
DONE = CameraSeen("committed")


def seen(device: str, *cameras: CameraSeen, heard: int = 1, is_online: bool = True) -> DeviceSeen:
    return DeviceSeen(device, is_online, heard, cameras or (CameraSeen(),))


def looked(
    course: Course, *devices: DeviceSeen, seconds: float = 1.0, rules: Rules = RULES
) -> Judged:
    wave = frozenset(one.device for one in devices)
    return advance(course, devices, wave, rules, seconds=seconds)


def standings(**counts: int) -> dict[str, Standing]:
    return {
        f"{name}-{n}": Standing(DeviceState(name), is_treated=name not in {"offline", "pending"})
        for name, count in counts.items()
        for n in range(count)
    }


def verdict_of(rules: Rules = RULES, **counts: int) -> Verdict:
    found = standings(**counts)
    return judge(found, frozenset(found), rules)


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (CameraSeen(), DeviceState.PENDING),
        (CameraSeen("fetching"), DeviceState.IN_PROGRESS),
        (CameraSeen("waiting", "turn"), DeviceState.WAITING),
        (CameraSeen("idle", "clock"), DeviceState.WAITING),
        (CameraSeen("rolling_back", None, "release"), DeviceState.IN_PROGRESS),
        (CameraSeen("committed"), DeviceState.HEALTHY),
        (CameraSeen("rejected", None, "disk"), DeviceState.REJECTED),
        (CameraSeen("rolled_back", None, "release"), DeviceState.FAILED),
        (CameraSeen("rolled_back", None, "unknown"), DeviceState.FAILED),
        (CameraSeen("broken", None, "transport"), DeviceState.FAILED),
        (CameraSeen("broken", None, "camera"), DeviceState.CAMERA_FAULT),
        (CameraSeen("rolled_back", None, "interrupted"), DeviceState.INTERRUPTED),
        (CameraSeen("rolled_back", None, "operator"), None),
    ],
)
def test_a_camera_counts_by_phase_and_cause(seen: CameraSeen, state: DeviceState | None) -> None:
    assert camera_state(seen) is state


def test_a_device_is_its_worst_camera() -> None:
    states = list(DeviceState)

    assert worst(reversed(states)) is DeviceState.FAILED
    assert worst([DeviceState.HEALTHY, DeviceState.WAITING]) is DeviceState.WAITING


def test_what_is_under_way_wins_over_what_has_ended_and_other_tries_do_not_count() -> None:
    report = CameraReported(
        kind="simulated",
        state="streaming",
        deployment=DeploymentReported(
            rollout="r-2", attempt=1, manifest_sha256="", phase="probing", since=""
        ),
        ended=(
            EndReported(rollout="r-2", attempt=1, phase="committed"),
            EndReported(rollout="r-1", attempt=1, phase="rejected", cause="disk"),
        ),
    )

    assert camera_seen(report, "r-2", 1).phase == "probing"
    assert camera_seen(report, "r-1", 1) == CameraSeen("rejected", None, "disk")
    assert camera_seen(report, "r-1", 2) == CameraSeen()
    assert camera_seen(None, "r-1", 1) == CameraSeen()


def test_failed_rejected_and_silent_fail_together_and_the_text_has_the_numbers() -> None:
    verdict = verdict_of(failed=1, rejected=1, silent=1, healthy=7)

    assert verdict == Verdict(
        VerdictKind.FAIL,
        "3 of 10 treated devices ended badly (1 failed, 1 rejected, 1 silent); at most 5 % may",
    )


@pytest.mark.parametrize(
    ("allowed", "failed", "healthy", "is_fail"),
    [
        (Allowed(count=1), 1, 0, False),
        (Allowed(count=1), 2, 98, True),
        (Allowed(permille=50), 1, 0, True),
        (Allowed(permille=50), 1, 19, False),
        (Allowed(permille=50), 1, 18, True),
        (Allowed(permille=0), 0, 5, False),
    ],
)
def test_max_failed_is_a_count_or_a_share_of_those_treated(
    allowed: Allowed, *, failed: int, healthy: int, is_fail: bool
) -> None:
    verdict = verdict_of(replace(RULES, max_failed=allowed), failed=failed, healthy=healthy)

    assert (verdict.kind is VerdictKind.FAIL) == is_fail


def test_an_untreated_device_does_not_dilute_the_failures() -> None:
    assert verdict_of(failed=1, pending=100).kind is VerdictKind.FAIL


@pytest.mark.parametrize(
    ("counts", "kind"),
    [
        ({"healthy": 10}, VerdictKind.PASS),
        ({"healthy": 9, "camera_fault": 1}, VerdictKind.PASS),
        ({"healthy": 8, "camera_fault": 2}, VerdictKind.INCONCLUSIVE),
        ({"healthy": 5, "offline": 5}, VerdictKind.PASS),
        ({"healthy": 4, "offline": 5}, VerdictKind.INCONCLUSIVE),
        ({"offline": 1}, VerdictKind.INCONCLUSIVE),
        ({"healthy": 8, "in_progress": 2}, VerdictKind.INCONCLUSIVE),
        ({}, VerdictKind.PASS),
    ],
)
def test_enough_healthy_pass_and_too_few_are_inconclusive(
    counts: dict[str, int], kind: VerdictKind
) -> None:
    assert verdict_of(**counts).kind is kind


def test_a_failure_in_an_earlier_wave_still_fails_the_rollout() -> None:
    found = standings(failed=1, healthy=3)
    wave = frozenset(name for name in found if name.startswith("healthy"))

    assert judge(found, wave, RULES).kind is VerdictKind.FAIL


def test_a_wave_waits_for_devices_that_are_not_done_and_not_late() -> None:
    first = looked(START, seen("a", DONE), seen("b", CameraSeen("fetching")))
    late = looked(
        first.course, seen("a", DONE, heard=2), seen("b", CameraSeen("fetching"), heard=2),
        seconds=1001,
    )  # fmt: skip

    assert first.verdict.text == "waiting for 1 of 2 devices"
    assert late.verdict.kind is VerdictKind.INCONCLUSIVE


def test_a_bake_counts_driven_seconds_after_the_last_device_has_ended() -> None:
    rules = replace(RULES, bake_seconds=(30.0,))
    working = looked(START, seen("a", CameraSeen("probing")), seconds=60, rules=rules)
    done = looked(working.course, seen("a", DONE), seconds=20, rules=rules)
    not_driven = looked(done.course, seen("a", DONE), seconds=0, rules=rules)
    over = looked(not_driven.course, seen("a", DONE), seconds=10, rules=rules)

    assert working.verdict.kind is VerdictKind.UNDECIDED
    assert done.verdict.text == not_driven.verdict.text == "baking for 10 s more"
    assert over.verdict.kind is VerdictKind.PASS


def test_no_verdict_falls_before_two_heartbeats_while_a_device_was_not_heard() -> None:
    rules = replace(RULES, quiet_seconds=600)
    failed = seen("a", CameraSeen("rolled_back", None, "release"), heard=0)
    early = looked(START, failed, seconds=599, rules=rules)
    due = looked(early.course, failed, seconds=1, rules=rules)
    restarted = looked(begin(due.course), failed, seconds=1, rules=rules)
    offline = looked(START, seen("a", is_online=False), seconds=599, rules=rules)

    assert early.verdict.text == "listening for 1 s more for a"
    assert due.verdict.kind is VerdictKind.FAIL
    assert restarted.verdict.kind is VerdictKind.UNDECIDED
    assert offline.verdict.text == "listening for 1 s more for a"


def test_a_verdict_waits_for_no_heartbeat_once_every_device_it_is_about_was_heard() -> None:
    rules = replace(RULES, quiet_seconds=600)
    devices = [seen("a", DONE), seen("b", heard=0), seen("c", is_online=False)]
    alone = advance(START, devices, frozenset({"a"}), rules, seconds=1)
    together = looked(START, *devices, seconds=1, rules=rules)
    treated = replace(START, treated=frozenset({"b"}))
    later_wave = advance(treated, devices, frozenset({"a"}), rules, seconds=1)

    assert alone.verdict.kind is VerdictKind.PASS
    assert together.verdict.text == "listening for 599 s more for b and 1 more"
    assert later_wave.verdict.text == "listening for 599 s more for b"


def test_a_device_that_goes_offline_in_activation_is_silent_after_the_deadline() -> None:
    activating = CameraSeen("activating")
    there = looked(START, seen("a", activating))
    gone = looked(there.course, seen("a", activating, is_online=False), seconds=50)
    lost = looked(gone.course, seen("a", activating, is_online=False), seconds=101)
    back = looked(lost.course, seen("a", activating, heard=2), seconds=1)

    assert gone.standings["a"] == Standing(DeviceState.IN_PROGRESS, is_treated=True, is_open=True)
    assert lost.standings["a"].state is DeviceState.SILENT
    assert lost.verdict.kind is VerdictKind.FAIL
    assert back.standings["a"].state is DeviceState.IN_PROGRESS


def test_a_device_that_goes_offline_while_fetching_is_offline_and_never_late() -> None:
    fetching = CameraSeen("fetching")
    there = looked(START, seen("a", fetching))
    gone = looked(there.course, seen("a", fetching, is_online=False), seconds=5000)
    back = looked(gone.course, seen("a", fetching, heard=2), seconds=900)

    assert gone.standings["a"] == Standing(DeviceState.OFFLINE)
    assert back.standings["a"].is_open


def test_an_online_device_that_says_nothing_is_silent_and_one_that_speaks_is_not() -> None:
    first = looked(START, seen("a", CameraSeen("activating")))
    quiet = looked(first.course, seen("a", CameraSeen("activating")), seconds=599)
    silent = looked(quiet.course, seen("a", CameraSeen("activating")), seconds=2)
    heard = looked(quiet.course, seen("a", CameraSeen("activating"), heard=2), seconds=2)

    assert quiet.standings["a"].state is DeviceState.IN_PROGRESS
    assert silent.standings["a"].state is DeviceState.SILENT
    assert heard.standings["a"].state is DeviceState.IN_PROGRESS


def test_clocks_stand_still_while_nothing_is_driven() -> None:
    course = START
    for _ in range(5000):
        judged = looked(course, seen("a", CameraSeen("activating")), seconds=0)
        course = judged.course

    assert judged.standings["a"].state is DeviceState.IN_PROGRESS


def test_treated_stays_treated_and_a_retry_starts_the_clocks_again() -> None:
    failed = looked(START, seen("a", CameraSeen("rolled_back", None, "release")))
    late = looked(failed.course, seen("a", CameraSeen("fetching")), seconds=1)
    again = retried(looked(late.course, seen("a", CameraSeen("fetching")), seconds=2000).course, 2)
    waiting = looked(again, seen("a", CameraSeen("fetching"), heard=2))

    assert failed.course.treated == waiting.course.treated == {"a"}
    assert waiting.verdict.kind is VerdictKind.UNDECIDED
    assert waiting.course.clocks["a"].since == waiting.course.driven_seconds


def test_an_operator_s_roll_back_does_not_count_at_all() -> None:
    judged = looked(START, seen("a", CameraSeen("rolled_back", None, "operator")))

    assert judged.standings == {}


def test_a_wave_that_gained_nobody_is_skipped_and_never_passed() -> None:
    passed = Verdict(VerdictKind.PASS, "")
    course = next_wave(START, Reach(frozenset(), 9), passed, wave=3)

    assert [verdict.kind for verdict in course.verdicts] == [
        VerdictKind.PASS, VerdictKind.SKIPPED, VerdictKind.SKIPPED,
    ]  # fmt: skip
    assert len(course.reaches) == 4


@pytest.mark.parametrize(
    ("kind", "rules", "decision"),
    [
        (VerdictKind.UNDECIDED, RULES, Decision.NOTHING),
        (VerdictKind.PASS, RULES, Decision.NEXT_WAVE),
        (VerdictKind.FAIL, RULES, Decision.REVERT),
        (VerdictKind.FAIL, replace(RULES, on_failure="stop"), Decision.STOP),
        (VerdictKind.INCONCLUSIVE, RULES, Decision.PAUSE),
        (VerdictKind.INCONCLUSIVE, replace(RULES, on_inconclusive="continue"), Decision.NEXT_WAVE),
    ],
)
def test_a_verdict_is_obeyed_as_the_strategy_says(
    kind: VerdictKind, rules: Rules, decision: Decision
) -> None:
    assert decide(Verdict(kind, ""), rules) is decision


@pytest.mark.parametrize("waits_for", ["window", "hold"])
def test_a_device_that_waits_for_its_window_or_a_hold_is_never_late(waits_for: str) -> None:
    waiting = CameraSeen("waiting", waits_for)
    course = START
    for heard in range(4):
        judged = looked(course, seen("a", waiting, heard=heard), seconds=900)
        course = judged.course

        assert judged.verdict.kind is VerdictKind.UNDECIDED
        assert judged.standings["a"] == Standing(DeviceState.WAITING, is_open=True)
    late = looked(course, seen("a", CameraSeen("fetching"), heard=9), seconds=1001)
    assert not late.standings["a"].is_open
