"""Which releases may leave the broker, with values alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from controller.clearing import (
    CLEAR_SECONDS,
    Clearing,
    due,
    look,
    needed_releases,
    unneeded_since,
)
from controller.devices import Known
from controller.planning import Rollout
from controller.rollout import Rules
from controller.steering import Site
from controller.store import Record
from shared.assignment import Probe
from shared.messages import CameraReported, Reported
from tests.making import entry

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
EMPTY = Site(book=(), records={}, cameras=(), devices={}, listed={}, next_version=1, now=NOW)


def completed(rollout: str, hours_ago: int, **ran_before: int) -> Record:
    return Record(
        rollout=rollout, name="helmet", release="helmet@8", selector="*", strategy="canary",
        waves=(((), 1000),), rules=Rules(), probe=Probe(60, 900, 720), started_at=NOW,
        state="completed", ended_at=NOW - timedelta(hours=hours_ago),
        ran_before={f"helmet@{name[1:]}": count for name, count in ran_before.items()},
    )  # fmt: skip


def running(release: str, previous: str | None) -> Known:
    camera = CameraReported(kind="simulated", state="streaming", release=release, previous=previous)
    report = Reported(
        at="2026-11-24T03:00:00.000Z", clock="synced", boot="b", run="k-1", seq=1,
        agent_version="0.1.0", plan_version=1, plan_sha256=None, identity_version=1,
        cameras={"0": camera},
    )  # fmt: skip
    return Known("cam-1", report=report)


def test_what_the_plan_names_is_needed() -> None:
    site = replace(EMPTY, book=(Rollout(entry("helmet@8"), waves=()),))

    assert needed_releases(site) == {"helmet@8"}


def test_what_a_device_runs_or_could_go_back_to_is_needed() -> None:
    site = replace(EMPTY, devices={"cam-1": running("helmet@7", "helmet@6"), "new": Known("new")})

    assert needed_releases(site) == {"helmet@7", "helmet@6"}


def test_what_an_undo_of_the_last_completed_rollout_would_bring_back_is_needed() -> None:
    records = {"r-1": completed("r-1", 9, v3=2), "r-2": completed("r-2", 1, v5=1, v4=1)}
    aborted = replace(completed("r-3", 0, v9=1), rollout="r-3", state="aborted")

    site = replace(EMPTY, records={**records, "r-3": aborted})

    assert needed_releases(site) == {"helmet@5", "helmet@4"}


def test_a_release_may_go_once_nothing_has_needed_it_for_a_day() -> None:
    since = unneeded_since({"a": None}, planned=["b"], needed=["b"], now=1_000.0)
    assert since == {"a": 1_000.0, "b": None}
    assert due(since, 1_000.0 + CLEAR_SECONDS - 1) == set()

    later = unneeded_since(since, planned=["b"], needed=["b"], now=1_000.0 + CLEAR_SECONDS)

    assert due(later, 1_000.0 + CLEAR_SECONDS) == {"a"}


def test_a_release_that_was_needed_in_between_starts_its_day_anew() -> None:
    since = unneeded_since({"a": 1_000.0}, planned=[], needed=["a"], now=2_000.0)

    since = unneeded_since(since, planned=[], needed=[], now=1_000.0 + CLEAR_SECONDS)

    assert due(since, 1_000.0 + CLEAR_SECONDS) == set()


@pytest.mark.parametrize("now", [1.0, 500.0])
def test_a_clock_that_was_set_back_starts_the_day_anew(now: float) -> None:
    assert unneeded_since({"a": 1_000.0}, planned=[], needed=[], now=now) == {"a": now}


def test_what_never_went_to_the_broker_is_not_cleared_from_it() -> None:
    assert unneeded_since({}, planned=[], needed=["a"], now=1.0) == {}


def test_a_release_is_remembered_until_it_has_left() -> None:
    """A driver that is killed in between must not leave its blocks there for ever."""
    site = replace(EMPTY, book=(Rollout(entry("helmet@8"), waves=()),))
    seen = look(Clearing({"helmet@1": None}), site, 1_000.0)

    leaving = look(seen, site, 1_000.0 + CLEAR_SECONDS)
    killed = look(Clearing(leaving.since), site, 1_001.0 + CLEAR_SECONDS)
    left = look(killed, site, 1_002.0 + CLEAR_SECONDS)

    assert seen == Clearing({"helmet@1": 1_000.0, "helmet@8": None})
    assert leaving.leaving == killed.leaving == {"helmet@1"}
    assert left == Clearing({"helmet@8": None})
