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
from shared.limits import TEXT_CHARACTERS_MAX

ACTIVATIONS_MAX = 3  # The first, and two more after power cuts.
RESTORES_MAX = 3  # The last one comes after a reboot.
ENDED_MAX = 256  # Four full plans; rollouts are never named twice, so older ones are not asked for.


class Phase(Enum):
    """Where the camera's deployment stands; the names are those on the wire."""

    IDLE = "idle"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    STAGING = "staging"
    WAITING = "waiting"
    ACTIVATING = "activating"
    PROBING = "probing"
    ROLLING_BACK = "rolling_back"
    BROKEN = "broken"  # Of the machine: nothing runs. As an outcome, too.
    COMMITTED = "committed"  # From here on: outcomes only.
    ROLLED_BACK = "rolled_back"
    REJECTED = "rejected"


PREPARING = frozenset({Phase.FETCHING, Phase.VERIFYING, Phase.STAGING, Phase.WAITING})
ON_TRIAL = frozenset({Phase.ACTIVATING, Phase.PROBING, Phase.ROLLING_BACK})
_CHANGEABLE = PREPARING | {Phase.IDLE, Phase.BROKEN}


class Cause(Enum):
    """Whom a bad end is counted against."""

    RELEASE = "release"
    CAMERA = "camera"
    TRANSPORT = "transport"
    DISK = "disk"
    TRUST = "trust"
    INTERRUPTED = "interrupted"
    OPERATOR = "operator"
    UNKNOWN = "unknown"


class WaitingFor(Enum):
    """What a deployment waits for before it may activate."""

    CLOCK = "clock"
    REQUIRES = "requires"
    BLOCKS = "blocks"
    DISK = "disk"
    HOLD = "hold"
    WINDOW = "window"
    TURN = "turn"
    REBOOT = "reboot"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a (rollout, attempt) ended here."""

    phase: Phase  # COMMITTED, ROLLED_BACK, REJECTED or BROKEN.
    cause: Cause | None = None
    code: str = ""
    text: str = ""

    @property
    def is_bad(self) -> bool:
        """Say whether it ended otherwise than well."""
        return self.phase is not Phase.COMMITTED


@dataclass(frozen=True, slots=True)
class Latest:
    """The deployment that is under way, or the last one."""

    tried: Try
    release: str
    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class Journal:
    """All that survives a power cut, but for ``waiting_for``, which a look finds again."""

    phase: Phase = Phase.IDLE
    active: Slot | None = None
    previous: Slot | None = None
    is_running: bool = False
    making: Slot | None = None  # The release under way.
    failing: Slot | None = None  # What we roll back from, until the control experiment ends.
    restoring: Slot | None = None
    cause: Cause | None = None
    code: str = ""  # What failed, in one word and in a sentence.
    text: str = ""
    is_reboot_due: bool = False  # Nothing starts before the reboot that was asked for.
    activations_started: int = 0
    restores_started: int = 0
    ended: Mapping[Try, Ended] = field(default_factory=dict[Try, Ended])
    failed: frozenset[str] = frozenset()  # Manifests that failed their gate since committed here.
    latest: Latest | None = None
    waiting_for: WaitingFor | None = None

    @property
    def ended_badly(self) -> frozenset[Try]:
        """Return the tries that are not to be repeated here."""
        return frozenset(tried for tried, ended in self.ended.items() if ended.is_bad)

    @property
    def committed(self) -> frozenset[Try]:
        """Return the tries that were proven here."""
        return frozenset(tried for tried, ended in self.ended.items() if not ended.is_bad)


# Events: what the world tells us. Past tense.
@dataclass(frozen=True, slots=True)
class Looked:
    """The agent looked at its accepted plan and around itself; nothing else happened.

    Attributes:
        plan: The entries of the accepted bundle, newest rollout first.
        listed: The signed releases: name to SHA-256 of the manifest.
        may_start: No other camera of the device is starting or on trial: it is our turn.
        is_due: The back-off of a camera on which nothing runs is over.
        may_reboot: The starts of this boot are spent, the reboot of this day is not.
        has_starts_left: A new deployment may start the camera in this boot.
        is_trust_expired: The accepted bundle has expired: nothing new leaves IDLE.
        has_clock: The clock is synchronised; without one, windows wait.
        closed: Rollouts whose window is closed now.
        unsupported: Manifests that need a newer agent.
    """

    plan: Sequence[Entry]
    listed: Mapping[str, str]
    may_start: bool = True
    is_due: bool = False
    may_reboot: bool = False
    has_starts_left: bool = True
    is_trust_expired: bool = False
    has_clock: bool = True
    closed: frozenset[str] = frozenset()
    unsupported: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Fetched:
    """The manifest and every block that the camera needs are on disk."""

    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class Verified:
    """Files have their hashes, and the manifest suits the camera."""

    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class Staged:
    """The release is packaged for the sensor."""

    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The release must not be tried here; the old one never stopped."""

    manifest_sha256: str
    cause: Cause
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Obstructed:
    """The surroundings are in the way (None: no longer); the shell tries again by itself.

    BLOCKS and DISK say so only. REQUIRES drops the deployment: ``Looked.unsupported`` names it.
    """

    manifest_sha256: str
    what: WaitingFor | None


