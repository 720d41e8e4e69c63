"""A snapshot shows what was found, and fits a message whatever the camera sees."""

import io

import numpy as np
import pytest
from PIL import Image

from agent.camera.camera import Pixels
from agent.camera.snapshot import SIDE_MIN, snapshot
from shared.decode.results import Decoded
from shared.detections import Class, Object
from shared.limits import IMAGE_BYTES

GREY = np.full((320, 480, 3), 128, np.uint8)
THING = Object(label="\N{SNOWMAN} person", class_=1, score=0.91, box=(0.25, 0.25, 0.75, 0.75))


def opened(jpeg: bytes) -> Pixels:
    image = Image.open(io.BytesIO(jpeg))
    assert image.format == "JPEG"
    return np.asarray(image)


def colored(picture: Pixels) -> tuple[int, int, int, int]:
    """Return where the picture is not grey: left, top, right, bottom."""
    spread = np.ptp(picture.astype(int), axis=2)
    rows, columns = np.nonzero(spread > 60)
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_the_box_is_drawn_where_the_object_is() -> None:
    left, top, right, bottom = colored(opened(snapshot(GREY, Decoded(objects=(THING,)))))

    assert abs(left - 120) <= 2
    assert abs(top - 80) <= 2
    assert abs(right - 360) <= 2
    assert abs(bottom - 240) <= 2


def test_nothing_seen_is_the_picture_itself() -> None:
    picture = opened(snapshot(GREY, Decoded(objects=())))

    assert picture.shape == GREY.shape
    assert np.ptp(picture) <= 2


def test_guesses_and_keypoints_are_drawn() -> None:
    guess = Decoded(classes=(Class(label="cat", class_=0, score=0.8),))
    box = (0.0, 0.0, 0.01, 0.01)
    posed = Object(label="", class_=0, score=1.0, box=box, keypoints=((0.9, 0.9, 1.0),))

    left, top, *_ = colored(opened(snapshot(GREY, guess)))
    *_, right, bottom = colored(opened(snapshot(GREY, Decoded(objects=(posed,)))))

    assert left < 6
    assert top < 12
    assert abs(right - 432) <= 4
    assert abs(bottom - 288) <= 4


@pytest.mark.parametrize("bytes_max", [IMAGE_BYTES, 20_000, 3_000])
def test_noise_is_made_smaller_until_it_fits(bytes_max: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3)).astype(np.uint8)

    jpeg = snapshot(noise, Decoded(objects=(THING,)), bytes_max=bytes_max)

    height, width, _ = opened(jpeg).shape
    assert len(jpeg) <= bytes_max or min(height, width) <= SIDE_MIN
    assert abs(width / height - 16 / 9) < 0.1


def test_a_picture_of_which_one_row_is_not_next_to_the_other_is_drawn() -> None:
    turned = np.zeros((64, 64, 4), np.uint8)[..., :3][..., ::-1]

    assert opened(snapshot(turned, Decoded(objects=(THING,)))).shape == (64, 64, 3)
