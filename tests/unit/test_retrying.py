"""What is tried again by itself: only what the strategy lists, only so often, and not at once."""

import pytest

from controller.retrying import Again, again, waiting
from controller.rollout import CameraSeen, Course, Retry, Rules, Verdict, VerdictKind

RULES = Rules(retry=Retry(2, 100.0, frozenset({"camera", "interrupted"})))
UNSURE = Verdict(VerdictKind.INCONCLUSIVE, "2 of 4 devices healthy")
PASSED = Verdict(VerdictKind.PASS, "3 of 4 devices healthy")
DONE = (CameraSeen("committed"),)
FAULT = (CameraSeen("rolled_back", None, "camera"),)
CUT = (CameraSeen("broken", None, "interrupted"),)
BAD = (CameraSeen("rolled_back", None, "release"),)
SEEN = {"a": DONE, "b": FAULT, "c": BAD, "d": (*DONE, *CUT)}


def test_devices_of_a_listed_cause_try_again_and_others_are_left_out() -> None:
    found = again(UNSURE, Course(baked_seconds=40.0), RULES, SEEN, is_last=False)

    assert found == Again(frozenset({"b", "d"}), frozenset({"c"}), 60.0)
    assert not found.is_due
    said = waiting(UNSURE, found)
    assert said.kind is VerdictKind.UNDECIDED
    assert said.text == "2 of 4 devices healthy; 2 devices try again in 60 s"


def test_the_wait_ends_once_all_devices_have_ended_for_so_long() -> None:
    found = again(UNSURE, Course(baked_seconds=100.0), RULES, SEEN, is_last=False)

    assert found is not None
    assert found.is_due


@pytest.mark.parametrize(
    ("verdict", "attempt", "seen", "is_last", "is_again"),
    [
        (PASSED, 1, SEEN, False, False),  # The rollout goes on; the last wave comes back to it.
        (PASSED, 1, SEEN, True, True),
        (UNSURE, 2, SEEN, True, False),  # That was the last attempt.
        (UNSURE, 1, {"a": DONE, "c": BAD}, True, False),
        (UNSURE, 1, {"a": (CameraSeen("rolled_back", None, "operator"),)}, True, False),
        (UNSURE, 1, {"a": (*FAULT, *BAD)}, True, False),  # One of its cameras would fail again.
        (Verdict(VerdictKind.UNDECIDED, ""), 1, SEEN, True, False),
        (Verdict(VerdictKind.FAIL, ""), 1, SEEN, True, False),
    ],
)
def test_a_verdict_stands_unless_a_retry_may_change_it(
    verdict: Verdict,
    attempt: int,
    seen: dict[str, tuple[CameraSeen, ...]],
    is_last: bool,  # noqa: FBT001
    is_again: bool,  # noqa: FBT001
) -> None:
    found = again(verdict, Course(attempt=attempt), RULES, seen, is_last=is_last)

    assert (found is not None) is is_again


def test_whom_an_operator_took_back_is_not_left_out() -> None:
    taken_back = (CameraSeen("rolled_back", None, "operator"),)

    found = again(UNSURE, Course(), RULES, {"a": taken_back, "b": FAULT}, is_last=True)

    assert found == Again(frozenset({"b"}), frozenset(), 100.0)
