"""The controller of a history: the real planning and rollout machines, fed by lost reports."""

from collections.abc import Sequence

from controller import planning, rollout
from controller.planning import State
from controller.rollout import Allowed, Decision, DeviceSeen, Reach, Rules, Verdict
from controller.simulation.oracles import Oracles
from controller.simulation.state import ROUND_SECONDS, Bundle, Device, History
from shared.assignment import Action, Camera, Try, share_hash

_RULES = Rules(
    max_failed=Allowed(permille=200),
    quiet_seconds=0.0,
    bake_seconds=(ROUND_SECONDS,),
)


class Control:
    """Conclude, judge, publish."""

    def __init__(self, history: History, oracles: Oracles) -> None:
        """Control the fleet of this history, watched by these oracles."""
        self.history = history
        self.oracles = oracles
        self.courses: dict[str, rollout.Course] = {}
        self.judged: dict[str, int] = {}

    def control(self) -> None:
        """Conclude, judge, publish."""
        self.history.book = planning.settle(
            self.history.book, self.history.listed, self.history.all_reports()
        )
        for live in self.history.book:
            if live.state is State.RUNNING and not self.history.chance(0.5):
                self.judge(live)
        plan = planning.entries(self.history.book)
        if plan != self.history.bundle.plan or self.history.listed != self.history.bundle.listed:
            self.oracles.watch_plan(self.history.bundle.plan, plan)
            self.history.bundle = Bundle(
                self.history.bundle.version + 1, plan, dict(self.history.listed)
            )
            for entry in plan:
                self.history.named.setdefault(entry.tried, len(self.history.named))
            for live in self.history.book:
                if live.entry.action is Action.REVERT:
                    self.history.reverted.setdefault(
                        live.entry.rollout, self.history.bundle.version
                    )

    def judge(self, live: planning.Rollout) -> None:
        """Give the verdict of a wave, and do what follows from it."""
        name, tried = live.entry.rollout, live.entry.tried
        cameras = [report.camera for report in self.history.all_reports()]
        mine = planning.members(self.history.book, live, self.history.listed, cameras)
        course = self.course_of(live)
        seen = tuple(
            self.seen(device, [c for c in mine if c.device == device.name], tried)
            for device in self.history.joined
            if any(c.device == device.name for c in mine)
        )
        before = course.reaches[:-1]
        wave = frozenset(c.device for c in mine if not any(r.admits(live.entry, c) for r in before))
        seconds = ROUND_SECONDS * (
            self.history.round - self.judged.get(name, self.history.round - 1)
        )
        self.judged[name] = self.history.round
        judged = rollout.advance(course, seen, wave, _RULES, seconds=seconds)
        self.courses[name] = judged.course
        self.obey(name, judged.verdict)

    def obey(self, name: str, verdict: Verdict) -> None:
        """Do what a verdict asks of the plan."""
        match rollout.decide(verdict, _RULES):
            case Decision.NOTHING:
                return
            case Decision.NEXT_WAVE:
                self.history.book = planning.pass_wave(
                    self.history.book, name, self.history.inventory
                )
            case Decision.PAUSE:
                self.history.book = planning.pause(self.history.book, name)
            case Decision.REVERT | Decision.STOP:
                revert = share_hash("stop", name) % 4 != 0
                self.history.book = planning.abort(
                    self.history.book, name, self.history.bundle.version + 1, revert=revert
                )

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
        reports = [self.history.told.get((c.device, c.number)) for c in cameras]
        cameras_seen = tuple(rollout.camera_seen(report, *tried) for report in reports)
        return DeviceSeen(device.name, device.is_online, device.heard, cameras_seen)
