"""The state of one history: the fleet, the controller's knowledge, and the hidden truth."""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from random import Random

from agent import steps
from agent.steps import Journal
from agent.watch import Watch
from controller.devices import Known
from controller.planning import Book
from controller.steering import Site
from shared.assignment import Camera, Entry, Try

DEVICES = 30
ROUNDS = 60
ROUND_SECONDS = 120.0
START_COST = 3  # A history is short: each start counts for three.
DAY_ROUNDS = 40  # A history is short.
HEARTBEAT_ROUNDS = 3
HEARTBEAT_SECONDS = HEARTBEAT_ROUNDS * ROUND_SECONDS
LATE_JOINERS, DYING, FLAKY = 0.3, 0.05, 0.1
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


class Violation(Enum):
    """What an oracle objects to: harm, or standing still."""

    UNNAMED = "harm: activates what the plan does not let run"
    DELISTED = "harm: activates a revoked release"
    UNVERIFIED = "harm: activates what was not verified"
    OUTSIDE_WINDOW = "harm: activates outside its window"
    ENDED_BEFORE = "harm: tries a (rollout, attempt) again after its end"
    FAILED_BEFORE = "harm: runs what failed its gate here, not named anew"
    KILLED_BRIDGE = "harm: tries a release on a bridge that another has killed"
    STARTS_SPENT = "harm: a new release takes the starts of the way back"
    NOT_STOPPED = "harm: starts a camera that is not stopped"
    NO_OUTCOME = "harm: a trial ends without an outcome"
    HEALTHY_OFF = "harm: calls healthy what does not run"
    HEALTHY_FAILED = "harm: calls healthy what failed its gate here"
    BACK_TO_FAILED = "harm: goes back to what failed its gate here"
    BACK_TO_ABORTED = "harm: goes back to an aborted release"
    BACK_TO_DELISTED = "harm: goes back to a revoked release"
    REVOKED_NAMED = "harm: a revoked release is still named"
    ENDS_WITHOUT = "harm: ends with no model, had one"
    ENDS_WITHOUT_NAMED = "harm: ends with no model, one is named"
    ENDS_DELISTED = "harm: ends on a revoked release"
    ENDS_ABORTED = "harm: ends on an aborted release"
    ENDS_FAILED = "harm: ends on what failed its gate here"
    START_LOOP = "stands: activation loop"
    REJECTED_OVER = "stands: a release is rejected over and over"
    ACTIVATED_TWICE = "stands: the same plan activates a release twice"
    ENTRY_GONE = "stands: an entry leaves the plan too early"
    RETRY_OLD = "stands: a retry names nothing anew"
    HEALTHY_DOUBTED = "stands: a wave is inconclusive although its devices are healthy"
    STAYS_RUNNING = "stands: a rollout stays running"
    STAYS_REVERTING = "stands: a rollout stays reverting"
    SOMEBODY_OUT = "stands: a completed rollout leaves somebody out"
    LEFT_BEHIND = "stands: left behind by the plan"
    NO_REST = "stands: no fixed point"


class Truth(Enum):
    """What a release really does; only the world knows."""

    GOOD = "good"
    BAD = "bad everywhere"
    BAD_SOME = "bad on some cameras"
    KILLS_BRIDGE = "kills the camera bridge until a reboot"
    HANGS = "hangs the Pi"
    STALLS = "passes its gate and stalls later"
    HANGS_LATER = "passes its gate and hangs the Pi later"
    REJECTED = "does not suit the camera"


