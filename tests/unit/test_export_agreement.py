"""How the benchmarks of the exporter compare, and how they watch memory."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks.export.agreement import Box, Seen, agreement, guesses_agreement
from benchmarks.export.processes import watched
from controller.cli.comparing import markdown_table

MEGABYTE = 1_000_000


def seen(
    *, label: str = "a", score: float = 0.8, box: Box = (10, 10, 50, 50), x: float = 20.0
) -> Seen:
    mask = np.zeros((20, 20), np.bool_)
    mask[5:15, 5 : round(x) - 5] = True
    return Seen(
        label=label, score=score, box=box, keypoints=np.array([[x, 30.0], [40.0, 40.0]]), mask=mask
    )


def test_the_same_objects_agree_in_any_order() -> None:
    other = seen(label="b", box=(100, 100, 150, 150))

    agreed = agreement([[seen(), other]], [[other, seen()]], threshold=0.25)

    assert (agreed.pairs, agreed.alone, agreed.share) == (2, 0, 1.0)
    assert (agreed.pixels_worst, agreed.score_worst) == (0, 0)
    assert (agreed.keypoints_share, agreed.mask_iou) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("other", "share", "pixels", "score"),
    [
        (seen(box=(10, 10, 50.9, 50)), 1.0, 0.9, 0.0),
        (seen(box=(10, 10, 51.1, 50)), 0.0, 1.1, 0.0),
        (seen(score=0.76), 1.0, 0.0, 0.04),
        (seen(score=0.74), 0.0, 0.0, 0.06),
    ],
)
def test_a_pixel_and_a_twentieth_of_score_are_the_limit(
    other: Seen, share: float, pixels: float, score: float
) -> None:
    agreed = agreement([[seen()]], [[other]], threshold=0.25)

    assert agreed.share == share
    assert agreed.pixels_worst == pytest.approx(pixels)
    assert agreed.score_worst == pytest.approx(score)


@pytest.mark.parametrize("other", [seen(label="b"), seen(box=(60, 60, 90, 90))])
def test_another_label_or_place_is_another_object(other: Seen) -> None:
    agreed = agreement([[seen()]], [[other]], threshold=0.25)

    assert (agreed.pairs, agreed.alone, agreed.share) == (0, 2, 0.0)


def test_an_object_near_the_threshold_may_be_missing() -> None:
    near, clear = seen(score=0.29), seen(score=0.31)

    assert agreement([[near]], [[]], threshold=0.25).alone == 0
    assert agreement([[clear]], [[]], threshold=0.25).alone == 1


def test_points_and_masks_of_a_pair_are_compared() -> None:
    agreed = agreement([[seen()]], [[seen(x=22.0)]], threshold=0.25)

    assert (agreed.keypoints_share, agreed.keypoints_worst) == (0.5, 2.0)
    assert agreed.mask_iou == pytest.approx(100 / 120)


def test_classifiers_agree_where_the_best_is_the_same() -> None:
    theirs = [Seen("a", 0.7), Seen("b", 0.3)]

    agreed = guesses_agreement(
        [[Seen("a", 0.68)], [Seen("b", 0.31), Seen("a", 0.69)], [Seen("b", 0.3)]], [theirs] * 3
    )

    assert agreed.share == pytest.approx(2 / 3)
    assert agreed.score_worst == pytest.approx(0.02)


def test_memory_of_a_grandchild_counts_and_a_finished_process_stays_in_the_peak() -> None:
    inner = f"b = bytearray({300 * MEGABYTE}); import time; time.sleep(2)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"

    with watched() as peak:
        subprocess.run([sys.executable, "-c", outer], check=True)

    assert 300 * MEGABYTE < peak.together_bytes < 500 * MEGABYTE
    assert peak.java_bytes == 0
    assert not peak.is_ended


def test_a_process_that_its_parent_left_behind_still_counts() -> None:
    inner = f"import time; time.sleep(2); b = bytearray({300 * MEGABYTE}); time.sleep(1)"
    outer = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {inner!r}]);"
        "time.sleep(1)"
    )

    with watched() as peak:
        done = subprocess.run(
            [sys.executable, "-c", outer],
            start_new_session=True,
            stdout=subprocess.PIPE,  # Its end comes when the last one has ended.
            check=True,
        )

    assert done.returncode == 0
    assert peak.together_bytes > 300 * MEGABYTE


def test_memory_that_processes_share_counts_once() -> None:
    code = (
        f"import os, time; b = b'x' * {300 * MEGABYTE}\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(2); os._exit(0)\n"
        "time.sleep(3)"
    )

    with watched() as peak:
        subprocess.run([sys.executable, "-c", code], check=True)

    assert 300 * MEGABYTE < peak.together_bytes < 500 * MEGABYTE


def test_what_takes_more_than_its_limit_is_ended_with_all_its_children() -> None:
    inner = f"b = bytearray({400 * MEGABYTE}); import time; time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"

    with watched(200 * MEGABYTE) as peak:
        done = subprocess.run([sys.executable, "-c", outer], start_new_session=True, check=False)

    assert peak.is_ended
    assert done.returncode == -9


def test_a_table_is_markdown() -> None:
    assert markdown_table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
