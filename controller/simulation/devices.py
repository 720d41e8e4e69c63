"""The devices of a history: the real machines in a world that loses, cuts off and breaks."""

from agent import deployment as cam
from agent import steps, watch
from agent.outcomes import deployment_reported, ends_reported, is_settled, owners
from agent.steps import Cause, Journal, Phase
from agent.watch import LastRun, Watch
from controller.simulation.bus import Bus, Message
from controller.simulation.oracles import Oracles
from controller.simulation.state import (
    BEGUN,
    DAY_ROUNDS,
    HEARTBEAT_ROUNDS,
    ROUND_SECONDS,
    START_COST,
    Bundle,
    Device,
    History,
    Memory,
    Sensor,
    Truth,
    Violation,
)
from shared.assignment import Slot, share_hash
from shared.limits import REPORTED_BYTES
from shared.messages import CameraReported, Reported, encode, time_text

STEPS_PER_ROUND = 3
WINDOW_ROUNDS = 7
DISK_FULL_ROUNDS_MAX = 8
_AT = time_text(BEGUN)  # Nothing is decided on it.


class Devices:
    """All devices; no decision is made here."""

    def __init__(self, history: History, oracles: Oracles, bus: Bus) -> None:
        """Act on this history, watched by these oracles."""
        self.history = history
        self.oracles = oracles
        self.bus = bus

    def live(self, device: Device) -> None:
        """Let one round pass on a device."""
        if self.history.chance(0.12):
            device.is_online = not device.is_online
            self.tell_status(device)
        elif not device.is_born:
            device.is_born = True
            self.tell_status(device)
        if self.history.chance(0.002):
            self.replace_card(device)
        self.read_identity(device)
        self.watch_windows(device)
        self.read_plan(device)
        for sensor in device.sensors:
            self.suffer(device, sensor)
            self.survive(sensor)
        for _ in range(STEPS_PER_ROUND):
            self.take_a_step(device)
        is_heartbeat = self.history.round % HEARTBEAT_ROUNDS == 0
        if device.is_online and (device.has_news or is_heartbeat) and not self.history.chance(0.3):
            self.report(device)

    def tell_status(self, device: Device) -> None:
        """Let the device say that it is there, or its last will that it is gone."""
        self.bus.publish(Message(device.name, "status", b"online" if device.is_online else b""))

    def read_plan(self, device: Device) -> None:
        """Let the device accept the newest bundle, if it is not lost on the way."""
        is_new = device.is_online and device.bundle is not self.history.bundle
        if is_new and not self.history.chance(0.3):
            device.bundle = self.history.bundle
            self.disturb(device)

    def take_a_step(self, device: Device) -> None:
        """Let the power fail, the agent be killed, or every camera take one event."""
        if device.is_down or self.history.chance(0.002):
            self.boot(device, is_new_boot=True)
        elif self.history.chance(0.003):
            self.boot(device, is_new_boot=False)
        elif device.is_online and self.history.chance(0.02):
            self.report(device)  # At any moment, also between a new plan and a look at it.
        for sensor in device.sensors:
            if not device.is_down:
                self.advance(device, sensor)

    def replace_card(self, device: Device) -> None:
        """Lose everything that the device remembers."""
        device.bundle = Bundle(0, (), {})
        device.card, device.runs = device.card + 1, 0
        self.bus.forget(device.name)
        for sensor in device.sensors:
            sensor.disk = Journal()
            sensor.memory = Memory()
            sensor.watch = Watch()
        self.boot(device, is_new_boot=True)

    def read_identity(self, device: Device) -> None:
        """Let the device read its new labels, some time."""
        is_read = device.identity_read == device.identity_signed
        if is_read or not device.is_online or self.history.chance(0.7):
            return
        device.identity_read = device.identity_signed
        for sensor in device.sensors:
            sensor.identity = sensor.signed
        self.disturb(device)

    def watch_windows(self, device: Device) -> None:
        """Look again when a window opens or closes."""
        is_closed = self.history.round // WINDOW_ROUNDS % 2 == 0
        rollouts = (e.rollout for e in device.bundle.plan if e.window is not None)
        closed = frozenset(rollouts) if is_closed else frozenset[str]()
        if closed != device.closed:
            device.closed = closed
            self.disturb(device)

    def boot(self, device: Device, *, is_new_boot: bool) -> None:
        """Start the device, or its agent alone, from what is on its disk."""
        is_clean, device.is_clean, device.is_down = device.is_clean, False, False
        device.runs, device.seq = device.runs + 1, 0
        for sensor in device.sensors:
            sensor.journal = sensor.disk
            sensor.running = None
            sensor.work = None
            if is_new_boot:
                sensor.is_bridge_dead = sensor.is_bridge_killed = False
                sensor.starts = 0
            sensor.trial.clear()
            sensor.version_read = -1
            seconds = (self.history.round - sensor.started_in) * ROUND_SECONDS
            last = LastRun(is_clean or not is_new_boot, sensor.started, seconds)
            sensor.watch = watch.begun(sensor.watch, last, self.history.now)
            sensor.started = ""
        for sensor in device.sensors:
            if not device.is_down:
                active = sensor.journal.active
                is_loop = active is not None and watch.is_boot_loop(
                    sensor.watch, active.manifest_sha256
                )
                event = steps.Booted(is_new_boot=is_new_boot, is_boot_loop=is_loop)
                self.feed(device, sensor, event)
        self.disturb(device)

    def disturb(self, device: Device) -> None:
        """Make every camera of the device look at its plan again."""
        device.has_news = True
        for sensor in device.sensors:
            sensor.is_dirty = True

    def suffer(self, device: Device, sensor: Sensor) -> None:
        """Let hidden faults happen."""
        if sensor.dies_in == self.history.round:
            sensor.is_dead = True
        if self.history.chance(0.002):
            sensor.is_bridge_dead = True
        truth = None if sensor.running is None else self.history.truth[sensor.running]
        if truth is Truth.HANGS_LATER and not sensor.trial and self.history.draws(0.3):
            device.is_down = True
        stalls = truth is Truth.STALLS
        has_stalled = (stalls and self.history.draws(0.3)) or sensor.is_dead
        if sensor.running and not sensor.trial and (has_stalled or sensor.is_bridge_dead):
            sensor.running = None
            self.feed(device, sensor, steps.Failed(may_reboot=self.may_reboot(device)))

    def survive(self, sensor: Sensor) -> None:
        """Let a release that has run for long be above suspicion."""
        seconds = (self.history.round - sensor.started_in) * ROUND_SECONDS
        if sensor.running and sensor.started and seconds > watch.BOOT_LOOP_SECONDS:
            sensor.watch = watch.forgiven(sensor.watch, sensor.started)
            sensor.started = ""

    def may_reboot(self, device: Device) -> bool:
        """Say whether the reboot of this day is not spent."""
        rounds = self.history.round - device.rebooted_in
        return watch.may_reboot(rounds / DAY_ROUNDS * watch.REBOOT_SECONDS_MIN)

    def advance(self, device: Device, sensor: Sensor) -> None:
        """Take the camera's next event, if there is one."""
        if sensor.trial:
            event = sensor.trial.popleft()
            self.feed(device, sensor, event)
            self.disturb(device)  # It may be the other camera's turn.
        elif sensor.work is not None and self.may_work(device, sensor):
            work, sensor.work = sensor.work, None
            self.feed(device, sensor, work)
        elif sensor.is_dirty or self.is_due(sensor) or self.awaits_reboot(device, sensor):
            self.look(device, sensor)

    def awaits_reboot(self, device: Device, sensor: Sensor) -> bool:
        """Say whether the reboot that the camera waits for may be made now."""
        is_waiting = sensor.journal.waiting_for is steps.WaitingFor.REBOOT
        return is_waiting and self.may_reboot(device)

    def may_work(self, device: Device, sensor: Sensor) -> bool:
        """Say whether nothing is in the way of the files; say it to the camera, if something is."""
        making = sensor.journal.making
        is_fetching = isinstance(sensor.work, steps.Fetched)
        if making is None or not (
            is_fetching and (not device.is_online or self.history.chance(0.2))
        ):
            return True
        what = self.history.random.choice((steps.WaitingFor.BLOCKS, steps.WaitingFor.DISK))
        self.feed(device, sensor, steps.Obstructed(making.manifest_sha256, what))
        if sensor.is_dirty or self.is_due(sensor):
            self.look(device, sensor)
        return False

    def is_due(self, sensor: Sensor) -> bool:
        """Say whether the back-off of a camera on which nothing runs is over."""
        journal = sensor.journal
        if journal.is_running or journal.active is None or journal.phase in steps.ON_TRIAL:
            return False
        return watch.is_due(sensor.watch, self.history.now)

    def look(self, device: Device, sensor: Sensor) -> None:
        """Let the camera look at the accepted plan."""
        if self.history.chance(0.02):
            rounds = self.history.random.randint(1, DISK_FULL_ROUNDS_MAX)
            sensor.disk_full_until = self.history.round + rounds
        if sensor.disk_full_until > self.history.round:
            return  # The look cannot be written, and is made again.
        others = [s for s in device.sensors if s is not sensor]
        may_start = not any(s.trial or s.journal.phase in steps.ON_TRIAL for s in others)
        sensor.is_dirty = False
        bundle = device.bundle
        sensor.version_read = bundle.version
        starts = START_COST * sensor.starts
        is_spent = not watch.has_starts_left(starts)
        looked = steps.Looked(
            bundle.plan,
            bundle.listed,
            may_start=may_start,
            is_due=self.is_due(sensor) and watch.may_start_at_all(starts),
            may_reboot=is_spent and self.may_reboot(device),
            has_starts_left=not is_spent,
            closed=device.closed,
        )
        self.feed(device, sensor, looked)

    def feed(self, device: Device, sensor: Sensor, event: steps.Event) -> None:
        """Give one event to the machine and carry out its effects; the power may fail anywhere."""
        before = sensor.journal
        after, effects = cam.step(before, sensor.identity, event)
        done = (
            self.history.random.randint(0, len(effects))
            if effects and self.history.chance(0.02)
            else None
        )
        sensor.journal = after
        self.remember(sensor, event, before)
        for effect in effects[:done]:
            self.carry_out(device, sensor, effect)
        if done is not None:
            device.is_down = True
        if effects or after != before:
            self.disturb(device)

    def remember(self, sensor: Sensor, event: steps.Event, before: Journal) -> None:
        """Keep the watch in step with the machine, as agent/cameras.py does."""
        after, now = sensor.journal, self.history.now
        if isinstance(event, steps.Passed):
            sensor.watch = watch.runs(sensor.watch)
        elif isinstance(event, steps.Failed) and not after.is_running:
            has_broken = after.phase is Phase.BROKEN and before.phase is not Phase.BROKEN
            fail = watch.broke if has_broken else watch.start_failed
            sensor.watch = fail(sensor.watch, now)

    def carry_out(self, device: Device, sensor: Sensor, effect: steps.Effect) -> None:
        """Do to the world what the machine asked for."""
        match effect:
            case steps.Persist(journal):
                self.oracles.watch_persist(device, sensor, journal)
                sensor.disk = journal
            case steps.Fetch(slot):
                sensor.work = steps.Fetched(slot.manifest_sha256)
            case steps.Verify(slot):
                sensor.work = self.verified(sensor, slot)
            case steps.Stage(slot):
                sensor.work = steps.Staged(slot.manifest_sha256)
            case steps.Stop():
                sensor.running = None
                sensor.trial.clear()
            case steps.Start(slot):
                self.start_camera(device, sensor, slot)
            case steps.Reboot():
                device.is_down = device.is_clean = True
                device.rebooted_in = self.history.round

    def verified(self, sensor: Sensor, slot: Slot) -> steps.Event:
        """Return what the look at a release's files says."""
        sensor.memory.verified.add(slot.manifest_sha256)
        if self.history.truth[slot.release] is Truth.REJECTED:
            self.oracles.watch_rejection(sensor, slot)
            return steps.Rejected(slot.manifest_sha256, Cause.RELEASE, "input_size", "too large")
        return steps.Verified(slot.manifest_sha256)

    def start_camera(self, device: Device, sensor: Sensor, slot: Slot) -> None:
        """Start the sensor with a release and prepare what the gate will say."""
        truth = self.history.truth[slot.release]
        if sensor.running is not None:
            self.history.violations.add(Violation.NOT_STOPPED)
        sensor.trial.clear()
        sensor.starts += 1
        sensor.started_in, sensor.started = self.history.round, slot.manifest_sha256
        if truth is Truth.HANGS:
            device.is_down = True
        if truth is Truth.KILLS_BRIDGE:
            sensor.is_bridge_dead = sensor.is_bridge_killed = True
        is_bad_here = truth is Truth.BAD_SOME and share_hash(slot.release, device.name) % 3 == 0
        is_bad = is_bad_here or truth is Truth.BAD
        fails = (
            sensor.is_dead
            or sensor.is_bridge_dead
            or (sensor.is_flaky and self.history.chance(0.3))
        )
        if fails:
            sensor.trial.append(steps.Failed())
            return
        sensor.running = slot.release
        sensor.trial.extend((steps.Started(), steps.Failed() if is_bad else steps.Passed()))

    def report(self, device: Device) -> None:
        """Let the device say what it runs and what it does."""
        device.seq += 1
        rests = {s.identity.number: self.rests(device, s) for s in device.sensors}
        version = min(sensor.version_read for sensor in device.sensors)
        document = Reported(
            at=_AT,
            clock="synced",
            boot="",
            run=f"{device.name}-{device.card}-{device.runs}",
            seq=device.seq,
            agent_version="0",
            plan_version=version,
            plan_sha256=None,
            identity_version=device.identity_read,
            cameras={
                str(s.identity.number): self.reported(
                    device, s, is_settled=rests[s.identity.number]
                )
                for s in device.sensors
            },
        )
        device.has_news = version < device.bundle.version or not all(rests.values())
        payload = encode(document, bytes_max=REPORTED_BYTES)
        self.bus.publish(Message(device.name, "reported", payload))

    def rests(self, device: Device, sensor: Sensor) -> bool:
        """Say whether a camera has nothing more to do for the accepted plan."""
        bundle = device.bundle
        return is_settled(sensor.journal, sensor.identity, bundle.plan, bundle.listed)

    def reported(self, device: Device, sensor: Sensor, *, is_settled: bool) -> CameraReported:
        """Return what the device says of one camera."""
        active = sensor.journal.active
        return CameraReported(
            kind="simulated",
            state="off" if sensor.running is None else "streaming",
            release=None if active is None else active.release,
            manifest_sha256=None if active is None else active.manifest_sha256,
            deployment=deployment_reported(sensor.journal, since=""),
            ended=ends_reported(sensor.journal, device.bundle.plan),
            owners=owners(sensor.journal),
            is_settled=is_settled,
        )
