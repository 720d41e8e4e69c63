"""What is known of a device: order, new cards, and who is really online."""

import msgspec
import pytest

from controller.devices import (
    Known,
    disconnected,
    fold,
    fold_reported,
    fold_status,
    notes_of,
    parse_run,
)
from shared.errors import RefusedError
from shared.messages import CameraReported, ErrorText, Refused, Reported


def report(run: str = "card-1", seq: int = 0, **changes: object) -> Reported:
    facts = {
        "at": "2026-11-24T03:00:00.000Z", "clock": "synced", "boot": "b", "run": run, "seq": seq,
        "agent_version": "0.1.0", "plan_version": 1, "plan_sha256": None, "identity_version": 1,
    }  # fmt: skip
    return Reported(**{**facts, **changes})  # type: ignore[arg-type]


def heard(*reports: Reported, is_retained: bool = False) -> Known:
    known = Known("a")
    for one in reports:
        known = fold_reported(known, one, is_retained=is_retained)
    return known


def test_reports_that_come_late_or_twice_change_nothing() -> None:
    newest = report("card-2", 5)

    assert heard(newest, report("card-2", 4)).report == newest
    assert heard(newest, report("card-1", 99)).report == newest
    assert heard(newest, newest).report == newest
    assert heard(newest, report("card-10", 0)).report == report("card-10", 0)


def test_a_new_card_takes_over_and_the_old_one_is_a_duplicate() -> None:
    taken_over = heard(report("card-9", 7), report("new-1", 0))
    doubled = fold_reported(taken_over, report("card-10", 0), is_retained=False)

    assert (taken_over.report, taken_over.is_reinstalled) == (report("new-1", 0), True)
    assert (doubled.report, doubled.is_duplicate) == (report("new-1", 0), True)


def test_two_cards_with_one_id_are_told_with_the_serial_numbers_of_both() -> None:
    old = report("card-10", serial="10000000aaaaaaaa")
    known = fold_reported(
        heard(report("card-9", 7), report("new-1", serial="10000000bbbbbbbb")),
        old,
        is_retained=False,
    )

    (note,) = [one for one in notes_of(known, 1) if one.startswith("duplicate_device")]
    assert "card-10 in 10000000aaaaaaaa and new-1 in 10000000bbbbbbbb" in note

    nameless = fold_reported(
        heard(report("card-9"), report("new-1")), report("card-9", 1), is_retained=False
    )
    assert "card-9 in a machine without a serial number" in " ".join(notes_of(nameless, 1))


@pytest.mark.parametrize("run", ["", "-", "card", "card-x", "card-٣", "card-" + "9" * 5_000])
def test_a_run_that_is_none_counts_as_the_first_of_its_install(run: str) -> None:
    assert parse_run(run) == (run, 0)
    assert heard(report(run), report(run, 1)).report == report(run, 1)


def test_a_retained_online_alone_does_not_make_a_device_online() -> None:
    dead = fold_status(heard(report(), is_retained=True), b"online", is_retained=True)
    alive = fold_reported(dead, report(seq=1), is_retained=False)

    assert not dead.is_online
    assert alive.is_online
    assert not fold_status(alive, b"offline", is_retained=False).is_online
    assert not disconnected({"a": alive})["a"].is_online


def test_each_live_report_is_heard_and_a_retained_one_is_not() -> None:
    assert heard(report(seq=1), report(seq=2)).heard == 2
    assert heard(report(seq=1), is_retained=True).heard == 0


def test_notes_say_what_an_operator_should_know() -> None:
    refused = Refused(trust=ErrorText("expired", "the timestamp expired"))
    notes = notes_of(heard(report(clock="unsynced", refused=refused)), 2)

    assert notes == (
        "has identity 1, signed is 2",
        "its clock is not synchronised",
        "refused the plan: expired: the timestamp expired",
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"\xff",
        b"[]",
        b'{"v":1,"at":5}',
        b"[" * 16_000,
        b" " * 16_385,
        msgspec.json.encode(report(at="yesterday")),
        msgspec.json.encode(report(cameras={"x": CameraReported(kind="auto", state="off")})),
        msgspec.json.encode(report()).replace(b'"seq":0', b'"seq":"0"'),
    ],
)
def test_a_report_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(RefusedError):
        fold(Known("a"), "reported", payload, is_retained=False)


def test_a_status_that_is_none_means_offline_and_other_topics_mean_nothing() -> None:
    known = fold(Known("a"), "status", b"online", is_retained=False)

    assert known.is_online
    assert not fold(known, "status", b"\xff\x00", is_retained=False).is_online
    assert fold(known, "health", b"{", is_retained=False) == known
