"""Output tensor of a classifier (a softmax over the labels) -> its best guesses. Pure."""

import numpy as np

from shared.decode.results import NOT_FINITE, SCORE_DIGITS, SHAPES, Decoded, Tensors, are_finite
from shared.detections import Class

CLASSES_MAX = 5  # Top-5 is what people know; the rest of a thousand is noise.


def decode_classify(tensors: Tensors, *, labels: tuple[str, ...], threshold: float) -> Decoded:
    """Return the best guesses of one inference whose score reaches the threshold, best first."""
    if len(tensors) != 1 or tensors[0].size != len(labels):
        return Decoded(classes=(), problems=(SHAPES,))
    scores = tensors[0].reshape(-1).astype(np.float64)
    if not are_finite(scores):
        return Decoded(classes=(), problems=(NOT_FINITE,))
    best = np.argsort(-scores, kind="stable")[:CLASSES_MAX]
    return Decoded(
        classes=tuple(
            Class(label=labels[class_], class_=class_, score=round(score, SCORE_DIGITS))
            for class_, score in zip(best.tolist(), scores[best].tolist(), strict=True)
            if score >= threshold
        )
    )
