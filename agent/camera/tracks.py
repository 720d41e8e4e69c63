"""Which object of a frame is which of the frame before: ByteTrack, in the camera's child.

The library is edgefirst-tracker (Rust, 0.7 MB installed, numpy only, wheels for the Pi and for
x86). modlib's own tracker needs modlib, which a simulated camera has not; supervision and
Roboflow's trackers bring SciPy and OpenCV. Numbers count from 1 in each start of the camera.
"""

import numpy as np
from edgefirst.tracker import ByteTrack

from shared.decode.columns import BOX_STEPS, Columns

IOU_MIN = 0.25
UPDATE = 0.25  # The library's own: how much a new box moves the track's.
LIFESPAN_NS = 2_000_000_000  # Behind a pillar for so long, and it is still the same person.
NS_PER_SECOND = 1e9
NO_TRACK = 0


class Tracker:
    """The tracks of one start of a camera."""

    def __init__(self, *, least: float) -> None:
        """Begin; only what scores ``least`` or more begins a track, less may continue one."""
        self._library = ByteTrack(
            high_conf=least, iou=IOU_MIN, update=UPDATE, lifespan_ns=LIFESPAN_NS
        )
        self._numbers: dict[str, int] = {}
        self._count = 0

    def update(self, columns: Columns, at: float) -> tuple[int, ...]:
        """Return the number of each object's track, ``NO_TRACK`` where it has none.

        Args:
            columns: The objects of a frame.
            at: When it was captured, in seconds of any clock that does not go back.
        """
        found = self._library.update(
            (columns.numbers[:, :4] / BOX_STEPS).astype(np.float32),
            columns.scores.astype(np.float32),
            columns.classes.astype(np.uintp),
            int(at * NS_PER_SECOND),
        )
        numbers = tuple(NO_TRACK if one is None else self._number(one.uuid) for one in found)
        alive = {track.info.uuid for track in self._library.get_active_tracks()}
        self._numbers = {uuid: n for uuid, n in self._numbers.items() if uuid in alive}
        return numbers

    def _number(self, uuid: str) -> int:
        if uuid not in self._numbers:
            self._count += 1
            self._numbers[uuid] = self._count
        return self._numbers[uuid]
