from dataclasses import replace

import msgspec
import pytest

from agent.deployment import step
from agent.outcomes import (
    JournalDocument,
    deployment_reported,
    ends_reported,
    from_document,
    is_settled,
    to_document,
)
from agent.steps import (
    Booted,
    Cause,
    Effect,
    Ended,
    Event,
    Failed,
    Fetch,
    Fetched,
    Journal,
    Looked,
    Obstructed,
    Passed,
    Persist,
    Phase,
    Reboot,
    Rejected,
    Stage,
    Staged,
    Start,
    Started,
    Stop,
    Verified,
    Verify,
    WaitingFor,
)
from agent.trial import ACTIVATIONS_MAX
from shared.assignment import (
    SHARE_ALL,
    Action,
    Camera,
    Entry,
    Probe,
    Slot,
    Window,
    parse_selector,
)
from shared.messages import ErrorText

CAMERA = Camera("gate-01", 0, {"role": "door"})
B = Entry("r-2", 1, Action.RUN, "b@1", "sha-b", parse_selector("*"), frozenset(), "r-2", SHARE_ALL)
B_TRY = ("r-2", 1)
LISTED = {"a@1": "sha-a", "b@1": "sha-b"}
LOOK = Looked((B,), LISTED)
HELD = replace(LOOK, plan=(replace(B, action=Action.HOLD),))
ABORTED = replace(LOOK, plan=(replace(B, action=Action.REVERT),))
A_SLOT = Slot("a@1", "sha-a", frozenset({("r-1", 1)}))
RUNS_A = Journal(active=A_SLOT, is_running=True)
READY = (LOOK, Fetched("sha-b"), Verified("sha-b"), Staged("sha-b"))
TRIAL = (*READY, LOOK)
COMMITTED = (*TRIAL, Started(), Passed())


def play(journal: Journal, *events: Event) -> Journal:
    for event in events:
        journal, _ = step(journal, CAMERA, event)
    return journal


def effects_of(journal: Journal, event: Event) -> list[type[Effect]]:
    return [type(effect) for effect in step(journal, CAMERA, event)[1]]


def test_each_phase_is_persisted_before_its_effect() -> None:
    journal = RUNS_A
    seen = []
    for event in TRIAL:
        journal, effects = step(journal, CAMERA, event)
        assert effects[0] == Persist(journal)
        seen.append([type(effect) for effect in effects[1:]])

    assert seen == [[Fetch], [Verify], [Stage], [], [Stop, Start]]


def test_the_start_of_a_trial_knows_its_gate() -> None:
    strict = replace(B, probe=Probe(seconds=5))
    waiting = play(RUNS_A, replace(LOOK, plan=(strict,)), *READY[1:])

    _, effects = step(waiting, CAMERA, replace(LOOK, plan=(strict,)))

    assert isinstance(effects[-1], Start)
    assert effects[-1].slot.probe.seconds == 5


@pytest.mark.parametrize("event", [Fetched("sha-x"), Verified("sha-b"), Staged("sha-b")])
def test_events_of_another_deployment_or_phase_change_nothing(event: Event) -> None:
    fetching = play(RUNS_A, LOOK)

    assert step(fetching, CAMERA, event) == (fetching, ())


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_what_is_rejected_never_stops_the_old_release_and_is_not_tried_again(count: int) -> None:
    rejected = play(
        RUNS_A, *READY[:count], Rejected("sha-b", Cause.TRUST, "hash", "expected x, got y")
    )

    assert (rejected.phase, rejected.is_running, rejected.making) == (Phase.IDLE, True, None)
    assert rejected.ended[B_TRY] == Ended(Phase.REJECTED, Cause.TRUST, "hash", "expected x, got y")
    assert play(rejected, LOOK).making is None
    assert play(rejected, replace(LOOK, plan=(replace(B, attempt=2),))).phase is Phase.FETCHING


