"""What one camera's deployment remembers, what it is told, and what it asks for. Pure data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from shared.assignment import Entry, Slot, Try


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

    BLOCKS and DISK say so only, and so does REQUIRES with a code: the device lacks a program.
    Without one it lacks a newer agent, which drops the deployment: ``Looked.unsupported`` names it.
    """

    manifest_sha256: str
    what: WaitingFor | None
    code: str = ""
    text: str = ""


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
