"""Measure the rates that gates state: how often good releases are stopped, and bad ones pass.

    python -m controller.simulation.rates [--rollouts 10000] [--seed 7]      # docs/gates.md

Every row is so many simulated rollouts of the strategy ``careful`` (one camera, 10 %, 50 %, all;
six gates; three looks a wave) to a fleet of its own. Cameras differ in how much their detections
change by themselves, those of a site change together, and one camera in two hundred reports
something mad. Cameras miss the bounds of valid_rate and restarts for reasons
of their own. All rollouts are played at once, as columns: the levels, odds and bounds are those of
``controller.gates``, and ``summary`` and ``estimates`` are ``judging.estimate`` over columns, which
a test holds against it.

Rivals see no inference, so both pass any release that runs. To compare, each camera that
has changed by more than is allowed, time of day taken away, counts as failed for them:
hawkBit stops at a group in which more than its error threshold failed (docs/rollout-management.md);
AWS IoT Jobs cancels once ``minNumberOfExecutedThings`` have ended and ``thresholdPercentage`` of
them failed (API reference, AbortCriteria).
"""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log1p

import numpy as np
from numpy.typing import NDArray

from controller.gates.gathering import CONTROLS_MAX
from controller.gates.judging import (
    EDGE,
    GROUP_MIN,
    PRIOR_FREEDOM,
    PRIOR_SPREAD,
    allowed_change,
)
from controller.gates.odds import binomial_tail, t_quantile
from controller.gates.rules import SURE_TO_PASS, Gates

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

GATES = Gates(
    dnn_ms=60, golden_permille=950, restarts=1, detections_permille=500, scores_permille=500
)
FLEETS = (3, 10, 30, 100, 1000)
EFFECTS = (0.0, -0.2, -0.5, -0.6, -0.75, -0.9, -0.99, 1.0, 3.0)
SHARES = (0.03, 0.1, 0.2, 0.5, 1.0)  # Of cameras on which a release gives no valid output.
WAVES = (0.1, 0.5, 1.0)  # After a first camera.
LOOK_HOURS = (1 / 6, 1 / 2, 1.0)  # After the switch: a bake of an hour.
SITE = 10  # Cameras.
# Of log(new / old): of a site, of a camera, of a window of an hour.
SITE_SPREAD, CAMERA_SPREAD, WINDOW_SPREAD = 0.15, 0.2, 0.2
SCALE_SPREAD = 0.4  # Of the logarithm of one camera's own spread: a heavy tail.
MAD_SHARE, MAD = 0.005, 6.0
OWN_MISSES = 0.01  # Cameras that miss valid_rate, or restarts, whatever they run.
TOLERATED = 0.1  # What min_healthy: 90% leaves.
RIVAL_SHARE, AWS_THINGS = 0.1, 10
AT_ONCE = 500


@dataclass(frozen=True)
class Summary:
    """One epoch at one look, a column a rollout: all that ``estimate`` needs of it."""

    cameras: int
    controls: int
    sums: Floats  # Of the treated cameras' changes, less the mean of the controls.
    squares: Floats
    control_squares: Floats


@dataclass(frozen=True)
class Estimates:
    """What ``judging.Change`` is, a column a rollout."""

    value: Floats
    error: Floats
    freedom: float


@dataclass
class Ends:
    """How the rollouts of one row ended, a column a rollout."""

    aborted: Bools
    paused: Bools

    @classmethod
    def none(cls, rollouts: int) -> "Ends":
        """Return rollouts that go on."""
        return cls(np.zeros(rollouts, bool), np.zeros(rollouts, bool))

    def look(self, failed: Bools) -> None:
        """Stop those that go on and fail."""
        self.aborted |= failed & ~self.paused

    def end_wave(self, passed: Bools) -> None:
        """Pause those that go on and do not pass."""
        self.paused |= ~passed & ~self.aborted


@dataclass(frozen=True)
class Wave:
    """Who a wave gains, who is compared with them, and what cameras showed at each look.

    Attributes:
        treated: At each look, rollouts x cameras: log(new / old) but for the release's effect.
        controls: The same of the others.
        own_misses: Of the wave's cameras, those that miss a bound by themselves, by gate.
    """

    reached: int
    treated: tuple[Floats, ...]
    controls: tuple[Floats, ...]
    own_misses: dict[str, Bools]


