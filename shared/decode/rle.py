"""Masks as COCO's compressed run lengths, which pycocotools reads. Pure, and all in arrays.

A mask is read column by column; runs of zeros and ones take turns, zeros first. From the fourth run
on, what is written is the difference to the run before the last, five bits a character, lowest
first, 32 for "more follows", 48 added. pycocotools itself is no library for a Pi: it needs a
compiler there, and takes one mask at a time. What lies outside of an object's box is never looked
at: 300 objects have 7.7 million pixels, of which their boxes hold a few hundred thousand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.detections import Mask

_BITS, _SIGN, _MORE, _FIRST = 5, 16, 32, 48
_DIGITS_MAX = 6  # 30 bits; the longest run of a sensor's mask has 15.
_WHOLE_RUNS = 3  # These are written as they are.
_BATCH_PIXELS = 819_200  # Noise has a run for every pixel, and memory is small on a Pi Zero.

Whole = NDArray[np.signedinteger]  # 32 bits where it matters: half the memory.


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a mask; what is outside of it is zero.

    Attributes:
        left: The column of the mask where it begins.
        top: The row of the mask where it begins.
        columns: Width x height, column by column.
    """

    left: int
    top: int
    columns: NDArray[np.bool_]


def encode_masks(columns: NDArray[np.bool_]) -> list[Mask]:
    """Return masks as run lengths.

    Args:
        columns: Number x width x height: column by column, as they are read.
    """
    _, width, height = columns.shape
    return list(encode_cuts([Cut(0, 0, one) for one in columns], size=(height, width)))


def encode_cuts(cuts: Sequence[Cut], *, size: tuple[int, int]) -> tuple[Mask, ...]:
    """Return whole masks of that height and width as run lengths."""
    return tuple(mask for batch in _batches(cuts) for mask in _encode(batch, size))


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


def _batches(cuts: Sequence[Cut]) -> Iterator[list[Cut]]:
    batch: list[Cut] = []
    pixels = 0
    for cut in cuts:
        if batch and pixels + cut.columns.size > _BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
        batch.append(cut)
        pixels += cut.columns.size
    if batch:
        yield batch


def _encode(cuts: list[Cut], size: tuple[int, int]) -> list[Mask]:
    ends, per_mask = _ends(cuts, size)
    firsts = np.cumsum(per_mask) - per_mask
    places = np.arange(len(ends), dtype=np.int32) - np.repeat(
        firsts, per_mask
    )  # Of a run within its mask.
    runs = np.diff(ends, prepend=0)
    runs[firsts] = ends[firsts]
    values = runs.copy()
    values[2:] -= np.where(places[2:] >= _WHOLE_RUNS, runs[:-2], 0)
    text, lengths = _characters(values)
    cuts_at = np.cumsum(lengths)[firsts + per_mask - 1].tolist()
    return [
        Mask(size=size, counts=text[start:end])
        for start, end in zip([0, *cuts_at], cuts_at, strict=False)
    ]


def _ends(cuts: list[Cut], size: tuple[int, int]) -> tuple[Whole, Whole]:
    """Return where each run ends, mask after mask, and how many runs each mask has."""
    height, width = size
    places, owners = _changes(cuts, height)
    # Where a box is as high as the mask, a run may go on in the next column.
    goes_on = (places[1:-1:2] == places[2::2]) & (owners[1:-1:2] == owners[2::2])
    is_kept = np.ones(len(places), np.bool_)
    is_kept[1:-1] = ~np.repeat(goes_on, 2)
    places, owners = places[is_kept], owners[is_kept]
    changes = np.bincount(owners, minlength=len(cuts))
    after = np.cumsum(changes)
    last = np.where(changes > 0, places[after - 1] if len(places) else 0, 0)
    has_rest = last < height * width  # The last run ends with the mask.
    return np.insert(places, after[has_rest], height * width), changes + has_rest


def _changes(cuts: list[Cut], height: int) -> tuple[Whole, Whole]:
    """Return where ones begin and end, by turns, and which mask each of these places is in."""
    flat = np.concatenate([_closed(cut.columns).reshape(-1) for cut in cuts])
    changes = np.flatnonzero(np.diff(flat, prepend=np.False_)).astype(np.int32)
    widths, heights, left, top = np.array(
        [(*cut.columns.shape, cut.left, cut.top) for cut in cuts], np.int32
    ).T
    ends = np.cumsum(widths * (heights + 1), dtype=np.int32)
    starts = ends - widths * (heights + 1)
    numbers = np.diff(np.searchsorted(changes, ends), prepend=0)

    def each(values: Whole) -> Whole:
        return np.repeat(values, numbers)

    within = changes - each(starts)
    column = within // each(heights + 1)
    places = within + each(left * height + top) + column * each(height - heights - 1)
    return places, each(np.arange(len(cuts), dtype=np.int32))


def _closed(columns: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the columns, each with a zero below: so every run of ones ends in its own column."""
    width, height = columns.shape
    closed = np.zeros((width, height + 1), np.bool_)
    closed[:, :-1] = columns
    return closed


def _characters(values: Whole) -> tuple[str, NDArray[np.intp]]:
    """Return all values as text, and how many characters each one has."""
    sizes = np.where(values < 0, ~values, values)
    lengths = np.ones(len(values), np.intp)
    for digits in range(1, _DIGITS_MAX):
        is_longer = sizes >= _SIGN << _BITS * (digits - 1)
        if not is_longer.any():
            break
        lengths += is_longer
    starts = np.cumsum(lengths) - lengths
    text = np.empty(int(lengths.sum()), np.uint8)
    going = np.arange(len(values))
    for place in range(int(lengths.max(initial=0))):
        going = going[lengths[going] > place]
        more = _MORE * (lengths[going] > place + 1)
        digit = (values[going] >> _BITS * place) & (_MORE - 1)
        text[starts[going] + place] = digit + more + _FIRST
    return text.tobytes().decode("ascii"), lengths