def test_what_the_surroundings_cause_is_no_outcome() -> None:
    obstructed = play(RUNS_A, LOOK, Obstructed("sha-b", WaitingFor.DISK))

    assert obstructed.waiting_for is WaitingFor.DISK
    assert play(obstructed, LOOK).waiting_for is WaitingFor.DISK
    assert play(obstructed, Fetched("sha-b")).waiting_for is None
    assert not obstructed.ended


def test_a_device_without_a_packer_says_what_it_lacks_and_goes_on_once_it_has_it() -> None:
    lacks = Obstructed("sha-b", WaitingFor.REQUIRES, "packer", "apt install imx500-tools")
    obstructed = play(RUNS_A, *READY[:3], lacks, LOOK)

    reported = deployment_reported(obstructed, since="")
    assert reported is not None
    assert (reported.phase, reported.waiting_for) == ("staging", "requires")
    assert reported.error == ErrorText("packer", "apt install imx500-tools")
    assert not obstructed.ended
    staged = play(obstructed, Staged("sha-b"))
    assert (staged.phase, staged.waiting_for, staged.text) == (Phase.WAITING, None, "")
    dropped = play(obstructed, ABORTED, ABORTED, replace(LOOK, plan=(replace(B, attempt=2),)))
    assert (dropped.phase, dropped.text) == (Phase.FETCHING, "")


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (HELD, WaitingFor.HOLD),
        (replace(LOOK, closed=frozenset({"r-2"})), WaitingFor.WINDOW),
        (replace(LOOK, may_start=False), WaitingFor.TURN),
        (replace(LOOK, has_starts_left=False), WaitingFor.REBOOT),
    ],
)
def test_a_release_that_is_ready_waits_and_says_for_what(
    look: Looked, expected: WaitingFor
) -> None:
    waiting = play(RUNS_A, *READY, look)

    assert (waiting.phase, waiting.waiting_for) == (Phase.WAITING, expected)
    assert play(waiting, LOOK).phase is Phase.ACTIVATING


WINDOWED = replace(LOOK, plan=(replace(B, window=Window(frozenset({"mon"}), 0, 60)),))


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (replace(LOOK, is_trust_expired=True), WaitingFor.CLOCK),
        (replace(WINDOWED, has_clock=False), WaitingFor.CLOCK),
        (replace(LOOK, unsupported=frozenset({"sha-b"})), WaitingFor.REQUIRES),
    ],
)
def test_nothing_leaves_idle_without_what_it_needs(look: Looked, expected: WaitingFor) -> None:
    idle = play(RUNS_A, look)
    reported = deployment_reported(idle, since="")

    assert (idle.phase, idle.waiting_for) == (Phase.IDLE, expected)
    assert reported is not None
    assert (reported.rollout, reported.phase) == ("r-2", "idle")
    assert play(idle, LOOK).phase is Phase.FETCHING


def test_expired_trust_stops_nothing_that_is_under_way() -> None:
    expired = replace(LOOK, is_trust_expired=True)

    assert play(RUNS_A, *READY, expired).phase is Phase.ACTIVATING


def test_a_spent_start_budget_reboots_once_a_day_for_a_new_release() -> None:
    waiting = play(RUNS_A, *READY)
    spent = replace(LOOK, has_starts_left=False)

    assert effects_of(waiting, replace(spent, may_reboot=True)) == [Stop, Reboot]
    assert effects_of(waiting, spent) == []


def test_a_newer_plan_drops_what_is_not_yet_activated() -> None:
    dropped = play(RUNS_A, *READY, replace(LOOK, plan=()))

    assert (dropped.phase, dropped.making, dropped.latest) == (Phase.IDLE, None, None)


def test_a_rollout_that_takes_over_the_same_release_takes_over_its_deployment() -> None:
    newer = replace(B, rollout="r-3", salt="r-3")
    waiting = play(RUNS_A, *READY, replace(LOOK, plan=(newer,)))

    assert waiting.phase is Phase.WAITING
    assert waiting.making is not None
    assert waiting.making.owners == {("r-3", 1)}