def tamed(values: Floats, prior_spread: float) -> Floats:
    """Return the values of each rollout, those far from their median at the edge."""
    if values.shape[1] < GROUP_MIN:
        return values
    middle = np.median(values, axis=1, keepdims=True)
    spread = np.median(np.abs(values - middle), axis=1, keepdims=True)
    reach = np.maximum(EDGE * spread, 2 * prior_spread)
    return np.clip(values, middle - reach, middle + reach)


def summary(treated: Floats, controls: Floats, prior_spread: float) -> Summary:
    """Return one epoch in short; rollouts x cameras."""
    others = tamed(controls, prior_spread)
    middle = others.mean(axis=1, keepdims=True)
    mine = tamed(treated, prior_spread) - middle
    return Summary(
        cameras=treated.shape[1],
        controls=controls.shape[1],
        sums=mine.sum(axis=1),
        squares=(mine**2).sum(axis=1),
        control_squares=((others - middle) ** 2).sum(axis=1),
    )


def estimates(epochs: Sequence[Summary], prior_spread: float) -> Estimates:
    """Return the change that every rollout shows over its epochs."""
    total = sum(one.cameras for one in epochs)
    value = sum_of(one.sums for one in epochs) / total
    squares = sum_of(one.squares for one in epochs) - total * value**2
    control_freedom = sum(one.controls - 1 for one in epochs)
    steadiest = max(one.controls - 1 for one in epochs)
    if control_freedom:
        control_squares = sum_of(one.control_squares for one in epochs)
        squares = squares + control_squares / control_freedom * steadiest
    freedom = PRIOR_FREEDOM + total - 1 + steadiest
    spread = np.sqrt((PRIOR_FREEDOM * prior_spread**2 + squares) / freedom)
    of_controls = sum(one.cameras / total / one.controls**0.5 for one in epochs)
    return Estimates(value, spread * (1 / total + of_controls**2) ** 0.5, freedom)


def sum_of(columns: Iterator[Floats]) -> Floats:
    """Return the sum of columns."""
    total: Floats = np.sum(list(columns), axis=0)
    return total


def verdicts(found: Estimates, effect: float, permille: int, level: float) -> tuple[Bools, Bools]:
    """Return which rollouts fail and which pass, for a release of that effect (a logarithm)."""
    low, high = allowed_change(permille)
    value = found.value + effect
    sure = t_quantile(level, found.freedom) * found.error
    fair = t_quantile(1 - SURE_TO_PASS, found.freedom) * found.error
    failed: Bools = (value + sure < low) | (value - sure > high)
    passed: Bools = (value - fair >= low) & (value + fair <= high)
    return failed, passed


@lru_cache(maxsize=4096)
def misses_to_fail(cameras: int, level: float) -> int:
    """Return how many cameras must miss a bound so that chance cannot be it."""
    counts = (n for n in range(int(cameras * TOLERATED) + 1, cameras + 1))
    return next((n for n in counts if binomial_tail(n, cameras, TOLERATED) <= level), cameras + 1)


