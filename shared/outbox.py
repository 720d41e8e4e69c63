"""Retained state on its way out: the last value of each topic, one in flight per topic.

    put --> pending --Publish--> in flight --acknowledged--> held
               ^                     |  a newer value came meanwhile: pending again
               +-- connected again --+--- everything is pending again

Why: paho keeps QoS 1 messages that were not acknowledged and resends them *after* its connect
callback, so an old phase overwrote a new one (docs/protocol.md, delivery rule 4). Here a topic's
next value waits for the acknowledgement of the one before, and what a lost connection left open
is forgotten: the last value goes out again, never an older one.

After each connect all values go out, because the broker's store may have been lost and the last
will has overwritten the status; in the order in which the topics came first, but for the
``birth`` topic (``status``), which goes last: who sees `online` can read the rest. An empty value
clears the topic at the broker and is forgotten once acknowledged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from shared.errors import LimitError

IN_FLIGHT_MAX = 20  # Mosquitto's own window; more only fills buffers.
TOPICS_MAX = 1_024  # State of one device or of one controller's rollouts; a fleet's goes elsewhere.


@dataclass(frozen=True, slots=True)
class Outbox:
    """The last value of each topic, and how far each has come.

    Attributes:
        birth: The topic that goes out last after a connect, or None.
        values: The last value of each topic.
        pending: Topics whose last value is still to be sent, in order.
        in_flight: Topics with a value that was sent and not acknowledged.
    """

    birth: str | None = None
    values: Mapping[str, bytes] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    in_flight: frozenset[str] = frozenset()
    is_connected: bool = False

    @property
    def is_settled(self) -> bool:
        """Say whether the broker has acknowledged the last value of every topic."""
        return self.is_connected and not self.pending and not self.in_flight


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a value: QoS 1, retained."""

    topic: str
    payload: bytes


Step = tuple[Outbox, tuple[Publish, ...]]


def put(outbox: Outbox, topic: str, payload: bytes) -> Step:
    """Replace a topic's value; what it was before is never sent from now on.

    Raises:
        LimitError: There are ``TOPICS_MAX`` other topics.
    """
    if topic not in outbox.values and len(outbox.values) >= TOPICS_MAX:
        raise LimitError(f"expected at most {TOPICS_MAX} topics with state, got {topic} on top")
    pending = outbox.pending if topic in outbox.pending else (*outbox.pending, topic)
    values = {**outbox.values, topic: payload}
    return _send(replace(outbox, values=values, pending=pending))


def connected(outbox: Outbox) -> Step:
    """Begin a connection: every value is to be sent, the birth last."""
    pending = sorted(outbox.values, key=lambda topic: topic == outbox.birth)  # Stable.
    return _send(replace(outbox, is_connected=True, pending=tuple(pending), in_flight=frozenset()))


def disconnected(outbox: Outbox) -> Outbox:
    """Forget what was on its way; ``connected`` starts anew."""
    return replace(outbox, is_connected=False, in_flight=frozenset())


def acknowledged(outbox: Outbox, topic: str) -> Step:
    """Let the topic's next value go; one for a topic that is not in flight changes nothing."""
    if topic not in outbox.in_flight:
        return outbox, ()
    after = replace(outbox, in_flight=outbox.in_flight - {topic})
    is_cleared = topic not in after.pending and not after.values[topic]
    if is_cleared:
        values = {other: value for other, value in after.values.items() if other != topic}
        after = replace(after, values=values)
    return _send(after)


def _send(outbox: Outbox) -> Step:
    if not outbox.is_connected:
        return outbox, ()
    free = IN_FLIGHT_MAX - len(outbox.in_flight)
    ready = tuple(topic for topic in outbox.pending if topic not in outbox.in_flight)[:free]
    after = replace(
        outbox,
        pending=tuple(topic for topic in outbox.pending if topic not in ready),
        in_flight=outbox.in_flight.union(ready),
    )
    return after, tuple(Publish(topic, outbox.values[topic]) for topic in ready)
