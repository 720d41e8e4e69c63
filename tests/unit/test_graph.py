import io
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.decode.results import Decoded
from shared.decode.task import decoder_of
from shared.detections import Object
from shared.errors import LimitError, MalformedError
from shared.golden import agreement_permille, matches, read_golden
from shared.graph import Graph, Nms, multiclass_nms
from tests.tinygraph import LABELS, NETWORK_NAME, SIDE, manifest_of, tiny

NMS = Nms(score_threshold=0.25, iou_threshold=0.5, max_detections=300)
PICTURE = np.full((SIDE, SIDE, 3), 128, np.uint8)
Floats = NDArray[np.float32]


def tiny_with(lowered: str) -> bytes:
    graph = tiny()
    graph.metadata["imx_lowered"] = lowered
    return graph.graph()


def by_the_book(boxes: Floats, scores: Floats, nms: Nms) -> list[tuple[int, int]]:
    """Sony's definition in plain loops: (row, class) of what stays, best first."""
    candidates = [
        (-float(scores[row, class_]), row, class_)
        for row in range(scores.shape[0])
        for class_ in range(scores.shape[1])
        if scores[row, class_] > nms.score_threshold
    ]
    kept: list[tuple[int, int]] = []
    for _, row, class_ in sorted(candidates):
        rivals = (other for other, its in kept if its == class_)
        if all(overlap(boxes[other], boxes[row]) <= nms.iou_threshold for other in rivals):
            kept.append((row, class_))
    return kept[: nms.max_detections]


def overlap(one: Floats, other: Floats) -> float:
    width = max(0.0, float(min(one[2], other[2]) - max(one[0], other[0])))
    height = max(0.0, float(min(one[3], other[3]) - max(one[1], other[1])))
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 300))
def test_suppression_keeps_what_the_definition_keeps(seed: int, rows: int, most: int) -> None:
    random = np.random.default_rng(seed)
    corner = random.integers(0, 20, (rows, 2))
    sides = random.integers(1, 20, (rows, 2))
    boxes = np.hstack([corner, corner + sides]).astype(np.float32)
    scores = (random.integers(0, 257, (rows, 3)) / 256).astype(np.float32)  # As coarse: ties.
    nms = Nms(score_threshold=0.25, iou_threshold=0.5, max_detections=most)

    result = multiclass_nms(boxes, scores, nms)

    pairs = zip(result.rows.tolist(), result.labels.tolist(), strict=True)
    assert list(pairs) == by_the_book(boxes, scores, nms)
    assert np.array_equal(result.boxes, boxes[result.rows])


def test_suppression_of_everything_at_once_is_bounded() -> None:
    random = np.random.default_rng(1)
    corner = random.uniform(0, 600, (8400, 2))
    boxes = np.hstack([corner, corner + 5]).astype(np.float32)
    scores = np.full((8400, 80), 0.9, np.float32)

    assert len(multiclass_nms(boxes, scores, NMS).rows) == 300


def test_a_graph_gives_what_the_sensor_would() -> None:
    graph = Graph(tiny().graph())

    boxes, scores, labels, count = graph.run(PICTURE)

    assert graph.network_name == NETWORK_NAME
    assert graph.input_size == (SIDE, SIDE)
    assert [t.shape for t in (boxes, scores, labels, count)] == [
        (1, 300, 4), (1, 300), (1, 300), (1, 1),
    ]  # fmt: skip
    assert count[0, 0] == 2
    assert boxes[0, :3].tolist() == [[32, 16, 64, 48], [8, 8, 24, 24], [0, 0, 0, 0]]
    assert scores[0, :3].tolist() == [0.875, 0.75, 0.0]
    assert labels[0, :2].tolist() == [2, 0]


def test_a_number_that_is_none_stays_visible() -> None:
    bad = tiny()
    bad.boxes[0, 3, 0] = np.nan

    boxes, scores, *_ = Graph(bad.graph()).run(PICTURE)

    assert np.isnan(boxes).all()
    assert np.isnan(scores).all()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a graph",
        tiny().graph()[:200],
        tiny_with('{"nms":'),
        tiny_with('{"nms":{"score_threshold":0.1,"iou_threshold":0.5,"max_detections":301}}'),
    ],
)
def test_what_is_no_simulator_graph_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Graph(data)


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(MalformedError):
        Graph(tiny().graph()).run(np.zeros((SIDE, SIDE * 2, 3), np.uint8))


def golden_file(**arrays: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def golden_of(graph: Graph) -> bytes:
    outputs = {f"output_0_{k}": tensor for k, tensor in enumerate(graph.run(PICTURE))}
    return golden_file(input_0=PICTURE, **outputs)


def test_a_network_agrees_with_its_own_golden_set_and_another_does_not() -> None:
    graph = Graph(tiny().graph())
    moved = tiny()
    moved.boxes[0, 2] += 24
    decoder = decoder_of(manifest_of({}), LABELS, threshold=0.25)

    examples = read_golden(golden_of(graph), size=(SIDE, SIDE), outputs=4)

    assert agreement_permille(examples, run=graph.run, decode=decoder) == 1000
    assert agreement_permille(examples, run=Graph(moved.graph()).run, decode=decoder) == 500


def test_an_object_found_once_counts_once() -> None:
    thing = Object(label="circle", class_=0, score=0.9, box=(0.1, 0.1, 0.5, 0.5))

    assert matches(Decoded(objects=(thing, thing)), Decoded(objects=(thing,))) == 1
    assert matches(Decoded(objects=(thing,)), Decoded(objects=(thing, thing))) == 1


def test_a_golden_file_is_bounded_before_it_is_unpacked() -> None:
    huge = golden_file(input_0=np.zeros((13, 1024, 1024), np.uint8))
    many = golden_file(**{f"input_{i}": PICTURE for i in range(9)})

    assert len(huge) < 100_000
    for data in (huge, many):
        with pytest.raises(LimitError):
            read_golden(data, size=(SIDE, SIDE), outputs=4)


@pytest.mark.parametrize(
    "data",
    [
        b"no zip",
        golden_file(input_0=PICTURE),
        golden_file(input_0=PICTURE.astype(np.float32), output_0_0=PICTURE),
        golden_file(input_1=PICTURE, output_1_0=PICTURE),
    ],
)
def test_a_golden_file_of_something_else_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read_golden(data, size=(SIDE, SIDE), outputs=1)


def test_a_pickle_in_a_golden_file_is_not_opened() -> None:
    file = io.BytesIO()
    np.savez(file, input_0=np.array([sha256], dtype=object))

    with pytest.raises(MalformedError):
        read_golden(file.getvalue(), size=(SIDE, SIDE), outputs=1)
