"""Judge a rollout: where each device stands, and what that means for the wave.

    camera    reported phase, cause ──> state          (camera_state)
    device    the worst of its covered cameras, its clocks, online or not ──> standing (advance)
    wave      standings of all devices, the strategy's rules ──> verdict               (judge)
    rollout   verdict, strategy ──> next wave, completed, paused, aborted              (decide)

This machine reads no clock: it is told how many seconds were *driven* since last time. Nobody
driving, or a broker that does not hand back our own plan, means zero seconds: a device cannot be
late for a controller that was away. It never changes the plan: ``planning.py`` does.

Verdicts. FAIL, at once: more devices failed, rejected or fell silent than the strategy allows, or
a gate on evidence fails (controller/gates). PASS: every online device has ended or is past its
deadline, the bake is over, enough are healthy, every gate passes. INCONCLUSIVE: the same, but too
few are healthy, too few could be asked, or a gate cannot tell. Until then: UNDECIDED.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal, assert_never

from controller.gates.gathering import GATHER_SECONDS, GateVerdict, Gathered, close_wave, is_heard
from controller.gates.looking import Moment, look
from controller.gates.rules import Gates
from shared.assignment import Camera, Entry, admits
from shared.limits import HEARTBEAT_SECONDS
from shared.messages import CameraReported, Cause, Phase

SILENCE_SECONDS_MIN = 600.0  # Two heartbeats: one may be lost.
PERMILLE_ALL = 1000


class DeviceState(Enum):
    """How a device stands in a rollout; worst first, because a device is its worst camera."""

    FAILED = "failed"
    REJECTED = "rejected"
    SILENT = "silent"
    CAMERA_FAULT = "camera_fault"
    INTERRUPTED = "interrupted"
    IN_PROGRESS = "in_progress"
    WAITING = "waiting"
    OFFLINE = "offline"
    PENDING = "pending"
    HEALTHY = "healthy"


_OWN_FAULTS = frozenset({DeviceState.CAMERA_FAULT, DeviceState.INTERRUPTED})
BAD = frozenset({DeviceState.FAILED, DeviceState.REJECTED, DeviceState.SILENT})
_RANK = {state: rank for rank, state in enumerate(DeviceState)}
_AFTER_ACTIVATING: frozenset[str] = frozenset(
    {"activating", "probing", "rolling_back", "committed", "rolled_back", "rejected", "broken"}
)
_TERMINAL: frozenset[str] = frozenset({"committed", "rolled_back", "rejected", "broken"})


class Stage(Enum):
    """Which deadline a device is under."""

    PROGRESS = "progress"  # Fetching, verifying, staging, waiting.
    ACTIVATION = "activation"  # Activating or probing.
    RETURN = "return"  # Rolling back.
    END = "end"


@dataclass(frozen=True, slots=True)
class Allowed:
    """How many may fail: a count, or a share of the devices treated so far."""

    count: int | None = None
    permille: int | None = None

    def is_exceeded(self, bad: int, treated: int) -> bool:
        """Say whether that many are too many."""
        if self.count is not None:
            return bad > self.count
        return bad * PERMILLE_ALL > (self.permille or 0) * treated

    def __str__(self) -> str:
        if self.count is not None:
            return str(self.count)
        return percent(self.permille or 0)


@dataclass(frozen=True, slots=True)
class Retry:
    """Which bad ends are tried again by themselves; ``attempts`` counts the first one."""

    attempts: int = 1
    after_seconds: float = 0.0
    causes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rules:
    """What a strategy says about verdicts.

    Attributes:
        bake_seconds: For each wave, how long it must hold once its devices have ended.
        quiet_seconds: So long after a start of the controller, two heartbeats, no verdict falls
            while a device that it is about has not been heard.
    """

    bake_seconds: tuple[float, ...] = (0.0,)
    max_failed: Allowed = Allowed(count=0)
    min_healthy_permille: int = 900
    activation_seconds: float = 720.0
    progress_seconds: float = 1800.0
    probe_seconds: float = 60.0
    silence_seconds_min: float = SILENCE_SECONDS_MIN
    quiet_seconds: float = 2 * HEARTBEAT_SECONDS
    on_failure: Literal["revert", "stop"] = "revert"
    on_inconclusive: Literal["pause", "continue"] = "pause"
    gates: Gates | None = None
    approvals: tuple[bool, ...] = ()  # Of the waves: whether a person starts the one after it.
    retry: Retry = field(default_factory=Retry)

    def needs_approval(self, wave: int) -> bool:
        """Say whether a person must agree before what comes after a wave."""
        return wave < len(self.approvals) and self.approvals[wave]

    def deadline_seconds(self, stage: Stage) -> float:
        """Return how long a device may stay in a stage; the probe comes on top of activation."""
        if stage is Stage.PROGRESS:
            return self.progress_seconds
        return self.activation_seconds + self.probe_seconds

    def bake_of(self, wave: int) -> float:
        """Return the bake time of a wave."""
        return self.bake_seconds[min(wave, len(self.bake_seconds) - 1)]


@dataclass(frozen=True, slots=True)
class CameraSeen:
    """What a camera last reported for one try; phase None: nothing yet."""

    phase: Phase | None = None
    waiting_for: str | None = None
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class DeviceSeen:
    """What is known of one device that the rollout covers.

    Attributes:
        is_online: Its status is online and a live message was heard since our connect.
        heard: How many live reports this controller has heard; it changes with every one.
        cameras: Those that the rollout covers and that nothing newer has taken over.
    """

    device: str
    is_online: bool
    heard: int
    cameras: tuple[CameraSeen, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a device stands.

    Attributes:
        is_treated: It has reported ``activating``, a phase after it, or ``rejected``.
        is_open: The verdict has to wait for it.
    """

    state: DeviceState
    is_treated: bool = False
    is_open: bool = False


