"""A segmentation network, from training to the masks that come back over MQTT."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from agent.camera.scene import Drawn
from shared.detections import Detections, Object
from tests.export.overmqtt import compared, found_of, heard
from tests.export.project import Built, Site, say

pytestmark = [
    pytest.mark.export,
    pytest.mark.timeout(3600),
    # pycocotools 2.0 says it of itself with NumPy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SEED = 31
FRAMES = 40
FRAMES_COMPARED = 16
OVERLAP_MIN = 0.5  # Masks have a quarter of the picture's pixels each way, and little training.
BROKEN_MAX = 0.3
SHARE_MIN = 0.9
MASK_IOU_MIN = 0.95


@pytest.fixture(scope="session")
def frames(site: Site, cutter: Built) -> list[Detections]:
    return heard(site, cutter, "cutter", seed=SEED, frames=FRAMES)


def test_the_manifest_says_what_the_network_puts_out(cutter: Built) -> None:
    outputs = {output.name: output.shape for output in cutter.manifest.outputs}

    assert cutter.sides == (128, 160)
    assert outputs["coefficients"] == (1, 300, 32)
    assert outputs["protos"] == (1, 32, 40, 32)


def test_the_masks_that_come_over_mqtt_are_the_shapes_that_were_drawn(
    cutter: Built, frames: list[Detections]
) -> None:
    overlap = _overlap(cutter, frames)
    turned = _overlap(cutter, frames, is_turned=True)

    say(f"masks and the drawn shapes: mean IoU {overlap:.3f}; turned over {turned:.3f}")
    assert overlap > OVERLAP_MIN
    assert turned < BROKEN_MAX


def test_ultralytics_says_the_same_of_its_folder(cutter: Built, frames: list[Detections]) -> None:
    reached = compared(cutter, frames[:FRAMES_COMPARED], seed=SEED)

    assert reached.pairs >= FRAMES_COMPARED
    assert reached.share > SHARE_MIN
    assert reached.mask_iou is not None
    assert reached.mask_iou > MASK_IOU_MIN


def _overlap(cutter: Built, frames: list[Detections], *, is_turned: bool = False) -> float:
    """Return how much the masks of objects that were found overlap with their true shapes."""
    overlaps = []
    for best, true in found_of(cutter, frames, seed=SEED):
        mask = _mask(best)
        overlaps.append(_iou(mask[::-1] if is_turned else mask, _drawn(true, mask.shape)))
    assert len(overlaps) > len(frames) / 2
    return float(np.mean(overlaps))


def _mask(found: Object) -> NDArray[np.bool_]:
    assert found.mask is not None
    height, width = found.mask.size
    return coco.decode({"size": [height, width], "counts": found.mask.counts}).astype(bool)


def _drawn(true: Drawn, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    height, width = shape
    picture = Image.new("1", (width, height))
    corners = [(x * width - 0.5, y * height - 0.5) for x, y in true.outline]
    ImageDraw.Draw(picture).polygon(corners, fill=1)
    return np.asarray(picture)


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))
