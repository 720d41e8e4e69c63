from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import planning
from controller.planning import Book, RefusedError, Report, State, Wave
from shared.assignment import SHARE_ALL, Action, Camera, Entry, Slot, covers, parse_selector

FLEET = tuple(Camera(f"d-{n:02}", 0, {"role": "door" if n % 2 else "dock"}) for n in range(20))
LISTED = {"a@1": "sha-a@1", "b@1": "sha-b@1"}
CAREFUL = (Wave(0, frozenset({"d-03"})), Wave(100), Wave(500), Wave(1000))
AT_ONCE = (Wave(1000),)


def entry(name: str, release: str = "a@1", selector: str = "*") -> Entry:
    match = parse_selector(selector)
    return Entry(name, 1, Action.RUN, release, f"sha-{release}", match, frozenset(), name, 0)


def begun(*names: str) -> Book:
    book: Book = ()
    for name in names:
        book = planning.start(book, entry(name), AT_ONCE, FLEET, over=True)
    return book


def covered(book: Book, name: str) -> int:
    return sum(covers(planning.find(book, name).entry, camera) for camera in FLEET)


def test_waves_gain_what_they_intend_and_the_last_one_takes_all_to_come() -> None:
    book = planning.start((), entry("r-1"), CAREFUL, FLEET, over=False)
    sizes = [covered(book, "r-1")]
    while planning.find(book, "r-1").state is State.RUNNING:
        book = planning.pass_wave(book, "r-1", FLEET)
        sizes.append(covered(book, "r-1"))

    assert sizes == [1, 2, 10, 20, 20]
    assert planning.find(book, "r-1").entry.share == SHARE_ALL


