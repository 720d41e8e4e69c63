"""What callers leave for the network thread of the bus, under one lock.

Callers of any thread put their wishes here and go; the network thread takes them, in order. Only
data lives here: the lock is never held while the network or the inbox is at work.
"""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from shared import outbox as outboxes

QUEUED_BYTES_MAX = 8 * 1024 * 1024  # Twenty blocks on their way are 2.4 MB; more is a dead line.
# What is sent once and kept by nobody (frames, health) is worth little when it is late: on a slow
# line the oldest of it makes room. Two full frames of each camera, or one image with them.
TELEMETRY_BYTES_MAX = 512 * 1024


@dataclass(frozen=True, slots=True)
class Filter:
    """A subscription: how long its payloads may be, and whether it is repeated by itself."""

    bytes_max: int
    is_repeated: bool


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish; ``is_state``: from the outbox, which waits for its end."""

    topic: str
    payload: bytes
    qos: int
    is_retained: bool
    token: str | None = None
    is_state: bool = False


class Desk:
    """Subscriptions, messages and state that are wanted, and whether there is a connection."""

    def __init__(self, *, birth: str | None) -> None:
        """Start with nothing wanted; ``birth`` is the topic whose state goes out last."""
        self._lock = threading.Lock()
        self._filters: dict[str, Filter] = {}
        self._asked: dict[str, bool] = {}  # Filter -> subscribe or unsubscribe, still to be sent.
        self._outgoing: deque[Outgoing] = deque()
        self._outgoing_bytes = 0
        self._telemetry: deque[Outgoing] = deque()
        self._telemetry_bytes = 0
        self._outbox = outboxes.Outbox(birth=birth)
        self._is_connected = False

    @property
    def is_connected(self) -> bool:
        """Say whether the broker has taken us in."""
        return self._is_connected

    @property
    def is_settled(self) -> bool:
        """Say whether all state is acknowledged."""
        return self._outbox.is_settled

    @property
    def has_outgoing(self) -> bool:
        """Say whether messages wait to be taken."""
        return bool(self._outgoing or self._telemetry)

    def subscribe(self, topic: str, wanted: Filter) -> None:
        """Want a filter from now on, and ask for it (again) now."""
        with self._lock:
            self._filters[topic] = wanted
            self._asked[topic] = True

    def unsubscribe(self, topic: str) -> None:
        """Want a filter no more."""
        with self._lock:
            if self._filters.pop(topic, None) is not None:
                self._asked[topic] = False

    def publish(self, message: Outgoing) -> bool:
        """Leave a message, if there is a connection and room for it; False: one was lost.

        Of what has QoS 0 and is not retained it is the oldest one that is lost for want of room.
        """
        with self._lock:
            if self._is_connected and message.qos == 0 and not message.is_retained:
                return self._add_telemetry(message)
            size = self._outgoing_bytes + len(message.payload)
            if not self._is_connected or size > QUEUED_BYTES_MAX:
                return False
            self._add((message,))
            return True

    def state(self, topic: str, payload: bytes) -> None:
        """Replace a topic's state; raises LimitError when there are too many topics."""
        with self._lock:
            self._outbox, effects = outboxes.put(self._outbox, topic, payload)
            self._add(map(_state, effects))

    def entered(self) -> tuple[str, ...]:
        """Note that a connection begins; return all filters, for it knows none."""
        with self._lock:
            self._is_connected = True
            self._asked.clear()
            self._outbox, effects = outboxes.connected(self._outbox)
            self._add(map(_state, effects))
            return tuple(self._filters)

    def left(self) -> None:
        """Note that it is over, with all that was on its way."""
        with self._lock:
            self._is_connected = False
            self._outgoing.clear()
            self._telemetry.clear()
            self._outgoing_bytes = self._telemetry_bytes = 0
            self._outbox = outboxes.disconnected(self._outbox)

    def acknowledged(self, topic: str) -> None:
        """Note that the broker has acknowledged a topic's state."""
        with self._lock:
            self._outbox, effects = outboxes.acknowledged(self._outbox, topic)
            self._add(map(_state, effects))

    def repeat_birth(self) -> None:
        """Send the birth again: the will of the connection before may have come after it."""
        with self._lock:
            birth = self._outbox.birth
            if birth is not None and birth in self._outbox.values:
                self._outbox, effects = outboxes.put(
                    self._outbox, birth, self._outbox.values[birth]
                )
                self._add(map(_state, effects))

    def next_outgoing(self) -> Outgoing | None:
        """Take the next message."""
        with self._lock:
            if not self._outgoing:
                return self._next_telemetry()
            message = self._outgoing.popleft()
            self._outgoing_bytes -= len(message.payload)
            return message

    def take_asked(self) -> dict[str, bool]:
        """Take what to subscribe to (True) and to unsubscribe from (False)."""
        with self._lock:
            asked, self._asked = self._asked, {}
            return asked

    def repeated(self) -> tuple[str, ...]:
        """Return the filters that are repeated by themselves."""
        with self._lock:
            return tuple(name for name, wanted in self._filters.items() if wanted.is_repeated)

    def limit_of(self, topic: str) -> int | None:
        """Return how long a payload on a topic may be, or None where nobody asked for it."""
        with self._lock:
            exact = self._filters.get(topic)
            if exact is not None:
                return exact.bytes_max
            fitting = (w.bytes_max for name, w in self._filters.items() if matches(name, topic))
            return min(fitting, default=None)

    def _add_telemetry(self, message: Outgoing) -> bool:
        self._telemetry.append(message)
        self._telemetry_bytes += len(message.payload)
        is_whole = self._telemetry_bytes <= TELEMETRY_BYTES_MAX
        while self._telemetry_bytes > TELEMETRY_BYTES_MAX and len(self._telemetry) > 1:
            self._next_telemetry()
        return is_whole

    def _next_telemetry(self) -> Outgoing | None:
        if not self._telemetry:
            return None
        message = self._telemetry.popleft()
        self._telemetry_bytes -= len(message.payload)
        return message

    def _add(self, messages: Iterable[Outgoing]) -> None:
        for message in messages:
            self._outgoing.append(message)
            self._outgoing_bytes += len(message.payload)


def matches(name: str, topic: str) -> bool:
    """Say whether a filter of MQTT, with its + and #, covers a topic."""
    wanted, levels = name.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)


def _state(effect: outboxes.Publish) -> Outgoing:
    return Outgoing(effect.topic, effect.payload, qos=1, is_retained=True, is_state=True)
