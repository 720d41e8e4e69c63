"""One connection to a broker, and the only import of paho.

One thread owns the client, and every call to paho happens on it. paho is driven as its
documentation has it for foreign loops: ``loop_read``, ``loop_write``, ``loop_misc``.
"""

import logging
import selectors
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from shared.desk import Desk, Outgoing
from shared.inbox import (
    Acknowledged,
    Connected,
    ConnectionFailed,
    Disconnected,
    Oversized,
    Received,
    Sink,
    Subscribed,
    SubscriptionRefused,
)
from shared.subscriptions import Schedule

UNACKNOWLEDGED_MAX = 40  # The outbox's 20 and the publisher's 20.
LARGE_BYTES = 8_192  # No broker's limit is below this, so only larger ones can exceed it.
LIMIT_SECONDS = 1.0  # A broker that dislikes a packet's length hangs up at once.
WAKE_SECONDS = 1.0  # How often paho looks at its keepalive.
CONNECT_SECONDS = 5.0
FILTERS_PER_PACKET = 32
PACKETS_PER_WAKE = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take; shorter in the demo and in tests.

    Attributes:
        reconnect_seconds: The shortest and the longest wait before connecting again.
        keepalive_seconds: A dead line is noticed after one and a half of these.
        repeats: When repeated subscriptions are made again.
    """

    reconnect_seconds: tuple[float, float] = (1.0, 60.0)
    keepalive_seconds: int = 20
    repeats: Schedule = field(default_factory=Schedule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the broker is, who we are, and what it says when we vanish."""

    host: str
    port: int
    client_id: str
    username: str | None
    password: str | None
    will: tuple[str, bytes] | None
    tls: ssl.SSLContext | None


