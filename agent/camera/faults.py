"""What a simulated camera and a twin of the sensor do wrong when they are told to.

agent/camera/wire.py lists the faults; each is said once, here, whichever of the two plays it.
"""

import os
import signal
import time

import numpy as np

from agent.camera.wire import Fault, FaultKind, Job
from shared.decode.boxes import BOX_TENSORS
from shared.decode.results import Tensor, Tensors
from shared.limits import OBJECTS_PER_FRAME_MAX
from shared.release import Manifest

CLASS_OUT_OF_RANGE = 10_000
CRASH_CODE = 70
PERMILLE = 1000


class Faults:
    """The faults of one job; ``started`` says that the stream runs."""

    def __init__(self, job: Job, manifest: Manifest) -> None:
        """Keep those of this release."""
        self._faults = tuple(
            fault for fault in job.simulation.faults if fault.release in (None, manifest.release)
        )
        self._started_at: float | None = None

    def started(self) -> None:
        """Count seconds from here."""
        self._started_at = time.monotonic()

    def find(self, kind: FaultKind) -> Fault | None:
        """Return the fault of that kind if it is on by now."""
        since = self._started_at
        seconds = 0.0 if since is None else time.monotonic() - since
        found = (f for f in self._faults if f.kind == kind and f.after_seconds <= seconds)
        return next(found, None)

    def is_on(self, kind: FaultKind) -> bool:
        """Say whether the fault of that kind is on by now."""
        return self.find(kind) is not None

    def misbehave(self) -> None:
        """Die, or hang with every thread."""
        if self.is_on("crash"):
            os._exit(CRASH_CODE)  # As native code dies: nothing is said, nothing is cleaned up.
        if self.is_on("hang"):
            os.kill(os.getpid(), signal.SIGSTOP)  # As if the driver held the process.

    def is_thinned(self, frame: int) -> bool:
        """Say whether a low rate leaves this frame without an inference, evenly spread."""
        fault = self.find("low_rate")
        if fault is None:
            return False
        share = fault.value / PERMILLE
        return int((frame + 1) * share) == int(frame * share)

    def slowness(self) -> float:
        """Return how many times its own time the network takes."""
        fault = self.find("slow_dnn")
        return 1.0 if fault is None else fault.value

    def renamed(self, name: str) -> str:
        """Return the network's name, or another."""
        return name + ("x" if self.is_on("wrong_name") else "")

    def spoilt(self, tensors: Tensors) -> Tensors:
        """Return the tensors, or what is wrong with them."""
        if self.is_on("wrong_shapes"):
            tensors = (tensors[0][..., :-1], *tensors[1:])
        if self.is_on("not_finite"):
            tensors = tuple(np.full(t.shape, np.nan, np.float32) for t in tensors)
        if self.is_on("class_out_of_range"):
            tensors = tuple(_class_out_of_range(tensors))
        if self.is_on("too_many"):
            tensors = (*tensors[:-1], np.full_like(tensors[-1], OBJECTS_PER_FRAME_MAX + 1))
        return tensors


def _class_out_of_range(tensors: Tensors) -> list[Tensor]:
    """Return tensors with one sure object of a class that no label names."""
    changed = [np.array(tensor) for tensor in tensors]
    if len(changed) >= BOX_TENSORS:
        changed[1].flat[0], changed[2].flat[0] = 1, CLASS_OUT_OF_RANGE
    if changed[-1].size == 1:  # A detector's number of valid rows.
        changed[-1].flat[0] = 1
    return changed
