"""The steps of `fleet-agent doctor --hardware`, and how each is judged. Pure.

    healthy -> deploy -> swap -> kill the camera's process -> kill the agent
            -> cut the network -> restore it -> pull the plug

Each step begins with a look at the device, says what the person (or doctor) does, and is judged on
every later look: passed, failed, or not yet. A look is what the running agent says of itself, so
the walk is the same on a sensor and on a simulated camera.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import msgspec

from shared.messages import CameraReported, Evidence

BAD_ENDS = ("rolled_back", "rejected", "broken")
DEPLOY_SECONDS = 1500.0  # A first upload takes ten minutes at most, and a roll-back as long again.
RECOVER_SECONDS = 900.0  # The same upload, where the sensor's flash does not hold the network.
PERSON_SECONDS = 1800.0  # Somebody has to find a cable.


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """How one camera of a device was at one moment.

    Attributes:
        seconds: Of a clock that goes on through reboots.
        run: Install and number of the agent's run.
        child: Process that runs the camera.
    """

    seconds: float
    is_running: bool = False
    is_connected: bool = False
    boot: str = ""
    run: str = ""
    pid: int = 0
    child: int | None = None
    camera: CameraReported | None = None

    @property
    def release(self) -> str | None:
        """Return what streams; None: nothing does."""
        camera = self.camera
        is_streaming = self.is_running and camera is not None and camera.state == "streaming"
        return camera.release if is_streaming and camera is not None else None

    @property
    def starts(self) -> int:
        """Return the camera's starts in this boot."""
        return 0 if self.camera is None else self.camera.starts

    @property
    def evidence(self) -> Evidence | None:
        """Return what is counted of the release that runs."""
        return None if self.camera is None else self.camera.evidence.running


class Outcome(Enum):
    """How a step stands."""

    WAITING = "waiting"
    PASSED = "passed"
    FAILED = "failed"


Verdict = tuple[Outcome, str]
Judge = Callable[[Look, Look], Verdict]


class Act(Enum):
    """What doctor does itself at the beginning of a step."""

    NOTHING = "nothing"
    KILL_CHILD = "kill_child"
    KILL_AGENT = "kill_agent"


@dataclass(frozen=True, slots=True)
class StepToWalk:
    """One step: what is asked of the person, and how it is judged."""

    name: str
    says: str
    judge: Judge
    seconds_max: float
    act: Act = Act.NOTHING


def judged(step: StepToWalk, before: Look, now: Look) -> Verdict:
    """Judge a step; one that takes too long has failed."""
    outcome, text = step.judge(before, now)
    waited = now.seconds - before.seconds
    if outcome is Outcome.WAITING and waited >= step.seconds_max:
        return Outcome.FAILED, f"not within {step.seconds_max:.0f} s: {text}"
    return outcome, text


def _deployed(before: Look, now: Look) -> Verdict:
    ended = _bad_end(before, now)
    if ended:
        return Outcome.FAILED, ended
    if not _is_proven(now):
        return Outcome.WAITING, f"nothing is proven yet ({_state(now)})"
    return Outcome.PASSED, f"{now.release} streams, proven; {_measured(now)}"


def _swapped(before: Look, now: Look) -> Verdict:
    ended = _bad_end(before, now)
    if ended:
        return Outcome.FAILED, ended
    if now.release == before.release or not _is_proven(now):
        return Outcome.WAITING, f"{before.release} has not been replaced ({_state(now)})"
    previous = None if now.camera is None else now.camera.previous
    if previous != before.release:
        return Outcome.FAILED, f"expected {before.release} to be kept, the device keeps {previous}"
    return Outcome.PASSED, f"{before.release} -> {now.release}; {_measured(now)}"


def _child_came_back(before: Look, now: Look) -> Verdict:
    if now.pid != before.pid:
        return Outcome.FAILED, "the agent itself ended; only the camera's process was to"
    if now.child in {before.child, None} or now.release != before.release:
        return Outcome.WAITING, f"no other process yet ({_state(now)})"
    if now.starts <= before.starts:
        return Outcome.FAILED, f"expected the start to be counted, got {now.starts} starts"
    return Outcome.PASSED, f"{now.release} streams again after {_waited(before, now)}"


