"""Our decoders against modlib's own post-processors, on random, drawn and recorded tensors.

The oracle is the real modlib (`make test-twin`), called with the network's input size: its default
is 640. What is allowed to differ stands at each test, and nothing else may.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.camera.scene import draw
from shared.decode.classify import CLASSES_MAX, decode_classify
from shared.decode.detect import decode_detect
from shared.decode.pose import decode_pose
from shared.decode.results import Decoded, Tensors
from shared.decode.rle import decode_mask
from shared.decode.segment import decode_segment
from shared.detections import Object
from shared.graph import Graph

pytestmark = [pytest.mark.twin, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
LABELS = tuple(f"class {number}" for number in range(80))
ROWS = 300
SIZES = (64, 320, 640)
STEP, SCORE_STEP = 5.1e-5, 5.1e-4  # Half of what our numbers are rounded to, and float32's share.
HERE = Path(__file__).parent
SHAPES = HERE.parents[1] / "examples" / "shapes"
Floats = NDArray[np.float32]
seeds = st.integers(0, 2**32 - 1)


def best_first(seed: int, rows: int, size: int) -> tuple[Floats, Floats, Floats]:
    """Return boxes, scores and classes as the sensor's NMS leaves them; the rest is padding."""
    random = np.random.default_rng(seed)
    boxes, scores, classes = (np.zeros((ROWS, *rest), np.float32) for rest in ((4,), (), ()))
    corner = random.uniform(-0.1, 0.9, (rows, 2)) * size
    boxes[:rows] = np.hstack([corner, corner + random.uniform(0, 0.6, (rows, 2)) * size])
    scores[:rows] = np.sort(random.uniform(0.01, 1, rows))[::-1]
    classes[:rows] = random.integers(0, len(LABELS), rows)
    return boxes, scores, classes


def check_boxes(found: tuple[Object, ...], boxes: Floats, scores: Floats) -> None:
    ours = np.array([one.box for one in found]).reshape(-1, 4)
    assert np.allclose(ours, np.clip(boxes, 0, 1), rtol=0, atol=STEP)
    assert np.allclose([one.score for one in found], scores, rtol=0, atol=SCORE_STEP)


def check_detect(tensors: Tensors, size: int, labels: tuple[str, ...] = LABELS) -> int:
    from modlib.models.post_processors import pp_od_yolo_ultralytics  # noqa: PLC0415

    squeezed = [np.squeeze(np.array(one, np.float32)) for one in tensors]
    theirs = pp_od_yolo_ultralytics(squeezed, input_tensor_sz=size)

    ours = decode_detect(tensors, size=(size, size), labels=labels, threshold=0.0)

    assert not ours.problems
    found = ours.objects or ()
    check_boxes(found, theirs.bbox, theirs.confidence)
    assert [one.class_ for one in found] == theirs.class_id.tolist()
    return len(found)


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(0, ROWS), st.sampled_from(SIZES))
def test_a_detectors_values_are_modlibs_but_for_boxes_cut_at_the_edge(
    seed: int, rows: int, size: int
) -> None:
    tensors = (*best_first(seed, rows, size), np.array([rows], np.float32))

    assert check_detect(tensors, size) == rows


def test_what_a_real_network_sees_in_drawn_scenes_has_modlibs_values() -> None:
    for folder in ("first", "second"):
        graph = Graph((SHAPES / folder / "simulator.onnx").read_bytes())
        assert graph.input_size is not None
        width, height = graph.input_size
        assert width == height
        found = 0
        for seed in range(6):
            tensors = graph.run(draw(seed, 40, (width, height))[0])
            found += check_detect(tensors, width, ("circle", "square", "triangle"))
        assert found > 12, folder


