"""The one queue of a process: what the bus and our own threads put, the loop takes.

Bounded: past ``messages_max`` messages, or ``bytes_max`` bytes of them, what came over the network
is dropped and counted, and never blocks the thread that reads the network. What our own threads
and the bus itself say (connected, acknowledged, a child's end) is never dropped: it is bounded
where it comes from.
"""

import threading
from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import Generic, Protocol, TypeVar

from shared.limits import INBOX_MESSAGES

INBOX_BYTES = 32 * 1024 * 1024  # A Pi Zero has 512 MB; 1,024 reports of 16 KB are half of this.


@dataclass(frozen=True, slots=True)
class Received:
    """A message came; ``is_retained``: the broker had kept it, so it may be old."""

    topic: str
    payload: bytes
    is_retained: bool


@dataclass(frozen=True, slots=True)
class Oversized:
    """A message came that was longer than its subscription allows, and was dropped unread."""

    topic: str
    payload_bytes: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker took us in; subscriptions are being made again."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is over, with all that was not acknowledged on it.

    Attributes:
        text: What happened, for people.
        is_payload_limit: It ended within a second of a large publish: the broker's limit?
        topic: The first publish that was not acknowledged, where there was one.
    """

    text: str
    is_payload_limit: bool = False
    topic: str | None = None


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """An attempt to connect failed; ``is_refused``: the broker itself said no."""

    text: str
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker granted a filter; it says nothing about what it will deliver."""

    topic: str


@dataclass(frozen=True, slots=True)
class SubscriptionRefused:
    """The broker refused a filter (SUBACK 0x80): an access rule, mostly."""

    topic: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker acknowledged the QoS 1 publish with this token, which proves nothing more."""

    token: str


BusEvent = (
    Received
    | Oversized
    | Connected
    | Disconnected
    | ConnectionFailed
    | Subscribed
    | SubscriptionRefused
    | Acknowledged
)
OwnEvent = TypeVar("OwnEvent")
OwnEvent_contra = TypeVar("OwnEvent_contra", contravariant=True)


class Puts(Protocol[OwnEvent_contra]):
    """Where a thread of ours puts its events: an ``Inbox``, seen from one side."""

    def put(self, event: OwnEvent_contra, /) -> None:
        """Hand an event over; it is never dropped and never blocks."""


class Sink(Protocol):
    """Where the bus puts its events: an ``Inbox``, seen from the network's side."""

    def put(self, event: BusEvent, /) -> None:
        """Hand over what must not be lost."""

    def offer(self, event: Received | Oversized, /) -> bool:
        """Hand over what came from outside; False: there was no room and it is gone."""
        ...


class Inbox(Generic[OwnEvent]):
    """A bounded queue of bus events and of a process's own: ``Inbox[FromCamera | Ticked]``.

    A process without own events writes ``Inbox[BusEvent]``.
    """

    def __init__(self, *, messages_max: int = INBOX_MESSAGES, bytes_max: int = INBOX_BYTES) -> None:
        """Start empty."""
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._events: deque[BusEvent | OwnEvent] = deque()
        self._messages = 0
        self._bytes = 0
        self._dropped = 0
        self._changed = threading.Condition()

    @property
    def dropped(self) -> int:
        """Return how many messages found no room since the start."""
        return self._dropped

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: BusEvent | OwnEvent, /) -> None:
        """Add an event that must not be lost; the caller bounds how many there are."""
        with self._changed:
            self._events.append(event)
            self._changed.notify()

    def offer(self, event: Received | Oversized, /) -> bool:
        """Add a message, or drop and count it where there is no room."""
        size = _payload_bytes(event)
        with self._changed:
            if self._messages >= self._messages_max or self._bytes + size > self._bytes_max:
                self._dropped += 1
                return False
            self._messages += 1
            self._bytes += size
            self._events.append(event)
            self._changed.notify()
        return True

    def get(self, timeout: float | None = None) -> BusEvent | OwnEvent | None:
        """Return the next event, or None when none came within ``timeout`` seconds."""
        deadline = None if timeout is None else monotonic() + timeout
        with self._changed:
            while not self._events:
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            event = self._events.popleft()
            if isinstance(event, Received | Oversized):
                self._messages -= 1
                self._bytes -= _payload_bytes(event)
            return event


def _payload_bytes(event: Received | Oversized) -> int:
    return len(event.payload) if isinstance(event, Received) else 0
