"""The rollout's picture and its plain lines."""

from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from controller.cli.exits import Exit
from controller.cli.picture import write_svg
from controller.cli.render import bar, lines, picture, progress_words
from controller.cli.watching import exit_of_rollout
from controller.gates.gathering import GateVerdict
from controller.status import CameraStatus, DeviceInRollout, RolloutStatus, WaveStatus
from shared.messages import FailedDevice

AT = datetime(2026, 11, 24, 3, tzinfo=UTC)


def camera(state: str, phase: str | None) -> CameraStatus:
    return CameraStatus(0, state, phase, "shapes@1")


def device(name: str, wave: int, state: str, phase: str | None) -> DeviceInRollout:
    cameras = (camera(state, phase),)
    return DeviceInRollout(name, wave, state, is_online=True, is_treated=True, cameras=cameras)


def rollout(**changes: object) -> RolloutStatus:
    waves = (
        WaveStatus(("cam-1",), 0, 2.0, {"healthy": 1}, "pass", "1 of 1 healthy"),
        WaveStatus((), 1000, 0.0, {"in_progress": 1, "pending": 1}),
    )
    devices = (
        device("cam-1", 0, "healthy", "committed"),
        device("cam-2", 1, "in_progress", "probing"),
        device("cam-3", 1, "pending", None),
    )
    base = RolloutStatus(
        rollout="r-2", name="r-2", release="shapes@2", selector="role=door", strategy="canary",
        attempt=1, state="running", reason=None, text=None, wave=1, waves=waves, devices=devices,
        counts={"healthy": 1, "in_progress": 1, "pending": 1}, failed=(), started_at=AT,
        ended_at=None, driven_seconds=12.0, not_driven_since=None, is_healthy=False, ran_before={},
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def shown(status: RolloutStatus, columns: int) -> list[str]:
    console = Console(width=columns, file=StringIO(), record=True)
    console.print(picture(status))
    return console.export_text().splitlines()


@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_of_the_picture_is_wider_than_the_window(columns: int) -> None:
    rows = shown(rollout(), columns)

    assert all(len(row) <= columns for row in rows)
    assert all(any(name in row for row in rows) for name in ("cam-1", "cam-2", "cam-3"))


def test_more_devices_than_fit_are_counted_worst_first() -> None:
    many = tuple(device(f"cam-{n}", 1, "healthy", "committed") for n in range(200))
    bad = device("cam-bad", 1, "failed", "rolled_back")

    rows = shown(rollout(devices=(*many, bad)), 100)

    assert len(rows) < 40
    assert any("cam-bad" in row for row in rows)
    assert any("and 189 more: 189 healthy" in row for row in rows)


def test_every_state_that_occurs_has_a_cell_in_the_bar() -> None:
    text = bar({"healthy": 998, "failed": 1, "silent": 1}, cells=20)

    assert len(text.plain) == 20
    assert len({span.style for span in text.spans}) == 3


def test_only_what_changed_becomes_a_line() -> None:
    before = rollout()
    moved = (*before.devices[:2], device("cam-3", 1, "in_progress", "fetching"))

    assert lines(before, before) == ()
    assert lines(before, replace(before, devices=moved)) == ("r-2 cam-3/0: fetching",)


def test_a_verdict_is_said_once_in_words() -> None:
    said = lines(None, rollout())

    assert "r-2 wave 1 of 2: pass, 1 of 1 healthy" in said


def test_progress_is_said_in_its_own_unit() -> None:
    part = replace(camera("in_progress", "activating"), progress_done=405, progress_total=1000)

    assert progress_words(replace(part, progress_unit="permille")) == "40.5 %"
    assert progress_words(replace(part, progress_unit="blocks")) == "405 of 1000 blocks"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state": "completed", "is_healthy": True}, Exit.OK),
        ({"state": "completed", "is_healthy": False}, Exit.NOT_HEALTHY),
        ({"state": "aborted", "reason": "gate"}, Exit.ABORTED_BY_GATE),
        ({"state": "aborted", "reason": "operator"}, Exit.NOT_HEALTHY),
        ({"state": "aborted", "reason": "superseded"}, Exit.NOT_HEALTHY),
        ({"state": "paused", "reason": "inconclusive"}, Exit.NOT_HEALTHY),
    ],
)
def test_the_exit_code_says_how_a_rollout_ended(changes: dict[str, object], code: Exit) -> None:
    assert exit_of_rollout(rollout(**changes)) is code


def test_the_svg_holds_the_picture_and_asks_nobody_for_fonts(tmp_path: Path) -> None:
    failed = (FailedDevice("cam-1", "release", "x"),)

    write_svg(tmp_path / "rollout.svg", (rollout(state="aborted", reason="gate", failed=failed),))

    svg = (tmp_path / "rollout.svg").read_text()
    assert "shapes@2" in svg
    assert "@font-face" not in svg
    assert "url(http" not in svg


def gated(kind: str, text: str) -> RolloutStatus:
    gate = GateVerdict("detections_change", kind, text, cameras=1, controls=2)
    wave = WaveStatus(("cam-1",), 0, 2.0, {"healthy": 1}, "undecided", "baking", (gate,))
    return rollout(waves=(wave, WaveStatus((), 1000, 0.0, {"pending": 2})), wave=0)


def test_what_a_gate_says_is_a_line_of_its_own_and_said_again_only_when_it_changes() -> None:
    before, after = gated("undecided", "-40 %"), gated("fail", "-93 %")

    (said,) = [line for line in lines(before, after) if "gate" in line]

    assert said == "r-2 wave 1 of 2, gate detections_change: fail, -93 %"
    assert [line for line in lines(after, after) if "gate" in line] == []
    assert [line for line in lines(None, rollout()) if "gate" in line] == []


@pytest.mark.parametrize("columns", [80, 120])
def test_the_picture_shows_the_gates_of_the_newest_wave(columns: int) -> None:
    rows = shown(gated("fail", "detections a frame -93 % " * 6), columns)

    assert any("evidence in wave 1" in row for row in rows)
    assert any("gate detections_change" in row and "fail" in row for row in rows)
    assert all(len(row) <= columns for row in rows)