TRUTHS = (*[Truth.GOOD] * 7, *Truth)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one version of the plan says."""

    version: int
    plan: tuple[Entry, ...]
    listed: dict[str, str]


@dataclass(slots=True)
class Memory:
    """What the world remembers of one camera for the oracles, since its card was new."""

    ended_badly: set[Try] = field(default_factory=set[Try])
    starts: int = 0
    activated: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])
    newest_naming: int = -1
    shaky: set[str] = field(default_factory=set[str])  # Failed here since its last gate.
    namers: frozenset[str] = frozenset()
    failed_at: dict[str, int] = field(default_factory=dict[str, int])
    rejections: Counter[frozenset[Try]] = field(default_factory=Counter[frozenset[Try]])
    verified: set[str] = field(default_factory=set[str])
    set_by: dict[str, set[str]] = field(default_factory=dict[str, set[str]])


@dataclass(slots=True)
class Sensor:
    """One camera with its journal on disk and its hidden faults."""

    place: int  # Of its device in the fleet.
    identity: Camera  # What the device has read.
    signed: Camera  # What the controller says.
    is_flaky: bool
    dies_in: int
    disk: Journal = field(default_factory=Journal)
    journal: Journal = field(default_factory=Journal)
    running: str | None = None
    is_dead: bool = False
    is_bridge_dead: bool = False
    is_bridge_killed: bool = False  # By a release, in this boot.
    trial: deque[steps.Event] = field(default_factory=deque[steps.Event])
    work: steps.Event | None = None  # What the files' shell will say next.
    starts: int = 0  # In this boot.
    started_in: int = 0
    started: str = ""
    watch: Watch = field(default_factory=Watch)
    is_dirty: bool = True
    version_read: int = -1  # Reported only when its reverts are in the journal.
    disk_full_until: int = -1  # A look cannot be written before that round.
    memory: Memory = field(default_factory=Memory)


@dataclass(slots=True)
class Device:
    """A Pi: cameras, the accepted bundle, and whether anybody can hear it."""

    name: str
    sensors: list[Sensor]
    joins_in: int
    bundle: Bundle
    is_online: bool = True
    is_born: bool = False  # It has said once that it is there.
    is_down: bool = False
    has_news: bool = True
    rebooted_in: int = -DAY_ROUNDS
    card: int = 1  # The install that it reports.
    runs: int = 1
    seq: int = 0
    identity_read: int = 1  # Its version.
    identity_signed: int = 1
    is_clean: bool = False  # It went down on purpose.
    closed: frozenset[str] = frozenset()


class History:
    """What has happened so far, and who knows what of it."""

    def __init__(self, seed: int, devices: int) -> None:
        """Make the fleet of this seed."""
        self.random = Random(seed)  # noqa: S311 - repeatable, not secret
        self.violations: set[Violation] = set()
        self.round = 0
        self.is_quiet = False
        self.quiet_since = 0
        self.truth: dict[str, Truth] = {}
        self.listed: dict[str, str] = {}
        self.known = dict[str, Known]()  # Changed in place, as the driver does.
        self.site = Site(
            book=(),
            records={},
            cameras=(),
            devices=self.known,
            listed=self.listed,
            next_version=1,
            now=BEGUN,
        )
        self.bundle = Bundle(0, (), {})
        self.named: dict[Try, int] = {}  # In which order the plan named them.
        self.release_of: dict[str, str] = {}
        self.reverted: dict[str, int] = {}  # The plan version that first said so.
        self.revoked: set[str] = set()
        self.rollouts_started = 0
        self.devices = [self.device(number) for number in range(devices)]

    def device(self, number: int) -> Device:
        """Return a device with one or two cameras; a third of them join late."""
        name = f"d-{number:02}"
        labels = {"role": "door" if number % 3 else "dock", "site": "a"}
        sensors = []
        for index in range(self.random.choice((1, 1, 2))):
            own = {**labels, "view": "rear" if index else "front", "camera": str(index)}
            dies_in = self.random.randrange(ROUNDS) if self.draws(DYING) else -1
            identity = Camera(name, index, own)
            sensors.append(Sensor(number, identity, identity, self.draws(FLAKY), dies_in))
        joins_in = self.random.randrange(ROUNDS) if self.draws(LATE_JOINERS) else 0
        return Device(name, sensors, joins_in, Bundle(0, (), {}))

    @property
    def joined(self) -> list[Device]:
        """Return the devices that were enrolled."""
        return [device for device in self.devices if device.joins_in <= self.round]

    @property
    def book(self) -> Book:
        """Return the controller's rollouts."""
        return self.site.book

    def site_now(self) -> Site:
        """Return all that the controller decides from, as it is now."""
        cameras = tuple(sensor.signed for device in self.joined for sensor in device.sensors)
        version, at = self.bundle.version + 1, BEGUN + timedelta(seconds=self.now)
        identities = {device.name: device.identity_signed for device in self.joined}
        return replace(
            self.site,
            cameras=cameras,
            next_version=version,
            now=at,
            identity_versions=identities,
        )

    def sign_labels(self, device: Device, labels: Mapping[str, str]) -> None:
        """Let the controller say other labels of a device."""
        device.identity_signed += 1
        for sensor in device.sensors:
            signed = {**sensor.signed.labels, **labels}
            sensor.signed = replace(sensor.signed, labels=signed)

    @property
    def now(self) -> float:
        """Return the seconds that have passed."""
        return self.round * ROUND_SECONDS

    def draws(self, probability: float) -> bool:
        """Say whether a draw of the seed falls below the probability."""
        return self.random.random() < probability

    def chance(self, probability: float) -> bool:
        """Say whether a fault happens now; none does in the quiet period."""
        return not self.is_quiet and self.draws(probability)

    def is_hopeless(self, sensor: Sensor) -> bool:
        """Say whether the camera cannot rest: it is dead, or has only a release that stalls."""
        active = sensor.disk.active
        stalls = active is not None and self.truth[active.release] is Truth.STALLS
        return sensor.is_dead or stalls or self.is_dragged(sensor)

    def is_dragged(self, sensor: Sensor) -> bool:
        """Say whether a camera of this device has only a release that hangs the whole Pi."""
        device = self.devices[sensor.place]
        slots = [s.disk.active for s in device.sensors]
        return any(slot and self.truth[slot.release] is Truth.HANGS_LATER for slot in slots)
