"""One history from its seed to its end."""

from collections import Counter

from agent.steps import WaitingFor
from controller.simulation.bus import Bus
from controller.simulation.control import Control
from controller.simulation.devices import Devices
from controller.simulation.intentions import Operator
from controller.simulation.oracles import Oracles
from controller.simulation.state import DAY_ROUNDS, DEVICES, ROUNDS, History, Sensor, Violation

ACTIONS = 25
QUIET_ROUNDS_MAX = 200
REST_ROUNDS = 20  # Longer than a deadline: then nothing moves by itself any more.


class World:
    """Controller, broker, devices and operator of one history."""

    def __init__(self, seed: int, devices: int = DEVICES) -> None:
        """Make the fleet of this seed."""
        self.history = History(seed, devices)
        self.oracles = Oracles(self.history)
        self.bus = Bus(self.history)
        self.devices = Devices(self.history, self.oracles, self.bus)
        self.control = Control(self.history, self.oracles, self.bus)
        self.operator = Operator(self.history)

    def play(self) -> set[Violation]:
        """Play the whole history; return what the oracles saw."""
        at = Counter(self.history.random.randrange(ROUNDS - 5) for _ in range(ACTIONS))
        for self.history.round in range(ROUNDS):
            for _ in range(at[self.history.round]):
                self.operator.operate()
            self.tick()
        self.calm_down()
        self.settle_down()
        return self.history.violations

    def calm_down(self) -> None:
        """Let faults end, everybody be heard, and most pauses be over."""
        self.history.is_quiet = True
        self.history.quiet_since = ROUNDS
        for device in self.history.devices:
            device.is_online = True
            device.rebooted_in = -DAY_ROUNDS
            self.devices.tell_status(device)
            for sensor in device.sensors:
                sensor.disk_full_until = -1
        self.operator.goes_on()

    def settle_down(self) -> None:
        """Let the fleet come to rest, then judge the end."""
        rest = 0
        for self.history.round in range(ROUNDS, ROUNDS + QUIET_ROUNDS_MAX):
            before = self.snapshot()
            self.tick()
            is_still = self.snapshot() == before and not any(
                self.has_plans(s) for device in self.history.devices for s in device.sensors
            )
            rest = rest + 1 if is_still else 0
            if rest >= REST_ROUNDS:
                break
        else:
            self.history.violations.add(Violation.NO_REST)
        self.oracles.judge_end()

    def snapshot(self) -> object:
        """Return all that must stand still at a fixed point."""
        sensors = [s for device in self.history.devices for s in device.sensors]
        moving = [
            (s.disk.active, s.disk.previous, len(s.disk.ended_badly))
            if self.history.is_hopeless(s)
            else (s.disk, s.running)
            for s in sensors
        ]
        return self.history.book, self.history.bundle.version, moving

    def has_plans(self, sensor: Sensor) -> bool:
        """Say whether a living camera will do something by itself, however long it takes."""
        if self.history.is_hopeless(sensor):
            return False
        journal = sensor.journal
        is_off = journal.active is not None and not journal.is_running
        return is_off or journal.waiting_for is WaitingFor.REBOOT

    def tick(self) -> None:
        """Let one round pass everywhere."""
        self.control.control()
        for device in self.history.joined:
            self.devices.live(device)