def test_what_modlib_recorded_comes_out_as_it_recorded_it() -> None:
    frames = json.loads((HERE / "recordings" / "tea.json").read_text())
    assert len(frames) == 80
    for frame in frames:
        boxes, scores, classes = (np.zeros((ROWS, *rest), np.float32) for rest in ((4,), (), ()))
        number = len(frame["confidence"])
        boxes[:number] = np.array(frame["bbox"]).reshape(-1, 4) * 640
        scores[:number], classes[:number] = frame["confidence"], frame["class_id"]
        count = np.array([number], np.float32)
        decoded = decode_detect(
            (boxes, scores, classes, count), size=(640, 640), labels=LABELS, threshold=0.0
        )

        found = decoded.objects or ()

        assert number > 0
        assert [one.class_ for one in found] == frame["class_id"]
        check_boxes(found, np.array(frame["bbox"]), np.array(frame["confidence"]))


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(0, ROWS), st.sampled_from(SIZES), st.sampled_from((1, 4, 17)))
def test_keypoints_are_modlibs_but_for_points_at_the_edge_and_padding(
    seed: int, rows: int, size: int, keypoints: int
) -> None:
    from modlib.models.post_processors import pp_yolo_pose_ultralytics  # noqa: PLC0415

    boxes, scores, classes = best_first(seed, rows, size)
    random = np.random.default_rng(seed)
    points = random.uniform(-0.1, 1.1, (ROWS, keypoints, 3)).astype(np.float32)
    points[..., :2] *= size
    points[..., 2] = random.uniform(0, 1, points.shape[:2])
    flat = points.reshape(ROWS, -1)
    theirs = pp_yolo_pose_ultralytics([boxes, scores, classes, flat.copy()], size, keypoints)

    ours = decode_pose(
        (boxes, scores, classes, flat),
        keypoints=keypoints,
        size=(size, size),
        labels=LABELS,
        threshold=0.0,
    )

    found = ours.objects or ()
    assert len(found) == rows
    check_boxes(found, theirs.bbox[:rows], theirs.confidence[:rows])
    got = np.array([one.keypoints for one in found]).reshape(-1, keypoints, 3)
    places = np.clip(theirs.keypoints[:rows], 0, 1)
    assert np.allclose(got[..., :2], places, rtol=0, atol=STEP)
    assert np.allclose(got[..., 2], theirs.keypoint_scores[:rows], rtol=0, atol=SCORE_STEP)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 60), st.sampled_from((64, 320)))
def test_masks_are_modlibs_but_for_pixels_that_a_boxs_left_and_upper_side_cut(
    seed: int, rows: int, size: int
) -> None:
    from modlib.models.post_processors import pp_yolo_segment_ultralytics  # noqa: PLC0415

    boxes, scores, classes = best_first(seed, rows, size)
    random = np.random.default_rng(seed)
    coefficients = random.normal(size=(ROWS, 32)).astype(np.float32)
    prototypes = random.normal(size=(32, size // 4, size // 4)).astype(np.float32)
    tensors = (boxes, scores, classes, coefficients, prototypes)
    theirs = pp_yolo_segment_ultralytics(list(tensors), size, ROWS)

    ours = decode_segment(tensors, size=(size, size), labels=LABELS, threshold=0.0)

    found = ours.objects or ()
    assert len(found) == len(theirs.confidence) == rows
    check_boxes(found, theirs.bbox, theirs.confidence)
    assert [one.class_ for one in found] == theirs.class_id.tolist()
    masks = np.array([decode_mask(one.mask) for one in found if one.mask is not None])
    differ = masks != (theirs.mask.astype(np.bool_) & is_inside(boxes[:rows], size))
    logits = np.tensordot(coefficients[:rows].astype(np.float64), prototypes, axes=1)
    assert not (differ & (np.abs(logits) > 1e-4)).any(), "but for products next to zero"
    assert masks.any() or rows < 10


def is_inside(boxes: Floats, size: int) -> NDArray[np.bool_]:
    """Say for every pixel of the masks whether it begins inside of its box, as Ultralytics asks."""
    y, x = np.mgrid[0 : size // 4, 0 : size // 4]
    left, top, right, bottom = (boxes.T / 4)[:, :, None, None]
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(2, 1000))  # modlib itself fails on one class.
def test_guesses_are_the_first_of_modlibs(seed: int, number: int) -> None:
    from modlib.models.post_processors import pp_cls  # noqa: PLC0415

    logits = np.random.default_rng(seed).normal(size=number) * 3
    softmax = (np.exp(logits) / np.exp(logits).sum()).astype(np.float32)[None]
    labels = tuple(f"{class_}" for class_ in range(number))
    theirs = pp_cls([softmax.reshape(-1)])

    ours: Decoded = decode_classify((softmax,), labels=labels, threshold=0.0)

    best = ours.classes or ()
    assert len(best) == min(number, CLASSES_MAX)
    assert np.allclose([c.score for c in best], theirs.confidence[: len(best)], atol=SCORE_STEP)
    for one, rank in zip(best, range(len(best)), strict=True):
        assert softmax[0, one.class_] == softmax[0, theirs.class_id[rank]]  # Equals change places.
