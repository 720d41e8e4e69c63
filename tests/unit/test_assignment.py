from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.assignment import (
    SHARE_ALL,
    Action,
    Camera,
    CommitAtOnce,
    Entry,
    Keep,
    Reason,
    RestorePrevious,
    Run,
    SelectorError,
    Slot,
    Wait,
    covers,
    parse_selector,
    share_hash,
    wanted,
)

ALL = parse_selector("*")
LABELS = {"role": "door", "camera": "0"}


def entry(number: int, release: str, action: Action = Action.RUN) -> Entry:
    name = f"r-{number}"
    return Entry(name, 1, action, release, f"sha-{release}", ALL, frozenset(), name, SHARE_ALL)


def slot(release: str, *rollouts: int) -> Slot:
    return Slot(release, f"sha-{release}", frozenset((f"r-{n}", 1) for n in rollouts))


def camera(active: Slot | None, previous: Slot | None = None, *, running: bool = True) -> Camera:
    is_running = running and active is not None
    return Camera("gate-01", 0, LABELS, active, previous, is_running)


LISTED = {name: f"sha-{name}" for name in ("a@1", "b@1", "c@1")}
A, B, C = entry(1, "a@1"), entry(2, "b@1"), entry(3, "c@1")
B_ABORTED = entry(2, "b@1", Action.REVERT)
C_HELD = entry(3, "c@1", Action.HOLD)


def test_the_newest_entry_that_covers_is_wanted() -> None:
    assert wanted((B, A), LISTED, camera(slot("a@1", 1))) == Run(B)


def test_a_bad_end_keeps_what_runs() -> None:
    failed = replace(camera(slot("a@1", 1)), ended_badly=frozenset({B.tried}))

    assert wanted((B, A), LISTED, failed) == Keep(Reason.ENDED_BADLY)


def test_a_bad_end_with_nothing_running_goes_on_down_the_list() -> None:
    failed = replace(camera(None), ended_badly=frozenset({B.tried}))

    assert wanted((B, A), LISTED, failed) == Run(A)


def test_a_hold_keeps_what_runs() -> None:
    assert wanted((C_HELD, A), LISTED, camera(slot("a@1", 1))) == Wait(C_HELD)


def test_a_hold_leaves_no_camera_without_a_model() -> None:
    assert wanted((C_HELD, A), LISTED, camera(None)) == Run(A)


def test_a_hold_leaves_no_camera_on_an_aborted_release() -> None:
    reverted = camera(slot("b@1", 2), previous=slot("a@1", 1))

    assert wanted((C_HELD, B_ABORTED), LISTED, reverted) == RestorePrevious(slot("a@1", 1))


def test_a_delisted_release_is_left_like_a_reverted_one() -> None:
    listed = {"a@1": "sha-a@1"}
    revoked = camera(slot("b@1", 2), previous=slot("a@1", 1))

    assert wanted((), listed, revoked) == RestorePrevious(slot("a@1", 1))


def test_what_failed_its_gate_is_not_restored() -> None:
    left = replace(camera(slot("b@1"), previous=slot("a@1", 1)), failed=frozenset({"sha-a@1"}))

    assert wanted((), LISTED, left) == Keep(Reason.NOTHING_TO_REVERT_TO)


def test_a_revert_is_remembered_after_its_entry_has_gone() -> None:
    left = camera(slot("b@1"), previous=slot("a@1"))

    assert wanted((), LISTED, left) == Keep(Reason.NOTHING_TO_REVERT_TO)


def test_an_abort_spares_a_release_that_an_earlier_rollout_put_there() -> None:
    again = replace(entry(4, "a@1"), action=Action.REVERT)

    assert wanted((again,), LISTED, camera(slot("a@1", 1, 4))) == Keep(Reason.NOT_COVERED)


