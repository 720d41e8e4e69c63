"""The state of one history: the fleet, the controller's knowledge, and the hidden truth."""

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from agent import deployment as cam
from agent.deployment import Journal
from agent.watch import Watch
from controller.planning import Book, Report
from shared.assignment import Camera, Entry, Try
from shared.messages import CameraReported

DEVICES = 30
ROUNDS = 60
ROUND_SECONDS = 120.0
START_COST = 3  # A history is short: each start counts for three.
DAY_ROUNDS = 40  # A history is short.
LATE_JOINERS, DYING, FLAKY = 0.3, 0.05, 0.1


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
    identity: Camera
    is_flaky: bool
    dies_in: int
    disk: Journal = field(default_factory=Journal)
    journal: Journal = field(default_factory=Journal)
    running: str | None = None
    is_dead: bool = False
    is_bridge_dead: bool = False
    is_bridge_killed: bool = False  # By a release, in this boot.
    trial: deque[cam.Event] = field(default_factory=deque[cam.Event])
    work: cam.Event | None = None  # What the files' shell will say next.
    starts: int = 0  # In this boot.
    started_in: int = 0
    started: str = ""
    watch: Watch = field(default_factory=Watch)
    is_dirty: bool = True
    version_read: int = -1  # Reported only when its reverts are in the journal.
    memory: Memory = field(default_factory=Memory)


@dataclass(slots=True)
class Device:
    """A Pi: cameras, the accepted bundle, and whether anybody can hear it."""

    name: str
    sensors: list[Sensor]
    joins_in: int
    bundle: Bundle
    is_online: bool = True
    is_down: bool = False
    has_news: bool = True
    rebooted_in: int = -DAY_ROUNDS
    heard: int = 0
    is_clean: bool = False  # It went down on purpose.
    labels: dict[str, str] | None = None  # Signed, not yet read.
    closed: frozenset[str] = frozenset()


class History:
    """What has happened so far, and who knows what of it."""

    def __init__(self, seed: int, devices: int) -> None:
        """Make the fleet of this seed."""
        self.random = Random(seed)  # noqa: S311 - repeatable, not secret
        self.violations: set[str] = set()
        self.round = 0
        self.is_quiet = False
        self.truth: dict[str, Truth] = {}
        self.listed: dict[str, str] = {}
        self.book: Book = ()
        self.bundle = Bundle(0, (), {})
        self.reports: dict[tuple[str, int], Report] = {}
        self.told = dict[tuple[str, int], CameraReported]()
        self.known: dict[tuple[str, int], Camera] = {}
        self.named: dict[Try, int] = {}  # In which order the plan named them.
        self.release_of: dict[str, str] = {}
        self.before: dict[str, str] = {}
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
            sensors.append(Sensor(number, identity, self.draws(FLAKY), dies_in))
        joins_in = self.random.randrange(ROUNDS) if self.draws(LATE_JOINERS) else 0
        return Device(name, sensors, joins_in, Bundle(0, (), {}))

    @property
    def joined(self) -> list[Device]:
        """Return the devices that were enrolled."""
        return [device for device in self.devices if device.joins_in <= self.round]

    @property
    def inventory(self) -> list[Camera]:
        """Return the cameras that the controller declared."""
        return [
            self.known.get((s.identity.device, s.identity.number), s.identity)
            for device in self.joined
            for s in device.sensors
        ]

    def all_reports(self) -> list[Report]:
        """Return a report for every declared camera; one never heard of has read nothing."""
        return [
            self.reports.get((camera.device, camera.number), Report(camera, -1, is_settled=False))
            for camera in self.inventory
        ]

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
