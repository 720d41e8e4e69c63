"""Gates with values: what cameras report -> pass, fail or undecided, and what never counts."""

from dataclasses import replace
from itertools import pairwise
from math import comb
from random import Random

import pytest

from controller.gates.gathering import (
    CONTROLS_MAX,
    GateVerdict,
    Gathered,
    Sighting,
    Stratum,
    close_wave,
    gather,
    is_heard,
    is_sensible,
    strata,
)
from controller.gates.judging import allowed_change, estimate, judge_gates, kind_of_change
from controller.gates.looking import Moment, look
from controller.gates.odds import binomial_tail, t_quantile
from controller.gates.rules import LOOKS_A_WAVE, Gates
from shared.messages import Evidence, EvidencePair, Quantiles

OLD, NEW = "helmet@7", "helmet@8"
RATE = 16  # Frames a second.
GATES = Gates(dnn_ms=60, golden_permille=950, restarts=1, detections_permille=500,
              scores_permille=500)  # fmt: skip
NOBODY: frozenset[str] = frozenset()


def evidence(
    release: str = NEW,
    seconds: int = 600,
    *,
    per_frame: float = 1.0,
    step: int = 8,
    valid: float = 1.0,
    dnn: float | None = 48.0,
    **changes: object,
) -> Evidence:
    frames = seconds * RATE
    objects = int(frames * valid * per_frame)
    histogram = tuple(objects if at == step else 0 for at in range(10))
    fields: dict[str, object] = {
        "release": release, "seconds": seconds, "frames": frames, "valid": int(frames * valid),
        "objects": objects, "score_histogram": histogram,
        "dnn_ms": None if dnn is None else Quantiles(dnn, dnn + 2),
    }  # fmt: skip
    return Evidence(**{**fields, **changes})  # type: ignore[arg-type]


def old(per_frame: float = 1.0, seconds: int = 7200, **changes: object) -> EvidencePair:
    """Return what a camera reports that still runs the release before."""
    running = evidence(OLD, seconds, per_frame=per_frame, **changes)
    return EvidencePair(running=running, hour=evidence(OLD, 3600, per_frame=per_frame))


def new(per_frame: float = 1.0, before: float = 1.0, **changes: object) -> EvidencePair:
    """Return what a camera reports that has switched ten minutes ago."""
    running = evidence(NEW, per_frame=per_frame, **changes)
    return EvidencePair(running=running, hour=running, before=evidence(OLD, 3600, per_frame=before))


def fleet(
    treated: list[EvidencePair], controls: int, *, later: float = 1.0, noise: float = 0.05
) -> Gathered:
    """Return what was gathered of cameras that switched, and of others in the same ten minutes."""
    random = Random(1)
    everyone = [Sighting(f"t{n}/0", old()) for n in range(len(treated))]
    everyone += [Sighting(f"c{n}/0", old()) for n in range(controls)]
    at = gather(Gathered(), everyone, 0.0)
    switched = [Sighting(f"t{n}/0", pair, is_treated=True) for n, pair in enumerate(treated)]
    at = gather(at, switched, 10.0)
    since = []
    for n in range(controls):
        objects = 7200 * RATE + int(600 * RATE * later * (1 + noise * random.uniform(-1, 1)))
        histogram = tuple(objects if step == 8 else 0 for step in range(10))
        running = evidence(OLD, 7800, objects=objects, score_histogram=histogram)
        since.append(Sighting(f"c{n}/0", EvidencePair(running=running)))
    return gather(at, since, 610.0)


def judged(
    gathered: Gathered, gates: Gates = GATES, left_out: frozenset[str] = NOBODY, waves: int = 3
) -> dict[str, GateVerdict]:
    found = judge_gates(gathered, gates, level=gates.level(waves), tolerated=0.1, left_out=left_out)
    return {gate.name: gate for gate in found}


def kinds(gathered: Gathered, gates: Gates = GATES) -> dict[str, str]:
    return {name: gate.kind for name, gate in judged(gathered, gates).items()}


@pytest.mark.parametrize(
    ("level", "freedom", "printed"),
    [
        (0.025, 10, 2.228139),
        (0.0005, 4, 8.610302),
        (0.0001, 4, 13.033672),
        (0.2, 5, 0.919544),
        (0.0005, 30, 3.645959),
        (0.01, 1000, 2.330083),
    ],
)
def test_the_quantiles_are_those_of_the_printed_tables(
    level: float, freedom: float, printed: float
) -> None:
    assert t_quantile(level, freedom) == pytest.approx(printed, abs=2e-6)


