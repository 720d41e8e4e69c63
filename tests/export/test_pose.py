"""A pose network of a rectangle, from training to what comes back over MQTT."""

import numpy as np
import pytest

from agent.camera.scene import Drawn
from shared.detections import Detections, Object
from tests.export.overmqtt import compared, found_of, heard
from tests.export.project import Built, Site, say

pytestmark = [pytest.mark.export, pytest.mark.timeout(3600)]

SEED = 21
FRAMES = 40
FRAMES_COMPARED = 16
NEAR = 0.2  # Of the box's diagonal: two minutes of training are enough for that.
POINTS_NEAR_MIN = 0.4
BROKEN_MAX = 0.2
SHARE_MIN = 0.9


@pytest.fixture(scope="session")
def frames(site: Site, poser: Built) -> list[Detections]:
    return heard(site, poser, "poser", seed=SEED, frames=FRAMES)


def test_the_manifest_says_how_many_points_an_object_has(poser: Built) -> None:
    outputs = {output.name: output.shape for output in poser.manifest.outputs}

    assert poser.manifest.decode.keypoints == 4
    assert outputs["keypoints"] == (1, 300, 12)
    assert poser.sides == (160, 128)


def test_the_points_that_come_over_mqtt_are_where_they_were_drawn(
    poser: Built, frames: list[Detections]
) -> None:
    near = _near(poser, frames)
    swapped = _near(poser, frames, order=(1, 2, 3, 0))

    say(f"points within {NEAR} of the diagonal: {near:.3f}; each called another: {swapped:.3f}")
    assert near > POINTS_NEAR_MIN
    assert swapped < BROKEN_MAX


def test_ultralytics_says_the_same_of_its_folder(poser: Built, frames: list[Detections]) -> None:
    reached = compared(poser, frames[:FRAMES_COMPARED], seed=SEED)

    assert reached.pairs >= FRAMES_COMPARED
    assert reached.share > SHARE_MIN
    assert reached.keypoints_share is not None
    assert reached.keypoints_share > SHARE_MIN


def _near(
    poser: Built, frames: list[Detections], *, order: tuple[int, ...] = (0, 1, 2, 3)
) -> float:
    """Return which share of the points of objects that were found lies near their true place."""
    pairs = list(found_of(poser, frames, seed=SEED))
    near = sum(int((_distances(poser, *pair, order) < NEAR).sum()) for pair in pairs)
    assert len(pairs) > len(frames) / 2
    return near / (len(pairs) * len(order))


def _distances(poser: Built, found: Object, true: Drawn, order: tuple[int, ...]) -> np.ndarray:
    sides = np.array(poser.sides)
    points = np.array(found.keypoints)[list(order), :2] * sides
    places = np.array(true.extremes)[:, :2] * sides
    diagonal = np.linalg.norm((np.array(true.box[2:]) - true.box[:2]) * sides)
    return np.linalg.norm(points - places, axis=1) / diagonal
