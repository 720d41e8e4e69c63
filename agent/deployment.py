"""One camera's deployment: decide here, act elsewhere.

    IDLE -> FETCHING -> VERIFYING -> STAGING -> WAITING -> ACTIVATING -> PROBING -> IDLE (committed)
              |            |            |          |           |            |
              +------------+------------+----------+           +------------+
                           v                                         v
                    IDLE (rejected)                            ROLLING_BACK -> IDLE (rolled back)
                                                                     |
    BROKEN <---------------------------------------------------------+   (nothing runs)

``committed``, ``rolled_back``, ``rejected`` and ``broken`` are outcomes: ``Journal.ended`` keeps
them by (rollout, attempt), for good. ``agent/outcomes.py`` turns a journal into what is reported
and into what is written to disk.

Rule 1: ``Persist`` comes before the effect that it describes.
Rule 2: a bad end is final for (rollout, attempt); only the plan can name a release anew.
Rule 3: a newer plan changes nothing between ACTIVATING and the end.
Rule 4: the release that ran before is the control experiment, and its last start comes after a
        reboot: a release that kills the sensor bridge must not look like a dead camera.
Rule 5: what the surroundings cause (``Obstructed``) is no outcome.

The shell carries effects out in order, answers with events, and *looks* (``Looked``) after every
step that changed something, when a bundle or an identity was accepted, and when a condition in
``Looked`` may have changed. Work for a release that is no longer ``Journal.making`` is cancelled.
A child that was stopped says nothing more: its late messages never become events.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from agent import ends, trial
from agent.steps import (
    PREPARING,
    Booted,
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
    Step,
    Stop,
    Verified,
    Verify,
    WaitingFor,
)
from shared.assignment import (
    Camera,
    CommitAtOnce,
    Entry,
    Keep,
    RestorePrevious,
    Run,
    Slot,
    Wait,
    covers,
    namings,
    wanted,
)

_CHANGEABLE = PREPARING | {Phase.IDLE, Phase.BROKEN}


def step(journal: Journal, identity: Camera, event: Event) -> Step:
    """Return the next journal and the effects that lead there, in order."""
    match event:
        case Looked():
            return _looked(journal, identity, event)
        case Fetched() | Verified() | Staged() | Rejected() | Obstructed():
            return _prepared(journal, event)
        case Started():
            if journal.phase is not Phase.ACTIVATING:
                return journal, ()
            return ends.persisted(replace(journal, phase=Phase.PROBING))
        case Passed():
            return trial.passed(journal)
        case Failed():
            return trial.failed(journal, event)
        case Booted():
            return trial.resume(journal, event)
        case _:
            assert_never(event)


def view(journal: Journal, identity: Camera) -> Camera:
    """Return the camera as the rules of assignment see it."""
    return replace(
        identity,
        active=journal.active,
        previous=journal.previous,
        is_running=journal.is_running,
        ended_badly=journal.ended_badly,
        failed=journal.failed,
    )


# Following the plan.
def _looked(journal: Journal, identity: Camera, event: Looked) -> Step:
    remembered = ends.reverts_remembered(journal, event.plan)
    if remembered != journal:
        return ends.persisted(remembered)
    if journal.is_reboot_due or journal.phase not in _CHANGEABLE:
        return journal, ()
    return _follow(journal, identity, event)


def _follow(journal: Journal, identity: Camera, event: Looked) -> Step:
    """Do what the plan wants of a camera that may still change its mind."""
    want = wanted(event.plan, event.listed, view(journal, identity))
    match want:
        case Run(entry):
            return _pursue(journal, identity, event, entry)
        case Wait(entry):
            if journal.is_running or journal.active is None:
                return _pursue(journal, identity, event, entry, is_held=True)
            return _stay(journal, event)
        case RestorePrevious(slot):
            return trial.revert(ends.dropped(journal), slot) if event.may_start else (journal, ())
        case CommitAtOnce(entry):
            return _commit_at_once(ends.dropped(journal), identity, entry, event.plan)
        case Keep():
            return _stay(journal, event)
        case _:
            assert_never(want)


def _pursue(
    journal: Journal, identity: Camera, event: Looked, entry: Entry, *, is_held: bool = False
) -> Step:
    """Bring the entry's release nearer to the camera, as far as it may go now."""
    making = journal.making
    if making is None or making.manifest_sha256 != entry.manifest_sha256:
        return _begin(journal, event, entry)
    if entry.tried not in making.owners:  # Another rollout names the same release now.
        slot = replace(making, owners=frozenset({entry.tried}), probe=entry.probe)
        latest = ends.latest_try(slot, entry.tried)
        return ends.persisted(replace(journal, making=slot, latest=latest))
    if journal.phase is not Phase.WAITING:
        return _try_active(journal, event)
    obstacle = _obstacle(event, entry, is_held=is_held)
    if obstacle is None:
        claimed = _claimed(journal, identity, making, event.plan)
        return trial.activate(replace(journal, making=claimed))
    if obstacle is WaitingFor.REBOOT and event.may_reboot and event.may_start:
        return journal, (Stop(), Reboot())
    return _try_active(replace(journal, waiting_for=obstacle), event)