def _agent_came_back(before: Look, now: Look) -> Verdict:
    if now.run == before.run or now.release != before.release:
        return Outcome.WAITING, f"the agent has not started anew ({_state(now)})"
    if now.run.partition("-")[0] != before.run.partition("-")[0]:
        return Outcome.FAILED, f"expected the same install, got {now.run} after {before.run}"
    return Outcome.PASSED, f"{now.release} streams again after {_waited(before, now)}"


def _cut_off(before: Look, now: Look) -> Verdict:
    if now.is_connected:
        return Outcome.WAITING, "still connected to the broker"
    if now.release != before.release:
        return (
            Outcome.FAILED,
            f"expected {before.release} to go on without a broker ({_state(now)})",
        )
    return Outcome.PASSED, f"{now.release} goes on without a broker"


def _reconnected(before: Look, now: Look) -> Verdict:
    if now.release != before.release or now.starts != before.starts:
        return Outcome.FAILED, f"expected the camera to be left alone ({_state(now)})"
    if not now.is_connected:
        return Outcome.WAITING, "not connected to the broker"
    return Outcome.PASSED, f"connected again; the camera was never restarted ({now.starts} starts)"


def _booted(before: Look, now: Look) -> Verdict:
    if now.boot == before.boot:
        return Outcome.WAITING, "still the same boot"
    ended = _bad_end(before, now)
    if ended:
        return Outcome.FAILED, ended
    if now.release != before.release:
        return Outcome.WAITING, f"booted, but {before.release} does not stream ({_state(now)})"
    return Outcome.PASSED, f"{now.release} streams after the power cut; {_measured(now)}"


STEPS = (
    StepToWalk(
        "deploy",
        "On the workstation, roll a release out to this device: fleetctl rollout start NAME@1 ...\n"
        "One that runs here already counts.",
        _deployed,
        DEPLOY_SECONDS,
    ),
    StepToWalk(
        "swap",
        "Now roll out another release: fleetctl rollout start NAME@2 ...",
        _swapped,
        DEPLOY_SECONDS,
    ),
    StepToWalk(
        "kill the camera's process",
        "Nothing to do: doctor kills the camera's process. It must come back by itself.",
        _child_came_back,
        RECOVER_SECONDS,
        Act.KILL_CHILD,
    ),
    StepToWalk(
        "kill the agent",
        "Nothing to do: doctor kills the agent. systemd must bring it back.",
        _agent_came_back,
        RECOVER_SECONDS,
        Act.KILL_AGENT,
    ),
    StepToWalk(
        "cut the network",
        "Pull the network cable, or turn the access point off. The model must go on.",
        _cut_off,
        PERSON_SECONDS,
    ),
    StepToWalk("restore the network", "Plug the network in again.", _reconnected, PERSON_SECONDS),
    StepToWalk(
        "pull the plug",
        "Pull the Pi's plug, wait ten seconds, plug it in, and start this command again:\n"
        "it goes on here.",
        _booted,
        PERSON_SECONDS,
    ),
)


def _is_proven(now: Look) -> bool:
    camera = now.camera
    if camera is None or now.release is None:
        return False
    deployment = camera.deployment
    is_at_rest = deployment is None or deployment.phase == "committed"
    return is_at_rest and now.evidence is not None and now.evidence.valid > 0


def _bad_end(before: Look, now: Look) -> str:
    """Return how a deployment ended badly since, or an empty text."""
    known = set() if before.camera is None else {_end(end) for end in before.camera.ended}
    for end in () if now.camera is None else now.camera.ended:
        if end.phase in BAD_ENDS and _end(end) not in known:
            return f"{end.rollout}/{end.attempt} ended {end.phase}, cause {end.cause}"
    return ""


def _end(end: object) -> bytes:
    return msgspec.json.encode(end)


def _measured(now: Look) -> str:
    evidence = now.evidence
    if evidence is None:
        return "nothing measured"
    rate = evidence.valid / evidence.seconds if evidence.seconds else 0.0
    words = f"{evidence.valid} valid of {evidence.frames} frames, {rate:.1f} a second"
    if evidence.dnn_ms is not None:
        words += f", dnn {evidence.dnn_ms.p50:.1f} ms"
    return words


def _state(now: Look) -> str:
    if not now.is_running:
        return "the agent does not run"
    if now.camera is None:
        return "the agent reports no such camera"
    phase = "" if now.camera.deployment is None else f", {now.camera.deployment.phase}"
    return f"{now.camera.release or 'no release'}, {now.camera.state}{phase}"


def _waited(before: Look, now: Look) -> str:
    return f"{now.seconds - before.seconds:.1f} s"
