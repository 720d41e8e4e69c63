"""Output tensors to JSON: our decoders beside modlib's post-processors; exit 1 below ten times.

    python -m benchmarks.decode [-o json]

Needs the extra `twin`, which brings modlib; `make bench` runs it there. Both sides get the same
tensors of a full frame (300 objects) as the sensor's NMS leaves them, take turns, and are measured
in the processor's time of the one thread, so that other work on the machine weighs on both or on
neither. modlib: its post-processor for Ultralytics, ``json()`` of the result, ``json.dumps``. Ours:
tensors to the text of the message's objects, every value checked, masks as COCO run lengths.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from time import thread_time_ns

# As in a camera's child; numpy asks when it is imported.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np

from shared.decode.columns import Columns
from shared.decode.detect import find_detect
from shared.decode.pose import find_pose
from shared.decode.results import Problem, Tensors
from shared.decode.segment import find_segment
from shared.decode.written import Written, written

ROWS, SIZE, CLASSES, KEYPOINTS, PROTOTYPES = 300, 640, 80, 17, 32
RATIO_MIN = 10.0
WHOLE = 10**9  # Bytes: modlib leaves nothing out either.
TURN = 10
ROUNDS = {"detect": 40, "pose": 6, "segment": 2}
LABELS = tuple(f"class {number}" for number in range(CLASSES))


@dataclass(frozen=True, slots=True)
class Compared:
    """Medians over all rounds, of one task."""

    task: str
    modlib_us: float
    ours_us: float
    modlib_bytes: int
    our_bytes: int

    @property
    def ratio(self) -> float:
        """Return how many times as long modlib takes."""
        return self.modlib_us / self.ours_us


Theirs = Callable[[list[np.ndarray]], object]
Ours = Callable[[Tensors], Columns | Problem]


def main() -> int:
    """Compare the three tasks whose decoders do work."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    output = parser.parse_known_args()[0].output  # The rest of `make bench` has options of its own.
    results = [compare(task, *pair) for task, pair in _pairs().items()]
    for result in results:
        if output == "json":
            sys.stdout.write(json.dumps({**asdict(result), "ratio": result.ratio}) + "\n")
    if output == "table":
        sys.stdout.write(table(results))
    slow = [result for result in results if result.ratio < RATIO_MIN]
    for result in slow:
        sys.stderr.write(
            f"bench: expected {result.task} to take a tenth of modlib's time at most,"
            f" got 1/{result.ratio:.1f}\n"
        )
    return 1 if slow else 0


def compare(task: str, theirs: Theirs, ours: Ours) -> Compared:
    """Measure one task."""
    tensors = tensors_of(task)

    def by_modlib() -> tuple[int, str]:
        copies = [np.array(tensor) for tensor in tensors]  # modlib writes into what it is given.
        began = thread_time_ns()
        text = json.dumps(theirs(copies).json())  # type: ignore[attr-defined]
        return thread_time_ns() - began, text

    def by_us() -> tuple[int, Written]:
        began = thread_time_ns()
        made = written(ours(tensors), bytes_max=WHOLE)
        return thread_time_ns() - began, made

    times: tuple[list[int], list[int]] = ([], [])
    for _ in range(ROUNDS[task]):
        times[0].extend(by_modlib()[0] for _ in range(TURN))
        times[1].extend(by_us()[0] for _ in range(TURN))
    text, mine = by_modlib()[1], by_us()[1]
    assert mine.objects is not None
    assert not mine.problems
    modlib_us, ours_us = (statistics.median(one) / 1e3 for one in times)
    return Compared(task, modlib_us, ours_us, len(text), len(mine.objects))


def table(results: list[Compared]) -> str:
    """Return the results for people."""
    head = f"{ROWS} objects, {SIZE} x {SIZE}; microseconds of processor time, medians\n"
    form = "{:<8}  {:>10}  {:>10}  {:>6}  {:>13}  {:>10}\n"
    lines = [form.format("task", "modlib", "ours", "times", "modlib, bytes", "our bytes")]
    lines += [
        form.format(
            result.task,
            f"{result.modlib_us:.0f}",
            f"{result.ours_us:.0f}",
            f"{result.ratio:.1f}",
            result.modlib_bytes,
            result.our_bytes,
        )
        for result in results
    ]
    return head + "".join(lines)


def tensors_of(task: str) -> Tensors:
    """Return a full frame: boxes of all sizes up to two fifths of the picture, blobs for masks."""
    random = np.random.default_rng(3)
    corner = random.uniform(0, 0.8, (ROWS, 2)) * SIZE
    boxes = np.hstack([corner, corner + random.uniform(0.01, 0.4, (ROWS, 2)) * SIZE])
    scores = np.sort(random.uniform(0.3, 1, ROWS))[::-1]
    rows = [boxes, scores, random.integers(0, CLASSES, ROWS)]
    match task:
        case "detect":
            rows.append(np.array([ROWS]))
        case "pose":
            points = random.uniform(0, 1, (ROWS, KEYPOINTS, 3)) * (SIZE, SIZE, 1)
            rows.append(points.reshape(ROWS, -1))
        case _:
            rows += [random.normal(size=(ROWS, PROTOTYPES)), _blobs(random)]
    return tuple(np.ascontiguousarray(row, np.float32) for row in rows)


def _blobs(random: np.random.Generator) -> np.ndarray:
    side = SIZE // 4
    coarse = random.normal(size=(PROTOTYPES, side // 8, side // 8))
    smooth: np.ndarray = np.kron(coarse, np.ones((8, 8)))
    for shift in (1, 2, 4):
        smooth = (smooth + np.roll(smooth, shift, 1) + np.roll(smooth, shift, 2)) / 3
    return smooth


def _pairs() -> dict[str, tuple[Theirs, Ours]]:
    from modlib.models.post_processors import (  # noqa: PLC0415 - Where the extra is installed.
        pp_od_yolo_ultralytics,
        pp_yolo_pose_ultralytics,
        pp_yolo_segment_ultralytics,
    )

    size, threshold = (SIZE, SIZE), 0.0
    return {
        "detect": (
            lambda given: pp_od_yolo_ultralytics([*given[:3], given[3][0]], SIZE),
            partial(find_detect, size=size, labels=LABELS, threshold=threshold),
        ),
        "pose": (
            lambda given: pp_yolo_pose_ultralytics(given, SIZE, KEYPOINTS),
            partial(find_pose, keypoints=KEYPOINTS, size=size, labels=LABELS, threshold=threshold),
        ),
        "segment": (
            lambda given: pp_yolo_segment_ultralytics(given, SIZE, ROWS),
            partial(find_segment, size=size, labels=LABELS, threshold=threshold),
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
