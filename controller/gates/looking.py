"""When to look at the evidence: a number of times that is fixed before the rollout begins.

Whoever looks at every report, and stops when it looks bad, stops every release in the end. So a
wave has three looks: two before its end, each when three times as much evidence has come in as at
the look before it, and one when its bake is over. Between them a gate says what it said last.
"""

from dataclasses import dataclass, replace

from controller.gates.gathering import Gathered, minutes_of, treated_tracks
from controller.gates.judging import judge_gates
from controller.gates.rules import LOOKS_A_WAVE, Gates

MINUTES_A_CAMERA = 10.0  # What a camera shows in less is mostly chance.
GROWTH = 3.0


@dataclass(frozen=True, slots=True)
class Moment:
    """What a look needs to know of the wave.

    Attributes:
        waves: Of the whole rollout, once for each of its tries.
        tolerated: The share of cameras that may miss a bound for reasons of their own.
        left_out: Devices with faults of their own.
        is_over: The wave's bake is over.
    """

    waves: int
    tolerated: float
    left_out: frozenset[str]
    is_over: bool


def look(gathered: Gathered, gates: Gates, moment: Moment) -> Gathered:
    """Return the evidence with new verdicts, if this is the time for a look."""
    tracks = treated_tracks(gathered, moment.left_out).values()
    minutes = minutes_of(tracks)
    least = max(MINUTES_A_CAMERA * max(len(tracks), 1), GROWTH * gathered.minutes)
    is_early = gathered.looks < LOOKS_A_WAVE - 1 and minutes >= least
    if gathered.is_final or not (moment.is_over or is_early):
        return gathered
    verdicts = judge_gates(
        gathered,
        gates,
        level=gates.level(moment.waves),
        tolerated=moment.tolerated,
        left_out=moment.left_out,
    )
    looks = gathered.looks + (not moment.is_over)
    return replace(
        gathered, verdicts=verdicts, looks=looks, minutes=minutes, is_final=moment.is_over
    )
