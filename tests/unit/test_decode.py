import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.decode.classify import decode_classify
from shared.decode.detect import decode_detect
from shared.decode.pose import decode_pose
from shared.decode.results import Decoded, Tensors

LABELS = ("circle", "square", "triangle")
ROWS = 300
Row = tuple[tuple[float, float, float, float], float, int]


def tensors(rows: list[Row], *, count: float | None = None) -> Tensors:
    """What the sensor puts out: valid rows first, zeros after."""
    boxes = np.zeros((1, ROWS, 4), np.float32)
    scores, classes = np.zeros((1, ROWS), np.float32), np.zeros((1, ROWS), np.int32)
    for index, (box, score, class_) in enumerate(rows):
        boxes[0, index], scores[0, index], classes[0, index] = box, score, class_
    return boxes, scores, classes, np.array([[len(rows) if count is None else count]], np.float32)


def decode(given_tensors: Tensors, *, threshold: float = 0.25) -> Decoded:
    return decode_detect(given_tensors, size=(320, 160), labels=LABELS, threshold=threshold)


def modlib(given_tensors: Tensors, size: int) -> tuple[NDArray[np.float32], ...]:
    """What modlib's pp_od_yolo_ultralytics gives, by its definition: the first n rows, scaled."""
    boxes, scores, classes, count = (tensor.squeeze() for tensor in given_tensors)
    n = int(count)
    return boxes[:n] / size, scores[:n], classes[:n].astype(np.uint16)


def test_boxes_are_normalised_by_width_and_height_and_come_best_first() -> None:
    rows: list[Row] = [((32, 16, 160, 80), 0.5, 2), ((0, 0, 320, 160), 0.75, 0)]

    objects = decode(tensors(rows)).objects or ()

    assert [(o.label, o.class_, o.score, o.box) for o in objects] == [
        ("circle", 0, 0.75, (0.0, 0.0, 1.0, 1.0)),
        ("triangle", 2, 0.5, (0.1, 0.1, 0.5, 0.5)),
    ]


def test_nothing_seen_is_an_empty_list_without_problems() -> None:
    assert decode(tensors([])) == Decoded(objects=())


def test_a_batch_of_one_may_be_missing_as_on_the_sensor() -> None:
    rows: list[Row] = [((32, 16, 160, 80), 0.5, 2)]
    squeezed = tuple(tensor.squeeze() for tensor in tensors(rows))
    fortran = (np.asfortranarray(squeezed[0]), *squeezed[1:])

    assert decode(squeezed) == decode(tensors(rows))
    assert decode(fortran) == decode(tensors(rows))


rows_of_any_kind = st.lists(
    st.tuples(
        st.tuples(*[st.floats(-50, 400, width=32)] * 4),
        st.floats(0, 1, width=32),
        st.integers(0, len(LABELS) - 1),
    ),
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(rows_of_any_kind)
def test_values_equal_modlibs_but_for_boxes_cut_at_the_edge(rows: list[Row]) -> None:
    given_tensors = tensors(rows)
    boxes, scores, classes = modlib(given_tensors, 320)

    decoded = decode_detect(given_tensors, size=(320, 320), labels=LABELS, threshold=0.0)

    order = np.argsort(-scores, kind="stable")
    objects = decoded.objects or ()
    assert [o.class_ for o in objects] == classes[order].tolist()
    assert np.allclose([o.score for o in objects], scores[order], atol=5.1e-4)
    cut = np.clip(boxes[order], 0, 1).reshape(-1, 4)
    assert np.allclose(np.array([o.box for o in objects]).reshape(-1, 4), cut, atol=5.1e-5)


@settings(max_examples=100, deadline=None)
@given(rows_of_any_kind, st.floats(0, 1))
def test_what_comes_out_is_sorted_above_the_threshold_and_inside(
    rows: list[Row], threshold: float
) -> None:
    objects = decode(tensors(rows), threshold=threshold).objects or ()

    scores = [o.score for o in objects]
    assert scores == sorted(scores, reverse=True)
    assert len(objects) == sum(float(np.float32(score)) >= threshold for _, score, _ in rows)
    assert all(0 <= side <= 1 for o in objects for side in o.box)


def test_values_that_no_network_may_give_are_named_and_show_no_object() -> None:
    good: list[Row] = [((0, 0, 10, 10), 0.9, 0)]
    spoilt = [np.array(tensor) for tensor in tensors(good)]
    spoilt[0][0, 299, 3] = np.nan  # Beyond the valid rows: garbage all the same.

    cases = {
        decode(tuple(spoilt)).problems: ("not_finite",),
        decode(tensors([((0, 0, 1, 1), np.inf, 0)])).problems: ("not_finite",),
        decode(tensors([((0, 0, 1, 1), 0.9, 3)])).problems: ("class_out_of_range",),
        decode(tensors([((0, 0, 1, 1), 0.9, -1)])).problems: ("class_out_of_range",),
        decode(tensors(good, count=301)).problems: ("count_out_of_range",),
        decode(tensors(good, count=-1)).problems: ("count_out_of_range",),
        decode(tensors(good, count=np.nan)).problems: ("count_out_of_range",),
        decode(tensors(good)[:3]).problems: ("shapes",),
    }

    assert all(got == expected for got, expected in cases.items())
    assert decode(tensors(good, count=301)).objects == ()


def test_a_full_frame_is_no_problem() -> None:
    rows: list[Row] = [((0, 0, 10, 10), 0.9, 0)] * ROWS

    assert len(decode(tensors(rows)).objects or ()) == ROWS


def test_more_objects_than_any_network_may_give_are_refused() -> None:
    boxes, scores = np.zeros((1, 301, 4), np.float32), np.full((1, 301), 0.9, np.float32)
    classes, count = np.zeros((1, 301), np.float32), np.array([301], np.float32)
    points = np.zeros((1, 301, 2), np.float32)

    found = decode((boxes, scores, classes, count))
    posed = decode_pose(
        (boxes, scores, classes, points), keypoints=1, size=(320, 160), labels=LABELS, threshold=0.0
    )

    assert found == posed == Decoded(objects=(), problems=("count_out_of_range",))
    assert len(decode((boxes, scores, classes, count - 1)).objects or ()) == 300


def test_classes_come_best_first_at_most_five_above_the_threshold() -> None:
    labels = tuple(f"label-{i}" for i in range(8))
    scores = np.array([[0.01, 0.3, 0.05, 0.04, 0.4, 0.06, 0.07, 0.07]], np.float32)

    best = decode_classify((scores,), labels=labels, threshold=0.0).classes or ()
    sure = decode_classify((scores,), labels=labels, threshold=0.3).classes or ()

    assert [(c.label, c.class_, c.score) for c in best[:2]] == [
        ("label-4", 4, 0.4),
        ("label-1", 1, 0.3),
    ]
    assert len(best) == 5
    assert [c.class_ for c in sure] == [4, 1]


def test_a_classifier_with_bad_values_has_a_problem() -> None:
    nan = np.array([[np.nan, 0.1, 0.2]], np.float32)

    assert decode_classify((nan,), labels=LABELS, threshold=0.0).problems == ("not_finite",)
    assert decode_classify((nan[:, :2],), labels=LABELS, threshold=0.0).problems == ("shapes",)
