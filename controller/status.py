"""What the controller says about a fleet, as plain data: the CLI renders it, nothing decides on it.

Times are aware UTC. ``release`` is ``name@version``.
"""

from dataclasses import dataclass
from datetime import datetime

from controller.gates.gathering import GateVerdict
from shared.messages import CameraReported, FailedDevice, Reported


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """One camera of a device in a rollout.

    Attributes:
        state: Of ``rollout.DeviceState``, or ``superseded`` or ``reverted``.
        phase: As reported for this rollout's try; None: nothing yet.
    """

    number: int
    state: str
    phase: str | None
    release: str | None = None
    previous: str | None = None
    waiting_for: str | None = None
    cause: str | None = None
    error: str | None = None
    progress_done: int | None = None
    progress_total: int | None = None
    progress_unit: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceInRollout:
    """One device in a rollout, its worst camera first in ``state``."""

    device: str
    wave: int  # Counted from 0.
    state: str
    is_online: bool
    is_treated: bool
    cameras: tuple[CameraStatus, ...]


@dataclass(frozen=True, slots=True)
class WaveStatus:
    """One wave: what it takes in, devices by state, and its verdict."""

    pins: tuple[str, ...]
    permille: int
    bake_seconds: float
    devices: dict[str, int]
    verdict: str | None = None  # pass, fail, inconclusive, undecided; None: not begun.
    text: str | None = None
    gates: tuple[GateVerdict, ...] = ()  # What each gate on evidence said last.


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """One rollout. ``wave`` counts from 0.

    Attributes:
        state: running, paused, reverting, completed, aborted.
        reason: operator, inconclusive, gate, revoked, superseded; None while all goes well.
        text: The reason in words.
        not_driven_since: When nobody drives; None while somebody does.
        is_healthy: Completed, and every device that counts is healthy.
        ran_before: What its devices ran when it began, with how many: what `undo` brings back.
    """

    rollout: str
    name: str
    release: str
    selector: str
    strategy: str
    attempt: int
    state: str
    reason: str | None
    text: str | None
    wave: int
    waves: tuple[WaveStatus, ...]
    devices: tuple[DeviceInRollout, ...]
    counts: dict[str, int]
    failed: tuple[FailedDevice, ...]
    started_at: datetime
    ended_at: datetime | None
    driven_seconds: float
    not_driven_since: datetime | None
    is_healthy: bool
    ran_before: dict[str, int]

    @property
    def is_over(self) -> bool:
        """Say whether nothing more will happen by itself."""
        return self.state in {"completed", "aborted"}


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device, declared or only heard.

    Attributes:
        state: online, offline, never seen, not added, undeclared.
        notes: What an operator should know: reinstalled, duplicate_device, refused ..., expires ...
    """

    device: str
    state: str
    labels: dict[str, str]
    cameras: dict[int, CameraReported | None]
    identity_version: int  # Signed; 0: none.
    identity_reported: int
    plan_version: int
    last_heard: datetime | None
    agent_version: str | None
    notes: tuple[str, ...]
    reported: Reported | None


@dataclass(frozen=True, slots=True)
class ReleaseStatus:
    """One release in the store."""

    release: str
    task: str
    is_signed: bool
    manifest_sha256: str
    files: int
    bytes: int
    imported_at: datetime
    running_on: int  # Cameras that report it.
    state: str = ""  # signed, unsigned, revoked, pruned.


@dataclass(frozen=True, slots=True)
class DriverStatus:
    """Who drives the rollouts."""

    holder: str | None
    is_us: bool
    not_driven_since: datetime | None


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """All that the CLI's live table needs at once."""

    fleet: str
    plan_version: int
    is_broker_connected: bool
    is_plan_echoed: bool
    driver: DriverStatus
    rollouts: tuple[RolloutStatus, ...]  # Newest first.
    alerts: tuple[str, ...] = ()
    note: str | None = None  # What is going on with the broker, while all is well.
    frozen: str | None = None  # Since when, by whom and why nobody may change anything.