class Play:
    """So many rollouts to one size of fleet, at once."""

    def __init__(self, random: np.random.Generator, scene: "Scene", rollouts: int) -> None:
        """Draw what cameras show by themselves."""
        self._random, self.fleet, self.rollouts = random, scene.fleet, rollouts
        self._noise = scene.noise
        first = {1} if scene.has_canary else set[int]()
        reaches = sorted({*first, *(ceil(scene.fleet * share) for share in WAVES)})
        self.level = GATES.level(len(WAVES) + scene.has_canary)
        self.waves = [
            self._wave(before, reached)
            for before, reached in zip((0, *reaches[:-1]), reaches, strict=True)
        ]
        self.changes = self._estimates(PRIOR_SPREAD["detections"], 1.0)
        self.scores = self._estimates(PRIOR_SPREAD["scores"], 0.2)

    def _wave(self, before: int, reached: int) -> Wave:
        gained = reached - before
        # The last wave has nobody left: cameras of the waves before it change nothing any more.
        others = min(before if reached == self.fleet else self.fleet - reached, CONTROLS_MAX)
        shown = self._shown(gained + others)
        own = {
            gate: self._random.random((self.rollouts, gained)) < OWN_MISSES
            for gate in ("valid_rate", "restarts")
        }
        return Wave(
            reached=reached,
            treated=tuple(look[:, :gained] for look in shown),
            controls=tuple(look[:, gained:] for look in shown),
            own_misses=own,
        )

    def _shown(self, cameras: int) -> list[Floats]:
        """Return log(new / old) of cameras at each look, with nothing that the release did."""
        random, shape = self._random, (self.rollouts, cameras)
        scale = np.exp(random.normal(0, SCALE_SPREAD, shape))
        sites = random.integers(0, max(self.fleet // SITE, 1), shape)
        shocks = random.normal(0, SITE_SPREAD, (self.rollouts, max(self.fleet // SITE, 1)))
        fixed = np.take_along_axis(shocks, sites, axis=1)
        fixed = fixed + random.normal(0, CAMERA_SPREAD, shape) * scale
        is_mad = random.random(shape) < MAD_SHARE
        fixed = np.where(is_mad, random.uniform(-MAD, MAD, shape), fixed)
        walked, at, looks = np.zeros(shape), 0.0, []
        for hours in LOOK_HOURS:
            step = random.normal(0, WINDOW_SPREAD * (hours - at) ** 0.5, shape) * scale
            walked, at = walked + step, hours
            looks.append(np.where(is_mad, fixed, self._noise * (fixed + walked / hours)))
        return looks

    def _estimates(self, prior: float, scale: float) -> list[list[Estimates]]:
        """Return wave by wave, look by look, what is estimated; effects only shift it."""
        closed: list[Summary] = []
        found: list[list[Estimates]] = []
        for wave in self.waves:
            live = [
                summary(treated * scale, controls * scale, prior)
                for treated, controls in zip(wave.treated, wave.controls, strict=True)
            ]
            found.append([estimates([*closed, one], prior) for one in live])
            closed.append(live[-1])
        return found

    def ours(self, effect: float, share: float, *, pauses: bool) -> Ends:
        """Return how rollouts end under the gates.

        Args:
            effect: What the release does to detections, as a logarithm.
            share: Of cameras on which it gives no valid output.
            pauses: An inconclusive wave pauses; else it goes on.
        """
        ends, misses = Ends.none(self.rollouts), {"valid_rate": 0, "restarts": 0}
        bad = [self._random.random(w.treated[0].shape) < share for w in self.waves]
        for number, wave in enumerate(self.waves):
            missed = {gate: own.sum(axis=1) for gate, own in wave.own_misses.items()}
            missed["valid_rate"] = (wave.own_misses["valid_rate"] | bad[number]).sum(axis=1)
            counts = {gate: misses[gate] + missed[gate] for gate in misses}
            passed = np.ones(self.rollouts, bool)
            for look in range(len(LOOK_HOURS)):
                failed, passed = self._look(number, look, effect)
                for count in counts.values():
                    failed |= count >= misses_to_fail(wave.reached, self.level)
                    passed &= count <= TOLERATED * wave.reached
                ends.look(failed)
            if pauses:
                ends.end_wave(passed)
            misses = counts
        return ends

    def _look(self, wave: int, look: int, effect: float) -> tuple[Bools, Bools]:
        changed = self.changes[wave][look], effect, GATES.detections_permille or 0
        scored = self.scores[wave][look], 0.0, GATES.scores_permille or 0
        failed, passed = verdicts(*changed, self.level)
        also_failed, also_passed = verdicts(*scored, self.level)
        return failed | also_failed, passed & also_passed

    def rivals(self, effect: float, share: float) -> tuple[Bools, Bools]:
        """Return which rollouts hawkBit's and AWS IoT Jobs' rules stop."""
        low, high = allowed_change(GATES.detections_permille or 0)
        failed: list[Bools] = []
        for wave in self.waves:
            change = wave.treated[-1] + effect
            is_bad = self._random.random(change.shape) < share
            failed.append(is_bad if share else (change < low) | (change > high))
        hawkbit = np.stack([one.mean(axis=1) > RIVAL_SHARE for one in failed]).any(axis=0)
        so_far = np.concatenate(failed, axis=1).cumsum(axis=1)
        executed = np.arange(1, so_far.shape[1] + 1)
        is_over = (so_far >= RIVAL_SHARE * executed) & (executed >= AWS_THINGS)
        aws = is_over.any(axis=1)
        return np.asarray(hawkbit), np.asarray(aws)


@dataclass
class Row:
    """One row of a table, in rollouts."""

    rollouts: int = 0
    aborted: int = 0
    paused: int = 0
    aborted_without_pauses: int = 0
    hawkbit: int = 0
    aws: int = 0

    def add(self, play: Play, effect: float, share: float) -> None:
        """Count what became of them."""
        ends = play.ours(effect, share, pauses=True)
        going_on = play.ours(effect, share, pauses=False)
        hawkbit, aws = play.rivals(effect, share)
        self.rollouts += play.rollouts
        self.aborted += int(ends.aborted.sum())
        self.paused += int(ends.paused.sum())
        self.aborted_without_pauses += int(going_on.aborted.sum())
        self.hawkbit += int(hawkbit.sum())
        self.aws += int(aws.sum())

    def cells(self) -> str:
        """Return the row's shares in percent."""
        completed = self.rollouts - self.aborted - self.paused
        without = self.rollouts - self.aborted_without_pauses
        numbers = (self.aborted, self.paused, completed, self.aborted_without_pauses, without,
                   self.hawkbit, self.aws)  # fmt: skip
        return " | ".join(f"{100 * number / self.rollouts:.2f}" for number in numbers)


HEADING = (
    "| cameras | release | aborted | paused | completed | `continue`: aborted | completed "
    "| hawkBit stops | AWS Jobs stops |\n|---|---|---|---|---|---|---|---|---|"
)
Case = tuple[float, float]  # Effect on detections, share of cameras without valid output.


@dataclass(frozen=True)
class Scene:
    """One fleet and strategy.

    Attributes:
        noise: How much more cameras change by themselves than the prior says.
        has_canary: The first wave is one camera.
    """

    fleet: int
    noise: float = 1.0
    has_canary: bool = True


def tables() -> Iterator[tuple[str, Sequence[Scene], Sequence[Case]]]:
    """Yield what each table is about: its title, its fleets, its releases."""
    effects = tuple((effect, 0.0) for effect in EFFECTS)
    few = ((0.0, 0.0), (-0.5, 0.0), (-0.75, 0.0))
    yield "Changed detections", tuple(map(Scene, FLEETS)), effects
    yield "No valid output", tuple(map(Scene, FLEETS[1:])), tuple((0.0, s) for s in SHARES)
    large = FLEETS[1:]
    yield "Without the wave of one camera", tuple(Scene(n, has_canary=False) for n in large), few
    yield "Twice as restless cameras", tuple(Scene(n, noise=2.0) for n in FLEETS), few


def table(
    rollouts: int, seed: int, scenes: Sequence[Scene], cases: Sequence[Case]
) -> Iterator[str]:
    """Yield the lines of one table."""
    yield HEADING
    for scene in scenes:
        rows = {case: Row() for case in cases}
        random = np.random.default_rng([seed, scene.fleet])
        for begun in range(0, rollouts, AT_ONCE):
            play = Play(random, scene, min(AT_ONCE, rollouts - begun))
            for (effect, share), row in rows.items():
                row.add(play, log1p(effect), share)
        for (effect, share), row in rows.items():
            yield f"| {scene.fleet:,} | {_words(effect, share)} | {row.cells()} |"


def _words(effect: float, share: float) -> str:
    if share:
        return f"no valid output on {100 * share:g} %"
    return f"detections {100 * effect:+g} %" if effect else "good"


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    parser = ArgumentParser(
        prog="python -m controller.simulation.rates",
        description="Measure how often gates stop good releases and pass bad ones.",
    )
    parser.add_argument("--rollouts", type=int, default=10_000, help="for each row (10000)")
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args(arguments)
    for title, scenes, cases in tables():
        lines = table(asked.rollouts, asked.seed, scenes, cases)
        for line in (f"{title}, % of {asked.rollouts:,} rollouts a row:", "", *lines, ""):
            print(line, flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
