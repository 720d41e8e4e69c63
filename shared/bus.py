"""The MQTT shell, and the only import of paho.

One network thread owns the paho client, and every call to paho happens on it. Callers leave what
they want on the desk and wake the thread; what comes in goes into a bounded inbox. The bus decides
nothing about messages. What it does about brokers that are not trusted to deliver:

- subscriptions are QoS 0, made anew on each connect, repeated where asked (``is_repeated``);
- retained state goes through the outbox: last value per topic, one in flight per topic;
- each connection gets a fresh client and a clean session: paho would resend old state after
  connecting, and a broker would deliver last week's `reboot`;
- the status goes out again with each repetition: NATS may publish the will of a lost connection
  after the birth of the next one;
- reconnecting backs off exponentially with jitter: a fleet must not come back all at once;
- what is longer than its subscription allows is dropped before anything else sees it.

MQTT 3.1.1 only: all protocol fields live in topics and payloads, and NATS refuses MQTT 5.
"""

import logging
import random
import selectors
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from urllib.parse import urlsplit

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from shared.desk import Desk, Filter, Outgoing
from shared.errors import LimitError, MalformedError
from shared.inbox import (
    Acknowledged,
    BusEvent,
    Connected,
    ConnectionFailed,
    Disconnected,
    Inbox,
    Oversized,
    Puts,
    Received,
    Sink,
    Subscribed,
    SubscriptionRefused,
)
from shared.subscriptions import Schedule

__all__ = [
    "PAYLOAD_BYTES_MAX",
    "Acknowledged",
    "Bus",
    "BusEvent",
    "Connected",
    "ConnectionFailed",
    "Disconnected",
    "Inbox",
    "Oversized",
    "Puts",
    "Received",
    "Sink",
    "Subscribed",
    "SubscriptionRefused",
    "Timing",
]

PAYLOAD_BYTES_MAX = 1_000_000  # What brokers are configured for; a bundle is a quarter of it.
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


class Bus:
    """One client of one broker, connected for as long as it can be.

    All methods may be called from any thread, before, between and during connections.
    """

    def __init__(  # noqa: PLR0913 - a connection has that many sides; all but three are optional
        self,
        url: str,
        client_id: str,
        inbox: Sink,
        *,
        will: tuple[str, bytes] | None = None,
        username: str | None = None,
        password: str | None = None,
        ca: str | None = None,
        certificate: tuple[str, str] | None = None,
        timing: Timing | None = None,
    ) -> None:
        """Prepare; nothing is connected before ``start``.

        Args:
            url: ``mqtt://host[:1883]`` or ``mqtts://host[:8883]``.
            client_id: Unique at the broker: two with the same kick each other off.
            inbox: Takes what happens.
            will: Topic and payload that the broker publishes, retained, when we vanish.
            username: For brokers that want one.
            password: For brokers that want one.
            ca: For mqtts: the PEM text of the authority, or the path to it; None: the system's.
            certificate: For brokers that want one: paths of our certificate and key, in PEM.
            timing: How long things take.

        Raises:
            MalformedError: The URL is not of that form, or a PEM is none.
        """
        host, port, is_secure = _parse_url(url)
        self._address = _Address(
            host=host,
            port=port,
            client_id=client_id,
            username=username,
            password=password,
            will=will,
            tls=_tls_context(ca, certificate) if is_secure else None,
        )
        self._inbox = inbox
        self._timing = timing or Timing()
        self._desk = Desk(birth=will[0] if will else None)
        self._stopping = _Stopping()
        self._wake_in: socket.socket | None = None  # Wakes the thread, from ``start`` to ``stop``.
        self._thread: threading.Thread | None = None

    @property
    def is_connected(self) -> bool:
        """Say whether the broker has taken us in, as far as we know."""
        return self._desk.is_connected

    @property
    def is_settled(self) -> bool:
        """Say whether the broker has acknowledged all state."""
        return self._desk.is_settled

    def start(self) -> None:
        """Connect in the background, again and again until ``stop``."""
        self._wake_in, wake_out = socket.socketpair()
        self._wake_in.setblocking(False)  # noqa: FBT003
        wake_out.setblocking(False)  # noqa: FBT003
        self._thread = threading.Thread(
            target=self._run,
            args=[wake_out],
            name=f"bus-{self._address.client_id}",
            daemon=True,
        )
        self._thread.start()

    def stop(self, farewell: bytes | None = None, *, timeout_seconds: float = 3.0) -> None:
        """Disconnect cleanly; the broker drops the will then, so ``farewell`` takes its place.

        Args:
            farewell: The last state of the will's topic, e.g. ``offline``.
            timeout_seconds: How long state may take to be acknowledged.
        """
        if farewell is not None and self._address.will is not None:
            self._desk.state(self._address.will[0], farewell)
        self._stopping.begin(timeout_seconds)
        self._wake()
        if self._thread is not None:
            self._thread.join(timeout_seconds + 2 * CONNECT_SECONDS)
        if self._wake_in is not None:
            self._wake_in.close()

    def subscribe(
        self, topic: str, *, bytes_max: int = PAYLOAD_BYTES_MAX, is_repeated: bool = False
    ) -> None:
        """Ask for a topic or filter, now and after each connect; again: its retained messages.

        Args:
            topic: May hold wildcards.
            bytes_max: Longer payloads are dropped and reported as ``Oversized``.
            is_repeated: Ask again some seconds after connecting, then hourly.
        """
        self._desk.subscribe(topic, Filter(bytes_max, is_repeated))
        self._wake()

    def unsubscribe(self, topic: str) -> None:
        """Stop asking; what is still on its way is dropped."""
        self._desk.unsubscribe(topic)
        self._wake()

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,  # noqa: FBT001, FBT002 - the words of MQTT
        token: str | None = None,
    ) -> bool:
        """Send a message once, or drop it: False when not connected or when no more fits.

        With QoS 1 and a ``token``, ``Acknowledged(token)`` follows; ``Disconnected`` instead
        means that nobody knows. Retained state that has a next value goes through ``state``.

        Raises:
            LimitError: No broker would take it.
        """
        _check_length(topic, payload)
        is_left = self._desk.publish(Outgoing(topic, payload, qos, retain, token))
        if is_left:
            self._wake()
        return is_left

    def state(self, topic: str, payload: bytes) -> None:
        """Keep a topic's retained state at the broker, now and after each connect; b"" clears it.

        Raises:
            LimitError: No broker would take it, or there are too many topics.
        """
        _check_length(topic, payload)
        self._desk.state(topic, payload)
        self._wake()

    def _wake(self) -> None:
        if self._wake_in is None:
            return  # Not started: it will find on the desk what is wanted.
        with suppress(OSError):  # Full: it is awake. Closed: it is over.
            self._wake_in.send(b"\0")

    def _run(self, wake_out: socket.socket) -> None:
        with wake_out:
            self._stay_connected(wake_out)

    def _stay_connected(self, wake_out: socket.socket) -> None:
        shortest, longest = self._timing.reconnect_seconds
        wait = shortest
        while not self._stopping.is_set():
            began = monotonic()
            _Connection(self._address, self._desk, self._inbox, self._timing, self._stopping).run(
                wake_out
            )
            if monotonic() - began > longest:
                wait = shortest
            # Decorrelated jitter spreads a fleet from its first try on.
            wait = min(longest, random.uniform(shortest, wait * 3))  # noqa: S311 - no secret
            self._stopping.wait(wait)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    host: str
    port: int
    client_id: str
    username: str | None
    password: str | None
    will: tuple[str, bytes] | None
    tls: ssl.SSLContext | None


