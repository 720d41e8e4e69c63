"""One camera's deployment, as small as the rules allow: decide here, act elsewhere.

    IDLE -> FETCHING -> WAITING -> ACTIVATING -> PROBING -> IDLE        (committed)
                                        |           |
                                        +-----------+-> ROLLING_BACK -> IDLE    (rolled back)
                                                             |
    BROKEN <-------------------------------------------------+          (nothing runs)

Rule 1: ``Persist`` comes before the effect that it describes.
Rule 2: a bad end is final for (rollout, attempt); only the plan can name a release anew.
Rule 3: a newer plan changes nothing between ACTIVATING and the end.
Rule 4: the release that ran before is the control experiment, and its last start comes after a
        reboot: a release that kills the sensor bridge must not look like a dead camera.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import assert_never

from shared.assignment import (
    Camera,
    CommitAtOnce,
    Entry,
    Keep,
    RestorePrevious,
    Run,
    Slot,
    Try,
    Wait,
    covers,
    namings,
    owners_left,
    wanted,
)

ACTIVATIONS_MAX = 3  # The first, and two more after power cuts.
RESTORES_MAX = 3  # The last one comes after a reboot.


class Phase(Enum):
    """Where the camera's deployment stands; the names are those on the wire."""

    IDLE = "idle"
    FETCHING = "fetching"
    WAITING = "waiting"
    ACTIVATING = "activating"
    PROBING = "probing"
    ROLLING_BACK = "rolling_back"
    BROKEN = "broken"


class Cause(Enum):
    """Whom a bad end is counted against."""

    RELEASE = "release"
    CAMERA = "camera"
    INTERRUPTED = "interrupted"
    OPERATOR = "operator"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Journal:
    """All that survives a power cut."""

    phase: Phase = Phase.IDLE
    active: Slot | None = None
    previous: Slot | None = None
    is_running: bool = False
    making: Slot | None = None  # The release under way.
    failing: Slot | None = None  # What we roll back from, until the control experiment ends.
    restoring: Slot | None = None
    cause: Cause | None = None
    is_reboot_spent: bool = False  # One reboot is the last rung of the ladder after commit.
    activations_started: int = 0
    restores_started: int = 0
    committed: frozenset[Try] = frozenset()
    ended_badly: Mapping[Try, Cause] = field(default_factory=dict[Try, Cause])
    failed: frozenset[str] = frozenset()  # Manifests that failed their gate since committed here.


# Events: what the world tells us. Past tense.
@dataclass(frozen=True, slots=True)
class Looked:
    """The agent looked at its accepted plan; nothing else happened."""

    plan: Sequence[Entry]
    listed: Mapping[str, str]
    may_start: bool  # No other camera of the device is starting or on trial.
    is_due: bool  # The back-off of BROKEN is over.
    may_reboot: bool = False  # The starts of this boot are spent, the daily reboot is not.


@dataclass(frozen=True, slots=True)
class Fetched:
    """The release under way is on disk, verified."""


@dataclass(frozen=True, slots=True)
class Started:
    """The camera delivers frames."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The gate was passed for the probe time."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A start or a probe failed, or the recovery ladder is exhausted."""


@dataclass(frozen=True, slots=True)
class Booted:
    """The device started; the camera is off."""


