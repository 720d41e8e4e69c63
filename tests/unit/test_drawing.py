"""What is drawn is where it was seen."""

import numpy as np
import pytest

from controller.export.drawing import COLOURS, colour_of, draw
from controller.export.placing import Located
from shared.decode.rle import encode_masks
from shared.detections import Class

GREY = np.full((200, 300, 3), 90, np.uint8)
SEEN = Located(label="bolt", class_=1, score=0.87, box=(100, 80, 180, 160))


def changed(**seen: object) -> np.ndarray:
    drawn = np.asarray(draw(GREY, **seen))  # type: ignore[arg-type]
    assert drawn.shape == GREY.shape
    return (drawn != GREY).any(axis=2)


def test_a_box_is_a_line_around_the_object_in_its_classs_colour() -> None:
    drawn = np.asarray(draw(GREY, objects=[SEEN]))

    for x, y in ((100, 120), (180, 120), (140, 80), (140, 160)):
        assert tuple(drawn[y, x]) == colour_of(1)
    assert (drawn[90:155, 110:175] == 90).all()
    assert not changed(objects=[SEEN])[165:].any()


def test_a_name_stands_above_the_box_and_never_outside_the_picture() -> None:
    assert changed(objects=[SEEN])[66:79, 102:130].any()
    corner = Located(label="a very long name", class_=0, score=1, box=(290, 0, 299, 9))
    named = changed(objects=[corner])
    assert named[:14, 200:280].any()


def test_a_mask_is_tinted_and_nothing_else() -> None:
    mask = np.zeros((200, 300), np.bool_)
    mask[100:120, 120:150] = True
    seen = Located(
        label="bolt", class_=2, score=1, box=(100, 80, 180, 160), mask=encode_masks(mask.T[None])[0]
    )

    inside = changed(objects=[seen])[90:155, 110:175]

    assert (inside == mask[90:155, 110:175]).all()


def test_a_point_is_drawn_where_it_is_seen_and_not_where_it_is_hidden() -> None:
    points = ((120.0, 100.0, 0.9), (160.0, 140.0, 0.0))
    seen = Located(label="bolt", class_=0, score=1, box=(100, 80, 180, 160), keypoints=points)

    inside = changed(objects=[seen])

    assert inside[100, 120]
    assert not inside[130:150, 150:170].any()


def test_a_classifiers_guesses_stand_below_each_other() -> None:
    one = changed(classes=[Class(label="a", class_=0, score=0.9)])
    two = changed(classes=[Class(label=name, class_=0, score=0.5) for name in "ab"])

    assert two.any(axis=1).sum() > one.any(axis=1).sum()


@pytest.mark.parametrize("class_", range(len(COLOURS)))
def test_each_class_has_a_colour_of_its_own(class_: int) -> None:
    others = [colour for number, colour in enumerate(COLOURS) if number != class_]

    assert all(sum(abs(a - b) for a, b in zip(colour_of(class_), o, strict=True)) > 80
               for o in others)  # fmt: skip