class VerdictKind(Enum):
    """What a wave's numbers mean."""

    UNDECIDED = "undecided"
    PASS = "pass"  # noqa: S105 - a verdict, not a secret
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    SKIPPED = "skipped"  # It gained nobody, so that nobody could pass it.


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict and its numbers in plain words."""

    kind: VerdictKind
    text: str


@dataclass(frozen=True, slots=True)
class Reach:
    """Pins and share of the plan's entry while a wave was the newest one."""

    pins: frozenset[str]
    share: int

    def admits(self, entry: Entry, camera: Camera) -> bool:
        """Say whether the wave, or one before it, let the camera in."""
        return admits(replace(entry, pins=self.pins, share=self.share), camera)


@dataclass(frozen=True, slots=True)
class Clock:
    """One device's times, in driven seconds of its rollout."""

    stage: Stage = Stage.PROGRESS
    since: float = 0.0
    heard: int = -1
    heard_at: float = 0.0
    gone_at: float | None = None  # Offline since, if it went during activation or return.


@dataclass(frozen=True, slots=True)
class Course:
    """What a rollout remembers beside its entry in the plan; kept by the store."""

    reaches: tuple[Reach, ...] = ()
    attempt: int = 1
    driven_seconds: float = 0.0
    started_at: float = 0.0  # Driven seconds when this controller took over.
    baked_seconds: float = 0.0
    clocks: Mapping[str, Clock] = field(default_factory=dict[str, Clock])
    treated: frozenset[str] = frozenset()
    verdicts: tuple[Verdict, ...] = ()  # Of the waves that are over.
    gates: tuple[tuple[GateVerdict, ...], ...] = ()  # Of the same waves; () of those skipped.
    gathered: Gathered = field(default_factory=Gathered)


@dataclass(frozen=True, slots=True)
class Judged:
    """One look at a rollout."""

    course: Course
    standings: Mapping[str, Standing]
    verdict: Verdict


class Decision(Enum):
    """What a verdict asks of the plan."""

    NOTHING = "nothing"
    NEXT_WAVE = "next_wave"  # After the last one: complete.
    PAUSE = "pause"
    REVERT = "revert"
    STOP = "stop"


def camera_state(seen: CameraSeen) -> DeviceState | None:
    """Return what a camera counts as; None: not at all (an operator rolled it back)."""
    match seen.phase:
        case None:
            return DeviceState.PENDING
        case "committed":
            return DeviceState.HEALTHY
        case "rejected":
            return DeviceState.REJECTED
        case "rolled_back" | "broken":
            return _ended_badly(seen.cause)
        case _ if seen.waiting_for is not None:
            return DeviceState.WAITING
        case _:
            return DeviceState.IN_PROGRESS


def _ended_badly(cause: Cause | None) -> DeviceState | None:
    match cause:
        case "operator":
            return None
        case "camera":
            return DeviceState.CAMERA_FAULT
        case "interrupted":
            return DeviceState.INTERRUPTED
        case "release" | "unknown" | "transport" | "disk" | "trust" | None:
            return DeviceState.FAILED
        case _:
            assert_never(cause)


