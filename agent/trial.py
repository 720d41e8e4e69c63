"""A release on trial: start, commit, roll back, and whom to blame. Pure.

``resume`` says for every phase what a power cut there can have left behind. The rules are those of
``agent/deployment.py``.
"""

from dataclasses import replace

from agent import ends
from agent.steps import (
    Booted,
    Cause,
    Effect,
    Ended,
    Failed,
    Fetch,
    Journal,
    Persist,
    Phase,
    Reboot,
    Start,
    Step,
    Stop,
    Verify,
)
from shared.assignment import Slot

ACTIVATIONS_MAX = 3  # The first, and two more after power cuts.
RESTORES_MAX = 3  # The last one comes after a reboot.


# After a boot.
def resume(journal: Journal, event: Booted) -> Step:
    """Return what to do after a start of the agent: finish what was under way, start the rest."""
    if journal.is_reboot_due:
        if event.can_reboot and not event.is_new_boot:
            return journal, (Reboot(),)
        cleared = replace(journal, is_reboot_due=False)
        after, effects = resume(cleared, event)
        return after, (Persist(cleared), *effects)
    match journal.phase:
        case Phase.ACTIVATING | Phase.PROBING:
            if journal.activations_started < ACTIVATIONS_MAX:
                return activate(journal)
            return roll_back(ends.noted(journal, "interrupted", "cut off"), Cause.INTERRUPTED)
        case Phase.ROLLING_BACK:
            return _resume_restore(journal, event)
        case _:
            return _resume_quiet(journal, event)


def _resume_restore(journal: Journal, event: Booted) -> Step:
    """Go on with a roll-back; the last start needs a kernel that has just started."""
    if journal.restores_started >= RESTORES_MAX:
        return _give_up(journal)
    is_last = journal.restores_started == RESTORES_MAX - 1
    if is_last and event.can_reboot and not event.is_new_boot:
        return _reboot(journal)
    return _restore(journal)


def _resume_quiet(journal: Journal, event: Booted) -> Step:
    """Start what was committed; prepare what was being prepared, from the files as they are."""
    if event.is_boot_loop and journal.is_running:
        hung = ends.noted(journal, "boot_loop", "the device hung soon after its last starts")
        return _leave_active(hung, is_fresh=True)
    effects: list[Effect] = []
    if journal.phase in {Phase.STAGING, Phase.WAITING}:
        journal = replace(journal, phase=Phase.VERIFYING, waiting_for=None)
        effects.append(Persist(journal))
    if journal.active is not None and not event.is_boot_loop:
        effects.append(Start(journal.active))
    if journal.making is not None:
        again = Fetch if journal.phase is Phase.FETCHING else Verify
        effects.append(again(journal.making))
    return journal, tuple(effects)


# On trial.
def activate(journal: Journal) -> Step:
    """Start the release that is ready, counted before it is done."""
    assert journal.making is not None
    started = replace(
        journal,
        phase=Phase.ACTIVATING,
        activations_started=journal.activations_started + 1,
        waiting_for=None,
        code="",
        text="",
    )
    return started, (Persist(started), Stop(), Start(journal.making))


def revert(journal: Journal, slot: Slot) -> Step:
    """Leave the active release for good: it must not become the previous one."""
    assert journal.active is not None
    reverted = replace(
        journal,
        active=slot,
        previous=None,
        restoring=slot,
        failing=None,
        cause=Cause.OPERATOR,
        code="",
        text="",
        restores_started=0,
        latest=journal.latest or ends.latest_owner(journal.active),
    )
    return _restore(reverted)


def _restore(journal: Journal) -> Step:
    assert journal.restoring is not None
    started = replace(
        journal, phase=Phase.ROLLING_BACK, restores_started=journal.restores_started + 1
    )
    return started, (Persist(started), Stop(), Start(journal.restoring))


def passed(journal: Journal) -> Step:
    """Take the gate's consent: it commits, or it ends the way back."""
    match journal.phase:
        case Phase.PROBING:
            return _commit(journal)
        case Phase.ROLLING_BACK:
            return _restored(journal)
        case Phase.ACTIVATING:
            return journal, ()
        case _:
            return _recovered(journal)


def _recovered(journal: Journal) -> Step:
    """The committed release runs again: what broke the camera was rolled back after all."""
    if journal.is_running or journal.active is None:
        return journal, ()
    ended = {
        tried: replace(end, phase=Phase.ROLLED_BACK) if end.phase is Phase.BROKEN else end
        for tried, end in journal.ended.items()
    }
    phase = Phase.IDLE if journal.phase is Phase.BROKEN else journal.phase
    return ends.persisted(replace(journal, phase=phase, is_running=True, ended=ended))


