# ruff: noqa: E501
"""Break the rules one at a time and see which oracle notices.

    python tests/simulation/mutants.py [FIRST [SEEDS]]    # every mutant, until its first violation

A mutant is a change of text in one file of a copy of the packages. ``PAGE`` holds rules as an
earlier design had them; ``FAULTS`` holds slips of the hand. ``UNIT`` names those that no history
kills, with the unit test that does.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SEEDS_MAX = 300
ROOT = Path(__file__).parents[2]
ASSIGNMENT, DEPLOYMENT = "shared/assignment.py", "agent/deployment.py"
TRIAL, ENDS = "agent/trial.py", "agent/ends.py"
PLANNING, SIMULATION = "controller/planning.py", "controller/simulation/devices.py"
FIRST_VIOLATION = """
import sys
from controller.simulation.world import World
first, last, wanted = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
for seed in range(first, last):
    violations = {violation.value for violation in World(seed).play()}
    if wanted in violations or (violations and not wanted):
        print(f"seed {seed}:", "; ".join(sorted(violations)))
        break
else:
    print("SURVIVED")
"""
SCENE_VIOLATIONS = """
import sys
sys.path.insert(1, sys.argv[1])
import scenes
violations = {violation.value for violation in getattr(scenes, sys.argv[2])()}
print("; ".join(sorted(violations)) or "SURVIVED")
"""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of the rules."""

    claim: str
    file: str
    old: str
    new: str


