"""What a simulated camera says over MQTT, beside what Ultralytics says of the same pictures."""

from collections.abc import Iterator, Sequence

import numpy as np

from agent.camera.scene import Drawn, draw
from agent.camera.wire import Simulation
from benchmarks.export.agreement import Agreement, agreement
from benchmarks.export.matrix import seen_of, ultralytics_sees
from shared.detections import Detections, Object
from shared.golden import iou
from tests.export.project import Built, Site, say

THRESHOLD = 0.25
OVERLAP_MIN = 0.5  # Of boxes, to be the same object.


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
    ours = [[seen_of(one, size) for one in objects_of(frame)] for frame in frames]
    theirs = ultralytics_sees(built.folder, pictures)
    reached = agreement(ours, theirs, threshold=THRESHOLD)
    say(f"MQTT and Ultralytics: {reached}")
    return reached


def objects_of(frame: Detections) -> tuple[Object, ...]:
    assert isinstance(frame.objects, tuple)
    return frame.objects


def found_of(
    built: Built, frames: Sequence[Detections], *, seed: int
) -> Iterator[tuple[Object, Drawn]]:
    """Yield each true object that was found: what was seen, and what was drawn."""
    for frame in frames:
        _, truth = draw(seed, frame.frame, built.sides)
        for true in truth:
            alike = [one for one in objects_of(frame) if one.label == true.label]
            best = max(alike, key=lambda one, true=true: iou(one.box, true.box), default=None)
            if best is not None and iou(best.box, true.box) > OVERLAP_MIN:
                yield best, true
