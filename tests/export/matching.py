"""How well found objects match the true ones: by label and overlap. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Seen:
    """One object, found or true. The box is normalised x_min, y_min, x_max, y_max."""

    label: str
    box: Box
    score: float = 1.0


@dataclass(frozen=True)
class Agreement:
    """Of all frames together: how many objects were found, are true, and agree."""

    found: int
    true: int
    ious: tuple[float, ...]  # Of those that agree.

    @property
    def precision(self) -> float:
        return len(self.ious) / max(self.found, 1)

    @property
    def recall(self) -> float:
        return len(self.ious) / max(self.true, 1)

    @property
    def iou(self) -> float:
        return sum(self.ious) / max(len(self.ious), 1)

    def __str__(self) -> str:
        return (
            f"{self.found} found, {self.true} true, {len(self.ious)} agree: precision "
            f"{self.precision:.3f}, recall {self.recall:.3f}, mean IoU {self.iou:.3f}"
        )


def iou(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


def pairs_of(
    found: Sequence[Seen], true: Sequence[Seen], *, iou_min: float = 0.5
) -> list[tuple[Seen, Seen, float]]:
    """Return the pairs of one label that overlap most; each object is in one pair at most."""
    candidates = sorted(
        ((iou(a.box, b.box), i, j) for i, a in enumerate(found) for j, b in enumerate(true)
         if a.label == b.label),
        reverse=True,
    )  # fmt: skip
    pairs, used_found, used_true = [], set[int](), set[int]()
    for overlap, i, j in candidates:
        if overlap >= iou_min and i not in used_found and j not in used_true:
            pairs.append((found[i], true[j], overlap))
            used_found.add(i)
            used_true.add(j)
    return pairs


def agreement(
    frames: Iterable[tuple[Sequence[Seen], Sequence[Seen]]], *, iou_min: float = 0.5
) -> Agreement:
    """Return how the found objects of frames agree with their true ones."""
    found, true, overlaps = 0, 0, list[float]()
    for ours, truth in frames:
        found, true = found + len(ours), true + len(truth)
        overlaps += [overlap for *_, overlap in pairs_of(ours, truth, iou_min=iou_min)]
    return Agreement(found, true, tuple(overlaps))