def camera_seen(reported: CameraReported | None, rollout: str, attempt: int) -> CameraSeen:
    """Return what a report says about one try; what is under way wins over what has ended."""
    if reported is None:
        return CameraSeen()
    deployment = reported.deployment
    if deployment is not None and (deployment.rollout, deployment.attempt) == (rollout, attempt):
        return CameraSeen(deployment.phase, deployment.waiting_for, deployment.cause)
    for end in reported.ended:
        if (end.rollout, end.attempt) == (rollout, attempt):
            return CameraSeen(end.phase, None, end.cause)
    return CameraSeen()


def worst(states: Iterable[DeviceState]) -> DeviceState:
    """Return the state that counts when several do."""
    return min(states, key=_RANK.__getitem__)


def begin(course: Course) -> Course:
    """Return the course as a controller that has just started takes it over."""
    return replace(course, started_at=course.driven_seconds)


def next_wave(course: Course, reach: Reach, verdict: Verdict | None, *, wave: int) -> Course:
    """Return the course at the start of a wave; the verdict is that of the one before.

    Waves between the two gained nobody: they are skipped, never passed.
    """
    before = course.reaches[-1] if course.reaches else Reach(frozenset(), 0)
    skipped = wave - len(course.reaches)
    over = closed(course, verdict)
    nobody = Verdict(VerdictKind.SKIPPED, "gained nobody")
    return replace(
        over,
        reaches=(*course.reaches, *[before] * skipped, reach),
        baked_seconds=0.0,
        verdicts=(*over.verdicts, *[nobody] * skipped),
        gates=(*over.gates, *[()] * skipped),
    )


def closed(course: Course, verdict: Verdict | None) -> Course:
    """Return the course once its newest wave is over, with that wave's verdict; None: of none."""
    if verdict is None:
        return course
    return replace(
        course,
        verdicts=(*course.verdicts, verdict),
        gates=(*course.gates, course.gathered.verdicts),
        gathered=close_wave(course.gathered),
    )


def retried(course: Course, attempt: int) -> Course:
    """Return the course after all its devices were named anew: their clocks start again."""
    waves = max(len(course.reaches) - 1, 0)
    return replace(
        course,
        attempt=attempt,
        baked_seconds=0.0,
        clocks={},
        verdicts=course.verdicts[:waves],
        gates=course.gates[:waves],
        gathered=replace(course.gathered, looks=0, minutes=0.0, is_final=False, verdicts=()),
    )


def advance(
    course: Course,
    seen: Sequence[DeviceSeen],
    wave: frozenset[str],
    rules: Rules,
    *,
    seconds: float,
) -> Judged:
    """Let driven seconds pass, look at the devices, and judge the newest wave.

    Args:
        course: What was remembered.
        seen: All devices of the rollout that are not superseded.
        wave: Those of them that the newest wave gained.
        rules: The strategy's.
        seconds: Driven since the last look; zero while our own echo fails.
    """
    now = course.driven_seconds + seconds
    clocks = {one.device: _ticked(course.clocks.get(one.device), one, now) for one in seen}
    treated = course.treated | {one.device for one in seen if _is_treated(one)}
    standings: dict[str, Standing] = {}
    for one in seen:
        state = _state(one, clocks[one.device], rules, now)
        if state is not None:
            is_open = _is_open(one, clocks[one.device], rules, now, state)
            standings[one.device] = Standing(state, one.device in treated, is_open)
    is_still = not any(standings[device].is_open for device in wave & standings.keys())
    baked = course.baked_seconds + (seconds if is_still else 0.0)
    after = replace(course, driven_seconds=now, baked_seconds=baked, clocks=clocks, treated=treated)
    listen_left = rules.quiet_seconds - (now - course.started_at)
    if listen_left > 0 and (unheard := _unheard(seen, wave | treated)):
        return Judged(after, standings, _undecided(_listening(listen_left, unheard)))
    bake_left = rules.bake_of(max(len(course.reaches) - 1, 0)) - baked
    if rules.gates is None:
        return Judged(after, standings, judge(standings, wave, rules, bake_left=bake_left))
    # What devices said when they ended may not have been gathered yet.
    hear_left = GATHER_SECONDS - baked
    if not is_heard(after.gathered):
        hear_left = max(hear_left, rules.quiet_seconds + bake_left)
    is_over = is_still and max(bake_left, hear_left) <= 0
    after = _looked(after, rules.gates, rules, standings, is_over=is_over)
    gates = after.gathered.verdicts
    verdict = judge(standings, wave, rules, bake_left=max(bake_left, hear_left), gates=gates)
    if verdict.kind is VerdictKind.UNDECIDED and is_still and bake_left <= 0 < hear_left:
        verdict = _undecided(f"hearing cameras to compare with, for {hear_left:.0f} s at most")
    return Judged(after, standings, verdict)


