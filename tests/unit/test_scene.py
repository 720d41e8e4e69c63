import numpy as np

from agent.camera.scene import CLASS_NAMES, draw


def test_a_frame_is_a_function_of_seed_number_and_size() -> None:
    picture, truth = draw(7, 100, 160)
    draw(8, 100, 160)
    again, truth_again = draw(7, 100, (160, 160))

    assert picture.shape == (160, 160, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, again)
    assert truth == truth_again


def test_the_scene_moves_and_seeds_differ() -> None:
    first, truth_first = draw(7, 0, 160)
    later, truth_later = draw(7, 50, 160)
    other, _ = draw(8, 0, 160)

    assert truth_first != truth_later
    assert np.mean(np.abs(first.astype(int) - later.astype(int))) > 1
    assert np.mean(np.abs(first.astype(int) - other.astype(int))) > 5


def test_every_box_of_the_truth_bounds_a_shape_in_the_picture() -> None:
    for frame in range(0, 400, 40):
        picture, truth = draw(2, frame, (320, 256))
        for drawn in truth:
            x_min, y_min, x_max, y_max = drawn.box
            middle = picture[int((y_min + y_max) * 128), int((x_min + x_max) * 160)].astype(int)

            assert 0 <= x_min < x_max <= 1
            assert 0 <= y_min < y_max <= 1
            assert drawn.label == CLASS_NAMES[drawn.class_]
            assert middle.max() - middle.min() > 130, "a shape is saturated, the background is not"


def test_all_classes_and_several_counts_occur() -> None:
    truths = [draw(seed, seed * 31, 96)[1] for seed in range(60)]

    assert {drawn.label for truth in truths for drawn in truth} == set(CLASS_NAMES)
    assert len({len(truth) for truth in truths}) >= 4


def test_shapes_appear_and_vanish_in_one_scene() -> None:
    counts = {len(draw(1, frame, 96)[1]) for frame in range(0, 800, 10)}

    assert len(counts) >= 2
