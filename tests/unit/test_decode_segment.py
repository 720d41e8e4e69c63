import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco

from shared.decode.results import Decoded, Tensors
from shared.decode.rle import decode_mask, encode_masks
from shared.decode.segment import decode_segment

LABELS = ("circle", "square")
ROWS, NUMBER = 300, 32
SIZE = (256, 128)  # Prototypes are 64 x 32.
PYCOCOTOOLS_WARNS = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept")
Bools = NDArray[np.bool_]


def tensors(*, rows: int, seed: int = 0, number: int = NUMBER) -> Tensors:
    """What the sensor puts out: valid rows first, best first, zeros after; no number of them."""
    random = np.random.default_rng(seed)
    boxes, scores = np.zeros((1, ROWS, 4), np.float32), np.zeros((1, ROWS), np.float32)
    classes = np.zeros((1, ROWS), np.int32)
    coefficients = np.zeros((1, ROWS, number), np.float32)
    corner = random.uniform(-30, 1, (rows, 2)) + random.uniform(0, 1, (rows, 2)) * SIZE
    boxes[0, :rows] = np.hstack([corner, corner + random.uniform(1, 120, (rows, 2))])
    scores[0, :rows] = np.sort(random.uniform(0.3, 1, rows))[::-1]
    classes[0, :rows] = random.integers(0, len(LABELS), rows)
    coefficients[0, :rows] = random.normal(size=(rows, number))
    prototypes = random.normal(size=(1, number, SIZE[1] // 4, SIZE[0] // 4)).astype(np.float32)
    return boxes, scores, classes, coefficients, prototypes


def decode(given_tensors: Tensors, *, threshold: float = 0.25) -> Decoded:
    return decode_segment(given_tensors, size=SIZE, labels=LABELS, threshold=threshold)


def masks_of(decoded: Decoded) -> list[Bools]:
    return [decode_mask(thing.mask) for thing in decoded.objects or () if thing.mask is not None]


def by_the_book(given_tensors: Tensors, rows: int) -> list[Bools]:
    """Ultralytics' process_mask in plain words: product, above zero, inside of the box."""
    boxes, _, _, coefficients, prototypes = (tensor[0] for tensor in given_tensors)
    y, x = np.mgrid[0 : SIZE[1] // 4, 0 : SIZE[0] // 4]
    found = []
    for row in range(rows):
        logits = np.einsum("c,chw->hw", coefficients[row], prototypes)
        left, top, right, bottom = boxes[row] / 4
        found.append((logits > 0) & (x >= left) & (x < right) & (y >= top) & (y < bottom))
    return found


def changed(given_tensors: Tensors, index: int, place: tuple[int, ...], value: float) -> Tensors:
    spoilt = [np.array(tensor) for tensor in given_tensors]
    spoilt[index][place] = value
    return tuple(spoilt)


def read_by_coco(mask: Bools) -> tuple[Bools, str, str]:
    """What pycocotools reads from our text; our text, and its own for the same mask."""
    (ours,) = encode_masks(mask.T[None])
    plain = json.loads(msgspec.json.encode(ours))
    theirs = coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    return coco.decode(plain).astype(np.bool_), ours.counts, theirs


@PYCOCOTOOLS_WARNS
@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 90), st.floats(0, 1))
def test_pycocotools_reads_the_very_mask_and_would_write_the_very_text(
    seed: int, height: int, width: int, share: float
) -> None:
    random = np.random.default_rng(seed)
    coarse = random.random((height // 9 + 1, width // 9 + 1)) < share  # Long runs, not only noise.
    mask = np.kron(coarse, np.ones((9, 9)))[:height, :width].astype(np.bool_)
    mask ^= random.random((height, width)) < random.choice([0.0, 0.02, 0.5])

    read, ours, theirs = read_by_coco(mask)

    assert np.array_equal(read, mask)
    assert ours == theirs
    assert np.array_equal(decode_mask(encode_masks(mask.T[None])[0]), mask)


@pytest.mark.parametrize("pixel", [0, 1])
@PYCOCOTOOLS_WARNS
def test_a_mask_of_one_kind_of_pixel_is_read(pixel: int) -> None:
    mask = np.full((160, 160), pixel).astype(np.bool_)

    read, ours, theirs = read_by_coco(mask)

    assert np.array_equal(read, mask)
    assert ours == theirs


def test_many_masks_at_once_are_what_each_is_alone() -> None:
    masks = np.random.default_rng(1).random((70, 20, 30)) < 0.4

    assert encode_masks(masks) == [encode_masks(one[None])[0] for one in masks]
    assert encode_masks(masks[:0]) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_masks_are_what_the_definition_says(seed: int, rows: int) -> None:
    given_tensors = tensors(rows=rows, seed=seed)
    expected = by_the_book(given_tensors, rows)

    decoded = decode(given_tensors, threshold=0.0)

    found = masks_of(decoded)
    assert len(decoded.objects or ()) == len(found) == rows
    # A product next to zero may round to either side.
    differences = sum(int((a != b).sum()) for a, b in zip(found, expected, strict=True))
    assert differences <= 2


def test_a_mask_has_the_prototypes_size_and_no_pixel_outside_its_box() -> None:
    given_tensors = tensors(rows=20)
    everywhere = (*given_tensors[:4], np.ones_like(given_tensors[4]))
    everywhere[3][0, :20] = 1

    for thing in decode(everywhere).objects or ():
        assert thing.mask is not None
        assert thing.mask.size == (SIZE[1] // 4, SIZE[0] // 4)
        rows, columns = (places.tolist() for places in np.nonzero(decode_mask(thing.mask)))
        x_min, y_min, x_max, y_max = thing.box
        assert all(x_min * 64 - 0.01 <= column < x_max * 64 + 0.01 for column in columns)
        assert all(y_min * 32 - 0.01 <= row < y_max * 32 + 0.01 for row in rows)


def test_masks_go_with_the_row_of_their_object_in_any_order() -> None:
    given_tensors = tensors(rows=3)
    order = [2, 0, 1, *range(3, ROWS)]
    shuffled = (*(tensor[:, order] for tensor in given_tensors[:4]), given_tensors[4])

    assert decode(shuffled) == decode(given_tensors)


def test_only_what_reaches_the_threshold_has_a_mask_made() -> None:
    objects = decode(tensors(rows=50), threshold=0.6).objects or ()

    assert len(objects) == int((tensors(rows=50)[1] >= 0.6).sum())
    assert all(thing.mask is not None for thing in objects)


def test_a_batch_of_one_may_be_missing_and_columns_may_come_first_as_on_the_sensor() -> None:
    given_tensors = tensors(rows=5)
    squeezed = tuple(np.asfortranarray(tensor[0]) for tensor in given_tensors)

    assert decode(squeezed) == decode(given_tensors)


def test_the_number_of_coefficients_is_the_networks() -> None:
    objects = decode(tensors(rows=5, number=8)).objects or ()

    assert len(objects) == 5


def test_padding_is_no_object_even_where_everything_is_wanted() -> None:
    assert decode(tensors(rows=0), threshold=0.0) == Decoded(objects=())
    assert len(decode(tensors(rows=7), threshold=0.0).objects or ()) == 7


GOOD = tensors(rows=2)


@pytest.mark.parametrize(
    ("spoilt", "problem"),
    [
        (changed(GOOD, 0, (0, 299, 0), np.nan), "not_finite"),
        (changed(GOOD, 3, (0, 299, 0), np.nan), "not_finite"),
        (changed(GOOD, 4, (0, 31, 31, 63), np.inf), "not_finite"),
        (changed(GOOD, 2, (0, 1), 2), "class_out_of_range"),
        (changed(GOOD, 2, (0, 1), -1), "class_out_of_range"),
        (GOOD[:4], "shapes"),
        ((), "shapes"),
        ((*GOOD[:4], GOOD[4].transpose(0, 1, 3, 2)), "shapes"),
        ((*GOOD[:4], GOOD[4][:, :31]), "shapes"),
        ((*GOOD[:4], GOOD[4][0, 0]), "shapes"),
        ((*GOOD[:4], np.concatenate([GOOD[4], GOOD[4]])), "shapes"),
        ((*GOOD[:3], GOOD[3][:, :299], GOOD[4]), "shapes"),
        ((*GOOD[:3], GOOD[3].transpose(0, 2, 1), GOOD[4]), "shapes"),
        ((GOOD[0][:, :9], *GOOD[1:]), "shapes"),
    ],
)
def test_values_that_no_network_may_give_are_named_and_show_no_object(
    spoilt: Tensors, problem: str
) -> None:
    assert decode(spoilt) == Decoded(objects=(), problems=(problem,))