def test_a_release_that_fails_where_the_old_one_runs_is_to_blame() -> None:
    rolling = play(RUNS_A, *TRIAL, Failed("wrong_network", "expected n1, got n2"))
    shown = deployment_reported(rolling, since="")
    ended = play(rolling, Passed())

    assert shown is not None
    assert shown.error is not None
    assert (shown.phase, shown.error.code) == ("rolling_back", "wrong_network")
    assert (ended.phase, ended.active) == (Phase.IDLE, A_SLOT)
    assert ended.ended[B_TRY] == Ended(
        Phase.ROLLED_BACK, Cause.RELEASE, "wrong_network", "expected n1, got n2"
    )


def test_a_dead_bridge_is_rebooted_before_anybody_is_blamed() -> None:
    twice = play(RUNS_A, *TRIAL, Failed(), Failed())

    assert effects_of(twice, Failed()) == [Persist, Stop, Reboot]
    due = play(twice, Failed())
    assert play(due, Booted(), Passed()).ended[B_TRY].cause is Cause.RELEASE
    broken = play(due, Booted(), Failed())
    assert (broken.phase, broken.active) == (Phase.BROKEN, A_SLOT)
    assert broken.ended[B_TRY].cause is Cause.CAMERA


def test_a_kill_of_the_agent_is_not_taken_for_the_reboot_that_is_due() -> None:
    due = play(RUNS_A, *TRIAL, Failed(), Failed(), Failed())

    assert effects_of(due, Booted(is_new_boot=False)) == [Reboot]
    assert effects_of(due, LOOK) == []
    cannot = Booted(is_new_boot=False, can_reboot=False)
    assert effects_of(due, cannot) == [Persist, Persist, Stop, Start]


def test_the_last_restore_waits_for_a_reboot_when_the_agent_was_killed_before_it_asked() -> None:
    twice = play(RUNS_A, *TRIAL, Failed(), Failed())

    assert effects_of(twice, Booted(is_new_boot=False)) == [Persist, Stop, Reboot]


def test_power_cuts_while_activating_are_tried_again_twice() -> None:
    trial = play(RUNS_A, *TRIAL)
    for _ in range(ACTIVATIONS_MAX - 1):
        trial = play(trial, Booted())
        assert trial.phase is Phase.ACTIVATING

    ended = play(trial, Booted(), Passed())

    assert ended.ended[B_TRY].cause is Cause.INTERRUPTED


@pytest.mark.parametrize("count", [2, 3, 4])
def test_files_are_hashed_again_after_a_power_cut(count: int) -> None:
    assert Verify in effects_of(play(RUNS_A, *READY[:count]), Booted())


def test_a_newer_plan_waits_for_the_end_of_a_trial() -> None:
    probing = play(RUNS_A, *TRIAL, Started())

    assert play(probing, ABORTED, ABORTED).phase is Phase.PROBING
    assert play(probing, ABORTED, Passed(), ABORTED).phase is Phase.ROLLING_BACK
    assert play(probing, replace(LOOK, plan=()), Passed()).committed == {B_TRY}


def test_a_revert_is_reported_as_rolled_back_by_the_operator() -> None:
    rolling = play(RUNS_A, *COMMITTED, ABORTED, ABORTED)
    under_way, back = deployment_reported(rolling, since=""), play(rolling, Passed())
    done = deployment_reported(back, since="")

    assert under_way is not None
    assert done is not None
    assert (under_way.rollout, under_way.phase, under_way.cause) == (
        "r-2",
        "rolling_back",
        "operator",
    )
    assert (done.rollout, done.phase, done.cause) == ("r-2", "rolled_back", "operator")
    assert (back.active, back.previous) == (A_SLOT, None)