def _obstacle(event: Looked, entry: Entry, *, is_held: bool) -> WaitingFor | None:
    """Return why a release that is ready may not activate now."""
    if is_held:
        return WaitingFor.HOLD
    if entry.rollout in event.closed:
        return WaitingFor.WINDOW
    if not event.has_starts_left:
        return WaitingFor.REBOOT
    return None if event.may_start else WaitingFor.TURN


def _begin(journal: Journal, event: Looked, entry: Entry) -> Step:
    """Leave IDLE for a release, unless something known beforehand is in the way."""
    slot = Slot(entry.release, entry.manifest_sha256, frozenset({entry.tried}), probe=entry.probe)
    obstacle = _obstacle_at_first(event, entry)
    if obstacle is None:
        fetching = replace(
            journal,
            phase=Phase.FETCHING,
            making=slot,
            activations_started=0,
            latest=ends.latest_try(slot, entry.tried),
            waiting_for=None,
            code="",
            text="",
        )
        return fetching, (Persist(fetching), Fetch(slot))
    if journal.making is not None:
        return ends.persisted(ends.dropped(journal))
    latest = ends.latest_try(slot, entry.tried)
    return _try_active(replace(journal, latest=latest, waiting_for=obstacle), event)


def _obstacle_at_first(event: Looked, entry: Entry) -> WaitingFor | None:
    """Return why a deployment may not leave IDLE now."""
    if event.is_trust_expired or (entry.window is not None and not event.has_clock):
        return WaitingFor.CLOCK
    return WaitingFor.REQUIRES if entry.manifest_sha256 in event.unsupported else None


def _stay(journal: Journal, event: Looked) -> Step:
    """Drop what was under way; try the committed release again when nothing runs."""
    if journal.making is not None:
        return ends.persisted(ends.dropped(journal))
    return _try_active(replace(ends.settled(journal), waiting_for=None), event)


def _try_active(journal: Journal, event: Looked) -> Step:
    """Try the committed release again while nothing runs, whatever is being prepared."""
    if journal.is_running or journal.active is None:
        return journal, ()
    if event.may_reboot and event.may_start:
        return journal, (Stop(), Reboot())
    if event.is_due and event.may_start:
        return journal, (Stop(), Start(journal.active))
    return journal, ()


def _claimed(journal: Journal, identity: Camera, making: Slot, plan: Sequence[Entry]) -> Slot:
    """Note whose deployment this is, and which tries a failure of the release would end here."""
    rivals = frozenset(entry.tried for entry in namings(plan, making.manifest_sha256))
    previous = journal.previous
    if previous is not None and previous.manifest_sha256 == making.manifest_sha256:
        making = replace(making, owners=making.owners | previous.owners)
    owned = _owned(journal, identity, making, plan)
    return replace(owned, rivals=rivals - journal.ended_badly)


def _owned(journal: Journal, identity: Camera, slot: Slot, plan: Sequence[Entry]) -> Slot:
    """Return the slot with every covering try of the plan that names it and has not ended here."""
    covering = {e.tried for e in namings(plan, slot.manifest_sha256) if covers(e, identity)}
    return replace(slot, owners=(slot.owners | covering) - journal.ended_badly)


def _commit_at_once(
    journal: Journal, identity: Camera, entry: Entry, plan: Sequence[Entry]
) -> Step:
    """Share the slot that runs with the entry, without a camera start."""
    assert journal.active is not None
    active = _owned(journal, identity, journal.active, plan)
    assert entry.tried in active.owners
    ended = ends.filed(journal, active.owners, Ended(Phase.COMMITTED))
    latest = ends.latest_try(active, entry.tried)
    return ends.persisted(replace(journal, active=active, ended=ended, latest=latest))


# Preparing.
def _prepared(journal: Journal, event: Fetched | Verified | Staged | Rejected | Obstructed) -> Step:
    """Take one step of the preparation; what belongs to another deployment changes nothing."""
    making = journal.making
    if making is None or making.manifest_sha256 != event.manifest_sha256:
        return journal, ()
    if journal.phase not in PREPARING:
        return journal, ()
    match event:
        case Fetched():
            return _advanced(journal, Phase.FETCHING, Phase.VERIFYING, Verify(making))
        case Verified():
            return _advanced(journal, Phase.VERIFYING, Phase.STAGING, Stage(making))
        case Staged():
            return _advanced(journal, Phase.STAGING, Phase.WAITING)
        case Rejected():
            ended = Ended(Phase.REJECTED, event.cause, event.code, ends.cut(event.text))
            rejected = replace(ends.dropped(journal), latest=journal.latest)
            filed = ends.filed(rejected, making.owners, ended)
            return ends.persisted(replace(rejected, ended=filed))
        case Obstructed():
            return _obstructed(journal, event)
        case _:
            assert_never(event)


def _advanced(journal: Journal, before: Phase, after: Phase, *effects: Effect) -> Step:
    if journal.phase is not before:
        return journal, ()
    advanced = replace(journal, phase=after, waiting_for=None, code="", text="")
    return advanced, (Persist(advanced), *effects)


def _obstructed(journal: Journal, event: Obstructed) -> Step:
    if event.what is WaitingFor.REQUIRES and not event.code:
        dropped = replace(ends.dropped(journal), latest=journal.latest, waiting_for=event.what)
        return ends.persisted(dropped)
    if journal.phase is Phase.WAITING:
        return journal, ()
    noted = ends.noted(journal, event.code, event.text)
    return replace(noted, waiting_for=event.what), ()
