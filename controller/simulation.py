"""Play seeded random histories of a fleet against the rules, and say what went wrong.

    python -m controller.simulation FIRST LAST [--devices N]    # seeds FIRST to LAST - 1

One history: 30 devices, 25 operator actions, losses, power cuts and faults; then a quiet period in
which all is delivered. The truth about releases and cameras is hidden from the rules. Oracles for
harm watch every start; oracles for standing still judge the end.
"""

import sys
from argparse import ArgumentParser
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random

from agent import deployment as cam
from agent import watch
from agent.deployment import Cause, Journal, Phase
from agent.outcomes import deployment_reported, ends_reported, is_settled
from agent.watch import LastRun, Watch
from controller import planning, rollout
from controller.planning import Book, RefusedError, Report, State, Wave
from controller.rollout import Allowed, Decision, DeviceSeen, Reach, Rules, Verdict
from shared.assignment import (
    SHARE_ALL,
    Action,
    Camera,
    Entry,
    Slot,
    Try,
    Window,
    covers,
    is_owner,
    parse_selector,
    share_hash,
)
from shared.messages import CameraReported

DEVICES = 30
ACTIONS = 25
ROUNDS = 60
QUIET_ROUNDS_MAX = 150
REST_ROUNDS = 10  # Nothing may move for so long before we call it a fixed point.
STEPS_PER_ROUND = 3
STARTS_PER_TRY_MAX = 3
START_COST = 3  # A history is short: each start counts for three.
ROUND_SECONDS = 120.0
WINDOW_ROUNDS = 7
HEARTBEAT_ROUNDS = 3
DAY_ROUNDS = 40

SELECTORS = tuple(
    map(parse_selector, ("*", "*", "role=door", "role=dock", "role!=door", "view=rear"))
)
STRATEGIES = (
    (Wave(1000),),
    (Wave(100), Wave(1000)),
    (Wave(0, frozenset({"d-03"})), Wave(300), Wave(1000)),
    (Wave(50), Wave(100), Wave(500), Wave(1000)),
)


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
    set_by: dict[str, set[str]] = field(default_factory=dict[str, set[str]])


@dataclass(slots=True)
class Sensor:
    """One camera with its journal on disk and its hidden faults."""

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


