"""What a simulated camera says over MQTT, beside what Ultralytics says of the same pictures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.camera.scene import Drawn, draw
from agent.camera.wire import Simulation
from benchmarks.export.agreement import Agreement, Seen, agreement
from benchmarks.export.matrix import _seen, _theirs, _ultralytics
from shared.detections import Detections, Object
from tests.export.project import Built, Site, say

THRESHOLD = 0.25


def heard(site: Site, built: Built, device: str, *, seed: int, frames: int) -> list[Detections]:
    """Roll the release out to one simulated camera; return what it says."""
    say("rolling it out")
    site.start_agent(device, Simulation(seed=seed))
    site.roll_out(built.manifest.release, selector=f"task={built.manifest.task}")
    said = site.frames(device, frames)
    site.stop_agents()
    return said


def compared(built: Built, frames: Sequence[Detections], *, seed: int) -> Agreement:
    """Return how the messages agree with Ultralytics on the folder that the build kept."""
    size = np.array(built.sides, np.float64)
    pictures = [draw(seed, frame.frame, built.sides)[0] for frame in frames]
    ours = [[_seen(one, size) for one in objects_of(frame)] for frame in frames]
    theirs: list[list[Seen]] = [
        [_theirs(one) for one in answer] for answer in _ultralytics(built.folder, pictures)
    ]
    reached = agreement(ours, theirs, threshold=THRESHOLD)
    say(f"MQTT and Ultralytics: {reached}")
    return reached


def objects_of(frame: Detections) -> tuple[Object, ...]:
    assert isinstance(frame.objects, tuple)
    return frame.objects


def truth_of(
    built: Built, frame: Detections, *, seed: int
) -> tuple[NDArray[np.uint8], list[Drawn]]:
    picture, truth = draw(seed, frame.frame, built.sides)
    return picture, list(truth)
