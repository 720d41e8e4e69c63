from hypothesis import given
from hypothesis import strategies as st

from shared.evidence import (
    MARKS_MAX,
    MS_STEPS,
    Record,
    Tally,
    count_frame,
    count_restart,
    difference,
    last_hour,
    quantile,
    running,
)


def frames(record: Record, times: list[float], *, scores: tuple[float, ...] = ()) -> Record:
    for now in times:
        record = count_frame(record, now=now, is_valid=True, scores=scores, dnn_ms=50.0)
    return record


def test_evidence_counts_from_the_first_valid_output() -> None:
    record = count_frame(Record("a@1"), now=0.0, is_valid=False)
    record = frames(record, [10.0, 11.0], scores=(0.95, 0.5, 1.0))
    record = count_frame(record, now=12.0, is_valid=False)

    evidence = running(record, 20.0)

    assert running(Record("a@1"), 20.0) is None
    assert evidence is not None
    assert (evidence.release, evidence.seconds) == ("a@1", 10)
    assert (evidence.frames, evidence.valid, evidence.objects) == (3, 2, 6)
    assert evidence.score_histogram == (0, 0, 0, 0, 0, 2, 0, 0, 0, 4)
    assert evidence.dnn_ms is not None
    assert 48.5 < evidence.dnn_ms.p50 < 51.5


def test_restarts_are_counted_and_reset_nothing() -> None:
    record = count_restart(frames(Record("a@1"), [1.0, 2.0]))

    evidence = running(record, 5.0)

    assert evidence is not None
    assert (evidence.restarts, evidence.valid) == (1, 2)


def test_the_last_hour_leaves_out_what_was_before_and_the_marks_stay_bounded() -> None:
    record = frames(Record("a@1"), [float(second) for second in range(0, 3 * 3600, 10)])

    evidence = last_hour(record, 3 * 3600.0)
    young = last_hour(frames(Record("a@1"), [5.0, 6.0]), 10.0)

    assert evidence is not None
    assert 3500 <= evidence.seconds <= 3660
    assert abs(evidence.frames - evidence.seconds / 10) <= 1
    assert len(record.marks) <= MARKS_MAX
    assert young is not None
    assert (young.seconds, young.frames) == (5, 2)


@given(st.lists(st.floats(0.6, 1000), min_size=1, max_size=60), st.integers(1, 1000))
def test_a_quantile_is_off_by_less_than_a_step(values: list[float], permille: int) -> None:
    record = Record("a@1")
    for value in values:
        record = count_frame(record, now=0.0, is_valid=True, dnn_ms=value)
    exact = sorted(values)[max(0, -(-len(values) * permille // 1000) - 1)]

    estimate = quantile(record.tally.dnn_ms, permille)

    assert estimate is not None
    assert exact / 1.06 < estimate < exact * 1.06
    assert sum(record.tally.dnn_ms) == len(values)


def test_no_frame_has_no_quantile_and_extremes_stay_in_range() -> None:
    record = count_frame(Record("a@1"), now=0.0, is_valid=True, dnn_ms=1e9)
    record = count_frame(record, now=0.0, is_valid=True, dnn_ms=0.0)

    assert quantile(Tally().dnn_ms, 500) is None
    assert quantile(record.tally.dnn_ms, 950) == MS_STEPS[-1]
    assert quantile(record.tally.dnn_ms, 10) == MS_STEPS[0]


def test_counters_subtract() -> None:
    early = frames(Record("a@1"), [1.0, 2.0], scores=(0.3,))
    late = frames(early, [3.0, 4.0, 5.0], scores=(0.7, 0.3))

    between = difference(late.tally, early.tally)

    assert (between.frames, between.objects, sum(between.dnn_ms)) == (3, 6, 3)
    assert between.scores[3] == 3
    assert between.scores[7] == 3


def test_a_stream_with_long_gaps_still_looks_back_one_hour_only() -> None:
    record = frames(Record("a@1"), [600.0 * step for step in range(50)])

    evidence = last_hour(record, 600.0 * 49)

    assert evidence is not None
    assert (evidence.seconds, evidence.frames) == (3600, 7)  # The mark's own frame, and six more.
