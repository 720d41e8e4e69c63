"""Say how far a long run is, and count the seconds of each step of a build."""

import sys
from time import monotonic, strftime

from controller.export.wire import Progress


def say(text: str) -> None:
    """Say how far it is."""
    sys.stderr.write(f"{strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


class Stopwatch:
    """Counts the seconds of each step that a build tells, and says when a new one begins."""

    def __init__(self, name: str) -> None:
        """Begin."""
        self._name = name
        self._stage = "start"
        self._since = monotonic()
        self._seconds: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        """Take what the build tells."""
        if progress.stage != self._stage:
            self.stop()
            self._stage = progress.stage
            say(f"{self._name}: {progress.stage}")

    def stop(self) -> dict[str, float]:
        """End the step; return the seconds of all so far."""
        now = monotonic()
        taken = self._seconds.get(self._stage, 0.0) + now - self._since
        self._seconds[self._stage] = round(taken, 1)
        self._since = now
        return self._seconds
