"""What a decoder returns, and the words for what can be wrong with a network's values. Pure."""

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from shared.detections import Class, Object

BOX_DIGITS = 4  # A ten-thousandth of an image is a tenth of a pixel: no sensor sees better.
SCORE_DIGITS = 3  # Scores are counted in 256ths.

NOT_FINITE = "not_finite"
CLASS_OUT_OF_RANGE = "class_out_of_range"
COUNT_OUT_OF_RANGE = "count_out_of_range"
SHAPES = "shapes"

Tensor = NDArray[np.generic]
Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Decoded:
    """One inference. ``objects`` or ``classes``, best first; with ``problems`` both are empty."""

    objects: tuple[Object, ...] | None = None
    classes: tuple[Class, ...] | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """An inference whose values cannot be trusted."""

    word: str


def are_finite(*tensors: Tensor) -> bool:
    """Say whether every number is one."""
    # One that is none makes the sum none; float64 holds the sum of any float32.
    return all(isfinite(np.add.reduce(tensor, axis=None, dtype=np.float64)) for tensor in tensors)