def test_what_stalls_after_commit_gets_one_reboot_before_it_is_left() -> None:
    runs_b = play(RUNS_A, *COMMITTED)

    assert effects_of(runs_b, Failed(may_reboot=True)) == [Persist, Stop, Reboot]
    left = play(runs_b, Failed(may_reboot=True), Booted(), Failed(), Passed())
    assert left.active == A_SLOT
    assert left.ended[B_TRY] == Ended(Phase.ROLLED_BACK, Cause.RELEASE, "failed", "")


def test_a_release_that_hangs_the_device_after_commit_is_left_like_one_that_stalls() -> None:
    runs_b = play(RUNS_A, *COMMITTED)

    rolling = play(runs_b, Booted(is_boot_loop=True))

    assert (rolling.phase, rolling.restoring) == (Phase.ROLLING_BACK, A_SLOT)
    assert play(rolling, Passed()).ended[B_TRY].code == "boot_loop"


def test_a_boot_loop_with_nothing_to_go_back_to_waits_instead_of_starting() -> None:
    runs_b = replace(play(Journal(), *COMMITTED), previous=None)

    broken = play(runs_b, Booted(is_boot_loop=True))

    assert broken.phase is Phase.BROKEN
    assert effects_of(broken, Booted(is_boot_loop=True)) == []


def test_a_committed_release_is_not_guilty_of_a_dead_camera() -> None:
    runs_b = play(RUNS_A, *COMMITTED)

    dead = play(runs_b, *[Failed()] * 3, Booted(), Failed())

    assert (dead.phase, dead.committed) == (Phase.BROKEN, {B_TRY})
    assert effects_of(dead, replace(LOOK, is_due=True)) == [Stop, Start]
    assert play(dead, Passed()).phase is Phase.IDLE


def test_a_broken_camera_that_recovers_has_rolled_back() -> None:
    broken = play(RUNS_A, *TRIAL, Failed(), Failed(), Failed(), Booted(), Failed())

    assert broken.ended[B_TRY] == Ended(Phase.BROKEN, Cause.CAMERA, "failed", "")
    assert play(broken, Passed()).ended[B_TRY].phase is Phase.ROLLED_BACK


def test_a_broken_camera_is_tried_again_while_the_next_release_cannot_be_fetched() -> None:
    broken = play(RUNS_A, *TRIAL, Failed(), Failed(), Failed(), Booted(), Failed())
    retry = replace(LOOK, plan=(replace(B, attempt=2),))
    stuck = play(broken, retry, Obstructed("sha-b", WaitingFor.BLOCKS))

    assert stuck.phase is Phase.FETCHING
    assert effects_of(stuck, replace(retry, is_due=True)) == [Stop, Start]
    assert play(stuck, Passed()).is_running


def test_a_first_release_that_fails_leaves_the_bridge_fresh_for_the_next() -> None:
    trial = play(Journal(), *TRIAL)

    assert effects_of(trial, Failed()) == [Persist, Stop, Reboot]
    broken = play(trial, Failed())
    assert broken.ended[B_TRY] == Ended(Phase.BROKEN, Cause.UNKNOWN, "failed", "")


def test_a_release_that_comes_back_from_the_previous_slot_keeps_its_owners() -> None:
    kept = Slot("b@1", "sha-b", frozenset({("r-0", 1)}))

    back = play(replace(RUNS_A, previous=kept), *COMMITTED)

    assert back.active is not None
    assert back.active.owners == {("r-0", 1), ("r-2", 1)}


def test_a_failure_ends_every_try_that_named_the_release() -> None:
    older = replace(B, rollout="r-1b", salt="r-1b")
    look = replace(LOOK, plan=(B, older))

    ended = play(RUNS_A, look, *READY[1:], look, Failed(), Passed())

    assert ended.ended_badly == {B_TRY, ("r-1b", 1)}