@given(st.integers(1, 40), st.lists(st.integers(1, 999), max_size=5), st.text("abc", max_size=6))
def test_every_wave_gains_somebody_or_is_the_last(count: int, parts: list[int], name: str) -> None:
    fleet = [Camera(f"d-{n}", 0, {}) for n in range(count)]
    waves = (*(Wave(part) for part in sorted(parts)), Wave(1000))
    book = planning.start((), entry(name), waves, fleet, over=False)
    before = 0
    while planning.find(book, name).state is State.RUNNING:
        rollout = planning.find(book, name)
        now = sum(covers(rollout.entry, camera) for camera in fleet)

        assert now > before or rollout.entry.share == SHARE_ALL
        assert now >= min(count, -(-count * waves[rollout.wave].permille // 1000))
        before, book = now, planning.pass_wave(book, name, fleet)
    assert before == count


def test_an_overlap_is_refused_without_over() -> None:
    doors = planning.start((), entry("r-1", selector="role=door"), AT_ONCE, FLEET, over=False)

    with pytest.raises(RefusedError, match="overlaps r-1"):
        planning.start(doors, entry("r-2"), AT_ONCE, FLEET, over=False)
    assert planning.start(doors, entry("r-2", selector="role=dock"), AT_ONCE, FLEET, over=False)


def test_a_rollout_that_is_superseded_everywhere_keeps_and_does_not_revert() -> None:
    book = planning.settle(
        begun("r-1", "r-2"), LISTED, [Report(c, 1, is_settled=True) for c in FLEET]
    )

    assert [(r.state, r.entry.action) for r in book] == [
        (State.RUNNING, Action.RUN),
        (State.ABORTED, Action.KEEP),
    ]


def test_completing_removes_finished_lower_entries_with_the_same_selector() -> None:
    book = planning.pass_wave(begun("r-1"), "r-1", FLEET)
    book = planning.start(book, entry("r-2", selector="role=door"), AT_ONCE, FLEET, over=False)
    book = planning.pass_wave(book, "r-2", FLEET)
    book = planning.start(book, entry("r-3"), AT_ONCE, FLEET, over=True)

    book = planning.pass_wave(book, "r-3", FLEET)

    assert [r.entry.rollout for r in book] == ["r-3", "r-2"]


def test_a_revert_stays_until_every_admitted_camera_has_read_it_and_rests() -> None:
    book = planning.abort(begun("r-1"), "r-1", 7, revert=True)
    read = [Report(camera, 7, is_settled=True) for camera in FLEET]
    unread = [*read[1:], replace(read[0], plan_version=6)]
    moving = [*read[1:], replace(read[0], is_settled=False)]

    for rows in (unread, moving):
        assert planning.entries(planning.settle(book, LISTED, rows)) == planning.entries(book)
    assert planning.settle(book, LISTED, read) == ()


def test_an_aborted_rollout_cannot_be_retried() -> None:
    for revert in (True, False):
        book = planning.abort(begun("r-1"), "r-1", 7, revert=revert)

        with pytest.raises(RefusedError):
            planning.retry(book, "r-1")


def test_a_retry_of_a_completed_rollout_names_it_anew() -> None:
    book = planning.retry(planning.pass_wave(begun("r-1"), "r-1", FLEET), "r-1")

    assert planning.find(book, "r-1").entry.tried == ("r-1", 2)


def test_revoke_turns_finished_entries_too() -> None:
    book = planning.revoke(planning.pass_wave(begun("r-1"), "r-1", FLEET), "a@1", 9)

    assert planning.entries(book)[0].action is Action.REVERT


def test_members_leave_when_a_newer_entry_takes_them_over() -> None:
    book = begun("r-1")
    book = planning.start(book, entry("r-2", "b@1", "role=door"), AT_ONCE, FLEET, over=True)
    mine = planning.members(book, planning.find(book, "r-1"), LISTED, FLEET)

    assert {camera.labels["role"] for camera in mine} == {"dock"}


def test_an_entry_that_keeps_takes_over_only_its_own() -> None:
    book = planning.abort(begun("r-1", "r-2"), "r-2", 3, revert=False)
    owned = replace(FLEET[0], active=Slot("a@1", "sha-a@1", frozenset({("r-2", 1)})))
    mine = planning.members(book, planning.find(book, "r-1"), LISTED, (owned, *FLEET[1:]))

    assert len(mine) == len(FLEET) - 1


def test_a_camera_that_got_other_labels_still_has_to_read_a_revert() -> None:
    doors = planning.start((), entry("r-1", selector="role=door"), AT_ONCE, FLEET, over=False)
    before = [Report(camera, 1, is_settled=True) for camera in FLEET]
    book = planning.abort(planning.settle(doors, LISTED, before), "r-1", 7, revert=True)
    docks = [replace(camera, labels={"role": "dock"}) for camera in FLEET]

    assert planning.settle(book, LISTED, [Report(c, 6, is_settled=True) for c in docks]) != ()
    assert planning.settle(book, LISTED, [Report(c, 7, is_settled=True) for c in docks]) == ()


def test_a_camera_that_obeys_older_labels_still_has_to_read_a_revert() -> None:
    docks = planning.start((), entry("r-1", selector="role=dock"), AT_ONCE, FLEET, over=False)
    was_dock = Camera("d-20", 0, {"role": "door"})
    before = [Report(camera, 1, is_settled=True) for camera in FLEET]
    unread = Report(was_dock, 1, is_settled=True, has_labels=False)
    book = planning.abort(planning.settle(docks, LISTED, [*before, unread]), "r-1", 7, revert=True)
    after = [Report(camera, 7, is_settled=True) for camera in FLEET]

    assert planning.settle(book, LISTED, [*after, Report(was_dock, 6, is_settled=True)]) != ()
    assert planning.settle(book, LISTED, [*after, Report(was_dock, 7, is_settled=True)]) == ()


def test_a_completed_rollout_with_a_deny_list_hides_nothing() -> None:
    book = planning.pass_wave(begun("r-1"), "r-1", FLEET)
    denying = replace(entry("r-2"), deny=frozenset({"d-01"}))
    book = planning.start(book, denying, AT_ONCE, FLEET, over=True)

    book = planning.pass_wave(book, "r-2", FLEET)

    assert [r.entry.rollout for r in book] == ["r-2", "r-1"]


def test_completing_never_removes_a_running_rollout() -> None:
    book = begun("r-1", "r-2")

    book = planning.pass_wave(book, "r-2", FLEET)

    assert [r.entry.rollout for r in book] == ["r-2", "r-1"]


def test_a_frozen_plan_holds_and_keeps_and_a_revert_is_said_anew_when_it_thaws() -> None:
    book = planning.abort(begun("r-1", "r-2"), "r-1", 7, revert=True)

    frozen = planning.frozen(planning.entries(book))
    thawed = planning.thawed(book, 9)

    assert [one.action for one in frozen] == [Action.HOLD, Action.KEEP]
    assert [one.reverted_in for one in thawed] == [0, 9]
    assert planning.entries(thawed) == planning.entries(book)
