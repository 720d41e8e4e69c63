"""A head's raw outputs are clipped where training left some of them far out. Imports torch.

A head's levels are joined before they are quantised, so all of them share one step. A level that
training gave no objects may put out logits of minus six hundred: the step becomes 8, and the scores
of the other levels 0, 0.5 or 1 (seen: keypoints' mAP50-95 0.32 float, 0.00 quantised, 0.31
clipped). What is cut off says nothing: sigmoid(-16) is one in ten million, and a keypoint further
away than the picture is wide lies outside of it. Networks whose outputs stay inside what is usual
are left as they are.
"""

from collections.abc import Iterator
from itertools import islice

import torch

from controller.export.quantise import Batches

USUAL = 64.0  # Trained levels stay within 20.
SCORES, OTHERS = 16.0, 32.0  # Others: a box's distances before softmax, coefficients of masks.
BATCHES = 4
_BRANCHES = {"cv2": "boxes", "cv3": "scores", "cv4": "task"}  # Ultralytics' names.


def clip_outliers(model: torch.nn.Module, batches: Batches, *, side_pixels: int) -> tuple[str, ...]:
    """Clip the raw outputs that go far beyond what is usual, in place.

    Args:
        model: Ultralytics' model, ready to be traced.
        batches: The calibration pictures, a few of which show what goes too far.
        side_pixels: The longer side of its input.

    Returns:
        What was clipped, in words: branch, level, and the most that it put out.
    """
    branches = list(_branches(model))
    peaks = _peaks(model, batches, [branch[-1] for _, _, branch in branches])
    clipped = []
    for (name, level, branch), peak in zip(branches, peaks, strict=True):
        limit = _limit(model, name, level, side_pixels)
        if peak > max(USUAL, 2 * limit):
            branch[-1] = torch.nn.Sequential(branch[-1], torch.nn.Hardtanh(-limit, limit))
            clipped.append(f"{_BRANCHES[name]} of level {level} at {peak:.0f}")
    return tuple(clipped)


def _branches(model: torch.nn.Module) -> Iterator[tuple[str, int, torch.nn.Sequential]]:
    head = model.model[-1]
    for name in _BRANCHES:
        for level, branch in enumerate(getattr(head, name, ())):
            if isinstance(branch, torch.nn.Sequential):
                yield name, level, branch


def _peaks(model: torch.nn.Module, batches: Batches, layers: list[torch.nn.Module]) -> list[float]:
    peaks = [0.0] * len(layers)

    def watch(number: int, layer: torch.nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_layer: torch.nn.Module, _given: object, out: torch.Tensor) -> None:
            peaks[number] = max(peaks[number], float(out.abs().max()))

        return layer.register_forward_hook(note)

    hooks = [watch(number, layer) for number, layer in enumerate(layers)]
    try:
        with torch.no_grad():
            for pictures in islice(batches() if layers else (), BATCHES):
                model(*pictures)
    finally:
        for hook in hooks:
            hook.remove()
    return peaks


def _limit(model: torch.nn.Module, name: str, level: int, side_pixels: int) -> float:
    if name == "cv3":
        return SCORES
    if name == "cv4" and getattr(model, "task", None) == "pose":
        # Half the cells of the picture's side: the head doubles it.
        return max(side_pixels / float(model.model[-1].stride[level]) / 2, SCORES)
    return OTHERS
