"""The controller of a history: the real steering, at the wheel most of the time."""

from dataclasses import replace

from controller import planning
from controller.rollout import VerdictKind, begin
from controller.simulation.bus import Bus
from controller.simulation.oracles import Oracles
from controller.simulation.state import ROUND_SECONDS, Bundle, History
from controller.steering import Site, steer
from shared.assignment import Action

ABSENCE_ROUNDS_MAX = 8


class Control:
    """Steer, sign, publish."""

    def __init__(self, history: History, oracles: Oracles, bus: Bus) -> None:
        """Control the fleet of this history, watched by these oracles."""
        self.history = history
        self.oracles = oracles
        self.bus = bus
        self.back_in = -1  # The round in which somebody takes the wheel again.

    def control(self) -> None:
        """Hear, steer and publish; or be away."""
        self.bus.deliver()
        if self.history.chance(0.02):
            self.bus.disconnect()
            self.back_in = self.history.round + self.history.random.randint(1, ABSENCE_ROUNDS_MAX)
        if self.back_in > self.history.round and not self.history.is_quiet:
            return
        if not self.bus.is_connected:
            self.take_the_wheel()
        seconds = 0.0 if self.history.chance(0.1) else ROUND_SECONDS  # Our own echo may fail.
        before = self.history.site
        self.history.site, looks = steer(self.history.site_now(), seconds)
        for name, judged in looks.items():
            if judged.verdict.kind is VerdictKind.INCONCLUSIVE and is_running(before, name):
                self.oracles.watch_doubt(judged.standings, planning.find(before.book, name).entry)
        self.publish()

    def take_the_wheel(self) -> None:
        """Go on from the store after a kill, or after the connection was lost."""
        self.bus.connect()
        records = {
            name: record if record.is_over else replace(record, course=begin(record.course))
            for name, record in self.history.site.records.items()
        }
        self.history.site = replace(self.history.site, records=records)

    def publish(self) -> None:
        """Sign and publish the plan, if it changed."""
        history = self.history
        plan = planning.entries(history.book)
        if plan == history.bundle.plan and history.listed == history.bundle.listed:
            return
        self.oracles.watch_plan(history.bundle.plan, plan)
        history.bundle = Bundle(history.bundle.version + 1, plan, dict(history.listed))
        for entry in plan:
            history.named.setdefault(entry.tried, len(history.named))
            if entry.action is Action.REVERT:
                history.reverted.setdefault(entry.rollout, history.bundle.version)


def is_running(site: Site, name: str) -> bool:
    """Say whether a verdict on the rollout has a consequence."""
    return any(r.entry.rollout == name and r.state is planning.State.RUNNING for r in site.book)
