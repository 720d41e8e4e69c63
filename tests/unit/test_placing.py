"""A picture goes into a network's input, and what was found comes back in its own pixels."""

import numpy as np
import pytest

from controller.export.placing import GREY, centre_crop, letterbox
from shared.decode.rle import decode_mask, encode_masks
from shared.detections import Object

SIZE = (64, 32)  # Width and height of the input.


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "corner", "shown"),
    [
        (64, 32, (0, 0), (64, 32)),
        (128, 32, (0, 8), (64, 16)),
        (32, 32, (16, 0), (32, 32)),
        (30, 32, (17, 0), (30, 32)),
        (33, 32, (15, 0), (33, 32)),  # 31 are left: 15 before, 16 behind.
        (3, 3000, (31, 0), (1, 32)),
        (10, 5, (0, 0), (64, 32)),
    ],
)
def test_a_picture_lies_in_the_middle_with_its_proportions(
    width: int, height: int, corner: tuple[int, int], shown: tuple[int, int]
) -> None:
    placed = letterbox(picture(width, height), SIZE)

    assert (placed.corner, placed.shown) == (corner, shown)
    assert placed.pixels.shape == (32, 64, 3)
    x, y = corner
    around = placed.pixels.astype(int)
    around[y : y + shown[1], x : x + shown[0]] = GREY
    assert (around == GREY).all()


def test_a_picture_of_the_inputs_size_stays_as_it_is() -> None:
    given = picture(*SIZE)

    assert (letterbox(given, SIZE).pixels == given).all()
    assert (centre_crop(given, SIZE).pixels == given).all()


@pytest.mark.parametrize(("width", "height"), [(640, 480), (31, 77), (1000, 40), (64, 32)])
def test_what_was_found_comes_back_to_where_it_is_in_the_picture(width: int, height: int) -> None:
    placed = letterbox(picture(width, height), SIZE)
    left, top, right, bottom = 0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height

    def normalised(x: float, y: float) -> tuple[float, float]:
        return (
            (x * placed.shown[0] / width + placed.corner[0]) / SIZE[0],
            (y * placed.shown[1] / height + placed.corner[1]) / SIZE[1],
        )

    found = placed.locate(
        Object(
            label="a", class_=0, score=0.5,
            box=(*normalised(left, top), *normalised(right, bottom)),
            keypoints=((*normalised(left, bottom), 0.25),),
        )
    )  # fmt: skip

    assert found.box == pytest.approx((left, top, right, bottom), abs=0.02)
    assert found.keypoints == (pytest.approx((left, bottom, 0.25), abs=0.02),)


def test_a_box_over_the_grey_is_cut_at_the_pictures_edge() -> None:
    placed = letterbox(picture(128, 32), SIZE)

    found = placed.locate(Object(label="a", class_=0, score=0.5, box=(0, 0, 1, 1)))

    assert found.box == (0, 0, 128, 32)


def test_a_mask_comes_back_in_the_pictures_size_without_the_grey() -> None:
    placed = letterbox(picture(256, 64), SIZE)  # Rows 8 to 24 of the input's 32.
    mask = np.zeros((8, 16), np.bool_)  # A quarter of the input's pixels each way.
    mask[2:4, 8:] = True  # The picture's upper right quarter.
    mask[0] = True  # Grey.

    found = placed.locate(
        Object(label="a", class_=0, score=1, box=(0, 0, 1, 1), mask=encode_masks(mask.T[None])[0])
    )

    assert found.mask is not None
    back = decode_mask(found.mask)
    truth = np.zeros((64, 256), np.bool_)
    truth[:32, 128:] = True
    assert back.shape == truth.shape
    assert (back & truth).sum() / (back | truth).sum() > 0.9


def test_a_classifier_sees_the_middle_of_a_picture() -> None:
    given = np.zeros((40, 80, 3), np.uint8)
    given[:, 20:60] = 255

    placed = centre_crop(given, (40, 40))

    assert (placed.pixels == 255).all()