# Effects: what we ask of the world. Imperative.
@dataclass(frozen=True, slots=True)
class Persist:
    """Write the journal durably, then go on."""

    journal: Journal


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get and verify what is missing of this release."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Start:
    """Start the camera with this release, then judge it by its gate."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Reboot:
    """Restart the device: the only cure for a dead sensor bridge."""


Event = Looked | Fetched | Started | Passed | Failed | Booted
Effect = Persist | Fetch | Start | Reboot
Step = tuple[Journal, tuple[Effect, ...]]

_CHANGEABLE = frozenset({Phase.IDLE, Phase.FETCHING, Phase.WAITING, Phase.BROKEN})


def step(journal: Journal, identity: Camera, event: Event) -> Step:
    """Return the next journal and the effects that lead there, in order."""
    match event:
        case Looked():
            return _looked(journal, identity, event)
        case Fetched():
            if journal.phase is not Phase.FETCHING:
                return journal, ()
            return _persisted(replace(journal, phase=Phase.WAITING))
        case Started():
            if journal.phase is not Phase.ACTIVATING:
                return journal, ()
            return _persisted(replace(journal, phase=Phase.PROBING))
        case Passed():
            return _passed(journal)
        case Failed():
            return _failed(journal)
        case Booted():
            return resume(journal)
        case _:
            assert_never(event)


def resume(journal: Journal) -> Step:
    """Return what to do after a boot: finish what was under way, start what was committed."""
    match journal.phase:
        case Phase.ACTIVATING | Phase.PROBING:
            if journal.activations_started < ACTIVATIONS_MAX:
                return _activate(journal)
            return _roll_back(journal, Cause.INTERRUPTED)
        case Phase.ROLLING_BACK:
            if journal.restores_started < RESTORES_MAX:
                return _restore(journal)
            return _give_up(journal)
        case Phase.IDLE | Phase.FETCHING | Phase.WAITING:
            effects: list[Effect] = []
            if journal.active is not None and journal.is_running:
                effects.append(Start(journal.active))
            if journal.making is not None and journal.phase is Phase.FETCHING:
                effects.append(Fetch(journal.making))
            return journal, tuple(effects)
        case Phase.BROKEN:
            return journal, () if journal.active is None else (Start(journal.active),)
        case _:
            assert_never(journal.phase)


def view(journal: Journal, identity: Camera) -> Camera:
    """Return the camera as the rules of assignment see it."""
    return replace(
        identity,
        active=journal.active,
        previous=journal.previous,
        is_running=journal.is_running,
        ended_badly=frozenset(journal.ended_badly),
        failed=journal.failed,
    )


def _looked(journal: Journal, identity: Camera, event: Looked) -> Step:
    remembered = _reverts_remembered(journal, event.plan)
    if remembered != journal:
        return _persisted(remembered)
    if journal.phase not in _CHANGEABLE:
        return journal, ()
    return _follow(journal, identity, event)


def _follow(journal: Journal, identity: Camera, event: Looked) -> Step:
    """Do what the plan wants of a camera that may still change its mind."""
    want = wanted(event.plan, event.listed, view(journal, identity))
    match want:
        case Run(entry):
            making = journal.making
            if making is None or making.manifest_sha256 != entry.manifest_sha256:
                return _fetch(journal, entry)
            if journal.phase is Phase.WAITING and event.may_start:
                claimed = _claimed(journal, identity, making, event.plan)
                return _activate(replace(journal, making=claimed))
            return journal, ()
        case RestorePrevious(slot):
            return _revert(_dropped(journal), slot) if event.may_start else (journal, ())
        case CommitAtOnce(entry):
            return _commit_at_once(_dropped(journal), identity, entry, event.plan)
        case Keep() | Wait():
            return _stay(journal, event)
        case _:
            assert_never(want)


def _stay(journal: Journal, event: Looked) -> Step:
    """Drop what was under way; try the committed release again when nothing runs."""
    if journal.making is not None:
        return _persisted(_dropped(journal))
    is_waiting = journal.phase is Phase.BROKEN and journal.active is not None
    if is_waiting and event.may_reboot:
        return journal, (Reboot(),)
    if is_waiting and event.is_due and event.may_start and journal.active is not None:
        return journal, (Start(journal.active),)
    return journal, ()


def _fetch(journal: Journal, entry: Entry) -> Step:
    slot = Slot(entry.release, entry.manifest_sha256, frozenset({entry.tried}))
    fetching = replace(journal, phase=Phase.FETCHING, making=slot, activations_started=0)
    return fetching, (Persist(fetching), Fetch(slot))


def _activate(journal: Journal) -> Step:
    assert journal.making is not None
    started = replace(
        journal, phase=Phase.ACTIVATING, activations_started=journal.activations_started + 1
    )
    return started, (Persist(started), Start(journal.making))


def _claimed(journal: Journal, identity: Camera, making: Slot, plan: Sequence[Entry]) -> Slot:
    """Note whose deployment this is, and which tries a failure of the release would end here."""
    rivals = frozenset(entry.tried for entry in namings(plan, making.manifest_sha256))
    previous = journal.previous
    if previous is not None and previous.manifest_sha256 == making.manifest_sha256:
        making = replace(making, owners=making.owners | previous.owners)
    owned = _owned(journal, identity, making, plan)
    return replace(owned, rivals=rivals - journal.ended_badly.keys())


def _owned(journal: Journal, identity: Camera, slot: Slot, plan: Sequence[Entry]) -> Slot:
    """Return the slot with every covering try of the plan that names it and has not ended here."""
    covering = {e.tried for e in namings(plan, slot.manifest_sha256) if covers(e, identity)}
    return replace(slot, owners=(slot.owners | covering) - journal.ended_badly.keys())


def _commit_at_once(
    journal: Journal, identity: Camera, entry: Entry, plan: Sequence[Entry]
) -> Step:
    """Share the slot that runs with the entry, without a camera start."""
    assert journal.active is not None
    active = _owned(journal, identity, journal.active, plan)
    assert entry.tried in active.owners
    committed = journal.committed | active.owners
    return _persisted(replace(journal, active=active, committed=committed))


def _revert(journal: Journal, slot: Slot) -> Step:
    """Leave the active release for good: it must not become the previous one."""
    assert journal.active is not None
    reverted = replace(
        journal,
        active=slot,
        previous=None,
        restoring=slot,
        failing=None,
        cause=Cause.OPERATOR,
        restores_started=0,
    )
    return _restore(reverted)


def _restore(journal: Journal) -> Step:
    assert journal.restoring is not None
    started = replace(
        journal, phase=Phase.ROLLING_BACK, restores_started=journal.restores_started + 1
    )
    return started, (Persist(started), Start(journal.restoring))


def _passed(journal: Journal) -> Step:
    match journal.phase:
        case Phase.PROBING:
            return _commit(journal)
        case Phase.ROLLING_BACK:
            return _restored(journal)
        case Phase.BROKEN:
            return _persisted(replace(journal, phase=Phase.IDLE, is_running=True))
        case Phase.IDLE | Phase.FETCHING | Phase.WAITING | Phase.ACTIVATING:
            return journal, ()
        case _:
            assert_never(journal.phase)


def _commit(journal: Journal) -> Step:
    assert journal.making is not None
    previous = journal.active if journal.is_running else journal.previous
    if previous is not None and previous.manifest_sha256 == journal.making.manifest_sha256:
        previous = None  # A release is no control experiment for itself.
    committed = replace(
        _dropped(journal),
        phase=Phase.IDLE,
        active=journal.making,
        previous=previous,
        is_running=True,
        committed=journal.committed | journal.making.owners,
        is_reboot_spent=False,
        failed=journal.failed - {journal.making.manifest_sha256},
    )
    return _persisted(committed)


def _restored(journal: Journal) -> Step:
    """The control experiment passed: what we rolled back from is to blame."""
    assert journal.restoring is not None
    previous = journal.previous if journal.restoring == journal.active else None
    restored = replace(
        journal,
        active=journal.restoring,
        previous=previous,
        is_running=True,
        is_reboot_spent=False,
    )
    return _persisted(_ended(restored, journal.cause or Cause.RELEASE, Phase.IDLE))


def _failed(journal: Journal) -> Step:
    match journal.phase:
        case Phase.ACTIVATING | Phase.PROBING:
            return _roll_back(journal, None)
        case Phase.ROLLING_BACK:
            return _restore_failed(journal)
        case Phase.IDLE | Phase.FETCHING | Phase.WAITING:
            return _stalled(journal)
        case Phase.BROKEN:
            return journal, ()
        case _:
            assert_never(journal.phase)


def _roll_back(journal: Journal, cause: Cause | None) -> Step:
    making, active = journal.making, journal.active
    assert making is not None
    rolling = replace(
        journal, failing=making, making=None, restoring=active, cause=cause, restores_started=0
    )
    if active is None or active.manifest_sha256 == making.manifest_sha256:  # Nothing earlier.
        broken = _ended(rolling, cause or Cause.UNKNOWN, Phase.BROKEN)
        return broken, (Persist(broken), Reboot())
    return _restore(rolling)


def _stalled(journal: Journal) -> Step:
    """What was committed fails: reboot once, then try the previous release as a control."""
    if journal.active is None or not journal.is_running:
        return journal, ()
    if not journal.is_reboot_spent:
        spent = replace(journal, is_reboot_spent=True)
        return spent, (Persist(spent), Reboot())
    failing = replace(_dropped(journal), failing=journal.active, cause=None, restores_started=0)
    if journal.previous is None or journal.previous.manifest_sha256 in journal.failed:
        stopped = replace(failing, is_running=False)
        return _persisted(_ended(stopped, Cause.UNKNOWN, Phase.BROKEN))
    return _restore(replace(failing, restoring=journal.previous))


def _restore_failed(journal: Journal) -> Step:
    if journal.restores_started >= RESTORES_MAX:
        return _give_up(journal)
    if journal.restores_started == RESTORES_MAX - 1:
        return journal, (Reboot(),)
    return _restore(journal)


def _give_up(journal: Journal) -> Step:
    """Nothing starts any more: the camera is to blame; BROKEN tries the active slot again."""
    broken = replace(journal, is_running=False)
    if journal.failing == journal.active:  # A committed release is not guilty of a dead camera.
        broken = replace(broken, failing=None)
    return _persisted(_ended(broken, journal.cause or Cause.CAMERA, Phase.BROKEN))


def _ended(journal: Journal, cause: Cause, phase: Phase) -> Journal:
    """File the bad end of what failed, for good."""
    done = replace(_dropped(journal), phase=phase, failing=None, restoring=None, cause=None)
    failing = journal.failing
    if failing is None:
        return done
    failed = {failing.manifest_sha256} if cause is Cause.RELEASE else set[str]()
    ended = failing.owners | failing.rivals
    return replace(
        done,
        failed=journal.failed | failed,
        committed=journal.committed - ended,
        ended_badly={**journal.ended_badly, **dict.fromkeys(ended, cause)},
    )


def _dropped(journal: Journal) -> Journal:
    phase = Phase.IDLE if journal.is_running or journal.active is None else Phase.BROKEN
    return replace(journal, phase=phase, making=None, activations_started=0)


def _reverts_remembered(journal: Journal, plan: Sequence[Entry]) -> Journal:
    """Take reverted tries from every slot: the entry may leave the plan before the slot does."""

    def left(slot: Slot | None) -> Slot | None:
        return None if slot is None else replace(slot, owners=owners_left(plan, slot))

    gone = frozenset[Try]()
    if journal.active is not None:
        gone = journal.active.owners - owners_left(plan, journal.active)
    return replace(
        journal,
        active=left(journal.active),
        previous=left(journal.previous),
        making=left(journal.making),
        restoring=left(journal.restoring),
        failing=left(journal.failing),
        committed=journal.committed - gone,
        ended_badly={**journal.ended_badly, **dict.fromkeys(gone, Cause.OPERATOR)},
    )


def _persisted(journal: Journal) -> Step:
    return journal, (Persist(journal),)