PAGE = (
    Mutant(
        "a hold ends the search even if nothing runs or what runs must be left",
        ASSIGNMENT,
        "    return isinstance(answer, Wait) or answer == Keep(Reason.ENDED_BADLY)",
        "    return answer == Keep(Reason.ENDED_BADLY)",
    ),
    Mutant(
        "what runs is left only for a revert, not when it is delisted",
        ASSIGNMENT,
        "    if listed.get(slot.release) != slot.manifest_sha256:\n        return True\n    return not",
        "    return not",
    ),
    Mutant(
        "what is committed at once belongs to the new rollout alone",
        DEPLOYMENT,
        "owners=(slot.owners | covering) - journal",
        "owners=covering - journal",
    ),
    Mutant(
        "a revert swaps the slots, and is forgotten with its entry",
        TRIAL,
        "        previous=None,\n        restoring=slot,",
        "        previous=journal.active,\n        restoring=slot,",
    ),
    Mutant(
        "a revert is not remembered in the slots",
        DEPLOYMENT,
        "    remembered = ends.reverts_remembered(journal, event.plan)\n",
        "    remembered = journal\n",
    ),
    Mutant(
        "a reverted entry goes when every device known to be treated runs something else",
        PLANNING,
        "report.plan_version >= rollout.reverted_in and report.is_settled\n",
        "not any(r == rollout.entry.rollout for r, _ in report.camera.owners)\n",
    ),
    Mutant(
        "plan_version is reported before the journal has the plan's reverts",
        SIMULATION,
        "        version = min(sensor.version_read for sensor in device.sensors)\n",
        "        version = device.bundle.version\n",
    ),
    Mutant(
        "an entry is settled only when its treated devices run something else",
        PLANNING,
        "report.plan_version >= rollout.reverted_in and report.is_settled\n",
        "report.plan_version >= rollout.reverted_in and not any(\n"
        "            r == rollout.entry.rollout for r, _ in report.camera.owners\n        )"
        " and not _is_left_over(report, rollout)\n",
    ),
    Mutant(
        "a rollout that is superseded everywhere reverts",
        PLANNING,
        "            book = _changed(book, name, lambda r: _acting(r, Action.KEEP, State.ABORTED))\n"
        "        elif",
        "            book = _changed(book, name, lambda r: _reverting(r, 0))\n        elif",
    ),
    Mutant(
        "keep covers whoever runs the release, whichever rollout put it there",
        ASSIGNMENT,
        "    if entry.action is Action.KEEP and not is_owner(entry, camera):\n",
        "    if entry.action is Action.KEEP and not runs_already(entry, camera):\n",
    ),
    Mutant(
        "the control experiment has no reboot",
        TRIAL,
        "    if journal.restores_started == RESTORES_MAX - 1:\n        return _reboot(journal)\n",
        "",
    ),
    Mutant(
        "with nothing earlier there is no reboot before the next release",
        TRIAL,
        "        return _reboot(ends.ended_badly(stopped, cause or Cause.UNKNOWN, Phase.BROKEN))\n",
        "        return ends.persisted(ends.ended_badly(stopped, cause or Cause.UNKNOWN, Phase.BROKEN))\n",
    ),
    Mutant(
        "broken never reboots",
        DEPLOYMENT,
        "    if event.may_reboot and event.may_start:\n",
        "    if False:\n",
    ),
    Mutant(
        "the ladder after commit has no reboot",
        TRIAL,
        "    if event.may_reboot:\n        return _reboot(journal)\n",
        "",
    ),
    Mutant(
        "a deployment is filed under the wanted entry alone",
        DEPLOYMENT,
        "    return replace(owned, rivals=rivals - journal.ended_badly)\n",
        "    return making\n",
    ),
    Mutant(
        "the previous slot may hold what failed its gate here since",
        ASSIGNMENT,
        "        if not has_failed and not",
        "        if not",
    ),
    Mutant(
        "a release that comes back from the previous slot loses its owners",
        DEPLOYMENT,
        "        making = replace(making, owners=making.owners | previous.owners)\n",
        "        pass\n",
    ),
    Mutant(
        "the release that runs is a control experiment for itself",
        TRIAL,
        "    if active is None or active.manifest_sha256 == making.manifest_sha256:",
        "    if active is None:",
    ),
    Mutant(
        "a release that others name is theirs, covering or not",
        DEPLOYMENT,
        "namings(plan, slot.manifest_sha256) if covers(e, identity)}",
        "namings(plan, slot.manifest_sha256)}",
    ),
    Mutant(
        "the previous slot may hold the active release",
        TRIAL,
        "        previous = None  # A release",
        "        pass  # A release",
    ),
    Mutant(
        "a broken camera commits at once",
        ASSIGNMENT,
        "    is_proven = camera.is_running and not camera.owners <= camera.ended_badly\n",
        "    is_proven = True\n",
    ),
    Mutant(
        "a release that failed here and recovered commits at once",
        ASSIGNMENT,
        "    is_proven = camera.is_running and not camera.owners <= camera.ended_badly\n",
        "    is_proven = camera.is_running\n",
    ),
    Mutant(
        "reported tells only the last deployment's end",
        SIMULATION,
        "            ended=ends_reported(sensor.journal, device.bundle.plan),\n",
        "            ended=(),\n",
    ),
    Mutant(
        "the last wave is skipped when it gains nobody",
        PLANNING,
        "            return gained\n    return gained\n",
        "            return gained\n    return replace(rollout, wave=gained.wave)\n",
    ),
)
FAULTS = (
    Mutant(
        "hold activates",
        ASSIGNMENT,
        "    return Wait(entry) if entry.action is Action.HOLD else Run(entry)\n",
        "    return Run(entry)\n",
    ),
    Mutant(
        "a revert counts",
        ASSIGNMENT,
        "    if entry.action is Action.REVERT or listed.get(entry.release)",
        "    if listed.get(entry.release)",
    ),
    Mutant(
        "unlisted entries count",
        ASSIGNMENT,
        "entry.action is Action.REVERT or listed.get(entry.release) != entry.manifest_sha256:",
        "entry.action is Action.REVERT:",
    ),
    Mutant(
        "a bad end is not filed",
        ENDS,
        "failed=journal.failed | failed, ended=ended)",
        "failed=journal.failed | failed)",
    ),
    Mutant(
        "a bad end stops no search",
        ASSIGNMENT,
        "        if not (may_go_on and _is_refusal(answer)):\n",
        "        if not _is_refusal(answer) or (isinstance(answer, Wait) and not may_go_on):\n",
    ),
    Mutant(
        "a bad end always stops the search",
        ASSIGNMENT,
        "    return isinstance(answer, Wait) or answer == Keep(Reason.ENDED_BADLY)",
        "    return isinstance(answer, Wait)",
    ),
    Mutant(
        "activations are not bounded",
        TRIAL,
        "ACTIVATIONS_MAX = 3 ",
        "ACTIVATIONS_MAX = 10**9 ",
    ),
    Mutant(
        "the start is made before it is persisted",
        TRIAL,
        "    return started, (Persist(started), Stop(), Start(journal.making))\n",
        "    return started, (Stop(), Start(journal.making), Persist(started))\n",
    ),
    Mutant(
        "a newer plan stops a trial",
        DEPLOYMENT,
        "_CHANGEABLE = PREPARING | {Phase.IDLE, Phase.BROKEN}",
        "_CHANGEABLE = PREPARING | {Phase.IDLE, Phase.BROKEN, Phase.PROBING}",
    ),
    Mutant(
        "broken never tries again",
        DEPLOYMENT,
        "    if event.is_due and event.may_start:\n",
        "    if False:\n",
    ),
    Mutant(
        "broken takes no new assignment",
        DEPLOYMENT,
        "        case Run(entry):\n            return",
        "        case Run(entry) if journal.phase is Phase.BROKEN:\n            return journal, ()\n        case Run(entry):\n            return",
    ),
    Mutant("restores are not bounded", TRIAL, "RESTORES_MAX = 3 ", "RESTORES_MAX = 10**9 "),
    Mutant(
        "a boot does not resume a roll-back",
        TRIAL,
        "            return _resume_restore(journal, event)\n",
        "            return journal, ()\n",
    ),
    Mutant(
        "a boot does not resume a trial",
        TRIAL,
        "            if journal.activations_started < ACTIVATIONS_MAX:\n",
        "            return journal, ()\n            if journal.activations_started < ACTIVATIONS_MAX:\n",
    ),
    Mutant(
        "any previous slot may be restored",
        ASSIGNMENT,
        " and not is_unwanted(plan, listed, camera.previous):",
        ":",
    ),
    Mutant(
        "no previous slot is restored",
        ASSIGNMENT,
        "    if is_left and camera.previous is not None:\n",
        "    if False:\n",
    ),
    Mutant(
        "completing removes running rollouts",
        PLANNING,
        "    return is_finished and not is_reverted and",
        "    return",
    ),
    Mutant(
        "completing removes other selectors",
        PLANNING,
        "    return is_finished and not is_reverted and lower.entry.selector == done.entry.selector\n",
        "    return is_finished and not is_reverted\n",
    ),
    Mutant(
        "superseded devices still count",
        PLANNING,
        "        if covers(rollout.entry, camera) and not _is_taken(above, listed, camera)\n",
        "        if covers(rollout.entry, camera)\n",
    ),
    Mutant(
        "a retry keeps its attempt",
        PLANNING,
        "attempt=rollout.entry.attempt + 1)",
        "attempt=rollout.entry.attempt)",
    ),
    Mutant(
        "an aborted rollout may be retried",
        PLANNING,
        "    _expect(book, name, *LIVE, State.COMPLETED)\n",
        "    _expect(book, name, *State)\n",
    ),
    Mutant(
        "revoke leaves completed entries",
        PLANNING,
        "        if rollout.entry.release == release and not is_reverted:\n",
        "        if rollout.entry.release == release and rollout.state in LIVE:\n",
    ),
    Mutant(
        "a release is started while the old one still runs",
        TRIAL,
        "    return started, (Persist(started), Stop(), Start(journal.making))\n",
        "    return started, (Persist(started), Start(journal.making))\n",
    ),
    Mutant(
        "a new label makes the controller forget who may run a reverted release",
        PLANNING,
        "        if _name(report.camera) in rollout.admitted\n",
        "        if admits(rollout.entry, report.camera)\n",
    ),
    Mutant(
        "a device obeys the labels that were signed last",
        PLANNING,
        " or (may_gain and not report.has_labels)\n",
        "\n",
    ),
    Mutant(
        "a boot loop after commit is no stall",
        TRIAL,
        "    if event.is_boot_loop and journal.is_running:\n",
        "    if False:\n",
    ),
    Mutant(
        "a kill of the agent is taken for the reboot that is due",
        TRIAL,
        "        if event.can_reboot and not event.is_new_boot:\n            return journal",
        "        if False:\n            return journal",
    ),
    Mutant(
        "a spent start budget waits for a reboot that nobody makes",
        DEPLOYMENT,
        "    if obstacle is WaitingFor.REBOOT and event.may_reboot and event.may_start:\n",
        "    if False:\n",
    ),
    Mutant(
        "starts are not bounded in one boot",
        DEPLOYMENT,
        "    if not event.has_starts_left:\n",
        "    if False:\n",
    ),
    Mutant(
        "windows are not obeyed",
        DEPLOYMENT,
        "    if entry.rollout in event.closed:\n",
        "    if False:\n",
    ),
    Mutant(
        "what is rejected is tried again",
        DEPLOYMENT,
        "            return ends.persisted(replace(rejected, ended=filed))\n",
        "            return ends.persisted(rejected)\n",
    ),
    Mutant(
        "nothing is tried on a broken camera while the next release cannot be fetched",
        DEPLOYMENT,
        "    if journal.phase is not Phase.WAITING:\n        return _try_active(journal, event)\n",
        "    if journal.phase is not Phase.WAITING:\n        return journal, ()\n",
    ),
    Mutant(
        "what was committed once is healthy even while it is off",
        ASSIGNMENT,
        "    is_proven = camera.is_running and not camera.owners <= camera.ended_badly\n",
        "    is_proven = not camera.owners <= camera.ended_badly\n",
    ),
    Mutant(
        "a try that has ended here owns the next deployment of its release",
        DEPLOYMENT,
        "owners=(slot.owners | covering) - journal.ended_badly)",
        "owners=slot.owners | covering)",
    ),
    Mutant(
        "a bad end is no obstacle to another try",
        ASSIGNMENT,
        "    if entry.tried in camera.ended_badly:\n        return Keep(Reason.ENDED_BADLY)\n",
        "",
    ),
    Mutant(
        "what was cut off too often is not filed",
        ENDS,
        "    ended = filed(done, failing.owners | failing.rivals, end)\n",
        "    is_cut = cause is Cause.INTERRUPTED\n"
        "    ended = done.ended if is_cut else filed(done, failing.owners | failing.rivals, end)\n",
    ),
    Mutant(
        "a camera on which something runs takes nothing new",
        DEPLOYMENT,
        "        case Run(entry):\n            return",
        "        case Run(entry) if journal.is_running:\n            return journal, ()\n"
        "        case Run(entry):\n            return",
    ),
    Mutant(
        "the last wave ends nothing",
        PLANNING,
        "        return _complete(book, rollout)\n    return _changed",
        "        return book\n    return _changed",
    ),
    Mutant(
        "the last wave takes half of the devices",
        PLANNING,
        "        return replace(rollout, entry=replace(entry, share=SHARE_ALL))\n",
        "        return replace(rollout, entry=replace(entry, share=SHARE_ALL // 2))\n",
    ),
    Mutant(
        "a release is activated without a look at its files",
        DEPLOYMENT,
        "            return _advanced(journal, Phase.FETCHING, Phase.VERIFYING, Verify(making))\n",
        "            return _advanced(journal, Phase.FETCHING, Phase.WAITING)\n",
    ),
)
UNIT = {
    "a hold ends the search even if nothing runs or what runs must be left": (
        "test_a_hold_leaves_no_camera_without_a_model"
    ),
    "the release that runs is a control experiment for itself": (
        "test_a_release_is_no_control_experiment_for_itself"
    ),
    "the previous slot may hold the active release": "test_a_release_is_not_its_own_predecessor",
    "a revert counts": "test_an_abort_spares_a_release_that_an_earlier_rollout_put_there",
    "broken takes no new assignment": (
        "test_a_broken_camera_is_tried_again_while_the_next_release_cannot_be_fetched"
    ),
    "a device obeys the labels that were signed last": (
        "test_a_camera_that_obeys_older_labels_still_has_to_read_a_revert"
    ),
    "broken never reboots": "test_a_broken_camera_whose_starts_are_spent_reboots_once_a_day",
    "a release that others name is theirs, covering or not": (
        "test_a_rollout_that_does_not_cover_the_camera_owns_nothing_on_it"
    ),
    "a deployment is filed under the wanted entry alone": (
        "test_a_failure_ends_every_try_that_named_the_release"
    ),
    "superseded devices still count": "test_members_leave_when_a_newer_entry_takes_them_over",
    "a rollout that is superseded everywhere reverts": (
        "test_a_rollout_that_is_superseded_everywhere_keeps_and_does_not_revert"
    ),
    "a bad end always stops the search": (
        "test_a_bad_end_with_nothing_running_goes_on_down_the_list"
    ),
    "a broken camera commits at once": (
        "test_what_runs_already_is_committed_at_once_but_not_while_broken"
    ),
    "the control experiment has no reboot": (
        "test_a_dead_bridge_is_rebooted_before_anybody_is_blamed"
    ),
    "a spent start budget waits for a reboot that nobody makes": (
        "test_a_spent_start_budget_reboots_once_a_day_for_a_new_release"
    ),
    "an aborted rollout may be retried": "test_an_aborted_rollout_cannot_be_retried",
    "with nothing earlier there is no reboot before the next release": (
        "test_a_first_release_that_fails_leaves_the_bridge_fresh_for_the_next"
    ),
    "broken never tries again": "test_a_committed_release_is_not_guilty_of_a_dead_camera",
    "unlisted entries count": "test_an_entry_with_another_hash_than_the_signed_one_is_skipped",
    "a bad end stops no search": "test_a_bad_end_keeps_what_runs",
    "a newer plan stops a trial": "test_a_newer_plan_waits_for_the_end_of_a_trial",
    "completing removes running rollouts": "test_completing_never_removes_a_running_rollout",
    "completing removes other selectors": "test_completing_removes_finished_lower_entries",
    "a retry keeps its attempt": "test_a_retry_of_a_completed_rollout_names_it_anew",
    "revoke leaves completed entries": "test_revoke_turns_finished_entries_too",
    "what runs is left only for a revert, not when it is delisted": (
        "test_a_delisted_release_is_left_like_a_reverted_one"
    ),
    "keep covers whoever runs the release, whichever rollout put it there": (
        "test_keep_covers_only_what_its_own_rollout_put_there"
    ),
    "a release that comes back from the previous slot loses its owners": (
        "test_a_release_that_comes_back_from_the_previous_slot_keeps_its_owners"
    ),
    "the ladder after commit has no reboot": (
        "test_what_stalls_after_commit_gets_one_reboot_before_it_is_left"
    ),
    "a kill of the agent is taken for the reboot that is due": (
        "test_a_kill_of_the_agent_is_not_taken_for_the_reboot_that_is_due"
    ),
    "a boot loop after commit is no stall": (
        "test_a_release_that_hangs_the_device_after_commit_is_left_like_one_that_stalls"
    ),
    "nothing is tried on a broken camera while the next release cannot be fetched": (
        "test_a_broken_camera_is_tried_again_while_the_next_release_cannot_be_fetched"
    ),
    "a new label makes the controller forget who may run a reverted release": (
        "test_a_camera_that_got_other_labels_still_has_to_read_a_revert"
    ),
    "what is committed at once belongs to the new rollout alone": (
        "test_a_release_that_is_committed_at_once_keeps_its_owners"
    ),
}
SCENES = {
    "what was committed once is healthy even while it is off": (
        "a_camera_that_died_after_its_commit"
    ),
    "plan_version is reported before the journal has the plan's reverts": (
        "a_look_that_cannot_be_written"
    ),
    "the previous slot may hold what failed its gate here since": (
        "a_release_that_failed_where_it_was_good"
    ),
}
EQUIVALENT_ALONE = frozenset(
    {
        "a revert swaps the slots, and is forgotten with its entry",  # The slot has no owner left.
        "the last wave is skipped when it gains nobody",  # `share_for` gave the full share before.
    }
)
LEFT_OVER = """

def _is_left_over(report: Report, rollout: Rollout) -> bool:
    active = report.camera.active
    return active is not None and active.release == rollout.entry.release and not active.owners
"""


