"""What a strategy tries again by itself, and whom it leaves out for good. Pure.

A wave that ends without an answer is named anew once, for the devices whose bad end has a cause
that the strategy lists (a camera fault, a power cut); so is the last wave before its rollout is
completed. Devices that ended badly for another reason are denied first: naming the rollout anew
would let them try again, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from controller.rollout import CameraSeen, Course, Rules, Verdict, VerdictKind

DENIED_MAX = 1_000  # A plan has 64 KiB for all its names.
_BAD = frozenset({"rolled_back", "rejected", "broken"})


@dataclass(frozen=True, slots=True)
class Again:
    """Who tries again, and who is left out."""

    devices: frozenset[str]
    denied: frozenset[str]
    after_seconds: float

    @property
    def is_due(self) -> bool:
        """Say whether the wait is over."""
        return self.after_seconds <= 0


def again(
    verdict: Verdict,
    course: Course,
    rules: Rules,
    seen: Mapping[str, tuple[CameraSeen, ...]],
    *,
    is_last: bool,
) -> Again | None:
    """Return who tries again, or None where the verdict stands.

    Args:
        verdict: Of the newest wave.
        course: Its baked seconds are those since its last device has ended.
        rules: The strategy's.
        seen: What the cameras of each device have reported for this attempt.
        is_last: The wave is the last one.
    """
    is_final = verdict.kind is VerdictKind.INCONCLUSIVE or (
        verdict.kind is VerdictKind.PASS and is_last
    )
    if not is_final or course.attempt >= rules.retry.attempts:
        return None
    causes = {device: _causes(cameras) for device, cameras in seen.items()}
    bad = {device: own for device, own in causes.items() if own}
    able = frozenset(device for device, own in bad.items() if own <= rules.retry.causes)
    denied = frozenset(bad) - able
    if not able or len(denied) > DENIED_MAX:
        return None
    return Again(able, denied, rules.retry.after_seconds - course.baked_seconds)


def waiting(verdict: Verdict, chance: Again) -> Verdict:
    """Return the verdict while the wait is not over."""
    count = len(chance.devices)
    who = f"{count} device tries" if count == 1 else f"{count} devices try"
    text = f"{verdict.text}; {who} again in {chance.after_seconds:.0f} s"
    return Verdict(VerdictKind.UNDECIDED, text)


def _causes(cameras: tuple[CameraSeen, ...]) -> frozenset[str]:
    """Return why cameras ended badly; an operator's revert is no bad end."""
    ended = (camera for camera in cameras if camera.phase in _BAD)
    return frozenset(camera.cause or "unknown" for camera in ended if camera.cause != "operator")