def test_the_binomial_tail_is_that_of_counting() -> None:
    assert binomial_tail(3, 3, 0.1) == pytest.approx(0.001)
    assert binomial_tail(2, 3, 0.5) == pytest.approx(0.5)
    assert binomial_tail(0, 3, 0.1) == 1
    assert binomial_tail(1, 3, 0.0) == 0
    counted = sum(comb(100, k) * 0.1**k * 0.9 ** (100 - k) for k in range(26, 101))
    assert binomial_tail(26, 100, 0.1) == pytest.approx(counted)


def test_a_good_release_passes_every_gate_with_its_numbers() -> None:
    gathered = fleet([new(golden_permille=980)] * 5, 20)

    found = judged(gathered)

    assert {gate.kind for gate in found.values()} == {"pass"}
    change = found["detections_change"]
    assert (change.cameras, change.controls) == (5, 20)
    assert change.low is not None
    assert change.high is not None
    assert change.low < 0 < change.high
    assert "5 cameras against 20 that changed nothing" in change.text
    assert "48.0 ms" in found["dnn_ms"].text


def test_a_release_that_sees_nothing_fails_by_its_detections_even_on_one_camera_of_three() -> None:
    alone = kinds(fleet([new(0.0)], 2))

    assert alone["detections_change"] == "fail"
    assert alone["scores_change"] == "undecided"  # It scored nothing.


def test_half_as_many_detections_on_one_camera_of_three_is_no_answer_but_on_ten_of_forty_is() -> (
    None
):
    gates = replace(GATES, detections_permille=200)

    few = judged(fleet([new(0.5)], 2), gates)["detections_change"]
    many = judged(fleet([new(0.5)] * 10, 30), gates)["detections_change"]

    assert few.kind == "undecided"
    assert many.kind == "fail"
    assert many.value == pytest.approx(-0.5, abs=0.05)
    assert "or lower, 99.9" in many.text


def test_what_happens_to_everybody_at_that_time_of_day_is_not_the_release_s() -> None:
    night = fleet([new(0.2)] * 10, 30, later=0.2)  # Five times fewer people, for all.

    assert judged(night)["detections_change"].value == pytest.approx(0, abs=0.05)
    assert kinds(night)["detections_change"] == "pass"


def test_a_release_that_hides_the_busy_hour_fails_although_it_sees_as_much_as_before() -> None:
    rush = fleet([new(1.0)] * 10, 30, later=4.0)  # The others see four times as much.

    assert judged(rush)["detections_change"].kind == "fail"


def test_lower_scores_fail_by_their_own_gate() -> None:
    gates = replace(GATES, scores_permille=200)
    low = fleet([new(step=4)] * 5, 20)  # 0.45 where it was 0.85.

    found = judged(low, gates)

    assert found["scores_change"].kind == "fail"
    assert found["detections_change"].kind == "pass"


def test_a_slow_network_fails_on_its_first_camera_and_one_slow_camera_of_twenty_does_not() -> None:
    assert kinds(fleet([new(dnn=75.0)], 2))["dnn_ms"] == "fail"
    assert kinds(fleet([new(dnn=61.0)], 2))["dnn_ms"] == "pass"  # Within the histogram's step.
    assert kinds(fleet([new(dnn=75.0), *[new()] * 19], 20))["dnn_ms"] == "pass"


def test_golden_objects_that_are_not_found_fail_and_a_release_without_them_is_not_measured() -> (
    None
):
    assert kinds(fleet([new(golden_permille=900)], 2))["golden"] == "fail"
    assert kinds(fleet([new(golden_permille=960)], 2))["golden"] == "pass"
    assert kinds(fleet([new()], 2))["golden"] == "not_measured"


def test_what_cameras_do_by_themselves_is_the_release_s_only_in_numbers() -> None:
    bad, restarting = new(valid=0.5), new(restarts=5)

    assert kinds(fleet([bad], 2))["valid_rate"] == "undecided"
    assert kinds(fleet([restarting], 2))["restarts"] == "undecided"
    assert kinds(fleet([bad, *[new()] * 19], 20))["valid_rate"] == "pass"
    assert kinds(fleet([bad] * 5, 20))["valid_rate"] == "fail"
    assert kinds(fleet([restarting] * 5, 20))["restarts"] == "fail"