class _Stopping:
    """That the bus is to stop, and until when it may linger."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._deadline = float("inf")

    def begin(self, seconds: float) -> None:
        self._deadline = monotonic() + seconds
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def is_late(self) -> bool:
        return monotonic() >= self._deadline

    def wait(self, seconds: float) -> None:
        self._event.wait(seconds)


class _Connection:
    """One connection with its own paho client, from the first packet to the last.

    The client is driven as paho's documentation has it for foreign loops: ``loop_read``,
    ``loop_write``, ``loop_misc``. The empty ``on_socket_register_write`` keeps ``publish`` from
    writing by itself; what is to be written is taken from the desk only when paho's own, unbounded
    queue is empty, so a stalled line fills the desk, which is bounded.
    """

    def __init__(
        self, address: _Address, desk: Desk, inbox: Sink, timing: Timing, stopping: _Stopping
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


def _parse_url(url: str) -> tuple[str, int, bool]:
    parts = urlsplit(url)
    ports = {"mqtt": 1883, "mqtts": 8883}
    try:
        port = parts.port
    except ValueError as error:
        raise MalformedError(f"expected a port of 1 to 65535 in {url!r}") from error
    if parts.scheme not in ports or not parts.hostname or parts.username is not None:
        raise MalformedError(f"expected mqtt://host[:port] or mqtts://host[:port], got {url!r}")
    return parts.hostname, port or ports[parts.scheme], parts.scheme == "mqtts"


def _tls_context(ca: str | None, certificate: tuple[str, str] | None) -> ssl.SSLContext:
    is_text = ca is not None and "-----BEGIN" in ca
    try:
        context = ssl.create_default_context(
            cafile=None if is_text else ca, cadata=ca if is_text else None
        )
        if certificate is not None:
            context.load_cert_chain(*certificate)
    except OSError as error:  # ssl.SSLError is one.
        raise MalformedError(f"expected certificates in PEM: {error}") from error
    return context


def _check_length(topic: str, payload: bytes) -> None:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise LimitError(
            f"expected at most {PAYLOAD_BYTES_MAX} bytes on {topic}, got {len(payload)}"
        )


def _drain(wake_out: socket.socket) -> None:
    with suppress(BlockingIOError):
        while wake_out.recv(4096):
            pass