class World:
    """Controller, broker, devices and operator of one history."""

    def __init__(self, seed: int, devices: int = DEVICES) -> None:
        """Make the fleet of this seed."""
        self.random = Random(seed)
        self.violations: set[str] = set()
        self.round = 0
        self.is_quiet = False
        self.truth: dict[str, Truth] = {}
        self.listed: dict[str, str] = {}
        self.book: Book = ()
        self.bundle = Bundle(0, (), {})
        self.reports: dict[tuple[str, int], Report] = {}
        self.told: dict[tuple[str, int], CameraReported] = {}
        self.judged: dict[str, int] = {}
        self.known: dict[tuple[str, int], Camera] = {}
        self.named: dict[Try, int] = {}
        self.release_of: dict[str, str] = {}
        self.before: dict[str, str] = {}
        self.reverted: dict[str, int] = {}
        self.rollouts_started = 0
        self.is_book_dirty = True
        self.courses: dict[str, rollout.Course] = {}
        self.devices = [self.device(number) for number in range(devices)]

    # The fleet.
    def device(self, number: int) -> Device:
        """Return a device with one or two cameras; a third of them join late."""
        name = f"d-{number:02}"
        labels = {"role": "door" if number % 3 else "dock", "site": "a"}
        sensors = []
        for index in range(self.random.choice((1, 1, 2))):
            own = {**labels, "view": "rear" if index else "front", "camera": str(index)}
            dies_in = self.random.randrange(ROUNDS) if self.random.random() < 0.05 else -1
            identity = Camera(name, index, own)
            sensors.append(Sensor(identity, self.random.random() < 0.1, dies_in))
        joins_in = self.random.randrange(ROUNDS) if self.random.random() < 0.3 else 0
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

    # Time.
    def play(self) -> set[str]:
        """Play the whole history; return what the oracles saw."""
        at = Counter(self.random.randrange(ROUNDS - 5) for _ in range(ACTIONS))
        for self.round in range(ROUNDS):
            for _ in range(at[self.round]):
                self.operate()
            self.tick()
        self.is_quiet = True
        for device in self.devices:
            device.is_online = True
            device.rebooted_in = -DAY_ROUNDS
        self.settle_down()
        return self.violations

    def settle_down(self) -> None:
        """Let the fleet come to rest, then judge the end."""
        rest = 0
        for self.round in range(ROUNDS, ROUNDS + QUIET_ROUNDS_MAX):
            before = self.snapshot()
            self.tick()
            is_still = self.snapshot() == before and not any(
                self.has_plans(s) for device in self.devices for s in device.sensors
            )
            rest = rest + 1 if is_still else 0
            if rest >= REST_ROUNDS:
                break
        else:
            self.violations.add("stands: no fixed point")
        self.judge_end()

    def snapshot(self) -> object:
        """Return all that must stand still at a fixed point."""
        sensors = [s for device in self.devices for s in device.sensors]
        moving = [
            (s.disk.active, s.disk.previous, len(s.disk.ended_badly))
            if self.is_hopeless(s)
            else (s.disk, s.running)
            for s in sensors
        ]
        return self.book, self.bundle.version, moving

    def has_plans(self, sensor: Sensor) -> bool:
        """Say whether a living camera will do something by itself, however long it takes."""
        if self.is_hopeless(sensor):
            return False
        journal = sensor.journal
        is_off = journal.active is not None and not journal.is_running
        return is_off or journal.waiting_for is cam.WaitingFor.REBOOT

    def is_hopeless(self, sensor: Sensor) -> bool:
        """Say whether the camera cannot rest: it is dead, or has only a release that stalls."""
        active = sensor.disk.active
        return sensor.is_dead or (active is not None and self.truth[active.release] in _FAILS_LATER)

    def tick(self) -> None:
        """Let one round pass everywhere."""
        self.control()
        for device in self.joined:
            self.live(device)

    def chance(self, probability: float) -> bool:
        """Say whether a fault happens now; none does in the quiet period."""
        return not self.is_quiet and self.random.random() < probability

    # The device.
    def live(self, device: Device) -> None:
        """Let one round pass on a device."""
        if self.chance(0.12):
            device.is_online = not device.is_online
        if self.chance(0.002):
            self.replace_card(device)
        self.read_identity(device)
        self.watch_windows(device)
        is_new = device.is_online and device.bundle is not self.bundle
        if is_new and not self.chance(0.3):
            device.bundle = self.bundle
            self.disturb(device)
        for sensor in device.sensors:
            self.suffer(device, sensor)
        for _ in range(STEPS_PER_ROUND):
            if device.is_down or self.chance(0.002):
                self.boot(device, is_new_boot=True)
            elif self.chance(0.003):
                self.boot(device, is_new_boot=False)
            for sensor in device.sensors:
                if not device.is_down:
                    self.advance(device, sensor)
        is_heartbeat = self.round % HEARTBEAT_ROUNDS == 0
        if device.is_online and (device.has_news or is_heartbeat) and not self.chance(0.3):
            self.report(device)

    def replace_card(self, device: Device) -> None:
        """Lose everything that the device remembers."""
        device.bundle = Bundle(0, (), {})
        for sensor in device.sensors:
            sensor.disk = Journal()
            sensor.memory = Memory()
            sensor.watch = Watch()
        self.boot(device, is_new_boot=True)

    def read_identity(self, device: Device) -> None:
        """Let the device read its new labels, some time."""
        if device.labels is None or not device.is_online or self.chance(0.7):
            return
        for sensor in device.sensors:
            labels = {**sensor.identity.labels, **device.labels}
            sensor.identity = replace(sensor.identity, labels=labels)
        device.labels = None
        self.disturb(device)

    def watch_windows(self, device: Device) -> None:
        """Look again when a window opens or closes."""
        is_closed = self.round // WINDOW_ROUNDS % 2 == 0
        rollouts = (e.rollout for e in device.bundle.plan if e.window is not None)
        closed = frozenset(rollouts) if is_closed else frozenset[str]()
        if closed != device.closed:
            device.closed = closed
            self.disturb(device)

    def boot(self, device: Device, *, is_new_boot: bool) -> None:
        """Start the device, or its agent alone, from what is on its disk."""
        is_clean, device.is_clean, device.is_down = device.is_clean, False, False
        for sensor in device.sensors:
            sensor.journal = sensor.disk
            sensor.running = None
            sensor.work = None
            if is_new_boot:
                sensor.is_bridge_dead = sensor.is_bridge_killed = False
                sensor.starts = 0
            sensor.trial.clear()
            sensor.version_read = -1
            seconds = (self.round - sensor.started_in) * ROUND_SECONDS
            last = LastRun(is_clean or not is_new_boot, sensor.started, seconds)
            sensor.watch = watch.begun(sensor.watch, last, self.now)
            sensor.started = ""
        for sensor in device.sensors:
            if not device.is_down:
                active = sensor.journal.active
                is_loop = active is not None and watch.is_boot_loop(
                    sensor.watch, active.manifest_sha256
                )
                event = cam.Booted(is_new_boot=is_new_boot, is_boot_loop=is_loop)
                self.feed(device, sensor, event)
        self.disturb(device)

    def disturb(self, device: Device) -> None:
        """Make every camera of the device look at its plan again."""
        device.has_news = True
        for sensor in device.sensors:
            sensor.is_dirty = True

    def suffer(self, device: Device, sensor: Sensor) -> None:
        """Let hidden faults happen."""
        if sensor.dies_in == self.round:
            sensor.is_dead = True
        if self.chance(0.002):
            sensor.is_bridge_dead = True
        truth = None if sensor.running is None else self.truth[sensor.running]
        if truth is Truth.HANGS_LATER and not sensor.trial and self.random.random() < 0.3:
            device.is_down = True
        stalls = truth is Truth.STALLS
        has_stalled = (stalls and self.random.random() < 0.3) or sensor.is_dead
        if sensor.running and not sensor.trial and (has_stalled or sensor.is_bridge_dead):
            sensor.running = None
            self.feed(device, sensor, cam.Failed(may_reboot=self.may_reboot(device)))

    def may_reboot(self, device: Device) -> bool:
        """Say whether the reboot of this day is not spent."""
        rounds = self.round - device.rebooted_in
        return watch.may_reboot(rounds / DAY_ROUNDS * watch.REBOOT_SECONDS_MIN)

    @property
    def now(self) -> float:
        """Return the seconds that have passed."""
        return self.round * ROUND_SECONDS

    def advance(self, device: Device, sensor: Sensor) -> None:
        """Take the camera's next event, if there is one."""
        if sensor.trial:
            event = sensor.trial.popleft()
            self.feed(device, sensor, event)
            self.disturb(device)  # It may be the other camera's turn.
            if isinstance(event, cam.Failed) and not sensor.journal.is_running:
                sensor.watch = watch.start_failed(sensor.watch, self.now)
            elif isinstance(event, cam.Passed):
                sensor.watch = watch.runs(sensor.watch)
        elif sensor.work is not None and self.may_work(device, sensor):
            work, sensor.work = sensor.work, None
            self.feed(device, sensor, work)
        elif sensor.is_dirty or self.is_due(sensor) or self.awaits_reboot(device, sensor):
            self.look(device, sensor)

    def awaits_reboot(self, device: Device, sensor: Sensor) -> bool:
        """Say whether the reboot that the camera waits for may be made now."""
        is_waiting = sensor.journal.waiting_for is cam.WaitingFor.REBOOT
        return is_waiting and self.may_reboot(device)

    def may_work(self, device: Device, sensor: Sensor) -> bool:
        """Say whether nothing is in the way of the files; say it to the camera, if something is."""
        making = sensor.journal.making
        is_fetching = isinstance(sensor.work, cam.Fetched)
        if making is None or not (is_fetching and (not device.is_online or self.chance(0.2))):
            return True
        what = self.random.choice((cam.WaitingFor.BLOCKS, cam.WaitingFor.DISK))
        self.feed(device, sensor, cam.Obstructed(making.manifest_sha256, what))
        if sensor.is_dirty or self.is_due(sensor):
            self.look(device, sensor)
        return False

    def is_due(self, sensor: Sensor) -> bool:
        """Say whether the back-off of a camera on which nothing runs is over."""
        journal = sensor.journal
        if journal.is_running or journal.active is None or journal.phase in cam.ON_TRIAL:
            return False
        return watch.is_due(sensor.watch, self.now)

    def look(self, device: Device, sensor: Sensor) -> None:
        """Let the camera look at the accepted plan."""
        others = [s for s in device.sensors if s is not sensor]
        may_start = not any(s.trial or s.journal.phase in cam.ON_TRIAL for s in others)
        sensor.is_dirty = False
        bundle = device.bundle
        sensor.version_read = bundle.version
        starts = START_COST * sensor.starts
        is_spent = not watch.has_starts_left(starts)
        looked = cam.Looked(
            bundle.plan,
            bundle.listed,
            may_start=may_start,
            is_due=self.is_due(sensor) and watch.may_start_at_all(starts),
            may_reboot=is_spent and self.may_reboot(device),
            has_starts_left=not is_spent,
            closed=device.closed,
        )
        self.feed(device, sensor, looked)

    def feed(self, device: Device, sensor: Sensor, event: cam.Event) -> None:
        """Give one event to the machine and carry out its effects; the power may fail anywhere."""
        before = sensor.journal
        after, effects = cam.step(before, sensor.identity, event)
        done = self.random.randint(0, len(effects)) if effects and self.chance(0.02) else None
        sensor.journal = after
        for effect in effects[:done]:
            self.carry_out(device, sensor, effect)
        if done is not None:
            device.is_down = True
        if effects or after != before:
            self.disturb(device)

    def carry_out(self, device: Device, sensor: Sensor, effect: cam.Effect) -> None:
        """Do to the world what the machine asked for."""
        match effect:
            case cam.Persist(journal):
                self.watch_persist(device, sensor, journal)
                sensor.disk = journal
            case cam.Fetch(slot):
                sensor.work = cam.Fetched(slot.manifest_sha256)
            case cam.Verify(slot):
                sensor.work = self.verified(slot)
            case cam.Stage(slot):
                sensor.work = cam.Staged(slot.manifest_sha256)
            case cam.Stop():
                sensor.running = None
                sensor.trial.clear()
            case cam.Start(slot):
                self.start_camera(device, sensor, slot)
            case cam.Reboot():
                device.is_down = device.is_clean = True
                device.rebooted_in = self.round

    def verified(self, slot: Slot) -> cam.Event:
        """Return what the look at a release's files says."""
        if self.truth[slot.release] is Truth.REJECTED:
            return cam.Rejected(slot.manifest_sha256, Cause.RELEASE, "input_size", "too large")
        return cam.Verified(slot.manifest_sha256)

    def start_camera(self, device: Device, sensor: Sensor, slot: Slot) -> None:
        """Start the sensor with a release and prepare what the gate will say."""
        truth = self.truth[slot.release]
        if sensor.running is not None:
            self.violations.add("harm: starts a camera that is not stopped")
        sensor.trial.clear()
        sensor.starts += 1
        sensor.started_in, sensor.started = self.round, slot.manifest_sha256
        if truth is Truth.HANGS:
            device.is_down = True
        if truth is Truth.KILLS_BRIDGE:
            sensor.is_bridge_dead = sensor.is_bridge_killed = True
        is_bad_here = truth is Truth.BAD_SOME and share_hash(slot.release, device.name) % 3 == 0
        is_bad = is_bad_here or truth is Truth.BAD
        fails = sensor.is_dead or sensor.is_bridge_dead or (sensor.is_flaky and self.chance(0.3))
        if fails:
            sensor.trial.append(cam.Failed())
            return
        sensor.running = slot.release
        sensor.trial.extend((cam.Started(), cam.Failed() if is_bad else cam.Passed()))

    def report(self, device: Device) -> None:
        """Let the controller hear what the device says."""
        device.has_news = False
        device.heard += 1
        for sensor in device.sensors:
            key = device.name, sensor.identity.number
            seen = cam.view(sensor.journal, sensor.identity)
            bundle = device.bundle
            rests = is_settled(sensor.journal, sensor.identity, bundle.plan, bundle.listed)
            self.reports[key] = Report(seen, sensor.version_read, rests)
            self.known[key] = sensor.identity
            self.told[key] = CameraReported(
                kind="simulated",
                state="streaming",
                deployment=deployment_reported(sensor.journal, since=""),
                ended=ends_reported(sensor.journal, bundle.plan),
            )
            is_behind = sensor.version_read < device.bundle.version
            device.has_news = device.has_news or is_behind or not rests
        self.is_book_dirty = True

    # The controller.
    def control(self) -> None:
        """Conclude, judge, publish."""
        self.is_book_dirty = False
        self.book = planning.settle(self.book, self.listed, self.all_reports())
        for live in self.book:
            if live.state is State.RUNNING and not self.chance(0.5):
                self.judge(live)
        plan = planning.entries(self.book)
        if plan != self.bundle.plan or self.listed != self.bundle.listed:
            self.bundle = Bundle(self.bundle.version + 1, plan, dict(self.listed))
            for entry in plan:
                self.named.setdefault(entry.tried, len(self.named))
            for live in self.book:
                if live.entry.action is Action.REVERT:
                    self.reverted.setdefault(live.entry.rollout, self.bundle.version)

    def all_reports(self) -> list[Report]:
        """Return a report for every declared camera; one never heard of has read nothing."""
        return [
            self.reports.get((camera.device, camera.number), Report(camera, -1, is_settled=False))
            for camera in self.inventory
        ]

    def judge(self, live: planning.Rollout) -> None:
        """Give the verdict of a wave, and do what follows from it."""
        name, tried = live.entry.rollout, live.entry.tried
        cameras = [report.camera for report in self.all_reports()]
        mine = planning.members(self.book, live, self.listed, cameras)
        course = self.course_of(live)
        seen = tuple(
            self.seen(device, [c for c in mine if c.device == device.name], tried)
            for device in self.joined
            if any(c.device == device.name for c in mine)
        )
        before = course.reaches[:-1]
        wave = frozenset(c.device for c in mine if not any(r.admits(live.entry, c) for r in before))
        seconds = ROUND_SECONDS * (self.round - self.judged.get(name, self.round - 1))
        self.judged[name] = self.round
        judged = rollout.advance(course, seen, wave, _RULES, seconds=seconds)
        self.courses[name] = judged.course
        self.obey(name, judged.verdict)

    def obey(self, name: str, verdict: Verdict) -> None:
        """Do what a verdict asks of the plan."""
        match rollout.decide(verdict, _RULES):
            case Decision.NOTHING:
                return
            case Decision.NEXT_WAVE:
                self.book = planning.pass_wave(self.book, name, self.inventory)
            case Decision.PAUSE:
                self.book = planning.pause(self.book, name)
            case Decision.REVERT | Decision.STOP:
                revert = share_hash("stop", name) % 4 != 0
                self.book = planning.abort(self.book, name, self.bundle.version + 1, revert=revert)
        self.is_book_dirty = True

    def course_of(self, live: planning.Rollout) -> rollout.Course:
        """Return what the controller remembers of a rollout, its newest wave and attempt noted."""
        course = self.courses.get(live.entry.rollout, rollout.Course())
        if course.attempt != live.entry.attempt:
            course = rollout.retried(course, live.entry.attempt)
        reach = Reach(live.entry.pins, live.entry.share)
        if len(course.reaches) <= live.wave:
            course = rollout.next_wave(course, reach, None, wave=live.wave)
        return course

    def seen(self, device: Device, cameras: Sequence[Camera], tried: Try) -> DeviceSeen:
        """Return what the controller knows of a device."""
        reports = [self.told.get((c.device, c.number)) for c in cameras]
        cameras_seen = tuple(rollout.camera_seen(report, *tried) for report in reports)
        return DeviceSeen(device.name, device.is_online, device.heard, cameras_seen)

    # The operator.
    def operate(self) -> None:
        """Do something random that a person might ask for."""
        verbs: tuple[Callable[[], None], ...] = (
            self.operator_starts,
            self.operator_starts,
            self.operator_starts,
            self.operator_aborts,
            self.operator_undoes,
            self.operator_retries,
            self.operator_revokes,
            self.operator_pauses,
            self.operator_resumes,
            self.operator_relabels,
        )
        try:
            self.random.choice(verbs)()
        except RefusedError:
            return
        self.is_book_dirty = True

    def some_rollout(self, *states: State) -> str:
        """Return a rollout of the book in one of these states."""
        names = [r.entry.rollout for r in self.book if r.state in states]
        if not names:
            raise RefusedError("expected a rollout in the right state")
        return self.random.choice(names)

    def new_entry(self, release: str) -> Entry:
        """Return the entry of a new rollout."""
        name = f"r-{self.rollouts_started}"
        selector = self.random.choice(SELECTORS)
        denied = self.random.random() < 0.2
        deny = frozenset({f"d-{self.random.randrange(len(self.devices)):02}"} if denied else ())
        window = Window(frozenset({"mon"}), 0, 60) if self.random.random() < 0.2 else None
        return Entry(
            rollout=name,
            attempt=1,
            action=Action.RUN,
            release=release,
            manifest_sha256=f"sha-{release}",
            selector=selector,
            pins=frozenset(),
            salt=name,
            share=0,
            deny=deny,
            window=window,
        )

    def launch(self, entry: Entry, start: Callable[[Entry], Book]) -> None:
        """Start a rollout, and note what its devices ran before, as the store does."""
        everyone = Entry("", 1, Action.RUN, "", "", entry.selector, frozenset(), "", SHARE_ALL)
        seen = [r.camera for r in self.all_reports() if covers(everyone, r.camera)]
        ran = Counter(c.active.release for c in seen if c.active is not None)
        self.book = start(entry)
        self.rollouts_started += 1
        self.release_of[entry.rollout] = entry.release
        if ran:
            self.before[entry.rollout] = ran.most_common(1)[0][0]

    def operator_starts(self) -> None:
        """Start a rollout of a new release, or of an old one again."""
        if self.listed and self.random.random() < 0.3:
            release = self.random.choice(sorted(self.listed))
        else:
            release = f"m@{len(self.truth) + 1}"
            self.truth[release] = Truth.GOOD if not self.truth else self.random.choice(TRUTHS)
            self.listed[release] = f"sha-{release}"
        waves, over = self.random.choice(STRATEGIES), self.random.random() < 0.5
        self.launch(
            self.new_entry(release),
            lambda entry: planning.start(self.book, entry, waves, self.inventory, over=over),
        )

    def operator_undoes(self) -> None:
        """Bring back what ran before a rollout."""
        name = self.some_rollout(State.COMPLETED, State.RUNNING, State.ABORTED)
        release = self.before.get(name)
        if release not in self.listed:
            raise RefusedError("expected a listed release that ran before")
        over = self.random.random() < 0.5
        self.launch(
            self.new_entry(release),
            lambda entry: planning.undo(
                self.book, name, entry, STRATEGIES[0], self.inventory, over=over
            ),
        )

    def operator_aborts(self) -> None:
        """Abort a rollout, with or without reverting its devices."""
        name = self.some_rollout(State.RUNNING, State.PAUSED)
        revert = self.random.random() < 0.75
        self.book = planning.abort(self.book, name, self.bundle.version + 1, revert=revert)

    def operator_retries(self) -> None:
        """Name a rollout anew."""
        name = self.some_rollout(*State)
        self.book = planning.retry(self.book, name)

    def operator_revokes(self) -> None:
        """Delist a release; the first one stays, so that somebody may go back to it."""
        if len(self.listed) < 2 or self.random.random() < 0.3:
            raise RefusedError("expected a second release")
        release = self.random.choice(sorted(self.listed))
        self.book = planning.revoke(self.book, release, self.bundle.version + 1)
        del self.listed[release]

    def operator_pauses(self) -> None:
        """Pause a rollout."""
        self.book = planning.pause(self.book, self.some_rollout(State.RUNNING))

    def operator_resumes(self) -> None:
        """Resume a rollout."""
        self.book = planning.resume(self.book, self.some_rollout(State.PAUSED))

    def operator_relabels(self) -> None:
        """Sign other labels for a device."""
        device = self.random.choice(self.devices)
        device.labels = {"role": self.random.choice(("door", "dock"))}

    # Oracles for harm, while it happens.
    def watch_persist(self, device: Device, sensor: Sensor, after: Journal) -> None:
        """Judge every change of a journal against what the world knows."""
        before, memory = sensor.disk, sensor.memory
        if after.phase is Phase.ACTIVATING and after.making is not None:
            if before.phase not in {Phase.ACTIVATING, Phase.PROBING}:
                self.watch_activation(device, sensor, after.making)
                memory.starts = 0
            memory.starts += before.activations_started != after.activations_started
            if memory.starts > STARTS_PER_TRY_MAX:
                self.violations.add("stands: activation loop")
        is_revert = after.cause is Cause.OPERATOR and before.phase is not Phase.ROLLING_BACK
        if is_revert and after.phase is Phase.ROLLING_BACK and after.restoring is not None:
            self.watch_revert(device, sensor, after.restoring)
        if after.committed - before.committed and not after.is_running:
            self.violations.add("harm: calls healthy what does not run")
        has_passed = before.phase is Phase.PROBING and after.phase is Phase.IDLE
        for tried in after.committed - before.committed:
            release = self.release_of[tried[0]]
            if not has_passed and release in memory.shaky:
                self.violations.add("harm: calls healthy what failed its gate here")
            memory.shaky.discard(release)
            if has_passed:
                held = {slot.release for slot in (before.active, before.previous) if slot}
                kept = memory.set_by.get(release, set()) if release in held else set[str]()
                memory.set_by[release] = kept | memory.namers
            memory.failed_at.pop(release, None)
        for tried in after.committed - before.committed:
            memory.set_by.setdefault(self.release_of[tried[0]], set()).add(tried[0])
        for tried in after.ended_badly - before.ended_badly:
            memory.ended_badly.add(tried)
            end = after.ended[tried]
            if end.phase is Phase.REJECTED:
                continue
            if end.cause in {Cause.RELEASE, Cause.UNKNOWN}:
                memory.shaky.add(self.release_of[tried[0]])
            if end.cause is Cause.RELEASE:
                memory.failed_at[self.release_of[tried[0]]] = memory.newest_naming

    def watch_activation(self, device: Device, sensor: Sensor, slot: Slot) -> None:
        """Judge the first start of a deployment."""
        plan, memory = device.bundle.plan, sensor.memory
        named = [e for e in plan if e.action is Action.RUN and e.tried in slot.owners]
        if not named:
            self.violations.add("harm: activates what the plan does not let run")
        if sensor.is_bridge_killed:
            self.violations.add("harm: tries a release on a bridge that another has killed")
        if slot.owners & memory.ended_badly:
            self.violations.add("harm: tries a (rollout, attempt) again after its end")
        if device.bundle.listed.get(slot.release) != slot.manifest_sha256:
            self.violations.add("harm: activates a revoked release")
        newest = max((self.named[entry.tried] for entry in named), default=0)
        if newest <= memory.failed_at.get(slot.release, -1):
            self.violations.add("harm: runs what failed its gate here, not named anew")
        if (device.bundle.version, slot.release) in memory.activated:
            self.violations.add("stands: the same plan activates a release twice")
        memory.activated.add((device.bundle.version, slot.release))
        memory.namers = frozenset(
            e.rollout
            for e in plan
            if e.action in {Action.RUN, Action.HOLD}
            and e.release == slot.release
            and covers(e, sensor.identity)
        )
        memory.newest_naming = max(self.named[entry.tried] for entry in plan)

    def watch_revert(self, device: Device, sensor: Sensor, slot: Slot) -> None:
        """Judge the way back that an abort takes."""
        if slot.release in sensor.memory.failed_at:
            self.violations.add("harm: goes back to what failed its gate here")
        if self.is_aborted(sensor, slot.release, device.bundle.version):
            self.violations.add("harm: goes back to an aborted release")
        if device.bundle.listed.get(slot.release) != slot.manifest_sha256:
            self.violations.add("harm: goes back to a revoked release")

    def is_aborted(self, sensor: Sensor, release: str, version: int) -> bool:
        """Say whether all that put the release on this camera was reverted by this version."""
        rollouts = sensor.memory.set_by.get(release, set())
        known = [r for r in rollouts if self.reverted.get(r, version + 1) <= version]
        return bool(rollouts) and len(known) == len(rollouts)

    # Oracles at the end.
    def judge_end(self) -> None:
        """Judge where everything came to rest."""
        for live in self.book:
            if live.state in {State.RUNNING, State.REVERTING}:
                self.violations.add(f"stands: a rollout stays {live.state.value}")
            if live.state is State.COMPLETED and not self.covers_all(live.entry):
                self.violations.add("stands: a completed rollout leaves somebody out")
        for device in self.devices:
            for sensor in device.sensors:
                if not sensor.is_dead:
                    self.violations.update(self.faults(sensor))

    def covers_all(self, entry: Entry) -> bool:
        """Say whether an entry lets in all that its selector matches, but for the denied."""
        admitted = [c for c in self.inventory if entry.selector.matches(c.labels)]
        return all(covers(entry, c) or c.device in entry.deny for c in admitted)

    def faults(self, sensor: Sensor) -> Iterator[str]:
        """Yield what is wrong with where a living camera came to rest."""
        running, memory = sensor.running, sensor.memory
        better = self.is_named(sensor) or self.has_good_slot(sensor)
        if running is None:
            if memory.set_by and not self.is_hopeless(sensor):
                yield "harm: ends with no model, had one"
            if self.is_named(sensor):
                yield "harm: ends with no model, one is named"
            return
        if running not in self.listed and better:
            yield "harm: ends on a revoked release"
        if self.is_aborted(sensor, running, self.bundle.version) and better:
            yield "harm: ends on an aborted release"
        if running in memory.failed_at:
            yield "harm: ends on what failed its gate here"
        first = next((e for e in self.bundle.plan if self.applies(e, sensor)), None)
        is_due = first is not None and first.action is Action.RUN and first.release != running
        if first is not None and is_due and first.tried not in memory.ended_badly:
            yield "stands: left behind by the plan"

    def applies(self, entry: Entry, sensor: Sensor) -> bool:
        """Say whether the plan speaks to this camera through the entry."""
        camera = cam.view(sensor.disk, sensor.identity)
        if entry.action is Action.REVERT or entry.release not in self.listed:
            return False
        is_kept = entry.action is not Action.KEEP or is_owner(entry, camera)
        return is_kept and covers(entry, camera)

    def is_named(self, sensor: Sensor) -> bool:
        """Say whether the plan names a release that this camera could still have."""
        memory = sensor.memory
        return any(
            self.applies(entry, sensor)
            and entry.action is Action.RUN
            and entry.tried not in memory.ended_badly
            and self.named[entry.tried] > memory.failed_at.get(entry.release, -1)
            for entry in self.bundle.plan
        )

    def has_good_slot(self, sensor: Sensor) -> bool:
        """Say whether the previous slot holds a release that nobody condemned."""
        slot = sensor.disk.previous
        if slot is None or slot.release not in self.listed:
            return False
        standing = {rollout for rollout, _ in sensor.disk.committed} - self.reverted.keys()
        is_condemned = standing.isdisjoint(sensor.memory.set_by.get(slot.release, set()))
        return not is_condemned and slot.release not in sensor.memory.failed_at


_RULES = Rules(
    max_failed=Allowed(permille=200),
    quiet_seconds=0.0,
    bake_seconds=(ROUND_SECONDS,),
)
_FAILS_LATER = frozenset({Truth.STALLS, Truth.HANGS_LATER})


def main(arguments: Sequence[str]) -> int:
    """Play the seeds; print each kind of violation with its count and its first seed."""
    parser = ArgumentParser(prog="python -m controller.simulation", description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--devices", type=int, default=DEVICES)
    asked = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    seeds: dict[str, int] = {}
    for seed in range(asked.first, asked.last):
        for violation in World(seed, asked.devices).play():
            counts[violation] += 1
            seeds.setdefault(violation, seed)
    for violation, count in sorted(counts.items()):
        print(f"{count:6} {violation} (seed {seeds[violation]})")  # noqa: T201
    print(f"{asked.last - asked.first} histories, {sum(counts.values())} violations")  # noqa: T201
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