def test_keep_covers_only_what_its_own_rollout_put_there() -> None:
    kept = entry(2, "b@1", Action.KEEP)
    by_another = camera(slot("b@1"), previous=slot("a@1", 1))

    assert wanted((kept,), LISTED, camera(slot("b@1", 2))) == Keep(Reason.SETTLED)
    assert wanted((kept,), LISTED, by_another) == RestorePrevious(slot("a@1", 1))
    assert wanted((kept, A), LISTED, camera(slot("b@1", 9))) == Run(A)


def test_what_runs_already_is_committed_at_once_but_not_while_broken() -> None:
    again = entry(4, "a@1")

    assert wanted((again,), LISTED, camera(slot("a@1", 1))) == CommitAtOnce(again)
    assert wanted((again,), LISTED, camera(slot("a@1", 1), running=False)) == Run(again)


def test_what_failed_here_and_recovered_goes_through_the_gate_again() -> None:
    recovered = replace(camera(slot("a@1", 1)), ended_badly=frozenset({("r-1", 1)}))
    again = entry(4, "a@1")

    assert wanted((again,), LISTED, recovered) == Run(again)


def test_an_entry_with_another_hash_than_the_signed_one_is_skipped() -> None:
    forged = replace(B, manifest_sha256="sha-other")

    assert wanted((forged, A), LISTED, camera(None)) == Run(A)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*", True),
        ("role=door", True),
        ("role=door,camera=0", True),
        ("role=dock", False),
        ("role!=dock", True),
        ("site!=a", True),
        ("site=a", False),
    ],
)
def test_a_selector_matches_labels(text: str, expected: bool) -> None:  # noqa: FBT001
    assert parse_selector(text).matches(LABELS) is expected


@pytest.mark.parametrize(
    "text", ["", "role", "role=", "=door", "role=Door", "a=b,", "*,a=b", "a=b=c"]
)
def test_a_selector_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SelectorError):
        parse_selector(text)


def test_selectors_are_equal_whatever_the_order_of_their_terms() -> None:
    assert parse_selector("a=b,c!=d") == parse_selector("c!=d,a=b")


def test_the_hash_is_the_one_of_the_design() -> None:
    assert share_hash("r-7", "gate-01") == 0xF1DD268A


@given(
    st.text("abc-123", min_size=1, max_size=8), st.integers(0, SHARE_ALL), st.integers(0, SHARE_ALL)
)
def test_a_growing_share_never_lets_a_device_go(device: str, first: int, second: int) -> None:
    small, large = sorted((first, second))
    seen = Camera(device, 0, LABELS)

    assert covers(replace(A, share=large), seen) or not covers(replace(A, share=small), seen)


RELEASES = st.sampled_from(sorted(LISTED))
PLANS = st.lists(st.tuples(RELEASES, st.sampled_from(Action)), max_size=6).map(
    lambda rows: tuple(entry(9 - n, release, action) for n, (release, action) in enumerate(rows))
)
SLOTS = st.none() | st.builds(
    lambda release, owners: slot(release, *owners), RELEASES, st.sets(st.integers(3, 9))
)
ENDED = st.frozensets(st.integers(3, 9).map(lambda n: (f"r-{n}", 1)))


@given(PLANS, SLOTS, SLOTS, ENDED)
def test_what_is_wanted_is_always_allowed(
    plan: tuple[Entry, ...],
    active: Slot | None,
    previous: Slot | None,
    ended: frozenset[tuple[str, int]],
) -> None:
    seen = replace(camera(active, previous), ended_badly=ended)

    match wanted(plan, LISTED, seen):
        case Run(chosen):
            assert chosen.action is Action.RUN
            assert chosen.tried not in ended
        case RestorePrevious(chosen_slot):
            assert chosen_slot == previous
            assert chosen_slot.owners
        case CommitAtOnce(chosen):
            assert active is not None
            assert active.release == chosen.release
        case Wait(chosen):
            assert chosen.action is Action.HOLD
        case Keep():
            pass
