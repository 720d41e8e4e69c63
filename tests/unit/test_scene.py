import numpy as np
from numpy.typing import NDArray

from agent.camera.scene import CLASS_NAMES, Drawn, Pixels, _extremes, draw

SIZE = (192, 128)
NOISE = 10  # Of two pixels of one colour.


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


def of(seeds: range) -> list[tuple[Pixels, Drawn]]:
    """Every object of some pictures, with its picture."""
    frames = (draw(seed, seed * 37, SIZE) for seed in seeds)
    return [(picture, drawn) for picture, truth in frames for drawn in truth]


def test_an_outline_contains_what_is_seen_of_its_object_and_little_else() -> None:
    for _, drawn in of(range(40)):
        xs, ys = np.array(drawn.outline).T
        x_min, y_min, x_max, y_max = drawn.box
        pixel_x, pixel_y = 1.5 / SIZE[0], 1.5 / SIZE[1]

        assert xs.min() <= x_min + pixel_x
        assert ys.min() <= y_min + pixel_y
        assert xs.max() >= x_max - pixel_x
        assert ys.max() >= y_max - pixel_y


def test_an_outline_has_the_corners_of_its_class() -> None:
    corners = {drawn.label: len(drawn.outline) for _, drawn in of(range(40))}

    assert corners == {"square": 4, "triangle": 3, "circle": 32}


def test_the_outline_of_a_shape_that_nothing_hides_bounds_exactly_its_box() -> None:
    whole = [drawn for _, drawn in of(range(60)) if all(seen == 2 for *_, seen in drawn.extremes)]

    assert len(whole) > 40
    for drawn in whole:
        xs, ys = np.array(drawn.outline).T * np.array([SIZE]).T
        box = np.array(drawn.box) * [*SIZE, *SIZE]
        bounds = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        # Whole pixels on either side: a corner is a point, and a box ends after its last pixel.
        assert np.abs(np.clip(bounds, 0, [*SIZE, *SIZE]) - box).max() <= 2


def test_extremes_are_the_corners_furthest_up_right_down_and_left() -> None:
    for _, drawn in of(range(40)):
        top, right, bottom, left = ((x, y) for x, y, _ in drawn.extremes)
        xs, ys = np.array(drawn.outline).T

        assert {top, right, bottom, left} <= set(drawn.outline)
        assert (top[1], right[0], bottom[1], left[0]) == (ys.min(), xs.max(), ys.max(), xs.min())


def test_extreme_points_that_are_seen_have_one_colour_and_hidden_ones_another() -> None:
    seen, hidden = [], []
    for picture, drawn in of(range(150)):
        colours: dict[int, list[NDArray[np.int64]]] = {0: [], 1: [], 2: []}
        for x, y, state in drawn.extremes:
            colours[state].append(inwards(picture, drawn, (x, y)))
        own = np.median(colours[2], axis=0) if colours[2] else np.full(3, np.nan)
        seen += [np.abs(colour - own).max() for colour in colours[2]]
        hidden += [np.abs(colour - own).max() for colour in colours[1] if len(colours[2]) > 1]

    assert len(seen) > 1000
    assert len(hidden) > 20
    assert max(seen) <= NOISE
    assert min(hidden) > NOISE


def test_an_extreme_point_is_seen_hidden_or_outside() -> None:
    own = np.zeros((40, 60), np.bool_)
    own[10:30, 0:40] = True
    own[10:20, 30:40] = False  # Something lies over the right upper corner.
    corners = [(-4.0, 20.0), (20.0, 10.0), (39.0, 12.0), (20.0, 29.0)]

    top, right, bottom, left = _extremes(corners, own)

    assert top == (20 / 60, 10 / 40, 2)
    assert right == (39 / 60, 12 / 40, 1)
    assert bottom == (20 / 60, 29 / 40, 2)
    assert left == (-4 / 60, 20 / 40, 0)


def inwards(picture: Pixels, drawn: Drawn, point: tuple[float, float]) -> NDArray[np.int64]:
    """Return the colour a pixel and a half from a corner towards the middle of the shape."""
    middle, corner = np.mean(drawn.outline, axis=0) * SIZE, np.array(point) * SIZE
    column, row = corner + 1.5 * (middle - corner) / np.linalg.norm(middle - corner)
    colour: NDArray[np.int64] = picture[int(row), int(column)].astype(np.int64)
    return colour