def _commit(journal: Journal) -> Step:
    assert journal.making is not None
    previous = journal.active if journal.is_running else journal.previous
    if previous is not None and previous.manifest_sha256 == journal.making.manifest_sha256:
        previous = None  # A release is no control experiment for itself.
    committed = replace(
        ends.dropped(journal),
        phase=Phase.IDLE,
        active=journal.making,
        previous=previous,
        is_running=True,
        ended=ends.filed(journal, journal.making.owners, Ended(Phase.COMMITTED)),
        failed=journal.failed - {journal.making.manifest_sha256},
        latest=journal.latest,
    )
    return ends.persisted(committed)


def _restored(journal: Journal) -> Step:
    """The control experiment passed: what we rolled back from is to blame."""
    assert journal.restoring is not None
    previous = journal.previous if journal.restoring == journal.active else None
    restored = replace(journal, active=journal.restoring, previous=previous, is_running=True)
    return ends.persisted(ends.ended_badly(restored, journal.cause or Cause.RELEASE, Phase.IDLE))


def failed(journal: Journal, event: Failed) -> Step:
    """Leave what failed."""
    match journal.phase:
        case Phase.ACTIVATING | Phase.PROBING:
            return roll_back(ends.noted(journal, event.code, event.text), None)
        case Phase.ROLLING_BACK:
            return _restore_failed(journal)
        case _:
            return _stalled(journal, event)


def roll_back(journal: Journal, cause: Cause | None) -> Step:
    """Go back to what ran before: the control experiment."""
    making, active = journal.making, journal.active
    assert making is not None
    rolling = replace(
        journal, failing=making, making=None, restoring=active, cause=cause, restores_started=0
    )
    if active is None or active.manifest_sha256 == making.manifest_sha256:  # Nothing earlier.
        stopped = replace(rolling, is_running=False)
        return _reboot(ends.ended_badly(stopped, cause or Cause.UNKNOWN, Phase.BROKEN))
    return _restore(rolling)


def _stalled(journal: Journal, event: Failed) -> Step:
    """What was committed fails: reboot if we may, else try the previous release as a control."""
    if journal.active is None or not journal.is_running or journal.is_reboot_due:
        return journal, ()
    if event.may_reboot:
        return _reboot(journal)
    return _leave_active(ends.noted(journal, event.code, event.text), is_fresh=False)


def _leave_active(journal: Journal, *, is_fresh: bool) -> Step:
    """Roll back from what was committed; the previous release says whom to blame.

    Args:
        journal: With the reason noted.
        is_fresh: The kernel has just started, so that another reboot would heal nothing.
    """
    assert journal.active is not None
    failing = replace(
        ends.dropped(journal),
        failing=journal.active,
        cause=None,
        restores_started=0,
        latest=ends.latest_owner(journal.active),
    )
    if journal.previous is None or journal.previous.manifest_sha256 in journal.failed:
        stopped = replace(failing, is_running=False)
        broken = ends.ended_badly(stopped, Cause.UNKNOWN, Phase.BROKEN)
        is_known = journal.active.owners <= journal.ended_badly  # It had its reboot then.
        if is_fresh or is_known:
            return broken, (Persist(broken), Stop())
        return _reboot(broken)
    return _restore(replace(failing, restoring=journal.previous))


def _restore_failed(journal: Journal) -> Step:
    if journal.is_reboot_due:
        return journal, ()
    if journal.restores_started >= RESTORES_MAX:
        return _give_up(journal)
    if journal.restores_started == RESTORES_MAX - 1:
        return _reboot(journal)
    return _restore(journal)


def _give_up(journal: Journal) -> Step:
    """Nothing starts any more: the camera is to blame; BROKEN tries the active slot again."""
    broken = replace(journal, is_running=False)
    if journal.failing == journal.active:  # A committed release is not guilty of a dead camera.
        broken = replace(broken, failing=None)
    ended = ends.ended_badly(broken, journal.cause or Cause.CAMERA, Phase.BROKEN)
    return ended, (Persist(ended), Stop())


def _reboot(journal: Journal) -> Step:
    """Ask for a reboot, durably: a kill of the agent alone must not be taken for one."""
    due = replace(journal, is_reboot_due=True)
    return due, (Persist(due), Stop(), Reboot())
