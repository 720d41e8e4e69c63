"""Our decoders against Ultralytics' own functions, on values that no network needs to make."""

import os

import numpy as np
import pytest

from shared.decode.pose import decode_pose
from shared.decode.rle import decode_mask
from shared.decode.segment import decode_segment

pytestmark = [
    pytest.mark.export,
    pytest.mark.filterwarnings("ignore"),  # Of torch, which Ultralytics imports.
]
SIZE = WIDTH, HEIGHT = 320, 192
FOUND, ROWS = 40, 300


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name, value in (("AUTOINSTALL", "False"), ("OFFLINE", "True"), ("CONFIG_DIR", tmp_path)):
        monkeypatch.setenv(f"YOLO_{name}", os.fspath(value) if name == "CONFIG_DIR" else str(value))


def boxes_and_scores(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    corner = random.uniform(-20, 1, (FOUND, 2)) + random.uniform(0, 1, (FOUND, 2)) * SIZE
    boxes, scores = np.zeros((1, ROWS, 4), np.float32), np.zeros((1, ROWS), np.float32)
    boxes[0, :FOUND] = np.hstack([corner, corner + random.uniform(2, 200, (FOUND, 2))])
    boxes[0, : FOUND // 2] = np.round(boxes[0, : FOUND // 2] / 4) * 4  # Edges on a mask's pixels.
    scores[0, :FOUND] = np.sort(random.uniform(0.3, 1, FOUND))[::-1]
    return boxes, scores, np.zeros((1, ROWS), np.int32)


def test_masks_are_those_of_ultralytics_process_mask() -> None:
    import torch  # noqa: PLC0415 - Only the export environment has these.
    from ultralytics.utils.ops import process_mask  # noqa: PLC0415

    random = np.random.default_rng(1)
    boxes, scores, classes = boxes_and_scores(random)
    coefficients = random.normal(size=(1, ROWS, 32)).astype(np.float32)
    prototypes = random.normal(size=(1, 32, HEIGHT // 4, WIDTH // 4)).astype(np.float32)
    given = [torch.from_numpy(one[0]) for one in (prototypes, coefficients, boxes)]
    expected = process_mask(given[0], given[1][:FOUND], given[2][:FOUND], (HEIGHT, WIDTH)).numpy()

    decoded = decode_segment(
        (boxes, scores, classes, coefficients, prototypes), size=SIZE, labels=("a",), threshold=0.25
    )

    found = np.array([decode_mask(o.mask) for o in decoded.objects or () if o.mask is not None])
    assert found.shape == expected.shape
    assert 0.02 < found.mean() < 0.5
    # Two products of float32 may round a value next to zero to either side of it.
    assert np.count_nonzero(found != expected.astype(np.bool_)) <= 2


@pytest.mark.parametrize("numbers", [2, 3])
def test_keypoints_are_those_of_ultralytics_scale_coords(numbers: int) -> None:
    import torch  # noqa: PLC0415
    from ultralytics.utils.ops import scale_coords  # noqa: PLC0415

    random = np.random.default_rng(2)
    boxes, scores, classes = boxes_and_scores(random)
    points = np.zeros((1, ROWS, 5, numbers), np.float32)
    points[0, :FOUND] = random.uniform(-30, 350, (FOUND, 5, numbers))
    points[..., 2:] = random.uniform(0, 1, points[..., 2:].shape)
    shape = (HEIGHT, WIDTH)
    expected = scale_coords(shape, torch.from_numpy(points[0, :FOUND].copy()), shape).numpy()
    expected[..., :2] /= SIZE
    flat = points.reshape(1, ROWS, -1)

    decoded = decode_pose(
        (boxes, scores, classes, flat), keypoints=5, size=SIZE, labels=("a",), threshold=0.25
    )

    found = np.array([thing.keypoints for thing in decoded.objects or ()])
    assert np.allclose(found[..., :2], expected[..., :2], atol=5.1e-5)
    if numbers == 3:
        assert np.allclose(found[..., 2], expected[..., 2], atol=5.1e-4)