def judge(
    standings: Mapping[str, Standing],
    wave: frozenset[str],
    rules: Rules,
    *,
    bake_left: float = 0.0,
    gates: Sequence[GateVerdict] = (),
) -> Verdict:
    """Return the verdict of a wave, with its numbers.

    Args:
        standings: All devices of the rollout that count, of earlier waves, too.
        wave: The devices that the wave gained.
        rules: The strategy's.
        bake_left: Seconds for which the wave must still hold.
        gates: What the gates said last.
    """
    bad = [standing.state for standing in standings.values() if standing.state in BAD]
    treated = sum(s.is_treated or s.state in BAD for s in standings.values())
    if rules.max_failed.is_exceeded(len(bad), treated):
        return Verdict(VerdictKind.FAIL, _failure(bad, treated, rules))
    if failed := [gate for gate in gates if gate.kind == "fail"]:
        return Verdict(VerdictKind.FAIL, "; ".join(_gate_words(gate) for gate in failed))
    mine = [standings[device] for device in sorted(wave & standings.keys())]
    if is_open := sum(standing.is_open for standing in mine):
        return _undecided(f"waiting for {is_open} of {_devices(len(mine))}")
    if bake_left > 0:
        return _undecided(f"baking for {bake_left:.0f} s more")
    verdict = _final([standing.state for standing in mine], rules)
    if verdict.kind is VerdictKind.PASS:
        return _with_gates(verdict, gates)
    return verdict


def _with_gates(verdict: Verdict, gates: Sequence[GateVerdict]) -> Verdict:
    """Return what a wave of healthy devices comes to once every gate has been asked."""
    if unsure := [gate for gate in gates if gate.kind == "undecided"]:
        words = "; ".join(_gate_words(gate) for gate in unsure)
        return Verdict(VerdictKind.INCONCLUSIVE, f"{verdict.text}; {words}")
    passed = sum(gate.kind == "pass" for gate in gates)
    of = f"{passed} of {len(gates)}"
    return replace(verdict, text=f"{verdict.text}; {of} gates passed") if gates else verdict


def _gate_words(gate: GateVerdict) -> str:
    return f"gate {gate.name}: {gate.text}"


def _looked(
    course: Course,
    gates: Gates,
    rules: Rules,
    standings: Mapping[str, Standing],
    *,
    is_over: bool,
) -> Course:
    """Return the course after a look at the evidence, if it is time for one."""
    faulty = frozenset(device for device, one in standings.items() if one.state in _OWN_FAULTS)
    moment = Moment(
        waves=len(rules.bake_seconds) * rules.retry.attempts,  # Each try is looked at anew.
        tolerated=1 - rules.min_healthy_permille / PERMILLE_ALL,
        left_out=faulty,
        is_over=is_over,
    )
    return replace(course, gathered=look(course.gathered, gates, moment))


def decide(verdict: Verdict, rules: Rules) -> Decision:
    """Return what follows from a verdict."""
    match verdict.kind:
        case VerdictKind.UNDECIDED | VerdictKind.SKIPPED:
            return Decision.NOTHING
        case VerdictKind.PASS:
            return Decision.NEXT_WAVE
        case VerdictKind.FAIL:
            return Decision.REVERT if rules.on_failure == "revert" else Decision.STOP
        case VerdictKind.INCONCLUSIVE:
            goes_on = rules.on_inconclusive == "continue"
            return Decision.NEXT_WAVE if goes_on else Decision.PAUSE
        case _:
            assert_never(verdict.kind)


def count_states(standings: Iterable[Standing]) -> dict[str, int]:
    """Return how many devices are in each state, worst first; absent ones are left out."""
    counts = Counter(standing.state for standing in standings)
    return {state.value: counts[state] for state in DeviceState if counts[state]}


def percent(permille: int) -> str:
    """Return permille as people write it: ``5 %``, ``2.5 %``."""
    return f"{permille / 10:g} %"


def _final(states: Sequence[DeviceState], rules: Rules) -> Verdict:
    """Return PASS or INCONCLUSIVE of a wave that has nothing more to say."""
    reachable = [state for state in states if state is not DeviceState.OFFLINE]
    healthy = reachable.count(DeviceState.HEALTHY)
    numbers = f"{healthy} of {_devices(len(reachable))} healthy"
    if len(reachable) < len(states):
        numbers += f", {len(states) - len(reachable)} offline"
    if 2 * len(reachable) < len(states):
        return Verdict(VerdictKind.INCONCLUSIVE, f"{numbers}; at least half must be online")
    if healthy * PERMILLE_ALL < rules.min_healthy_permille * len(reachable):
        needed = percent(rules.min_healthy_permille)
        return Verdict(VerdictKind.INCONCLUSIVE, f"{numbers}; at least {needed} must be")
    return Verdict(VerdictKind.PASS, numbers)