def test_devices_with_faults_of_their_own_are_left_out() -> None:
    gathered = fleet([new(0.0, valid=0.5), *[new()] * 9], 30)

    found = judged(gathered, left_out=frozenset({"t0"}))

    assert found["valid_rate"].cameras == 9
    assert found["detections_change"].cameras == 9


def test_devices_that_report_no_evidence_leave_the_gates_undecided() -> None:
    silent = gather(Gathered(), [Sighting("t0/0", EvidencePair(), is_treated=True)], 0.0)

    found = judged(silent)

    assert found["valid_rate"].kind == found["restarts"].kind == "undecided"
    assert found["valid_rate"].text == "no camera has reported evidence"


def test_a_first_release_has_nothing_to_be_compared_with_and_is_not_held_up_for_it() -> None:
    running = evidence(NEW)
    first = gather(
        Gathered(), [Sighting("t0/0", EvidencePair(running=running), is_treated=True)], 0.0
    )

    assert judged(first)["detections_change"].kind == "not_measured"
    assert "another release before" in judged(first)["detections_change"].text


def test_nobody_left_untreated_is_undecided_and_said() -> None:
    alone = judged(fleet([new()] * 10, 0))["detections_change"]

    assert alone.kind == "undecided"
    assert "no camera that changed nothing" in alone.text


def test_cameras_of_earlier_waves_are_what_the_last_wave_is_compared_with() -> None:
    wave_one = close_wave(fleet([new()] * 10, 10))
    hour = evidence(NEW, 3600)
    at = gather(
        wave_one, [Sighting(f"t{n}/0", EvidencePair(running=hour, hour=hour)) for n in range(10)], 0
    )
    at = gather(at, [Sighting(f"c{n}/0", new(0.3), is_treated=True) for n in range(10)], 4000.0)
    later = evidence(NEW, 4200)
    at = gather(at, [Sighting(f"t{n}/0", EvidencePair(running=later)) for n in range(10)], 4600.0)

    first, last = strata(at, "detections", NOBODY)

    assert (len(first.treated), len(first.controls)) == (10, 10)
    assert (len(last.treated), len(last.controls)) == (10, 10)
    assert max(last.treated) < -1
    assert max(map(abs, last.controls)) < 0.01


def test_counters_that_jump_back_with_a_restart_of_the_agent_lose_nothing() -> None:
    at = fleet([new(seconds=600)], 2)
    again = EvidencePair(running=evidence(NEW, 60))

    after = gather(at, [Sighting("t0/0", again, is_treated=True)], 700.0)
    more = gather(
        after, [Sighting("t0/0", EvidencePair(running=evidence(NEW, 90)), is_treated=True)], 730.0
    )

    track = more.tracks["t0/0"]
    assert track.total.seconds == 600 + 90
    assert track.total.objects == 690 * RATE
    assert track.before is not None  # The agent forgot it; we did not.
    assert kinds(more)["detections_change"] == kinds(at)["detections_change"]


def test_the_hour_that_was_heard_stands_in_for_what_a_restarted_agent_forgot() -> None:
    at = gather(Gathered(), [Sighting("t0/0", old(2.0))], 0.0)

    after = gather(
        at, [Sighting("t0/0", EvidencePair(running=evidence(NEW)), is_treated=True)], 10.0
    )

    before = after.tracks["t0/0"].before
    assert before is not None
    assert before.objects == 2 * 3600 * RATE


@pytest.mark.parametrize(
    "change",
    [
        {"valid": 10**9},
        {"frames": 10**12, "valid": 10**12},
        {"objects": -1},
        {"score_histogram": (-1,) + (0,) * 9},
        {"seconds": -5},
        {"objects": 10**9},
        {"dnn_ms": Quantiles(float("nan"), 1.0)},
        {"dnn_ms": Quantiles(1e9, 1e9)},
        {"golden_permille": 5000},
        {"restarts": -1},
        {"seconds": 10**12},
        {"score_histogram": ()},
    ],
)
def test_numbers_that_no_camera_can_have_make_it_say_nothing(change: dict[str, object]) -> None:
    mad = evidence()
    fields = {name: getattr(mad, name) for name in mad.__struct_fields__}
    absurd = Evidence(**{**fields, **change})
    good = fleet([new()] * 5, 20)

    after = gather(good, [Sighting("t0/0", EvidencePair(running=absurd), is_treated=True)], 700.0)

    assert not is_sensible(absurd)
    assert judged(after)["valid_rate"].cameras == 4
    assert judged(after)["detections_change"].kind == "pass"
    assert gather(after, [Sighting("t0/0", new())], 800.0).nonsense == NOBODY


