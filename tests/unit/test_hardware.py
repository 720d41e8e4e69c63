"""How each step of `doctor --hardware` is judged."""

import msgspec
import pytest

from agent.hardware import STEPS, Look, Outcome, StepToWalk, Verdict, judged
from shared.messages import CameraReported, EndReported, Evidence, EvidencePair

EVIDENCE = Evidence(
    release="helmet@1", seconds=10, frames=160, valid=150, objects=9, score_histogram=(0,) * 10
)
CAMERA = CameraReported(
    kind="modlib", state="streaming", release="helmet@1", starts=3,
    evidence=EvidencePair(running=EVIDENCE),
)  # fmt: skip
BEFORE = Look(
    seconds=100.0, is_running=True, is_connected=True, boot="b1", run="card-1", pid=10, child=11,
    camera=CAMERA,
)  # fmt: skip
NAMES = [step.name for step in STEPS]


def step(name: str) -> StepToWalk:
    return STEPS[NAMES.index(name)]


def later(seconds: float = 5.0, **changes: object) -> Look:
    camera = {key: changes.pop(key) for key in list(changes) if key in CAMERA.__struct_fields__}
    changed = msgspec.structs.replace(CAMERA, **camera)
    return msgspec.structs.replace(BEFORE, seconds=100.0 + seconds, camera=changed, **changes)


def outcome(name: str, now: Look) -> Outcome:
    verdict: Verdict = judged(step(name), BEFORE, now)
    return verdict[0]


ENDED = (EndReported(rollout="r-2", attempt=1, phase="rolled_back", cause="release"),)
GOOD = {
    "deploy": later(),
    "swap": later(release="helmet@2", previous="helmet@1"),
    "kill the camera's process": later(child=12, starts=4),
    "kill the agent": later(run="card-2", pid=20, child=21),
    "cut the network": later(is_connected=False),
    "restore the network": later(),
    "pull the plug": later(boot="b2", run="card-2", pid=20, child=21, starts=1),
}
NOT_YET = {
    "deploy": later(state="starting"),
    "swap": later(),
    "kill the camera's process": later(),
    "kill the agent": later(),
    "cut the network": later(),
    "restore the network": later(is_connected=False),
    "pull the plug": later(),
}
BAD = {
    "deploy": later(state="off", ended=ENDED),
    "swap": later(ended=ENDED),
    "kill the camera's process": later(child=12, starts=3),
    "kill the agent": later(run="other-1", pid=20),
    "cut the network": later(is_connected=False, state="stalled"),
    "restore the network": later(starts=4),
    "pull the plug": later(boot="b2", ended=ENDED),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_step_passes_waits_and_fails(name: str) -> None:
    assert outcome(name, GOOD[name]) is Outcome.PASSED
    assert outcome(name, NOT_YET[name]) is Outcome.WAITING
    assert outcome(name, BAD[name]) is Outcome.FAILED


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_takes_too_long_has_failed(name: str) -> None:
    late = msgspec.structs.replace(NOT_YET[name], seconds=100.0 + step(name).seconds_max)

    assert outcome(name, late) is Outcome.FAILED


def test_a_swap_that_keeps_another_release_than_the_one_before_has_failed() -> None:
    assert outcome("swap", later(release="helmet@2", previous="helmet@0")) is Outcome.FAILED


def test_a_dead_agent_never_passes() -> None:
    for name in NAMES:
        dead = msgspec.structs.replace(GOOD[name], is_running=False)
        assert outcome(name, dead) is not Outcome.PASSED
