import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.decode.pose import decode_pose
from shared.decode.results import Decoded, Tensors

LABELS = ("circle", "square")
ROWS, POINTS = 300, 4
SIZE = (320, 160)


def tensors(*, rows: int, numbers: int = 3, seed: int = 0) -> Tensors:
    """What the sensor puts out: valid rows first, best first, zeros after; no number of them."""
    random = np.random.default_rng(seed)
    boxes, scores = np.zeros((1, ROWS, 4), np.float32), np.zeros((1, ROWS), np.float32)
    classes = np.zeros((1, ROWS), np.int32)
    points = np.zeros((1, ROWS, POINTS * numbers), np.float32)
    boxes[0, :rows] = random.uniform(0, 160, (rows, 4))
    scores[0, :rows] = np.sort(random.uniform(0.3, 1, rows))[::-1]
    classes[0, :rows] = random.integers(0, len(LABELS), rows)
    places = random.uniform(-20, 340, (rows, POINTS, numbers))
    places[..., 2:] = random.uniform(0, 1, places[..., 2:].shape)
    points[0, :rows] = places.reshape(rows, POINTS * numbers)
    return boxes, scores, classes, points


def decode(given_tensors: Tensors, *, threshold: float = 0.25, keypoints: int = POINTS) -> Decoded:
    return decode_pose(
        given_tensors, keypoints=keypoints, size=SIZE, labels=LABELS, threshold=threshold
    )


def changed(given_tensors: Tensors, index: int, place: tuple[int, ...], value: float) -> Tensors:
    spoilt = [np.array(tensor) for tensor in given_tensors]
    spoilt[index][place] = value
    return tuple(spoilt)


def modlib(points: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """What modlib's pp_yolo_pose_ultralytics gives, by its definition."""
    keypoints = np.array(points).reshape(points.shape[0], POINTS, 3)
    keypoints[:, :, 0] /= size
    keypoints[:, :, 1] /= size
    return keypoints


def test_keypoints_are_normalised_by_width_and_height_each_with_its_score() -> None:
    given_tensors = tensors(rows=2)
    given_tensors[3][0, 1, :6] = [160, 40, 0.5, 0, 160, 0.25]

    objects = decode(given_tensors).objects or ()

    assert len(objects) == 2
    assert objects[1].keypoints is not None
    assert objects[1].keypoints[:2] == ((0.5, 0.25, 0.5), (0.0, 1.0, 0.25))
    assert all(len(thing.keypoints or ()) == POINTS for thing in objects)


def test_keypoints_go_with_the_row_of_their_object_in_any_order() -> None:
    given_tensors = tensors(rows=3)
    order = [2, 0, 1, *range(3, ROWS)]
    shuffled = tuple(tensor[:, order] for tensor in given_tensors)

    assert decode(shuffled) == decode(given_tensors)


def test_where_the_network_scores_no_keypoint_its_score_is_one() -> None:
    objects = decode(tensors(rows=3, numbers=2)).objects or ()

    assert {point[2] for thing in objects for point in thing.keypoints or ()} == {1.0}
    assert len({point[:2] for thing in objects for point in thing.keypoints or ()}) > 6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_values_equal_modlibs_but_for_what_is_cut(seed: int, rows: int) -> None:
    given_tensors = tensors(rows=rows, seed=seed)
    expected = modlib(given_tensors[3][0].astype(np.float32), 320)[:rows]

    objects = decode_pose(
        given_tensors, keypoints=POINTS, size=(320, 320), labels=LABELS, threshold=0.0
    ).objects

    got = np.array([thing.keypoints for thing in objects or ()]).reshape(-1, POINTS, 3)
    assert np.allclose(got[..., :2], np.clip(expected[..., :2], 0, 1), atol=5.1e-5)
    assert np.allclose(got[..., 2], expected[..., 2], atol=5.1e-4)


def test_a_batch_of_one_may_be_missing_and_columns_may_come_first_as_on_the_sensor() -> None:
    given_tensors = tensors(rows=5)
    squeezed = tuple(np.asfortranarray(tensor[0]) for tensor in given_tensors)

    assert decode(squeezed) == decode(given_tensors)


def test_padding_is_no_object_even_where_everything_is_wanted() -> None:
    assert decode(tensors(rows=0), threshold=0.0) == Decoded(objects=())
    assert len(decode(tensors(rows=7), threshold=0.0).objects or ()) == 7
    assert len(decode(tensors(rows=ROWS), threshold=0.0).objects or ()) == ROWS


def test_only_what_reaches_the_threshold_comes_out_best_first() -> None:
    scores = [thing.score for thing in decode(tensors(rows=50), threshold=0.6).objects or ()]

    assert scores == sorted(scores, reverse=True)
    assert len(scores) == int((tensors(rows=50)[1] >= 0.6).sum())


@pytest.mark.parametrize(
    ("spoilt", "problem"),
    [
        (changed(tensors(rows=2), 3, (0, 299, 0), np.nan), "not_finite"),
        (changed(tensors(rows=2), 0, (0, 0, 0), np.inf), "not_finite"),
        (changed(tensors(rows=2), 2, (0, 1), 2), "class_out_of_range"),
        (changed(tensors(rows=2), 2, (0, 1), -1), "class_out_of_range"),
        (tensors(rows=2)[:3], "shapes"),
        ((), "shapes"),
        ((*tensors(rows=2)[:3], np.zeros((1, ROWS, POINTS), np.float32)), "shapes"),
        ((*tensors(rows=2)[:3], np.zeros((1, ROWS - 1, 3 * POINTS), np.float32)), "shapes"),
        ((*tensors(rows=2)[:3], np.zeros((1, 3 * POINTS, ROWS), np.float32)), "shapes"),
        ((*tensors(rows=2)[:3], np.array(0.0)), "shapes"),
        ((*tensors(rows=2)[:2], np.zeros((1, 7), np.int32), tensors(rows=2)[3]), "shapes"),
        (tuple(tensor[:, :0] for tensor in tensors(rows=2)), "shapes"),
        ((tensors(rows=2)[0][:, :9], *tensors(rows=2)[1:]), "shapes"),
    ],
)
def test_values_that_no_network_may_give_are_named_and_show_no_object(
    spoilt: Tensors, problem: str
) -> None:
    assert decode(spoilt) == Decoded(objects=(), problems=(problem,))


def test_another_number_of_keypoints_than_the_manifest_says_is_a_problem() -> None:
    assert decode(tensors(rows=2), keypoints=5).problems == ("shapes",)
    assert decode(tensors(rows=2), keypoints=0).problems == ("shapes",)


def test_the_class_of_padding_means_nothing() -> None:
    assert decode(changed(tensors(rows=2), 2, (0, 2), 77)).problems == ()
