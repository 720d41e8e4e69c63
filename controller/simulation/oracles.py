"""The oracles: what must never happen, and what must not stand still at the end.

They know the truth that the machines do not: what releases do, who put which release where, and
everything that ended badly since a card was new.
"""

from collections.abc import Iterator, Mapping, Sequence

from agent import deployment as cam
from agent import steps, watch
from agent.steps import Cause, Journal, Phase
from controller.planning import State
from controller.rollout import DeviceState, Standing
from controller.simulation.state import START_COST, Device, History, Memory, Sensor, Violation
from shared.assignment import SHARE_ALL, Action, Entry, Slot, Try, covers, is_owner

STARTS_PER_TRY_MAX = 3
REJECTIONS_MAX = 4
HEARD_ROUNDS = 4  # In the quiet period all that devices say is heard by then.
_RESTLESS = {State.RUNNING: Violation.STAYS_RUNNING, State.REVERTING: Violation.STAYS_REVERTING}


class Oracles:
    """Judges of one history."""

    def __init__(self, history: History) -> None:
        """Judge this history."""
        self.history = history

    def watch_persist(self, device: Device, sensor: Sensor, after: Journal) -> None:
        """Judge every change of a journal against what the world knows."""
        before = sensor.disk
        if after.phase is Phase.ACTIVATING and after.making is not None:
            self.watch_trial(device, sensor, after, after.making)
        is_revert = after.cause is Cause.OPERATOR and before.phase is not Phase.ROLLING_BACK
        if is_revert and after.phase is Phase.ROLLING_BACK and after.restoring is not None:
            self.watch_revert(device, sensor, after.restoring)
        has_left = before.phase in steps.ON_TRIAL and after.phase not in steps.ON_TRIAL
        if has_left and before.latest is not None and before.latest.tried not in after.ended:
            self.history.violations.add(Violation.NO_OUTCOME)
        self.watch_commit(sensor, after)
        for tried in after.ended_badly - before.ended_badly:
            self.remember_bad_end(sensor.memory, tried, after)

    def watch_trial(self, device: Device, sensor: Sensor, after: Journal, making: Slot) -> None:
        """Judge a start of a new release, the first one or a later one."""
        before, memory = sensor.disk, sensor.memory
        if before.phase not in {Phase.ACTIVATING, Phase.PROBING}:
            self.watch_activation(device, sensor, making)
            memory.starts = 0
        memory.starts += before.activations_started != after.activations_started
        if memory.starts > STARTS_PER_TRY_MAX:
            self.history.violations.add(Violation.START_LOOP)

    def watch_commit(self, sensor: Sensor, after: Journal) -> None:
        """Judge what a camera calls healthy, and remember who put it there."""
        before, memory = sensor.disk, sensor.memory
        fresh = after.committed - before.committed
        if fresh and not after.is_running:
            self.history.violations.add(Violation.HEALTHY_OFF)
        has_passed = before.phase is Phase.PROBING and after.phase is Phase.IDLE
        for release in {self.history.release_of[rollout] for rollout, _ in fresh}:
            if not has_passed and release in memory.shaky:
                self.history.violations.add(Violation.HEALTHY_FAILED)
            memory.shaky.discard(release)
            memory.failed_at.pop(release, None)
            if has_passed:
                held = {slot.release for slot in (before.active, before.previous) if slot}
                kept = memory.set_by.get(release, set()) if release in held else set[str]()
                memory.set_by[release] = kept | memory.namers
        for rollout, _ in fresh:
            memory.set_by.setdefault(self.history.release_of[rollout], set()).add(rollout)

    def remember_bad_end(self, memory: Memory, tried: Try, after: Journal) -> None:
        """Remember what must not come back by itself."""
        memory.ended_badly.add(tried)
        end, release = after.ended[tried], self.history.release_of[tried[0]]
        if end.phase is Phase.REJECTED:
            return
        if end.cause in {Cause.RELEASE, Cause.UNKNOWN}:
            memory.shaky.add(release)
        if end.cause is Cause.RELEASE:
            memory.failed_at[release] = memory.newest_naming

    def watch_activation(self, device: Device, sensor: Sensor, slot: Slot) -> None:
        """Judge the first start of a deployment."""
        plan, memory = device.bundle.plan, sensor.memory
        named = [e for e in plan if e.action is Action.RUN and e.tried in slot.owners]
        if not named:
            self.history.violations.add(Violation.UNNAMED)
        if sensor.is_bridge_killed:
            self.history.violations.add(Violation.KILLED_BRIDGE)
        if slot.owners & memory.ended_badly:
            self.history.violations.add(Violation.ENDED_BEFORE)
        if device.bundle.listed.get(slot.release) != slot.manifest_sha256:
            self.history.violations.add(Violation.DELISTED)
        self.watch_conditions(device, sensor, slot, named)
        newest = max((self.history.named[entry.tried] for entry in named), default=0)
        if newest <= memory.failed_at.get(slot.release, -1):
            self.history.violations.add(Violation.FAILED_BEFORE)
        if (device.bundle.version, slot.release) in memory.activated:
            self.history.violations.add(Violation.ACTIVATED_TWICE)
        memory.activated.add((device.bundle.version, slot.release))
        memory.namers = frozenset(
            e.rollout
            for e in plan
            if e.action in {Action.RUN, Action.HOLD}
            and e.release == slot.release
            and covers(e, sensor.identity)
        )
        memory.newest_naming = max(self.history.named[entry.tried] for entry in plan)

    def watch_conditions(
        self, device: Device, sensor: Sensor, slot: Slot, named: Sequence[Entry]
    ) -> None:
        """Judge whether anything but the plan should have kept a release from its start."""
        if all(entry.rollout in device.closed for entry in named):
            self.history.violations.add(Violation.OUTSIDE_WINDOW)
        if not watch.has_starts_left(START_COST * sensor.starts):
            self.history.violations.add(Violation.STARTS_SPENT)
        if slot.manifest_sha256 not in sensor.memory.verified:
            self.history.violations.add(Violation.UNVERIFIED)

    def watch_rejection(self, sensor: Sensor, slot: Slot) -> None:
        """Judge whether the same bad files are looked at over and over; power cuts may repeat."""
        sensor.memory.rejections[slot.owners] += 1
        if sensor.memory.rejections[slot.owners] > REJECTIONS_MAX:
            self.history.violations.add(Violation.REJECTED_OVER)

    def watch_revert(self, device: Device, sensor: Sensor, slot: Slot) -> None:
        """Judge the way back that an abort takes."""
        if slot.release in sensor.memory.failed_at:
            self.history.violations.add(Violation.BACK_TO_FAILED)
        if self.is_aborted(sensor, slot.release, device.bundle.version):
            self.history.violations.add(Violation.BACK_TO_ABORTED)
        if device.bundle.listed.get(slot.release) != slot.manifest_sha256:
            self.history.violations.add(Violation.BACK_TO_DELISTED)

    def is_aborted(self, sensor: Sensor, release: str, version: int) -> bool:
        """Say whether all that put the release on this camera was reverted by this version."""
        rollouts = sensor.memory.set_by.get(release, set())
        known = [r for r in rollouts if self.history.reverted.get(r, version + 1) <= version]
        return bool(rollouts) and len(known) == len(rollouts)

    def watch_plan(self, before: Sequence[Entry], after: Sequence[Entry]) -> None:
        """Judge what left the plan: only what was reverted, or what nobody can need any more."""
        names = {entry.rollout for entry in after}
        wide = {e.selector for e in after if e.share == SHARE_ALL and not e.deny}
        for entry in before:
            is_reverted = entry.rollout in self.history.reverted
            if entry.rollout not in names and not is_reverted and entry.selector not in wide:
                self.history.violations.add(Violation.ENTRY_GONE)
        for entry in after:
            is_left = entry.action is Action.REVERT or entry.release in self.history.listed
            if entry.release in self.history.revoked and not is_left:
                self.history.violations.add(Violation.REVOKED_NAMED)

    def watch_doubt(self, standings: Mapping[str, Standing], entry: Entry) -> None:
        """Judge whether a wave's devices, all heard now, are doubted without a reason."""
        if not self.history.is_quiet:
            return
        if self.history.round - self.history.quiet_since < HEARD_ROUNDS:
            return
        doubted = [name for name, s in standings.items() if s.state is DeviceState.PENDING]
        sensors = [s for d in self.history.devices if d.name in doubted for s in d.sensors]
        mine = [sensor for sensor in sensors if covers(entry, sensor.identity)]
        if mine and all(entry.tried in sensor.disk.committed for sensor in mine):
            self.history.violations.add(Violation.HEALTHY_DOUBTED)

    def judge_end(self) -> None:
        """Judge where everything came to rest."""
        for live in self.history.book:
            if live.state in _RESTLESS:
                self.history.violations.add(_RESTLESS[live.state])
            if live.state is State.COMPLETED and not self.covers_all(live.entry):
                self.history.violations.add(Violation.SOMEBODY_OUT)
        for device in self.history.devices:
            for sensor in device.sensors:
                if not sensor.is_dead:
                    self.history.violations.update(self.faults(sensor))

    def covers_all(self, entry: Entry) -> bool:
        """Say whether an entry lets in all that its selector matches, but for the denied."""
        cameras = [s.signed for device in self.history.joined for s in device.sensors]
        admitted = [camera for camera in cameras if entry.selector.matches(camera.labels)]
        return all(covers(entry, c) or c.device in entry.deny for c in admitted)

    def faults(self, sensor: Sensor) -> Iterator[Violation]:
        """Yield what is wrong with where a living camera came to rest."""
        running, memory = sensor.running, sensor.memory
        better = self.is_named(sensor) or self.has_good_slot(sensor)
        if running is None:
            if memory.set_by and not self.history.is_hopeless(sensor):
                yield Violation.ENDS_WITHOUT
            if self.is_named(sensor):
                yield Violation.ENDS_WITHOUT_NAMED
            return
        if running not in self.history.listed and better:
            yield Violation.ENDS_DELISTED
        if self.is_aborted(sensor, running, self.history.bundle.version) and better:
            yield Violation.ENDS_ABORTED
        if running in memory.failed_at:
            yield Violation.ENDS_FAILED
        first = next((e for e in self.history.bundle.plan if self.applies(e, sensor)), None)
        is_due = first is not None and first.action is Action.RUN and first.release != running
        if first is not None and is_due and first.tried not in memory.ended_badly:
            yield Violation.LEFT_BEHIND

    def applies(self, entry: Entry, sensor: Sensor) -> bool:
        """Say whether the plan speaks to this camera through the entry."""
        camera = cam.view(sensor.disk, sensor.identity)
        if entry.action is Action.REVERT or entry.release not in self.history.listed:
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
            and self.history.named[entry.tried] > memory.failed_at.get(entry.release, -1)
            for entry in self.history.bundle.plan
        )

    def has_good_slot(self, sensor: Sensor) -> bool:
        """Say whether the previous slot holds a release that nobody condemned."""
        slot = sensor.disk.previous
        if slot is None or slot.release not in self.history.listed:
            return False
        standing = {rollout for rollout, _ in sensor.disk.committed} - self.history.reverted.keys()
        is_condemned = standing.isdisjoint(sensor.memory.set_by.get(slot.release, set()))
        return not is_condemned and slot.release not in sensor.memory.failed_at
