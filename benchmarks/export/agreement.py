"""How closely two programs agree on what a network sees. Pure.

One is ours: the simulator graph and shared/decode. The other is Ultralytics, with Sony's operators,
on the same exported folder. Objects are paired by label and overlap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

PIXELS, SCORE = 1.0, 0.05  # Apart at most, to count as the same.
OVERLAP_MIN = 0.8
NEAR_THRESHOLD = 0.05  # A score that near to it may fall on the other side.

Box = tuple[float, float, float, float]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One object in pixels, or one guess (no box)."""

    label: str
    score: float
    box: Box | None = None
    keypoints: NDArray[np.float64] | None = None  # Points x 2.
    mask: Mask | None = None


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """What two programs say of the same pictures.

    Attributes:
        pairs: Objects that both have; for a classifier, pictures.
        alone: Objects that one of them has, though they are clearly above the threshold.
        share: Of all, how many are within a pixel and 0.05 of score; for a classifier, pictures
            with the same best label.
        score_worst: The largest difference of a pair's scores.
        pixels_worst: The largest difference of a pair's corners; None for a classifier.
        keypoints_share: Points of pairs within a pixel; None but for pose.
        keypoints_worst: The largest distance of a pair's points along an axis, in pixels.
        mask_iou: Mean overlap of a pair's masks at the network's own resolution.
        mask_iou_worst: The smallest.
    """

    pictures: int
    pairs: int
    alone: int
    share: float
    score_worst: float
    pixels_worst: float | None = None
    keypoints_share: float | None = None
    keypoints_worst: float | None = None
    mask_iou: float | None = None
    mask_iou_worst: float | None = None


def agreement(
    ours: Sequence[Sequence[Seen]], theirs: Sequence[Sequence[Seen]], *, threshold: float
) -> Agreement:
    """Return how objects agree, picture by picture."""
    pairs, alone = list[tuple[Seen, Seen]](), 0
    for mine, other in zip(ours, theirs, strict=True):
        here = list(_pairs(mine, other))
        paired = {id(one) for pair in here for one in pair}
        clear = [one for one in (*mine, *other) if one.score > threshold + NEAR_THRESHOLD]
        alone += sum(id(one) not in paired for one in clear)
        pairs += here
    pixels = [_apart(a.box, b.box) for a, b in pairs]
    scores = [abs(a.score - b.score) for a, b in pairs]
    together = sum(p <= PIXELS and s <= SCORE for p, s in zip(pixels, scores, strict=True))
    points = [_points_apart(a, b) for a, b in pairs if a.keypoints is not None]
    masks = [_masks_iou(a, b) for a, b in pairs if a.mask is not None]
    flat = np.concatenate(points) if points else np.zeros(0)
    return Agreement(
        pictures=len(ours),
        pairs=len(pairs),
        alone=alone,
        share=together / max(len(pairs) + alone, 1),
        score_worst=max(scores, default=0.0),
        pixels_worst=max(pixels, default=0.0),
        keypoints_share=float((flat <= PIXELS).mean()) if points else None,
        keypoints_worst=float(flat.max()) if points else None,
        mask_iou=float(np.mean(masks)) if masks else None,
        mask_iou_worst=min(masks) if masks else None,
    )


def guesses_agreement(
    ours: Sequence[Sequence[Seen]], theirs: Sequence[Sequence[Seen]]
) -> Agreement:
    """Return how a classifier's guesses agree; ours may be the best few only."""
    same, apart = 0, [0.0]
    for mine, other in zip(ours, theirs, strict=True):
        scores = {one.label: one.score for one in other}
        best = max(mine, key=lambda one: one.score, default=None)
        same += best is not None and best.label == max(scores, key=lambda label: scores[label])
        apart += [abs(one.score - scores[one.label]) for one in mine]
    return Agreement(
        pictures=len(ours),
        pairs=len(ours),
        alone=0,
        share=same / max(len(ours), 1),
        score_worst=max(apart),
    )


def _pairs(mine: Sequence[Seen], other: Sequence[Seen]) -> Iterator[tuple[Seen, Seen]]:
    candidates = [
        (_iou(a.box, b.box), -abs(a.score - b.score), i, j)
        for i, a in enumerate(mine)
        for j, b in enumerate(other)
        if a.label == b.label
    ]
    used_mine, used_other = set[int](), set[int]()
    for overlap, _, i, j in sorted(candidates, reverse=True):
        if overlap >= OVERLAP_MIN and i not in used_mine and j not in used_other:
            used_mine.add(i)
            used_other.add(j)
            yield mine[i], other[j]


def _iou(one: Box | None, other: Box | None) -> float:
    assert one is not None
    assert other is not None
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


def _apart(one: Box | None, other: Box | None) -> float:
    assert one is not None
    assert other is not None
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _points_apart(one: Seen, other: Seen) -> NDArray[np.float64]:
    assert one.keypoints is not None
    assert other.keypoints is not None
    distances: NDArray[np.float64] = np.abs(one.keypoints - other.keypoints).max(axis=1)
    return distances


def _masks_iou(one: Seen, other: Seen) -> float:
    assert one.mask is not None
    assert other.mask is not None
    union = int((one.mask | other.mask).sum())
    return int((one.mask & other.mask).sum()) / union if union else 1.0
