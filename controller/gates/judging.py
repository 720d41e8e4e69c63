"""Judge what was gathered. Pure.

Two kinds of gates, one question: how sure are we that the release does more than is allowed?

**Bounds** (valid_rate, dnn_ms, golden, restarts): a camera keeps its bound or misses it. Cameras
miss bounds for reasons of their own, so up to the share that ``min_healthy`` leaves may; the gate
fails once so many miss that chance cannot be it (exact binomial tail). A network is as fast and as
right on every sensor, so for dnn_ms and golden one camera in 10,000 may, and one is enough.

**Changes** (detections_change, scores_change): of each camera the logarithm of new over old; from
that the mean of cameras that changed nothing at the same time is taken away (difference in
differences), epoch by epoch. The camera is the unit: frames of one camera repeat each other, and
counted one by one they would make anything look sure. Student's t with the spread of both groups
pooled, and with four cameras' worth of doubt put in beforehand, so that the agreement of three
cameras by chance is not taken for precision. Values far from their group's median are pulled to
its edge (winsorised): one mad camera neither stops a release nor hides one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, inf, log, log1p, sqrt
from statistics import fmean, median

from controller.gates.gathering import (
    FRAMES_MIN,
    GateVerdict,
    Gathered,
    Stratum,
    Track,
    strata,
    treated_tracks,
)
from controller.gates.odds import binomial_tail, t_quantile
from controller.gates.rules import PERMILLE, SURE_TO_PASS, Gates

PRIOR_FREEDOM = 4.0
PRIOR_SPREAD = {"detections": 0.3, "scores": 0.1}  # Of log(new / old), hour to hour.
NETWORK_SHARE = 1e-4  # Of cameras that miss a bound of the network by themselves.
DNN_ERROR = 1.025  # The device's histogram has steps of 5 %: its median is off by half of one.
GROUP_MIN = 5  # A smaller group has no edge to pull values to.
EDGE = 4 * 1.4826  # Median absolute deviations; 1.4826 of them are one standard deviation.
CAMERAS_SAID_MAX = 1000
ALMOST_ALL = -98.0  # Percent.
_WORDS = {"detections": "detections a frame", "scores": "mean score"}


@dataclass(frozen=True, slots=True)
class Change:
    """An estimated change, as a logarithm.

    Attributes:
        spread: Of single cameras.
        error: Standard error of ``value``.
        freedom: Degrees of freedom of both.
    """

    value: float
    spread: float
    error: float
    freedom: float
    cameras: int
    controls: int


def judge_gates(
    gathered: Gathered, gates: Gates, *, level: float, tolerated: float, left_out: frozenset[str]
) -> tuple[GateVerdict, ...]:
    """Return what every gate says of what was gathered.

    Args:
        gathered: The evidence.
        gates: What is allowed.
        level: How often one test may fail a good release.
        tolerated: The share of cameras that may miss a bound for reasons of their own.
        left_out: Devices with faults of their own.
    """
    tracks = tuple(treated_tracks(gathered, left_out).values())
    verdicts = list(_bounds(tracks, gates, level, tolerated))
    for measure, allowed in (
        ("detections", gates.detections_permille),
        ("scores", gates.scores_permille),
    ):
        if allowed is not None:
            found = strata(gathered, measure, left_out)
            has_before = any(track.before is not None for track in tracks)
            verdicts.append(_judge_change(measure, found, allowed, level, has_before=has_before))
    return tuple(verdicts)


def _bounds(
    tracks: Sequence[Track], gates: Gates, level: float, tolerated: float
) -> Iterable[GateVerdict]:
    """Yield the verdicts of the gates that each camera keeps or misses."""
    rates = [t.total.valid / t.total.frames for t in tracks if t.total.frames >= FRAMES_MIN]
    least = gates.valid_rate_permille / PERMILLE
    words = f"with valid outputs below {_percent(least)}"
    own = _Rule("valid_rate", words, level, tolerated, tolerated)
    yield own.judge(rates, sum(rate < least for rate in rates), _percent(_middle(rates)))
    if gates.dnn_ms is not None:
        times = [t.dnn_ms for t in tracks if t.dnn_ms is not None]
        rule = _Rule("dnn_ms", f"above {gates.dnn_ms} ms", level, NETWORK_SHARE, tolerated)
        missed = sum(time > gates.dnn_ms * DNN_ERROR for time in times)
        yield rule.judge(times, missed, f"{_middle(times):.1f} ms")
    if gates.golden_permille is not None:
        found = [t.golden_permille / PERMILLE for t in tracks if t.golden_permille is not None]
        least = gates.golden_permille / PERMILLE
        words = f"found less than {_percent(least)} of the golden objects"
        rule = _Rule("golden", words, level, NETWORK_SHARE, tolerated, absent="no golden set ran")
        yield rule.judge(found, sum(one < least for one in found), _percent(_middle(found)))
    if gates.restarts is not None:
        restarts = [t.total.restarts for t in tracks]
        often = "once" if gates.restarts == 1 else f"{gates.restarts} times"
        words = f"restarted the stream more than {often}"
        rule = _Rule("restarts", words, level, tolerated, tolerated)
        missed = sum(one > gates.restarts for one in restarts)
        yield rule.judge(restarts, missed, f"{_middle(restarts):g}")


@dataclass(frozen=True, slots=True)
class _Rule:
    """A bound that cameras keep or miss.

    Attributes:
        by_itself: The share of cameras that miss it whatever the release.
        tolerated: The share that may miss it in a wave that passes.
        absent: Why nobody measured it, where that is no fault.
    """

    name: str
    missed: str
    level: float
    by_itself: float
    tolerated: float
    absent: str = ""

    def judge(self, values: Sequence[float], missed: int, middle: str) -> GateVerdict:
        cameras = len(values)
        if cameras == 0:
            kind = "not_measured" if self.absent else "undecided"
            return GateVerdict(self.name, kind, self.absent or "no camera has reported evidence")
        chance = binomial_tail(missed, cameras, self.by_itself)
        kept = 1 - missed / cameras
        if chance <= self.level and missed > self.by_itself * cameras:
            kind, end = "fail", f"by chance once in {_once_in(chance)}"
        elif missed <= self.tolerated * cameras:
            kind, end = "pass", f"at most {_percent(self.tolerated)} may" if missed else ""
        else:
            kind, end = "undecided", "too few cameras to blame the release"
        said = f"{missed} of {_cameras(cameras)} {self.missed} (median {middle})"
        text = f"{said}; {end}" if end else said
        return GateVerdict(self.name, kind, text, cameras=cameras, value=kept)


def estimate(found: Sequence[Stratum], prior_spread: float) -> Change | None:
    """Return the change that treated cameras show beyond that of the others, None of nobody."""
    usable = [one for one in found if one.treated and one.controls]
    if not usable:
        return None
    values: list[float] = []
    squares, steadiest, error_of_controls = 0.0, 0, 0.0
    total = sum(len(one.treated) for one in usable)
    control_squares, control_freedom = 0.0, 0
    for one in usable:
        controls = _tamed(one.controls, prior_spread)
        middle = fmean(controls)
        values += [value - middle for value in _tamed(one.treated, prior_spread)]
        control_squares += sum((value - middle) ** 2 for value in controls)
        control_freedom += len(controls) - 1
        steadiest = max(steadiest, len(controls) - 1)
        # The same cameras stand in several epochs: their errors are taken to be the same ones.
        error_of_controls += len(one.treated) / total / sqrt(len(controls))
    value = fmean(values)
    squares = sum((one - value) ** 2 for one in values)
    if control_freedom:  # Epochs share cameras: they tell no more of the spread than one does.
        squares += control_squares / control_freedom * steadiest
    freedom = PRIOR_FREEDOM + total - 1 + steadiest
    spread = sqrt((PRIOR_FREEDOM * prior_spread**2 + squares) / freedom)
    error = spread * sqrt(1 / total + error_of_controls**2)
    return Change(value, spread, error, freedom, total, sum(len(one.controls) for one in usable))


def kind_of_change(found: Change, allowed: tuple[float, float], level: float) -> str:
    """Return pass, fail or undecided: where the change surely lies, and how sure that is."""
    low, high = allowed
    reach = t_quantile(level, found.freedom) * found.error
    if found.value + reach < low or found.value - reach > high:
        return "fail"
    reach = t_quantile(1 - SURE_TO_PASS, found.freedom) * found.error
    is_inside = found.value - reach >= low and found.value + reach <= high
    return "pass" if is_inside else "undecided"


def allowed_change(permille: int) -> tuple[float, float]:
    """Return the logarithms between which a change may lie: 50 % is half as many, or twice."""
    reach = inf if permille >= PERMILLE else -log1p(-permille / PERMILLE)
    return -reach, reach


def _judge_change(
    measure: str, found: Sequence[Stratum], permille: int, level: float, *, has_before: bool
) -> GateVerdict:
    name, words = f"{measure}_change", _WORDS[measure]
    change = estimate(found, PRIOR_SPREAD[measure])
    if change is None:
        return GateVerdict(name, *_nothing_to_compare(words, found, has_before=has_before))
    allowed = allowed_change(permille)
    kind = kind_of_change(change, allowed, level)
    quantile = t_quantile(level if kind == "fail" else 1 - SURE_TO_PASS, change.freedom)
    low, high = change.value - quantile * change.error, change.value + quantile * change.error
    text = f"{words} {_signed(change.value)} ({_surely(kind, low, high, allowed, level)})"
    ends = f"{_signed(allowed[0])} to {_signed(allowed[1])}" if allowed[1] < inf else "any change"
    text += f"; {ends} allowed"
    text += f"; {_cameras(change.cameras)} against {change.controls} that changed nothing"
    if kind == "undecided":
        text += _how_many(change, allowed)
    return GateVerdict(
        name,
        kind,
        text,
        cameras=change.cameras,
        controls=change.controls,
        value=_share(change.value),
        low=_share(low),
        high=_share(high),
    )


def _nothing_to_compare(
    words: str, found: Sequence[Stratum], *, has_before: bool
) -> tuple[str, str]:
    if not has_before:
        return "not_measured", f"{words}: no camera ran another release before"
    if not any(one.treated for one in found):
        return "undecided", f"{words}: no camera has seen enough to tell"
    return "undecided", f"{words}: no camera that changed nothing to compare with"


def _surely(kind: str, low: float, high: float, allowed: tuple[float, float], level: float) -> str:
    if kind != "fail":
        return f"{_signed(low)} to {_signed(high)}, each end {100 * SURE_TO_PASS:.0f} % sure"
    end = f"{_signed(high)} or lower" if high < allowed[0] else f"{_signed(low)} or higher"
    return f"{end}, {100 * (1 - level):.4g} % sure"


def _how_many(change: Change, allowed: tuple[float, float]) -> str:
    """Return how many cameras would tell, if they went on like these."""
    margin = min(change.value - allowed[0], allowed[1] - change.value)
    if margin <= 0:
        return "; outside, but not surely"
    reach = (margin / (t_quantile(1 - SURE_TO_PASS, change.freedom) * change.spread)) ** 2
    if reach < 1 / CAMERAS_SAID_MAX:
        return "; inside, but too close to the limit to be sure"
    rest = reach - 1 / max(change.controls, 1)
    if rest < 1 / CAMERAS_SAID_MAX:
        return "; inside, but not surely: more cameras that changed nothing would tell"
    needed = max(1 / rest, change.cameras + 1.0)
    return f"; inside, but not surely: about {needed:.0f} cameras would tell"


def _tamed(values: Sequence[float], prior_spread: float) -> list[float]:
    """Return the values, those far from their median at the edge (winsorised)."""
    if len(values) < GROUP_MIN:
        return list(values)
    middle = median(values)
    reach = max(EDGE * median(abs(value - middle) for value in values), 2 * prior_spread)
    return [min(max(value, middle - reach), middle + reach) for value in values]


def _middle(values: Sequence[float]) -> float:
    return median(values) if values else 0.0


def _share(logarithm: float) -> float:
    return round(exp(min(logarithm, log(1e6))) - 1, 4)


def _signed(logarithm: float) -> str:
    """Return a change in percent; the last ones before all is gone in more detail."""
    percent = 100 * (exp(min(logarithm, log(1e6))) - 1) + 0.0
    return f"{percent:+.2f} %" if percent < ALMOST_ALL else f"{percent:+.0f} %"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _once_in(chance: float) -> str:
    return f"{1 / chance:,.0f}" if chance > 1e-12 else "a million millions"  # noqa: PLR2004


def _cameras(count: int) -> str:
    return f"{count} camera" if count == 1 else f"{count} cameras"
