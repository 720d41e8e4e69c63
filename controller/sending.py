"""What the publisher has to send, and how much of it at a time.

Uploads end with their connection, because the next look at the broker decides anew. Extras (what
devices miss, what is to be cleared) outlive it. What a parcel holds is looked up when its turn
comes: a document that waited here never overwrites a newer one, and nothing is cleared that has
come to be wanted meanwhile.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from controller.publishing import Desired, Send
from shared.topics import Topics

IN_FLIGHT_MAX = 20  # Mosquitto's window; 2.4 MB of blocks.
STALLED_SECONDS = 60.0  # One block in a minute is 2 KB/s: no line to upload a release on.
RESEND_SECONDS = 60.0  # Devices may all miss the same block, and a stolen one may pretend to.
EXTRAS_MAX = 4_096

ReadBlock = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class BlockParcel:
    """One block, by its name; read from our store when its turn comes."""

    block: str


@dataclass(frozen=True, slots=True)
class BundleParcel:
    """The bundle."""


@dataclass(frozen=True, slots=True)
class StateParcel:
    """The desired document of a topic."""

    topic: str


@dataclass(frozen=True, slots=True)
class ClearParcel:
    """Nothing, in the place of what a topic held."""

    topic: str


Parcel = BlockParcel | BundleParcel | StateParcel | ClearParcel


@dataclass(frozen=True, slots=True)
class Sent:
    """A parcel that is on its way."""

    parcel: Parcel
    topic: str
    payload: bytes
    is_upload: bool


@dataclass(slots=True)
class Line:
    """What is to be sent, and what was sent and is not acknowledged; at most twenty messages."""

    topics: Topics
    read_block: ReadBlock
    desired: Desired | None = None
    bytes_sent: int = 0
    messages_sent: int = 0
    _uploads: deque[Parcel] = field(default_factory=deque)
    _extras: deque[Parcel] = field(default_factory=deque)
    _in_flight: dict[str, Sent] = field(default_factory=dict)
    _resent_at: dict[Parcel, float] = field(default_factory=dict)
    _moved_at: float = 0.0

    @property
    def is_uploaded(self) -> bool:
        """Say whether nothing of the uploads is open."""
        return not self._uploads and not any(sent.is_upload for sent in self._in_flight.values())

    @property
    def is_idle(self) -> bool:
        """Say whether nothing is open at all."""
        return not self._uploads and not self._extras and not self._in_flight

    @property
    def parcels_in_flight(self) -> frozenset[Parcel]:
        """Return what is on its way."""
        return frozenset(sent.parcel for sent in self._in_flight.values())

    def is_stalled(self, now: float) -> bool:
        """Say whether the broker has stopped acknowledging."""
        return bool(self._in_flight) and now - self._moved_at >= STALLED_SECONDS

    def upload(self, parcels: Iterable[Parcel], now: float) -> None:
        """Replace what is to be uploaded; what is on its way already is not sent twice."""
        self._uploads = deque(parcels)
        self._moved_at = now

    def resend(self, parcels: Iterable[Parcel], now: float) -> None:
        """Add what devices lack: each at most once in ``RESEND_SECONDS``."""
        self._resent_at = {p: at for p, at in self._resent_at.items() if now - at < RESEND_SECONDS}
        for parcel in parcels:
            if parcel not in self._resent_at and len(self._extras) < EXTRAS_MAX:
                self._resent_at[parcel] = now
                self._extras.append(parcel)

    def clear(self, topics: Iterable[str]) -> None:
        """Add topics to clear; they are never given up."""
        self._extras.extend(map(ClearParcel, topics))

    def take(self, now: float) -> tuple[Send, ...]:
        """Return what may be sent now.

        Raises:
            FleetError: Our own store does not have a block.
        """
        sends: list[Send] = []
        if not self._in_flight:
            self._moved_at = now
        while len(self._in_flight) < IN_FLIGHT_MAX and (self._uploads or self._extras):
            is_upload = bool(self._uploads)
            parcel = self._uploads.popleft() if is_upload else self._extras.popleft()
            content = self._content_of(parcel)
            if content is not None:
                sends.append(self._send(Sent(parcel, *content, is_upload)))
        return tuple(sends)

    def acknowledged(self, token: str, now: float) -> Sent | None:
        """Return what the token stood for, or None where it is not ours or not of this upload."""
        sent = self._in_flight.pop(token, None)
        if sent is not None:
            self._moved_at = now
        return sent

    def lose(self) -> None:
        """Forget what was on its way, but for the extras, which wait for the next chance."""
        lost = [sent.parcel for sent in self._in_flight.values() if not sent.is_upload]
        self._extras.extendleft(reversed(lost))
        self._uploads.clear()
        self._in_flight.clear()

    def _send(self, sent: Sent) -> Send:
        self.messages_sent += 1
        self.bytes_sent += len(sent.payload)
        token = f"line-{self.messages_sent}"
        self._in_flight[token] = sent
        return Send(sent.topic, sent.payload, token)

    def _content_of(self, parcel: Parcel) -> tuple[str, bytes] | None:
        """Return topic and bytes, or None where there is nothing to be done any more."""
        assert self.desired is not None, "nothing is sent before something is desired"
        match parcel:
            case BlockParcel(block):
                return self.topics.block(block), self.read_block(block)
            case BundleParcel():
                return self.topics.trust, self.desired.bundle
            case StateParcel(topic):
                payload = self.desired.states.get(topic)
                return None if payload is None else (topic, payload)
            case ClearParcel(topic):
                return None if self._is_wanted(topic) else (topic, b"")

    def _is_wanted(self, topic: str) -> bool:
        assert self.desired is not None
        blocks = map(self.topics.block, self.desired.needed)
        return topic in self.desired.states or topic in blocks