@pytest.mark.parametrize("extreme", [0.0, 300.0])
def test_one_mad_camera_neither_stops_a_release_nor_hides_a_bad_one(extreme: float) -> None:
    good = kinds(fleet([new(extreme), *[new()] * 19], 40))
    bad = kinds(fleet([new(extreme), *[new(0.2)] * 19], 40))

    assert good["detections_change"] == "pass"
    assert bad["detections_change"] == "fail"


def test_cameras_that_see_next_to_nothing_say_nothing_about_change() -> None:
    quiet = judged(fleet([new(0.0, before=0.0005)] * 5, 20))["detections_change"]

    assert quiet.kind == "undecided"
    assert "seen enough" in quiet.text


def test_a_wave_has_three_looks_however_often_cameras_report() -> None:
    at, said = fleet([new(seconds=60)], 2), []
    moment = Moment(waves=2, tolerated=0.1, left_out=NOBODY, is_over=False)
    for second in range(60, 3600, 7):
        at = gather(at, [Sighting("t0/0", new(seconds=second), is_treated=True)], float(second))
        after = look(at, GATES, moment)
        said += [after.minutes] if after != at else []
        at = after
    last = look(at, GATES, replace(moment, is_over=True))

    many = [Sighting(f"c{n}/0", new(seconds=3600), is_treated=True) for n in range(2)]
    assert look(gather(at, many, 3600.0), GATES, moment).looks == LOOKS_A_WAVE - 1
    assert len(said) == LOOKS_A_WAVE - 1
    assert all(3 <= later / earlier < 3.2 for earlier, later in pairwise(said))
    assert last.is_final
    assert look(last, GATES, replace(moment, is_over=True)) is last


def test_the_stated_rate_is_divided_among_gates_waves_and_looks() -> None:
    assert GATES.level(3) * 6 * 3 * LOOKS_A_WAVE == pytest.approx(0.01)
    assert GATES.names == (
        "valid_rate", "dnn_ms", "golden", "restarts", "detections_change", "scores_change",
    )  # fmt: skip
    assert Gates().names == ("valid_rate",)


def test_who_runs_the_release_already_or_changes_meanwhile_is_no_control() -> None:
    at = fleet([new()] * 2, 3)
    other = EvidencePair(running=evidence("other@1", 90_000))

    after = gather(at, [Sighting("c0/0", other)], 700.0)

    assert len(strata(after, "detections", NOBODY)[0].controls) == 2
    assert set(at.epochs[0].marks) == {"c0/0", "c1/0", "c2/0"}


def test_more_controls_than_help_are_not_kept() -> None:
    (epoch,) = fleet([new()], CONTROLS_MAX + 50).epochs

    assert len(epoch.marks) == CONTROLS_MAX


def test_a_change_of_a_hundred_percent_allows_everything_to_vanish() -> None:
    vanished = Stratum((-9.0,) * 5, (0.0,) * 5)
    found = estimate([vanished], 0.4)

    assert found is not None
    assert kind_of_change(found, allowed_change(1000), 0.001) == "pass"
    assert estimate([Stratum((1.0,), ()), Stratum((), (1.0,))], 0.4) is None


@pytest.mark.parametrize(
    ("per_frame", "cameras", "controls", "words"),
    [
        (0.35, 1, 20, "outside, but not surely"),
        (0.5005, 1, 20, "inside, but too close to the limit to be sure"),
        (0.51, 1, 2, "inside, but not surely: more cameras that changed nothing would tell"),
        (0.52, 1, 20, "inside, but not surely: about 2 cameras would tell"),
    ],
)
def test_an_undecided_change_says_what_would_tell(
    per_frame: float, cameras: int, controls: int, words: str
) -> None:
    found = judged(fleet([new(per_frame)] * cameras, controls, noise=0.01))["detections_change"]

    assert found.kind == "undecided"
    assert words in found.text


def test_who_is_offline_is_no_control_and_nobody_waits_for_who_went() -> None:
    there = [Sighting("t0/0", old()), Sighting("c0/0", old())]
    gone = Sighting("c1/0", old(), is_online=False)
    at = gather(Gathered(), [*there, gone], 0.0)
    at = gather(at, [Sighting("t0/0", new(), is_treated=True)], 1.0)
    went = gather(at, [Sighting("c0/0", old(), is_online=False)], 2.0)

    assert set(at.epochs[0].marks) == {"c0/0"}
    assert not is_heard(at)
    assert is_heard(went)
