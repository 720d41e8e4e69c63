"""What gates make of a wave: through the rollout's machine, the steering and the store."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from controller import planning
from controller.devices import Known
from controller.gates.gathering import GateVerdict, Gathered, Sighting, gather
from controller.gates.rules import Gates
from controller.rollout import (
    Allowed,
    CameraSeen,
    Course,
    DeviceSeen,
    DeviceState,
    Reach,
    Retry,
    Rules,
    Standing,
    Verdict,
    VerdictKind,
    advance,
    judge,
    next_wave,
    retried,
)
from controller.steering import EVIDENCE_CAMERAS, Site, steer
from controller.store import Record
from shared.assignment import SHARE_ALL, Action, Camera, Entry, Probe, parse_selector
from shared.messages import CameraReported, EndReported, Evidence, EvidencePair, Reported

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
OLD, NEW = "helmet@7", "helmet@8"
GATES = Gates(detections_permille=500)
RULES = Rules(gates=GATES, quiet_seconds=600.0, bake_seconds=(60.0, 60.0))
DONE = CameraSeen("committed")
HEALTHY = {"a": Standing(DeviceState.HEALTHY, is_treated=True)}
PASSED = GateVerdict("valid_rate", "pass", "0 of 1 camera")
FAILED = GateVerdict("detections_change", "fail", "detections a frame -90 %")
UNSURE = GateVerdict("detections_change", "undecided", "too few")


def evidence(release: str, seconds: int, per_frame: float = 1.0) -> Evidence:
    frames = 16 * seconds
    objects = int(frames * per_frame)
    return Evidence(
        release=release, seconds=seconds, frames=frames, valid=frames, objects=objects,
        score_histogram=(0,) * 8 + (objects, 0),
    )  # fmt: skip


def verdict(*gates: GateVerdict, standings: dict[str, Standing] = HEALTHY) -> Verdict:
    return judge(standings, frozenset(standings), RULES, gates=gates)


def test_a_gate_that_fails_fails_the_wave_at_once_with_its_numbers() -> None:
    working = {"a": Standing(DeviceState.IN_PROGRESS, is_treated=True, is_open=True)}

    found = verdict(PASSED, FAILED, standings=working)

    assert found == Verdict(VerdictKind.FAIL, "gate detections_change: detections a frame -90 %")


def test_a_gate_that_cannot_tell_is_inconclusive_and_passed_ones_are_counted() -> None:
    absent = GateVerdict("golden", "not_measured", "no golden set ran")

    assert verdict(PASSED, UNSURE) == Verdict(
        VerdictKind.INCONCLUSIVE, "1 of 1 device healthy; gate detections_change: too few"
    )
    assert verdict(PASSED, absent).text == "1 of 1 device healthy; 1 of 2 gates passed"
    assert verdict(PASSED, absent).kind is VerdictKind.PASS


def test_too_few_healthy_devices_are_said_before_what_a_gate_cannot_tell() -> None:
    offline = {"a": Standing(DeviceState.OFFLINE)}

    assert "at least half must be online" in verdict(UNSURE, standings=offline).text


def wave_of_one(*, controls_since: int) -> tuple[Course, list[DeviceSeen]]:
    """Return camera a that sees nothing any more, and b to e that go on; seconds since then."""
    old = EvidencePair(running=evidence(OLD, 7200), hour=evidence(OLD, 3600))
    new = EvidencePair(running=evidence(NEW, 300, 0.0), before=evidence(OLD, 3600))
    later = EvidencePair(running=evidence(OLD, 7200 + controls_since))
    everyone = [Sighting(f"{name}/0", old) for name in "abcde"]
    at = gather(Gathered(), everyone, 0.0)
    at = gather(at, [Sighting("a/0", new, is_treated=True)], 1.0)
    at = gather(at, [Sighting(f"{name}/0", later) for name in "bcde"], 2.0)
    course = Course(reaches=(Reach(frozenset({"a"}), 0),), gathered=at)
    return course, [DeviceSeen("a", is_online=True, heard=1, cameras=(DONE,))]


def test_the_last_look_waits_for_cameras_to_compare_with_but_not_for_ever() -> None:
    course, seen = wave_of_one(controls_since=0)
    wave = frozenset({"a"})
    early = advance(course, seen, wave, RULES, seconds=61)
    late = advance(early.course, seen, wave, RULES, seconds=601)
    heard, _ = wave_of_one(controls_since=300)
    prompt = advance(heard, seen, wave, RULES, seconds=61)

    assert early.verdict.kind is VerdictKind.UNDECIDED
    assert "hearing cameras to compare with, for 599 s" in early.verdict.text
    assert late.verdict.kind is VerdictKind.INCONCLUSIVE
    assert prompt.verdict.kind is VerdictKind.FAIL
    assert "detections a frame -99.99 %" in prompt.verdict.text


def test_a_device_with_a_fault_of_its_camera_is_no_evidence_against_the_release() -> None:
    course, _ = wave_of_one(controls_since=300)
    broken = [
        DeviceSeen(
            "a", is_online=True, heard=1, cameras=(CameraSeen("rolled_back", None, "camera"),)
        )
    ]

    found = advance(course, broken, frozenset({"a"}), RULES, seconds=61)

    assert found.standings["a"].state is DeviceState.CAMERA_FAULT
    assert found.verdict.kind is VerdictKind.INCONCLUSIVE
    assert all(gate.kind != "fail" for gate in found.course.gathered.verdicts)


def test_without_gates_nothing_is_looked_at() -> None:
    course, seen = wave_of_one(controls_since=300)

    found = advance(course, seen, frozenset({"a"}), replace(RULES, gates=None), seconds=61)

    assert found.verdict.text == "1 of 1 device healthy"
    assert found.course.gathered.verdicts == ()


def test_the_next_wave_keeps_what_the_last_one_showed_and_looks_anew() -> None:
    course, seen = wave_of_one(controls_since=300)
    done = advance(course, seen, frozenset({"a"}), RULES, seconds=61).course
    after = next_wave(done, Reach(frozenset(), 9), Verdict(VerdictKind.PASS, ""), wave=1)

    assert done.gathered.is_final
    assert [len(gates) for gates in after.gates] == [2]
    assert (after.gathered.looks, after.gathered.is_final) == (0, False)
    (stratum,) = after.gathered.closed["detections"]
    assert (len(stratum.treated), len(stratum.controls)) == (1, 4)
    assert after.gathered.tracks["a/0"].is_treated


def test_a_retry_of_a_wave_has_all_its_looks_again() -> None:
    course, seen = wave_of_one(controls_since=300)
    done = advance(course, seen, frozenset({"a"}), RULES, seconds=61).course

    again = retried(done, 2)

    assert not again.gathered.is_final
    assert again.gathered.verdicts == ()


def test_automatic_tries_share_the_stated_rate() -> None:
    course, seen = wave_of_one(controls_since=300)
    twice = replace(RULES, retry=Retry(attempts=2))

    once = advance(course, seen, frozenset({"a"}), RULES, seconds=61)
    again = advance(course, seen, frozenset({"a"}), twice, seconds=61)

    assert "99.92 % sure" in once.verdict.text  # 1 % of 2 gates, 2 waves, 3 looks.
    assert "99.96 % sure" in again.verdict.text


def record(rules: Rules = RULES, **changes: object) -> Record:
    made = Record(
        rollout="r-1", name="r-1", release=NEW, selector="*", strategy="s",
        waves=(((), 100), ((), 1000)), rules=rules, probe=Probe(), started_at=NOW,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_what_was_gathered_survives_the_store() -> None:
    course, seen = wave_of_one(controls_since=300)
    done = advance(course, seen, frozenset({"a"}), RULES, seconds=61).course
    closed = next_wave(done, Reach(frozenset(), 9), Verdict(VerdictKind.PASS, ""), wave=1)

    for one in (course, done, closed):
        kept = record(course=one)
        assert msgspec.json.decode(msgspec.json.encode(kept), type=Record) == kept


def test_a_record_of_an_earlier_version_has_no_gates() -> None:
    plain = msgspec.json.decode(msgspec.json.encode(record()), type=dict[str, Any])
    for name in ("gathered", "gates"):
        del plain["course"][name]
    del plain["rules"]["gates"]

    old = msgspec.json.decode(msgspec.json.encode(plain), type=Record)

    assert old.rules.gates is None
    assert old.course.gathered == Gathered()


def reported(pair: EvidencePair, phase: str | None = None) -> Reported:
    ended = (EndReported(rollout="r-1", attempt=1, phase="committed"),) if phase else ()
    running = pair.running
    camera = CameraReported(
        kind="simulated", state="streaming", evidence=pair, ended=ended, manifest_sha256="00",
        release=None if running is None else running.release,
    )  # fmt: skip
    return Reported(
        at="2026-11-24T12:00:00.000Z", clock="synced", boot="b", run="x-1", seq=1,
        agent_version="0.1.0", plan_version=1, plan_sha256=None, identity_version=1,
        cameras={"0": camera},
    )  # fmt: skip


def site_of(pairs: dict[str, tuple[EvidencePair, str | None]], pins: frozenset[str]) -> Site:
    cameras = tuple(Camera(name, 0, {"role": "door"}) for name in pairs)
    entry = Entry(
        rollout="r-1", attempt=1, action=Action.RUN, release=NEW, manifest_sha256="00",
        selector=parse_selector("*"), pins=pins, salt="r-1", share=0, probe=Probe(),
    )  # fmt: skip
    waves = (planning.Wave(0, pins), planning.Wave(1000))
    return Site(
        book=(planning.Rollout(entry, waves),),
        records={"r-1": record(course=Course(reaches=(Reach(pins, 0),)))},
        cameras=cameras,
        devices={
            name: Known(name, is_status_online=True, is_live=True, heard=1,
                        report=reported(pair, phase))
            for name, (pair, phase) in pairs.items()
        },
        listed={NEW: "00"},
        next_version=2,
        now=NOW + timedelta(seconds=600),
    )  # fmt: skip


def test_what_ran_the_release_before_its_rollout_is_neither_treated_nor_judged() -> None:
    there = EvidencePair(running=evidence(NEW, 90_000), hour=evidence(NEW, 3600))
    fresh = EvidencePair(running=evidence(NEW, 300), before=evidence(OLD, 3600))
    old = EvidencePair(running=evidence(OLD, 7200), hour=evidence(OLD, 3600))
    site = site_of(
        {"a": (there, "committed"), "b": (fresh, "committed"), "c": (old, None)},
        frozenset({"a", "b"}),
    )

    after, _ = steer(site, 1.0)

    tracks = after.records["r-1"].course.gathered.tracks
    assert {name: track.is_treated for name, track in tracks.items()} == {
        "a/0": False, "b/0": True, "c/0": False,
    }  # fmt: skip


def test_a_blind_release_reverts_its_rollout_through_the_steering() -> None:
    old = EvidencePair(running=evidence(OLD, 7200), hour=evidence(OLD, 3600))
    site = site_of(dict.fromkeys("abcde", (old, None)), frozenset({"a"}))
    site, _ = steer(site, 1.0)
    blind = EvidencePair(running=evidence(NEW, 300, 0.0), before=evidence(OLD, 3600))
    later = EvidencePair(running=evidence(OLD, 7500), hour=evidence(OLD, 3600))

    def heard(site: Site, pairs: dict[str, tuple[EvidencePair, str | None]]) -> Site:
        devices = {
            name: replace(site.devices[name], report=reported(*pairs[name]), heard=2)
            for name in site.devices
        }
        return replace(site, devices=devices)

    site, _ = steer(heard(site, {**dict.fromkeys("bcde", (old, None)), "a": (blind, "c")}), 5.0)
    before = site.records["r-1"].state
    site, _ = steer(heard(site, {**dict.fromkeys("bcde", (later, None)), "a": (blind, "c")}), 100.0)

    assert before == "running"
    assert (site.records["r-1"].state, site.records["r-1"].reason) == ("reverting", "gate")
    assert "detections a frame -99.99 %" in (site.records["r-1"].text or "")


def test_of_a_large_fleet_only_so_many_cameras_are_kept() -> None:
    old = EvidencePair(running=evidence(OLD, 7200), hour=evidence(OLD, 3600))
    many = {f"d-{n:05}": (old, None) for n in range(2 * EVIDENCE_CAMERAS)}
    site = site_of(many, frozenset({"d-00007"}))

    after, _ = steer(site, 1.0)

    tracks = after.records["r-1"].course.gathered.tracks
    assert "d-00007/0" in tracks
    assert 0.8 < len(tracks) / EVIDENCE_CAMERAS < 1.2


def test_everyone_is_in_the_last_wave_and_it_ends_although_nobody_is_left_to_compare_with() -> None:
    fresh = EvidencePair(running=evidence(NEW, 300), before=evidence(OLD, 3600))
    site = site_of(dict.fromkeys("abc", (fresh, "committed")), frozenset())
    rollout = replace(
        site.book[0],
        wave=1,
        entry=replace(site.book[0].entry, share=SHARE_ALL),
    )
    course = Course(reaches=(Reach(frozenset(), 0), Reach(frozenset(), SHARE_ALL)))
    site = replace(site, book=(rollout,), records={"r-1": record(course=course)})

    site, looks = steer(site, 61.0)
    site, looks = steer(site, 61.0)

    assert looks["r-1"].verdict.kind is VerdictKind.INCONCLUSIVE
    assert "no camera that changed nothing to compare with" in looks["r-1"].verdict.text
    assert site.records["r-1"].state == "paused"


@pytest.mark.parametrize("allowed", [Allowed(count=0), Allowed(permille=50)])
def test_more_failed_devices_than_allowed_fail_before_any_gate_is_asked(allowed: Allowed) -> None:
    failed = {"a": Standing(DeviceState.FAILED, is_treated=True)}
    rules = replace(RULES, max_failed=allowed)

    found = judge(failed, frozenset(failed), rules, gates=(FAILED,))

    assert "ended badly" in found.text


def test_cameras_are_looked_at_every_few_seconds_and_not_at_every_tick() -> None:
    old = EvidencePair(running=evidence(OLD, 7200), hour=evidence(OLD, 3600))
    site = site_of(dict.fromkeys("abc", (old, None)), frozenset({"a"}))
    at: list[float | None] = []

    for _ in range(24):
        site, _ = steer(site, 0.25)
        at.append(site.records["r-1"].course.gathered.at)

    assert sorted(set(at), key=str) == [0.25, 5.25]


def test_the_last_look_waits_until_what_devices_said_at_their_end_is_gathered() -> None:
    course, seen = wave_of_one(controls_since=300)
    rules = replace(RULES, bake_seconds=(0.0, 0.0))
    at_once = advance(course, seen, frozenset({"a"}), rules, seconds=1)
    then = advance(at_once.course, seen, frozenset({"a"}), rules, seconds=5)

    assert at_once.verdict.kind is VerdictKind.UNDECIDED
    assert then.verdict.kind is VerdictKind.FAIL


def test_a_wave_whose_devices_have_not_said_anything_yet_is_not_judged_at_once() -> None:
    course = Course(reaches=(Reach(frozenset({"a"}), 0),))
    seen = [DeviceSeen("a", is_online=True, heard=1, cameras=(DONE,))]
    early = advance(course, seen, frozenset({"a"}), RULES, seconds=61)
    late = advance(early.course, seen, frozenset({"a"}), RULES, seconds=601)

    assert early.verdict.kind is VerdictKind.UNDECIDED
    assert "no camera has reported evidence" in late.verdict.text