class Stopping:
    """That the bus is to stop, and until when it may linger."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._deadline = float("inf")

    def begin(self, seconds: float) -> None:
        """Stop; what is on its way may take so long."""
        self._deadline = monotonic() + seconds
        self._event.set()

    def is_set(self) -> bool:
        """Say whether to stop."""
        return self._event.is_set()

    def is_late(self) -> bool:
        """Say whether to wait for nothing more."""
        return monotonic() >= self._deadline

    def wait(self, seconds: float) -> None:
        """Sleep, unless it is time to stop."""
        self._event.wait(seconds)


class Connection:
    """One connection with its own paho client, from the first packet to the last.

    The empty ``on_socket_register_write`` keeps ``publish`` from
    writing by itself; what is to be written is taken from the desk only when paho's own, unbounded
    queue is empty, so a stalled line fills the desk, which is bounded.
    """

    def __init__(
        self, address: Address, desk: Desk, inbox: Sink, timing: Timing, stopping: Stopping
    ) -> None:
        self._address = address
        self._desk = desk
        self._inbox = inbox
        self._timing = timing
        self._stopping = stopping
        self._subscribes: dict[int, tuple[str, ...]] = {}
        self._unacknowledged: dict[int, Outgoing] = {}
        self._is_in = False
        self._is_leaving = False
        self._connected_at = 0.0
        self._repeats = 0
        self._large_at = float("-inf")
        self._refusal: str | None = None
        self._loss = "the broker closed the connection"
        self._client = self._new_client()

    def run(self, wake_out: socket.socket) -> None:
        """Connect, serve until it is over, and say how it went."""
        address, timing = self._address, self._timing
        try:
            self._client.connect(address.host, address.port, timing.keepalive_seconds)
        except (OSError, UnicodeError) as error:
            self._inbox.put(ConnectionFailed(f"{address.host}:{address.port}: {error}"))
            return
        try:
            self._serve(wake_out)
        except Exception:  # A fault inside paho must not leave the device deaf: connect anew.
            logger.exception("the connection to %s failed inside", address.host)
            self._loss = "a fault inside, see the log"
        self._desk.left()
        self._inbox.put(self._ending())

    def _ending(self) -> Disconnected | ConnectionFailed:
        if not self._is_in:
            is_refused = self._refusal is not None
            return ConnectionFailed(self._refusal or self._loss, is_refused=is_refused)
        large = [m for m in self._unacknowledged.values() if len(m.payload) >= LARGE_BYTES]
        is_writing = self._client.want_write()
        if not large or not (is_writing or monotonic() - self._large_at <= LIMIT_SECONDS):
            return Disconnected(self._loss)
        first = large[0]
        text = f"{self._loss} after {len(first.payload)} bytes on {first.topic}: its payload limit?"
        return Disconnected(text, is_payload_limit=True, topic=first.topic)

    def _new_client(self) -> Client:
        address = self._address
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=address.client_id,
            clean_session=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_SECONDS
        client.max_inflight_messages = UNACKNOWLEDGED_MAX
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if address.tls is not None:
            client.tls_set_context(address.tls)
        if address.will is not None:
            client.will_set(*address.will, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_socket_register_write = lambda *_: None
        return client

    def _serve(self, wake_out: socket.socket) -> None:
        client = self._client
        with selectors.DefaultSelector() as selector:
            selector.register(wake_out, selectors.EVENT_READ)
            network = client.socket()
            assert network is not None, "connect() raises where it made no socket"
            selector.register(network, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while client.socket() is not None:
                self._leave_if_stopping()
                self._send_what_is_wanted()
                if client.socket() is None:  # Writing found the line dead.
                    break
                writing = selectors.EVENT_WRITE if client.want_write() else 0
                selector.modify(network, selectors.EVENT_READ | writing)
                ready = {key.fileobj: events for key, events in selector.select(self._patience())}
                if wake_out in ready:
                    _drain(wake_out)
                self._read_and_write(ready.get(network, 0))

    def _read_and_write(self, events: int) -> None:
        client = self._client
        if events & selectors.EVENT_READ or self._has_decrypted():
            for _ in range(PACKETS_PER_WAKE):
                client.loop_read()
        if events & selectors.EVENT_WRITE:
            client.loop_write()
        client.loop_misc()

    def _has_decrypted(self) -> bool:
        network = self._client.socket()
        return isinstance(network, ssl.SSLSocket) and network.pending() > 0

    def _patience(self) -> float:
        if self._has_decrypted():
            return 0.0
        if not self._is_in:
            return WAKE_SECONDS
        return max(0.0, min(WAKE_SECONDS, self._repeat_at() - monotonic()))

    def _repeat_at(self) -> float:
        return self._timing.repeats.repeat_at(self._connected_at, self._repeats)

    def _leave_if_stopping(self) -> None:
        if self._is_leaving or not self._stopping.is_set():
            return
        is_sent = self._desk.is_settled and not self._unacknowledged and not self._desk.has_outgoing
        if is_sent or not self._is_in or self._stopping.is_late():
            self._is_leaving = True
            self._loss = "we are stopping"
            self._client.disconnect()

    def _send_what_is_wanted(self) -> None:
        if not self._is_in:
            return
        asked = self._desk.take_asked()
        self._subscribe(tuple(name for name, is_wanted in asked.items() if is_wanted))
        for name in (name for name, is_wanted in asked.items() if not is_wanted):
            self._client.unsubscribe(name)
        if monotonic() >= self._repeat_at():
            self._repeats += 1
            self._subscribe(self._desk.repeated())
            self._desk.repeat_birth()
        while not self._client.want_write() and len(self._unacknowledged) < UNACKNOWLEDGED_MAX:
            message = self._desk.next_outgoing()
            if message is None:
                break
            self._publish(message)

    def _subscribe(self, names: tuple[str, ...]) -> None:
        for start in range(0, len(names), FILTERS_PER_PACKET):
            some = names[start : start + FILTERS_PER_PACKET]
            _, mid = self._client.subscribe([(name, 0) for name in some])
            if mid is not None:
                self._subscribes[mid] = some

    def _publish(self, message: Outgoing) -> None:
        info = self._client.publish(
            message.topic, message.payload, message.qos, message.is_retained
        )
        if message.qos:
            self._unacknowledged[info.mid] = message
        if len(message.payload) >= LARGE_BYTES:
            self._large_at = monotonic()
        self._client.loop_write()

    def _on_connect(
        self,
        _client: Client,
        _userdata: object,
        _flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._refusal = f"the broker refused us: {reason}"
            return
        self._is_in = True
        self._connected_at = monotonic()
        names = self._desk.entered()
        self._inbox.put(Connected())
        self._subscribe(names)

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._loss = f"the connection was lost: {reason}"

    def _on_subscribe(
        self,
        _client: Client,
        _userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        for name, reason in zip(self._subscribes.pop(mid, ()), reasons, strict=False):
            self._inbox.put(SubscriptionRefused(name) if reason.is_failure else Subscribed(name))

    def _on_publish(
        self,
        _client: Client,
        _userdata: object,
        mid: int,
        _reason: ReasonCode,
        _properties: Properties,
    ) -> None:
        message = self._unacknowledged.pop(mid, None)  # QoS 0 comes here too, when written.
        if message is None:
            return
        if message.is_state:
            self._desk.acknowledged(message.topic)
        if message.token is not None:
            self._inbox.put(Acknowledged(message.token))

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # No topic of ours.
        bytes_max = self._desk.limit_of(topic)
        if bytes_max is None:
            return  # Unsubscribed meanwhile, or a broker that delivers what nobody asked for.
        if len(message.payload) > bytes_max:
            self._inbox.offer(Oversized(topic, len(message.payload), bytes_max))
        else:
            self._inbox.offer(Received(topic, bytes(message.payload), message.retain))


def _drain(wake_out: socket.socket) -> None:
    with suppress(BlockingIOError):
        while wake_out.recv(4096):
            pass
