"""Every oracle is shown to fail on a broken machine; `mutants.py` plays all mutants."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load(name: str) -> ModuleType:
    """Import a module beside this one: tests are no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


mutants = load("mutants")
MUTANTS = {mutant.claim: mutant for mutant in (*mutants.PAGE, *mutants.FAULTS)}
KILLED = [
    ("hold activates", 0, "harm: activates what the plan does not let run"),
    ("windows are not obeyed", 0, "harm: activates outside its window"),
    (
        "a release is activated without a look at its files",
        0,
        "harm: activates what was not verified",
    ),
    (
        "a release is started while the old one still runs",
        0,
        "harm: starts a camera that is not stopped",
    ),
    ("a bad end is not filed", 0, "harm: a trial ends without an outcome"),
    ("any previous slot may be restored", 0, "harm: goes back to a revoked release"),
    ("a revert is not remembered in the slots", 1, "harm: goes back to an aborted release"),
    ("no previous slot is restored", 1, "harm: ends on an aborted release"),
    ("unlisted entries count", 10, "harm: activates a revoked release"),
    (
        "what runs is left only for a revert, not when it is delisted",
        23,
        "harm: ends on a revoked release",
    ),
    (
        "the start is made before it is persisted",
        5,
        "harm: tries a release on a bridge that another has killed",
    ),
    ("a boot does not resume a trial", 0, "harm: ends with no model, one is named"),
    ("a boot does not resume a roll-back", 1, "harm: ends with no model, had one"),
    ("revoke leaves completed entries", 3, "harm: a revoked release is still named"),
    ("activations are not bounded", 14, "stands: activation loop"),
    ("restores are not bounded", 5, "stands: no fixed point"),
    (
        "an entry is settled only when its treated devices run something else",
        1,
        "stands: a rollout stays reverting",
    ),
    (
        "a reverted entry goes when every device known to be treated runs something else",
        0,
        "stands: an entry leaves the plan too early",
    ),
    ("a retry keeps its attempt", 1, "stands: a retry names nothing anew"),
    ("what is rejected is tried again", 5, "stands: a release is rejected over and over"),
    (
        "starts are not bounded in one boot",
        37,
        "harm: a new release takes the starts of the way back",
    ),
    (
        "a release that failed here and recovered commits at once",
        20,
        "harm: calls healthy what failed its gate here",
    ),
    (
        "the previous slot may hold what failed its gate here since",
        23,
        "harm: goes back to what failed its gate here",
    ),
    (
        "the previous slot may hold what failed its gate here since",
        23,
        "harm: ends on what failed its gate here",
    ),
]


@pytest.mark.parametrize(("claim", "seed", "oracle"), KILLED)
def test_an_oracle_notices_a_broken_machine(claim: str, seed: int, oracle: str) -> None:
    assert oracle in mutants.first_violation(MUTANTS[claim], seed, seed + 1)


def test_the_copy_that_mutants_are_made_of_is_sound() -> None:
    assert mutants.first_violation(None, 0, 2) == "SURVIVED"


@pytest.mark.parametrize("claim", sorted(MUTANTS))
def test_a_mutant_changes_exactly_one_place(claim: str) -> None:
    mutant = MUTANTS[claim]

    assert (mutants.ROOT / mutant.file).read_text().count(mutant.old) == 1


def test_every_claim_that_a_unit_test_proves_is_a_mutant() -> None:
    assert mutants.UNIT.keys() | mutants.EQUIVALENT_ALONE <= MUTANTS.keys()
