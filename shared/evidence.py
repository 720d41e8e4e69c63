"""What a release did on a camera, in counters that only grow: their sums and differences. Pure.

Counters, because the controller subtracts two reports to get any window, and a lost report then
loses nothing. Milliseconds go into a histogram of fixed steps: bounded, and subtractable too.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate
from math import sqrt

from shared.messages import Evidence, Quantiles

SCORE_STEPS = 10  # Of 0.1 each.
MS_STEPS = tuple(0.5 * 1.05**step for step in range(160))  # 0.5 ms to 1.2 s in steps of 5 %.
WINDOW_SECONDS = 3600.0  # `before` covers at most the last hour.
MARKS_MAX = 60  # One a minute.
MARK_SECONDS = WINDOW_SECONDS / MARKS_MAX


@dataclass(frozen=True, slots=True)
class Tally:
    """Counters since a moment. ``scores`` counts objects by score, ``dnn_ms`` frames by time."""

    frames: int = 0
    valid: int = 0
    objects: int = 0
    restarts: int = 0
    scores: tuple[int, ...] = (0,) * SCORE_STEPS
    dnn_ms: tuple[int, ...] = (0,) * (len(MS_STEPS) + 1)


@dataclass(frozen=True, slots=True)
class Record:
    """The evidence of one release while it runs.

    Attributes:
        began_at: Its first valid output; None before.
        marks: (when, counters then), oldest first: what `before` subtracts.
    """

    release: str
    began_at: float | None = None
    tally: Tally = Tally()
    marks: tuple[tuple[float, Tally], ...] = ()
    golden_permille: int | None = None


def count_frame(
    record: Record,
    *,
    now: float,
    is_valid: bool,
    scores: Iterable[float] = (),
    dnn_ms: float | None = None,
) -> Record:
    """Return the record with one more frame; frames before the first valid output do not count."""
    if record.began_at is None:
        if not is_valid:
            return record
        record = replace(record, began_at=now, marks=((now, record.tally),))
    elif now - record.marks[-1][0] >= MARK_SECONDS:
        marks = (*record.marks, (now, record.tally))
        record = replace(record, marks=marks[-MARKS_MAX:])
    return replace(record, tally=_add_frame(record.tally, is_valid, tuple(scores), dnn_ms))


def count_restart(record: Record) -> Record:
    """Return the record with one more restart of the stream."""
    return replace(record, tally=replace(record.tally, restarts=record.tally.restarts + 1))


def running(record: Record, now: float) -> Evidence | None:
    """Return all since the first valid output, or None before it."""
    if record.began_at is None:
        return None
    return _evidence(record, record.tally, now - record.began_at)


def last_hour(record: Record, now: float) -> Evidence | None:
    """Return the last hour, of a release that stops now or runs on."""
    if record.began_at is None:
        return None
    since, mark = record.marks[0]
    for at, tally in record.marks:
        if now - at >= WINDOW_SECONDS:
            since, mark = at, tally
    return _evidence(record, difference(record.tally, mark), now - since)


def difference(later: Tally, earlier: Tally) -> Tally:
    """Return what was counted in between."""
    return Tally(
        frames=later.frames - earlier.frames,
        valid=later.valid - earlier.valid,
        objects=later.objects - earlier.objects,
        restarts=later.restarts - earlier.restarts,
        scores=_subtract(later.scores, earlier.scores),
        dnn_ms=_subtract(later.dnn_ms, earlier.dnn_ms),
    )


def quantile(histogram: tuple[int, ...], permille: int) -> float | None:
    """Return the milliseconds below which that share of the frames lies, None without frames."""
    total = sum(histogram)
    if total == 0:
        return None
    wanted = total * permille / 1000
    for step, reached in enumerate(accumulate(histogram)):
        if reached >= wanted and reached > 0:
            return _middle(step)
    return MS_STEPS[-1]


def _middle(step: int) -> float:
    """Return the geometric middle of a step: never off by more than 2.5 %."""
    if step == 0:
        return MS_STEPS[0]
    if step == len(MS_STEPS):
        return MS_STEPS[-1]
    return sqrt(MS_STEPS[step - 1] * MS_STEPS[step])


def _add_frame(
    tally: Tally,
    is_valid: bool,  # noqa: FBT001
    scores: tuple[float, ...],
    dnn_ms: float | None,
) -> Tally:
    if not is_valid:
        return replace(tally, frames=tally.frames + 1)
    by_score = list(tally.scores)
    for score in scores:
        by_score[min(int(score * SCORE_STEPS), SCORE_STEPS - 1)] += 1
    by_ms = tally.dnn_ms
    if dnn_ms is not None:
        step = bisect_right(MS_STEPS, dnn_ms)
        by_ms = (*by_ms[:step], by_ms[step] + 1, *by_ms[step + 1 :])
    return replace(
        tally,
        frames=tally.frames + 1,
        valid=tally.valid + 1,
        objects=tally.objects + len(scores),
        scores=tuple(by_score),
        dnn_ms=by_ms,
    )


def _subtract(later: tuple[int, ...], earlier: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(more - less for more, less in zip(later, earlier, strict=True))


def _evidence(record: Record, tally: Tally, seconds: float) -> Evidence:
    p50, p95 = quantile(tally.dnn_ms, 500), quantile(tally.dnn_ms, 950)
    return Evidence(
        release=record.release,
        seconds=int(seconds),
        frames=tally.frames,
        valid=tally.valid,
        objects=tally.objects,
        score_histogram=tally.scores,
        dnn_ms=None if p50 is None or p95 is None else Quantiles(round(p50, 1), round(p95, 1)),
        golden_permille=record.golden_permille,
        restarts=tally.restarts,
    )