def mutated(mutant: Mutant | None, folder: Path) -> None:
    """Write a copy of the packages with this change into a folder."""
    ignore = shutil.ignore_patterns("__pycache__", "export", "dashboard")
    for package in ("agent", "controller", "shared"):
        shutil.copytree(ROOT / package, folder / package, ignore=ignore)
    planning = folder / PLANNING
    planning.write_text(planning.read_text() + LEFT_OVER)
    if mutant is None:
        return
    path = folder / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, (mutant.claim, text.count(mutant.old))
    path.write_text(text.replace(mutant.old, mutant.new))


def first_violation(mutant: Mutant | None, first: int, last: int, wanted: str = "") -> str:
    """Return the first seed that a broken machine fails, and what the oracles say of it.

    Args:
        mutant: How the machine is broken; None: not at all.
        first: The first seed to play.
        last: The one after the last.
        wanted: Go on until this oracle objects; any of them does when it is empty.
    """
    return _played(mutant, FIRST_VIOLATION, str(first), str(last), wanted)


def scene_violations(mutant: Mutant | None, scene: str) -> str:
    """Return what the oracles say of a history of ``scenes.py`` on a broken machine."""
    return _played(mutant, SCENE_VIOLATIONS, str(Path(__file__).parent), scene)


def _played(mutant: Mutant | None, script: str, *arguments: str) -> str:
    with tempfile.TemporaryDirectory() as name:
        mutated(mutant, Path(name))
        command = [sys.executable, "-B", "-c", script, *arguments]
        done = subprocess.run(command, cwd=name, capture_output=True, text=True, check=False)
        return done.stdout.strip() or f"CRASHED {done.stderr.strip().splitlines()[-1]}"