@dataclass(frozen=True, slots=True)
class Started:
    """The camera gave its first valid output."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The gate was passed for the probe time."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A start or a probe failed, or the recovery ladder of what was committed is exhausted.

    Attributes:
        code: One word for machines.
        text: What was expected and what came.
        may_reboot: The reboot of this day is not spent; it is the ladder's last rung.
    """

    code: str = "failed"
    text: str = ""
    may_reboot: bool = False


@dataclass(frozen=True, slots=True)
class Booted:
    """The agent started; the camera is off.

    Attributes:
        is_new_boot: The kernel started, too: the sensor bridge is as good as new.
        can_reboot: The agent is able to restart the device. When a ``Reboot`` cannot be carried
            out, the shell answers with this event and says so here.
        is_boot_loop: What is active hung the device too often (agent/watch.py).
    """

    is_new_boot: bool = True
    can_reboot: bool = True
    is_boot_loop: bool = False


# Effects: what we ask of the world. Imperative.
@dataclass(frozen=True, slots=True)
class Persist:
    """Write the journal durably, then go on."""

    journal: Journal


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get what is missing of this release; answer Fetched, Rejected or Obstructed."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Verify:
    """Hash the files, open the manifest; answer Verified or Rejected."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Stage:
    """Package for the sensor while the old model streams; answer Staged, Rejected, Obstructed."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the camera, if it runs."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start the camera with this release and judge it by ``slot.probe``.

    Answer Started, then Passed or Failed; after Passed, Failed once the ladder is exhausted.
    """

    slot: Slot


@dataclass(frozen=True, slots=True)
class Reboot:
    """Restart the device: the only cure for a dead sensor bridge."""


Event = (
    Looked
    | Fetched
    | Verified
    | Staged
    | Rejected
    | Obstructed
    | Started
    | Passed
    | Failed
    | Booted
)
Effect = Persist | Fetch | Verify | Stage | Stop | Start | Reboot
Step = tuple[Journal, tuple[Effect, ...]]


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
            return _persisted(replace(journal, phase=Phase.PROBING))
        case Passed():
            return _passed(journal)
        case Failed():
            return _failed(journal, event)
        case Booted():
            return resume(journal, event)
        case _:
            assert_never(event)


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
                return _activate(journal)
            return _roll_back(_noted(journal, "interrupted", "cut off"), Cause.INTERRUPTED)
        case Phase.ROLLING_BACK:
            return _resume_restore(journal, event)
        case _:
            return _resume_quiet(journal, event)


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


# After a boot.
def _resume_restore(journal: Journal, event: Booted) -> Step:
    """Go on with a roll-back; the last start needs a kernel that has just started."""
    if journal.restores_started >= RESTORES_MAX:
        return _give_up(journal)
    is_last = journal.restores_started == RESTORES_MAX - 1
    if is_last and event.can_reboot and not event.is_new_boot:
        return _reboot(journal)
    return _restore(journal)


def _resume_quiet(journal: Journal, event: Booted) -> Step:
    """Start what was committed; prepare what was being prepared, from the files as they are now."""
    if event.is_boot_loop and journal.is_running:
        hung = _noted(journal, "boot_loop", "the device hung soon after each of its last starts")
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


# Following the plan.
def _looked(journal: Journal, identity: Camera, event: Looked) -> Step:
    remembered = _reverts_remembered(journal, event.plan)
    if remembered != journal:
        return _persisted(remembered)
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
            return _revert(_dropped(journal), slot) if event.may_start else (journal, ())
        case CommitAtOnce(entry):
            return _commit_at_once(_dropped(journal), identity, entry, event.plan)
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
        return _persisted(replace(journal, making=slot, latest=_latest(slot, entry.tried)))
    if journal.phase is not Phase.WAITING:
        return _try_active(journal, event)
    obstacle = _obstacle(event, entry, is_held=is_held)
    if obstacle is None:
        claimed = _claimed(journal, identity, making, event.plan)
        return _activate(replace(journal, making=claimed))
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
            latest=_latest(slot, entry.tried),
            waiting_for=None,
        )
        return fetching, (Persist(fetching), Fetch(slot))
    if journal.making is not None:
        return _persisted(_dropped(journal))
    latest = _latest(slot, entry.tried)
    return _try_active(replace(journal, latest=latest, waiting_for=obstacle), event)


def _obstacle_at_first(event: Looked, entry: Entry) -> WaitingFor | None:
    """Return why a deployment may not leave IDLE now."""
    if event.is_trust_expired or (entry.window is not None and not event.has_clock):
        return WaitingFor.CLOCK
    return WaitingFor.REQUIRES if entry.manifest_sha256 in event.unsupported else None


def _stay(journal: Journal, event: Looked) -> Step:
    """Drop what was under way; try the committed release again when nothing runs."""
    if journal.making is not None:
        return _persisted(_dropped(journal))
    return _try_active(replace(_settled(journal), waiting_for=None), event)


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
    ended = _filed(journal, active.owners, Ended(Phase.COMMITTED))
    latest = _latest(active, entry.tried)
    return _persisted(replace(journal, active=active, ended=ended, latest=latest))


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
            ended = Ended(Phase.REJECTED, event.cause, event.code, _cut(event.text))
            rejected = replace(_dropped(journal), latest=journal.latest)
            filed = _filed(rejected, making.owners, ended)
            return _persisted(replace(rejected, ended=filed))
        case Obstructed():
            return _obstructed(journal, event)
        case _:
            assert_never(event)


def _advanced(journal: Journal, before: Phase, after: Phase, *effects: Effect) -> Step:
    if journal.phase is not before:
        return journal, ()
    advanced = replace(journal, phase=after, waiting_for=None)
    return advanced, (Persist(advanced), *effects)


def _obstructed(journal: Journal, event: Obstructed) -> Step:
    if event.what is WaitingFor.REQUIRES:
        dropped = replace(_dropped(journal), latest=journal.latest, waiting_for=event.what)
        return _persisted(dropped)
    if journal.phase is Phase.WAITING:
        return journal, ()
    return replace(journal, waiting_for=event.what), ()


# On trial.
def _activate(journal: Journal) -> Step:
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
        code="",
        text="",
        restores_started=0,
        latest=journal.latest or _latest_of(journal.active),
    )
    return _restore(reverted)


def _restore(journal: Journal) -> Step:
    assert journal.restoring is not None
    started = replace(
        journal, phase=Phase.ROLLING_BACK, restores_started=journal.restores_started + 1
    )
    return started, (Persist(started), Stop(), Start(journal.restoring))


def _passed(journal: Journal) -> Step:
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
    return _persisted(replace(journal, phase=phase, is_running=True, ended=ended))


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
        ended=_filed(journal, journal.making.owners, Ended(Phase.COMMITTED)),
        failed=journal.failed - {journal.making.manifest_sha256},
        latest=journal.latest,
    )
    return _persisted(committed)


def _restored(journal: Journal) -> Step:
    """The control experiment passed: what we rolled back from is to blame."""
    assert journal.restoring is not None
    previous = journal.previous if journal.restoring == journal.active else None
    restored = replace(journal, active=journal.restoring, previous=previous, is_running=True)
    return _persisted(_ended(restored, journal.cause or Cause.RELEASE, Phase.IDLE))


def _failed(journal: Journal, event: Failed) -> Step:
    match journal.phase:
        case Phase.ACTIVATING | Phase.PROBING:
            return _roll_back(_noted(journal, event.code, event.text), None)
        case Phase.ROLLING_BACK:
            return _restore_failed(journal)
        case _:
            return _stalled(journal, event)


def _roll_back(journal: Journal, cause: Cause | None) -> Step:
    making, active = journal.making, journal.active
    assert making is not None
    rolling = replace(
        journal, failing=making, making=None, restoring=active, cause=cause, restores_started=0
    )
    if active is None or active.manifest_sha256 == making.manifest_sha256:  # Nothing earlier.
        stopped = replace(rolling, is_running=False)
        return _reboot(_ended(stopped, cause or Cause.UNKNOWN, Phase.BROKEN))
    return _restore(rolling)


def _stalled(journal: Journal, event: Failed) -> Step:
    """What was committed fails: reboot if we may, else try the previous release as a control."""
    if journal.active is None or not journal.is_running or journal.is_reboot_due:
        return journal, ()
    if event.may_reboot:
        return _reboot(journal)
    return _leave_active(_noted(journal, event.code, event.text), is_fresh=False)


def _leave_active(journal: Journal, *, is_fresh: bool) -> Step:
    """Roll back from what was committed; the previous release says whom to blame.

    Args:
        journal: With the reason noted.
        is_fresh: The kernel has just started, so that another reboot would heal nothing.
    """
    assert journal.active is not None
    failing = replace(
        _dropped(journal),
        failing=journal.active,
        cause=None,
        restores_started=0,
        latest=_latest_of(journal.active),
    )
    if journal.previous is None or journal.previous.manifest_sha256 in journal.failed:
        stopped = replace(failing, is_running=False)
        broken = _ended(stopped, Cause.UNKNOWN, Phase.BROKEN)
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
    ended = _ended(broken, journal.cause or Cause.CAMERA, Phase.BROKEN)
    return ended, (Persist(ended), Stop())


def _reboot(journal: Journal) -> Step:
    """Ask for a reboot, durably: a kill of the agent alone must not be taken for one."""
    due = replace(journal, is_reboot_due=True)
    return due, (Persist(due), Stop(), Reboot())


# Remembering.
def _ended(journal: Journal, cause: Cause, phase: Phase) -> Journal:
    """File the bad end of what failed, for good."""
    done = replace(
        _dropped(journal),
        phase=phase,
        failing=None,
        restoring=None,
        cause=None,
        code="",
        text="",
        latest=journal.latest,
    )
    failing = journal.failing
    if failing is None:
        return done
    failed = {failing.manifest_sha256} if cause is Cause.RELEASE else set[str]()
    outcome = Phase.BROKEN if phase is Phase.BROKEN else Phase.ROLLED_BACK
    end = Ended(outcome, cause, journal.code, journal.text)
    ended = _filed(done, failing.owners | failing.rivals, end)
    return replace(done, failed=journal.failed | failed, ended=ended)


def _filed(journal: Journal, tries: frozenset[Try], ended: Ended) -> dict[Try, Ended]:
    """Return the outcomes with these tries among them; a bad end is final."""
    fresh = {tried: ended for tried in sorted(tries) if tried not in journal.ended_badly}
    kept = {tried: end for tried, end in journal.ended.items() if tried not in fresh}
    filed = {**kept, **fresh}
    return dict(list(filed.items())[-ENDED_MAX:])


def _dropped(journal: Journal) -> Journal:
    """Return the journal without what was under way before its trial."""
    phase = Phase.IDLE if journal.is_running or journal.active is None else Phase.BROKEN
    dropped = replace(journal, phase=phase, making=None, activations_started=0, waiting_for=None)
    return _settled(dropped)


def _settled(journal: Journal) -> Journal:
    """Return the journal that shows no deployment but one that has ended."""
    latest = journal.latest
    return (
        journal
        if latest is None or latest.tried in journal.ended
        else replace(journal, latest=None)
    )


def _reverts_remembered(journal: Journal, plan: Sequence[Entry]) -> Journal:
    """Take reverted tries from every slot: the entry may leave the plan before the slot does."""

    def left(slot: Slot | None) -> Slot | None:
        return None if slot is None else replace(slot, owners=owners_left(plan, slot))

    def gone(slot: Slot | None) -> frozenset[Try]:
        return frozenset() if slot is None else slot.owners - owners_left(plan, slot)

    ended = gone(journal.active) | gone(journal.making) | gone(journal.failing)
    latest = journal.latest
    if journal.active is not None and journal.phase not in ON_TRIAL and gone(journal.active):
        latest = _latest(journal.active, max(gone(journal.active)))
    return replace(
        journal,
        active=left(journal.active),
        previous=left(journal.previous),
        making=left(journal.making),
        restoring=left(journal.restoring),
        failing=left(journal.failing),
        ended=_filed(journal, ended, Ended(Phase.ROLLED_BACK, Cause.OPERATOR)),
        latest=latest,
    )


def _latest(slot: Slot, tried: Try) -> Latest:
    return Latest(tried, slot.release, slot.manifest_sha256)


def _latest_of(slot: Slot) -> Latest | None:
    return _latest(slot, max(slot.owners)) if slot.owners else None


def _noted(journal: Journal, code: str, text: str) -> Journal:
    return replace(journal, code=code, text=_cut(text))


def _cut(text: str) -> str:
    return text[:TEXT_CHARACTERS_MAX]


def _persisted(journal: Journal) -> Step:
    return journal, (Persist(journal),)
