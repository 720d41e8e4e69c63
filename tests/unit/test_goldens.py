import io
import time
import zipfile

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.export import goldens
from controller.export.goldens import TRIED_MAX, golden_of
from shared.decode.results import Tensors
from shared.decode.task import decoder_of
from shared.golden import GOLDEN_BYTES, INPUTS_MAX, agreement_permille, read_golden
from shared.graph import Graph, Nms
from shared.limits import FILE_BYTES
from tests.tinygraph import LABELS, SIDE, manifest_of, tiny

Pixels = NDArray[np.uint8]


def picture(level: int) -> Pixels:
    return np.full((SIDE, SIDE, 3), level, np.uint8)


class Chosen(Graph):
    """A graph that finds something in bright pictures only, and puts out as much as it is told."""

    def __init__(self, *, floats: int = 1) -> None:
        super().__init__(tiny().graph())
        self.floats = floats
        self.seen: list[int] = []

    def run(self, image: Pixels) -> Tensors:
        self.seen.append(int(image[0, 0, 0]))
        boxes, scores, *rest = super().run(image)
        found = scores if image[0, 0, 0] > 100 else np.zeros_like(scores)
        return (boxes, found, *rest, np.zeros((1, self.floats), np.float32))


def inputs(data: bytes) -> list[int]:
    examples = read_golden(data, size=(SIDE, SIDE), outputs=5)
    return [int(example.image[0, 0, 0]) for example in examples]


def test_a_golden_set_is_what_the_agent_reads_and_the_network_agrees_with() -> None:
    graph = Graph(tiny().graph())
    pictures = [picture(level) for level in (10, 200, 30)]

    data = golden_of(pictures, graph=graph, count=8)
    examples = read_golden(data, size=(SIDE, SIDE), outputs=4)

    assert len(examples) == 3
    for example, shown in zip(examples, pictures, strict=True):
        assert np.array_equal(example.image, shown)
        outputs = graph.run(shown)
        assert all(map(np.array_equal, example.outputs, outputs))
        assert [t.dtype for t in example.outputs] == [t.dtype for t in outputs]
    decoder = decoder_of(manifest_of({}), LABELS, threshold=0.25)
    assert agreement_permille(examples, run=graph.run, decode=decoder) == 1000
    moved = tiny()
    moved.boxes[0, 2] += 24
    other = Graph(moved.graph())
    assert agreement_permille(examples, run=other.run, decode=decoder) < 1000


def test_pictures_with_objects_come_first_and_empty_ones_only_in_want_of_them() -> None:
    levels = (1, 101, 2, 102, 3)

    def chosen(count: int) -> list[int]:
        return inputs(golden_of(map(picture, levels), graph=Chosen(), count=count))

    assert chosen(2) == [101, 102]
    assert chosen(3) == [101, 102, 1]


def test_no_more_pictures_are_looked_at_than_are_needed_or_bearable() -> None:
    enough, never = Chosen(), Chosen()

    golden_of((picture(101 + i) for i in range(9)), graph=enough, count=2)
    golden_of((picture(1) for _ in range(TRIED_MAX + 9)), graph=never, count=2)

    assert enough.seen == [101, 102]
    assert len(never.seen) == TRIED_MAX


def test_a_golden_set_has_no_more_examples_than_an_agent_takes() -> None:
    data = golden_of((picture(101) for _ in range(20)), graph=Chosen(), count=20)

    assert len(inputs(data)) == INPUTS_MAX


def test_what_would_unpack_to_too_much_is_left_out() -> None:
    third = GOLDEN_BYTES // 4 // 3
    pictures = [picture(101 + number) for number in range(4)]

    data = golden_of(pictures, graph=Chosen(floats=third), count=4)

    assert inputs(data) == [101, 102]  # Two thirds and the rest of the tensors; three are too many.
    assert golden_of(pictures, graph=Chosen(floats=GOLDEN_BYTES), count=4) == b""


def test_what_does_not_compress_far_enough_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1)
    pictures = [noise.integers(101, 256, (SIDE, SIDE, 3), np.uint8) for _ in range(4)]
    whole = golden_of(pictures, graph=Chosen(), count=4)
    assert len(whole) < FILE_BYTES

    monkeypatch.setattr(goldens, "FILE_BYTES", len(whole) - 1)

    assert len(inputs(golden_of(pictures, graph=Chosen(), count=4))) == 3


class Guessing(Graph):
    """A classifier's graph: no NMS, and one output tensor."""

    def __init__(self) -> None:
        classifier = tiny()
        classifier.metadata["imx_lowered"] = "{}"
        super().__init__(classifier.graph())

    def run(self, image: Pixels) -> Tensors:
        return super().run(image)[1:]


def test_a_classifier_s_pictures_all_count() -> None:
    data = golden_of(map(picture, (1, 2, 101)), graph=Guessing(), count=2)

    examples = read_golden(data, size=(SIDE, SIDE), outputs=1)
    assert [int(example.image[0, 0, 0]) for example in examples] == [1, 2]


def test_without_pictures_there_is_no_golden_set() -> None:
    assert golden_of([], graph=Chosen(), count=4) == b""


def test_the_same_pictures_are_the_same_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [picture(101), picture(102)]
    first = golden_of(pictures, graph=Chosen(), count=2)
    monkeypatch.setattr(
        time, "localtime", lambda *_: time.struct_time((2030, 1, 2, 3, 4, 6, 0, 0, 0))
    )

    assert golden_of(pictures, graph=Chosen(), count=2) == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_padding_costs_next_to_nothing() -> None:
    data = golden_of([picture(101)], graph=Chosen(floats=100_000), count=1)

    assert len(data) < 5_000


def test_a_threshold_for_measuring_lets_the_doubtful_through() -> None:
    data = tiny().graph()  # With one object below its threshold, and one that is suppressed.
    usual, measuring = Graph(data), Graph(data, score_threshold=0.001)

    assert measuring.nms == Nms(score_threshold=0.001, iou_threshold=0.7, max_detections=300)
    assert usual.nms == Nms(score_threshold=0.25, iou_threshold=0.7, max_detections=300)
    assert usual.run(picture(1))[3] == 2
    assert measuring.run(picture(1))[3] == 3