def test_a_hold_lets_nobody_activate_and_is_rest() -> None:
    held = play(RUNS_A, HELD, *READY[1:], HELD, HELD)

    assert held.phase is Phase.WAITING
    assert is_settled(held, CAMERA, HELD.plan, LISTED)
    assert not is_settled(play(held, LOOK), CAMERA, LOOK.plan, LISTED)


def test_outcomes_are_reported_for_the_rollouts_that_the_plan_names() -> None:
    ended = play(RUNS_A, *TRIAL, Failed(), Passed())

    assert [(e.rollout, e.phase, e.cause) for e in ends_reported(ended, (B,))] == [
        ("r-2", "rolled_back", "release")
    ]
    assert ends_reported(ended, ()) == ()


@pytest.mark.parametrize("count", range(len(COMMITTED)))
def test_a_journal_comes_back_from_disk_as_it_was_written(count: int) -> None:
    journal = replace(play(RUNS_A, *COMMITTED[:count]), waiting_for=None)

    data = msgspec.json.encode(to_document(journal))

    assert from_document(msgspec.json.decode(data, type=JournalDocument)) == journal


def test_a_journal_with_a_field_that_we_do_not_know_is_refused() -> None:
    data = msgspec.json.encode(to_document(RUNS_A)).replace(b'{"phase"', b'{"more":1,"phase"', 1)

    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(data, type=JournalDocument)


def test_a_release_that_is_committed_at_once_keeps_its_owners() -> None:
    again = replace(B, rollout="r-3", release="a@1", manifest_sha256="sha-a", salt="r-3")

    shared = play(RUNS_A, replace(LOOK, plan=(again,)))

    assert shared.active is not None
    assert shared.active.owners == {("r-1", 1), ("r-3", 1)}
    assert shared.ended == {("r-3", 1): Ended(Phase.COMMITTED), ("r-1", 1): Ended(Phase.COMMITTED)}


def test_a_broken_camera_whose_starts_are_spent_reboots_once_a_day() -> None:
    broken = play(RUNS_A, *TRIAL, Failed(), Failed(), Failed(), Booted(), Failed())
    spent = Looked((), LISTED, has_starts_left=False)

    assert effects_of(broken, replace(spent, may_reboot=True)) == [Stop, Reboot]
    assert effects_of(broken, spent) == []


def test_a_rollout_that_does_not_cover_the_camera_owns_nothing_on_it() -> None:
    elsewhere = replace(B, rollout="r-3", selector=parse_selector("role=dock"))
    look = replace(LOOK, plan=(elsewhere, B))

    committed = play(RUNS_A, look, *READY[1:], look, Started(), Passed())

    assert committed.active is not None
    assert committed.active.owners == {B_TRY}


def test_what_stalls_again_with_nothing_earlier_does_not_reboot_the_device_for_ever() -> None:
    runs_b = play(Journal(), *COMMITTED)

    assert effects_of(runs_b, Failed()) == [Persist, Stop, Reboot]
    again = play(runs_b, Failed(), Booted(), Passed())
    assert again.is_running
    assert effects_of(again, Failed()) == [Persist, Stop]


def unproven_b() -> Journal:
    """Return a camera that runs the release that the plan names, but failed it once."""
    ended = {("r-0", 1): Ended(Phase.ROLLED_BACK, Cause.UNKNOWN)}
    active = Slot("b@1", "sha-b", frozenset({("r-0", 1)}))
    return Journal(active=active, previous=A_SLOT, is_running=True, ended=ended)


def test_a_release_is_no_control_experiment_for_itself() -> None:
    failed = play(unproven_b(), *TRIAL, Failed())

    assert (failed.phase, failed.restoring) == (Phase.BROKEN, None)
    assert failed.ended[B_TRY] == Ended(Phase.BROKEN, Cause.UNKNOWN, "failed", "")


def test_a_release_is_not_its_own_predecessor() -> None:
    proven = play(unproven_b(), *COMMITTED)

    assert proven.active is not None
    assert (proven.active.release, proven.previous) == ("b@1", None)
