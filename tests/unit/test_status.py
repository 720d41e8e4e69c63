"""What `fleet-agent status` says, and the exit codes that scripts may trust."""

from pathlib import Path

import msgspec
import pytest

from agent.enroll import claim
from agent.status import (
    BrokerNote,
    Exit,
    Note,
    Status,
    exit_of,
    is_running,
    judge,
    lines,
    read_note,
    write_note,
)
from shared.messages import (
    CameraReported,
    DeploymentReported,
    ErrorText,
    Refused,
    Reported,
    TrustReported,
)
from tests.unit.test_doctor import CARD, REPORT

DEPLOYMENT = DeploymentReported(
    rollout="r-7", attempt=1, manifest_sha256="a" * 64, phase="committed",
    since="2026-11-24T03:00:00.000Z",
)  # fmt: skip
CAMERA = CameraReported(
    kind="simulated", state="streaming", release="helmet@8", previous="helmet@7", starts=4,
    deployment=DEPLOYMENT,
)  # fmt: skip


def note_of(camera: CameraReported = CAMERA, *, text: str = "", **changes: object) -> Note:
    reported: Reported = msgspec.structs.replace(
        REPORT, cameras={"0": camera}, trust=TrustReported("2027-02-22T00:00:00.000Z"), **changes
    )
    broker = BrokerNote(is_connected=not text, since="2026-11-24T03:00:00.000Z", text=text)
    return Note(pid=1, broker=broker, children={"0": 2}, reported=reported)


def said(status: Status) -> str:
    return "\n".join(lines(status))


def test_an_agent_that_is_well_says_what_runs_and_ends_with_zero() -> None:
    status = judge(CARD, note_of(), is_running=True)

    assert exit_of(status) is Exit.WELL
    for words in (
        "gate-01 of site-a: running",
        "simulated, streaming, helmet@8, before it helmet@7, 4 starts since boot; r-7/1: committed",
        "version 1, trusted until 2027-02-22",
        "connected since",
    ):
        assert words in said(status)
    assert "NOT WELL" not in said(status)


CAMERAS_NOT_WELL = {
    "missing": {"state": "missing"},
    "stalled": {"state": "stalled"},
    "needs a reboot": {"state": "needs_reboot", "starts": 20},
    "is off": {"state": "off"},
    "broken": {"deployment": msgspec.structs.replace(DEPLOYMENT, phase="broken")},
}


@pytest.mark.parametrize("words", CAMERAS_NOT_WELL)
def test_a_camera_that_is_not_well_is_told_and_ends_with_four(words: str) -> None:
    camera = msgspec.structs.replace(CAMERA, **CAMERAS_NOT_WELL[words])

    status = judge(CARD, note_of(camera), is_running=True)

    assert exit_of(status) is Exit.NOT_WELL
    assert any(words in problem for problem in status.problems)
    assert f"NOT WELL  {status.problems[0]}" in said(status)


@pytest.mark.parametrize(
    ("note", "words"),
    [
        (note_of(text="connection refused"), "connection refused"),
        (note_of(clock="unsynced"), "clock"),
        (note_of(identity_version=0), "identity"),
    ],
)
def test_a_device_that_is_not_well_is_told(note: Note, words: str) -> None:
    status = judge(CARD, note, is_running=True)

    assert exit_of(status) is Exit.NOT_WELL
    assert words in " ".join(status.problems)


def test_the_last_error_is_shown() -> None:
    refused = Refused(trust=ErrorText("expired", "the timestamp expired"))

    assert "expired: the timestamp expired" in said(
        judge(CARD, note_of(refused=refused), is_running=True)
    )


def test_an_agent_that_does_not_run_ends_with_three_and_shows_what_it_last_said() -> None:
    status = judge(CARD, note_of(), is_running=False)

    assert exit_of(status) is Exit.NOT_RUNNING
    assert "not running" in said(status)
    assert "this is what it said at 2026-11-24T03:00:00.000Z" in said(status)
    assert exit_of(judge(CARD, None, is_running=False)) is Exit.NOT_RUNNING
    assert "has said nothing yet" in said(judge(CARD, None, is_running=False))
    assert exit_of(judge(CARD, None, is_running=True)) is Exit.NOT_WELL


def test_a_note_comes_back_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    assert read_note(tmp_path) is None
    write_note(tmp_path, note_of())
    assert read_note(tmp_path) == note_of()

    for damage in (b"", b"{", b"[]", b"x" * 100_000):
        (tmp_path / "status.json").write_bytes(damage)
        assert read_note(tmp_path) is None


def test_a_note_that_cannot_be_written_is_nobody_s_trouble(tmp_path: Path) -> None:
    write_note(tmp_path / "none", note_of())

    assert read_note(tmp_path / "none") is None


def test_who_holds_the_lock_runs(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    claim(tmp_path)  # Until this process ends.

    assert is_running(tmp_path)
