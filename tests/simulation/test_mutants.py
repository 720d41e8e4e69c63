"""Every oracle is shown to fail on a broken machine; `mutants.py` plays all mutants."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from controller.simulation.state import Violation


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
KILLED: list[tuple[str, int | None, Violation]] = [  # None: in the claim's written history.
    ("hold activates", 0, Violation.UNNAMED),
    ("unlisted entries count", 12, Violation.DELISTED),
    ("a release is activated without a look at its files", 0, Violation.UNVERIFIED),
    ("windows are not obeyed", 2, Violation.OUTSIDE_WINDOW),
    (
        "a try that has ended here owns the next deployment of its release",
        25,
        Violation.ENDED_BEFORE,
    ),
    ("a bad end is no obstacle to another try", 0, Violation.FAILED_BEFORE),
    ("the start is made before it is persisted", 5, Violation.KILLED_BRIDGE),
    ("starts are not bounded in one boot", 20, Violation.STARTS_SPENT),
    ("a release is started while the old one still runs", 0, Violation.NOT_STOPPED),
    ("a bad end is not filed", 0, Violation.NO_OUTCOME),
    ("what was committed once is healthy even while it is off", None, Violation.HEALTHY_OFF),
    ("a release that failed here and recovered commits at once", 0, Violation.HEALTHY_FAILED),
    ("the previous slot may hold what failed its gate here since", None, Violation.BACK_TO_FAILED),
    ("a revert is not remembered in the slots", 20, Violation.BACK_TO_ABORTED),
    (
        "plan_version is reported before the journal has the plan's reverts",
        None,
        Violation.BACK_TO_ABORTED,
    ),
    ("any previous slot may be restored", 5, Violation.BACK_TO_DELISTED),
    ("revoke leaves completed entries", 8, Violation.REVOKED_NAMED),
    ("a boot does not resume a roll-back", 0, Violation.ENDS_WITHOUT),
    ("a boot does not resume a trial", 0, Violation.ENDS_WITHOUT_NAMED),
    ("a camera on which something runs takes nothing new", 10, Violation.ENDS_DELISTED),
    ("no previous slot is restored", 21, Violation.ENDS_ABORTED),
    ("the previous slot may hold what failed its gate here since", None, Violation.ENDS_FAILED),
    ("activations are not bounded", 10, Violation.START_LOOP),
    ("what is rejected is tried again", 3, Violation.REJECTED_OVER),
    ("what was cut off too often is not filed", 10, Violation.ACTIVATED_TWICE),
    (
        "a reverted entry goes when every device known to be treated runs something else",
        1,
        Violation.ENTRY_GONE,
    ),
    ("a retry keeps its attempt", 0, Violation.RETRY_OLD),
    ("reported tells only the last deployment's end", 50, Violation.HEALTHY_DOUBTED),
    ("the last wave ends nothing", 0, Violation.STAYS_RUNNING),
    (
        "an entry is settled only when its treated devices run something else",
        0,
        Violation.STAYS_REVERTING,
    ),
    ("the last wave takes half of the devices", 0, Violation.SOMEBODY_OUT),
    ("a camera on which something runs takes nothing new", 10, Violation.LEFT_BEHIND),
    ("restores are not bounded", 53, Violation.NO_REST),
]


@pytest.mark.parametrize(("claim", "seed", "oracle"), KILLED)
def test_an_oracle_notices_a_broken_machine(
    claim: str, seed: int | None, oracle: Violation
) -> None:
    if seed is None:
        said = mutants.scene_violations(MUTANTS[claim], mutants.SCENES[claim])
    else:
        said = mutants.first_violation(MUTANTS[claim], seed, seed + 1)

    assert oracle.value in said


def test_the_page_names_every_oracle_with_a_machine_that_shows_it() -> None:
    page = (mutants.ROOT / "docs" / "simulation.md").read_text()
    rows = {f"| {oracle.value} | {claim} |" for claim, _, oracle in KILLED}

    named = {line for line in page.splitlines() if line.startswith(("| harm: ", "| stands: "))}
    assert named <= rows
    assert len(named) == len(Violation)


@pytest.mark.parametrize("scene", sorted(set(mutants.SCENES.values())))
def test_a_written_history_objects_to_no_sound_machine(scene: str) -> None:
    assert mutants.scene_violations(None, scene) == "SURVIVED"


def test_every_oracle_is_shown_to_notice_something() -> None:
    assert {oracle for _, _, oracle in KILLED} == set(Violation)


def test_the_copy_that_mutants_are_made_of_is_sound() -> None:
    assert mutants.first_violation(None, 0, 2) == "SURVIVED"


@pytest.mark.parametrize("claim", sorted(MUTANTS))
def test_a_mutant_changes_exactly_one_place(claim: str) -> None:
    mutant = MUTANTS[claim]

    assert (mutants.ROOT / mutant.file).read_text().count(mutant.old) == 1


def test_every_mutant_has_somebody_who_notices_it() -> None:
    shown = {claim for claim, _, _ in KILLED}

    assert shown | mutants.UNIT.keys() | mutants.EQUIVALENT_ALONE == MUTANTS.keys()


def test_every_claim_that_a_unit_test_proves_is_a_mutant() -> None:
    assert mutants.UNIT.keys() | mutants.SCENES.keys() | mutants.EQUIVALENT_ALONE <= MUTANTS.keys()