def survives_unit_test(mutant: Mutant | None, claim: str) -> bool:
    """Say whether the unit test that should notice a mutant passes all the same."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mutated(mutant, folder)
        tests = [ROOT / "tests" / "unit" / f"test_{module}.py" for module in _TESTED]
        copies = [shutil.copy(test, folder) for test in tests]
        options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", name, "-k", claim]
        command = [sys.executable, "-B", "-m", "pytest", *options, *copies]
        done = subprocess.run(
            command,
            cwd=name,
            env={**os.environ, "PYTHONPATH": name},
            capture_output=True,
            check=False,
        )
        assert done.returncode in {0, 1}, done.stdout.decode()
        return done.returncode == 0


_TESTED = ("assignment", "planning", "deployment")


def main(arguments: Sequence[str]) -> int:
    """Play every mutant until a history kills it; fail when one survives that should not."""
    first = int(arguments[0]) if arguments else 0
    seeds = int(arguments[1]) if arguments[1:] else SEEDS_MAX
    survivors = 0
    for mutant in (*PAGE, *FAULTS)[first:]:
        if mutant.claim in EQUIVALENT_ALONE:
            continue
        if mutant.claim in SCENES:
            said = scene_violations(mutant, SCENES[mutant.claim])
        else:
            said = first_violation(mutant, 0, seeds)
        if not said.startswith("seed ") and mutant.claim in UNIT:
            is_killed = not survives_unit_test(mutant, UNIT[mutant.claim])
            said = f"{UNIT[mutant.claim]}" if is_killed else said
        survivors += said == "SURVIVED"
        print(f"{mutant.claim}\n    {said}", flush=True)  # noqa: T201
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
