"""Masks as COCO's compressed run lengths, which pycocotools reads. Pure, and all in arrays.

A mask is read column by column; runs of zeros and ones take turns, zeros first. From the fourth run
on, what is written is the difference to the run before the last, five bits a character, lowest
first, 32 for "more follows", 48 added. pycocotools itself is no library for a Pi: it needs a
compiler there, and takes one mask at a time.
"""

import numpy as np
from numpy.typing import NDArray

from shared.detections import Mask

_BITS, _SIGN, _MORE, _FIRST = 5, 16, 32, 48
_DIGITS_MAX = 7  # 35 bits; the longest run of a sensor's mask has 15.
_WHOLE_RUNS = 3  # These are written as they are.
_BATCH = 32  # Masks at a time: noise has a run for every pixel, and memory is small on a Pi Zero.


def encode_masks(columns: NDArray[np.bool_]) -> list[Mask]:
    """Return masks as run lengths.

    Args:
        columns: Number x width x height: column by column, as they are read.
    """
    masks: list[Mask] = []
    for start in range(0, len(columns), _BATCH):
        masks += _encode(columns[start : start + _BATCH])
    return masks


def decode_mask(mask: Mask) -> NDArray[np.bool_]:
    """Return a mask (height x width) that ``encode_masks`` has written."""
    runs: list[int] = []
    number, shift = 0, 0
    for character in mask.counts.encode("ascii"):
        digit = character - _FIRST
        number |= (digit & (_MORE - 1)) << shift
        shift += _BITS
        if digit & _MORE:
            continue
        number -= (digit & _SIGN) << (shift - _BITS + 1)  # The sign of the highest digit.
        runs.append(number + (runs[-2] if len(runs) >= _WHOLE_RUNS else 0))
        number, shift = 0, 0
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(mask.size[::-1]).T


def _encode(columns: NDArray[np.bool_]) -> list[Mask]:
    number, width, height = columns.shape
    ends, per_mask = _ends(columns.reshape(number, -1))
    firsts = np.cumsum(per_mask) - per_mask
    places = np.arange(len(ends)) - np.repeat(firsts, per_mask)  # Of a run within its mask.
    runs = np.diff(ends, prepend=0)
    runs[firsts] = ends[firsts]
    values = runs.copy()
    values[2:] -= np.where(places[2:] >= _WHOLE_RUNS, runs[:-2], 0)
    text, lengths = _characters(values)
    cuts = np.cumsum(lengths)[firsts + per_mask - 1].tolist()
    return [
        Mask(size=(height, width), counts=text[start:end])
        for start, end in zip([0, *cuts], cuts, strict=False)
    ]


def _ends(flat: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each run ends, mask after mask, and how many runs each mask has."""
    number, length = flat.shape
    is_end = np.ones((number, length + 1), np.bool_)  # The last run ends with the mask.
    is_end[:, 0] = flat[:, 0]
    np.not_equal(flat[:, 1:], flat[:, :-1], out=is_end[:, 1:-1])
    masks, ends = np.divmod(np.flatnonzero(is_end), length + 1)
    return ends, np.bincount(masks, minlength=number)


def _characters(values: NDArray[np.int64]) -> tuple[str, NDArray[np.int64]]:
    """Return all values as text, and how many characters each one has."""
    digits = np.zeros((len(values), _DIGITS_MAX), np.uint8)
    is_written = np.zeros(digits.shape, np.bool_)
    goes_on = np.ones(len(values), np.bool_)
    for place in range(_DIGITS_MAX):
        is_written[:, place] = goes_on
        digit = values & (_MORE - 1)
        values = values >> _BITS
        goes_on &= values != np.where(digit & _SIGN, -1, 0)
        digits[:, place] = digit + _MORE * goes_on + _FIRST
        if not goes_on.any():
            break
    return digits[is_written].tobytes().decode("ascii"), is_written.sum(axis=1)