def _failure(bad: Sequence[DeviceState], treated: int, rules: Rules) -> str:
    counts = Counter(bad)
    parts = ", ".join(f"{counts[state]} {state.value}" for state in DeviceState if counts[state])
    allowed = f"at most {rules.max_failed} may"
    return f"{len(bad)} of {treated} treated {_plural(treated)} ended badly ({parts}); {allowed}"


def _unheard(seen: Sequence[DeviceSeen], devices: frozenset[str]) -> list[str]:
    """Return those of the devices whose own live words this controller has not heard yet."""
    return [
        one.device for one in seen if one.device in devices and not (one.is_online and one.heard)
    ]


def _listening(seconds: float, unheard: Sequence[str]) -> str:
    more = f" and {len(unheard) - 1} more" if len(unheard) > 1 else ""
    return f"listening for {seconds:.0f} s more for {min(unheard)}{more}"


def _undecided(text: str) -> Verdict:
    return Verdict(VerdictKind.UNDECIDED, text)


def _devices(count: int) -> str:
    return f"{count} {_plural(count)}"


def _plural(count: int) -> str:
    return "device" if count == 1 else "devices"


def _is_treated(one: DeviceSeen) -> bool:
    return any(camera.phase in _AFTER_ACTIVATING for camera in one.cameras)


def _stage(one: DeviceSeen) -> Stage:
    phases = {camera.phase for camera in one.cameras}
    if "rolling_back" in phases:
        return Stage.RETURN
    if phases & {"activating", "probing"}:
        return Stage.ACTIVATION
    return Stage.END if phases <= _TERMINAL else Stage.PROGRESS


def _waits_for_us(one: DeviceSeen) -> bool:
    """Say whether a device only waits for its window, or for the end of a hold: it is not late."""
    return any(camera.waiting_for in {"window", "hold"} for camera in one.cameras)


def _ticked(clock: Clock | None, one: DeviceSeen, now: float) -> Clock:
    """Return a device's times after a look at it."""
    stage = _stage(one)
    if clock is None:
        clock = Clock(stage=stage, since=now, heard=one.heard, heard_at=now)
    if clock.stage is not stage:
        clock = replace(clock, stage=stage, since=now)
    if clock.heard != one.heard:
        clock = replace(clock, heard=one.heard, heard_at=now)
    if stage is Stage.PROGRESS and _waits_for_us(one):
        clock = replace(clock, since=now)
    if one.is_online:
        return replace(clock, gone_at=None)
    if stage is Stage.PROGRESS:  # It cannot get on while it is away, and is not late for that.
        return replace(clock, since=now, heard_at=now)
    return clock if clock.gone_at is not None else replace(clock, gone_at=now)


def _state(one: DeviceSeen, clock: Clock, rules: Rules, now: float) -> DeviceState | None:
    """Return what a device counts as: its worst camera, or that it cannot be heard."""
    states = [state for state in map(camera_state, one.cameras) if state is not None]
    if not states:
        return None
    if _is_silent(one, clock, rules, now):
        states.append(DeviceState.SILENT)
    elif not one.is_online and clock.stage in {Stage.PROGRESS, Stage.END}:
        states = [state for state in states if state in _ENDS]
        states.append(DeviceState.OFFLINE)
    return worst(states)


_ENDS = frozenset({*BAD, DeviceState.CAMERA_FAULT, DeviceState.INTERRUPTED, DeviceState.HEALTHY})


def _is_silent(one: DeviceSeen, clock: Clock, rules: Rules, now: float) -> bool:
    """Say whether a device that should speak does not: a release may have hung it."""
    deadline = rules.deadline_seconds(clock.stage)
    if one.is_online:
        return now - clock.heard_at > max(deadline, rules.silence_seconds_min)
    is_under_way = clock.stage in {Stage.ACTIVATION, Stage.RETURN}
    went = clock.gone_at
    return is_under_way and went is not None and now - went > rules.activation_seconds


def _is_open(one: DeviceSeen, clock: Clock, rules: Rules, now: float, state: DeviceState) -> bool:
    """Say whether the verdict must wait: not ended, not late, and within hearing."""
    if state in {DeviceState.SILENT, DeviceState.OFFLINE} or clock.stage is Stage.END:
        return False
    if not one.is_online and clock.stage is Stage.PROGRESS:
        return False
    return now - clock.since <= rules.deadline_seconds(clock.stage) or not one.is_online
