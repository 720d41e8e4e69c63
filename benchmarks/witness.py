"""A subscriber that notes when things arrive: what any dashboard could have seen, and when."""

import threading
from dataclasses import dataclass, field
from time import monotonic

from controller.rollout import camera_seen
from shared.bus import Bus
from shared.detections import Detections
from shared.errors import RefusedError
from shared.inbox import BusEvent, Oversized, Received
from shared.limits import BUNDLE_BYTES, DETECTIONS_BYTES, REPORTED_BYTES
from shared.messages import Reported, decode
from shared.topics import DeviceTopic, RolloutTopic, Topics, TrustTopic


@dataclass(slots=True)
class Swap:
    """The last frame of the old release and the first of the new one, of one camera."""

    last_old_at: float | None = None
    first_new_at: float | None = None

    @property
    def seconds(self) -> float | None:
        """Return how long nobody saw anything."""
        if self.last_old_at is None or self.first_new_at is None:
            return None
        return self.first_new_at - self.last_old_at


@dataclass(slots=True)
class Seen:
    """What arrived for one rollout; times are monotonic.

    Attributes:
        plan_at: When its plan did.
        controller: The client id of the controller that drove it.
        told_bytes: Of the documents in which it told how rollouts look.
        reported: Devices that reported anything at all, since the witness began.
    """

    release: str = ""
    rollout: str = ""
    plan_at: float | None = None
    controller: str = ""
    told_bytes: int = 0
    reported: set[str] = field(default_factory=set[str])
    committed_at: dict[str, float] = field(default_factory=dict[str, float])
    swaps: dict[str, Swap] = field(default_factory=dict[str, Swap])


class Witness:
    """Listens on the bus's own thread, so that nothing waits between arrival and note."""

    def __init__(self, url: str, fleet: str, cameras: tuple[str, ...]) -> None:
        """Start to listen: to every report, and to the detections of these devices."""
        self._topics = Topics(fleet)
        self._lock = threading.Lock()
        self._seen = Seen()
        self._bus = Bus(url, "bench-witness", self)
        self._bus.subscribe(self._topics.trust, bytes_max=BUNDLE_BYTES)
        self._bus.subscribe(
            self._topics.any_device("reported"), bytes_max=REPORTED_BYTES, is_repeated=True
        )
        for device in cameras:
            topic = self._topics.camera(device, 0, "detections")
            self._bus.subscribe(topic, bytes_max=DETECTIONS_BYTES)
        self._bus.start()

    def stop(self) -> None:
        """Stop listening."""
        self._bus.stop()

    def expect(self, release: str, rollout: str) -> Seen:
        """Begin to note a rollout that has not been published yet."""
        self._bus.subscribe(self._topics.rollout(rollout))
        with self._lock:
            self._seen = Seen(release, rollout, reported=self._seen.reported)
            return self._seen

    @property
    def seen(self) -> Seen:
        """Return what was noted so far; it goes on growing."""
        return self._seen

    # Sink.

    def put(self, event: BusEvent, /) -> None:
        """Take what the bus says of itself: nothing that matters here."""

    def offer(self, event: Received | Oversized, /) -> bool:
        """Take a message."""
        now = monotonic()
        if isinstance(event, Received) and event.payload:
            with self._lock:
                self._note(event, now)
        return True

    def _note(self, event: Received, now: float) -> None:
        seen = self._seen
        try:
            match self._topics.parse(event.topic):
                case TrustTopic() if not event.is_retained and seen.plan_at is None:
                    seen.plan_at = now
                case RolloutTopic() if not event.is_retained:
                    seen.told_bytes += len(event.payload)
                case DeviceTopic(device, "reported"):
                    self._note_report(device, event.payload, now)
                case DeviceTopic(device, rest) if rest.endswith("/detections"):
                    detections = decode(event.payload, Detections, bytes_max=DETECTIONS_BYTES)
                    self._note_frame(device, detections.release, now)
                case _:
                    pass
        except RefusedError:
            pass  # It does not come from this fleet.

    def _note_report(self, device: str, payload: bytes, now: float) -> None:
        seen = self._seen
        reported = decode(payload, Reported, bytes_max=REPORTED_BYTES)
        seen.reported.add(device)
        state = camera_seen(reported.cameras.get("0"), seen.rollout, 1)
        if state.phase == "committed":
            seen.committed_at.setdefault(device, now)

    def _note_frame(self, device: str, release: str, now: float) -> None:
        swap = self._seen.swaps.setdefault(device, Swap())
        if release != self._seen.release:
            swap.last_old_at = now
        elif swap.first_new_at is None:
            swap.first_new_at = now
