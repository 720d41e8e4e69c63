"""The MQTT shell.

One network thread owns each connection (``connection.py``). Callers leave what they want on the
desk and wake the thread; what comes in goes into a bounded inbox. The bus decides nothing about
messages. What it does about brokers that are not trusted to deliver:

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

import random
import socket
import ssl
import threading
from contextlib import suppress
from tempfile import NamedTemporaryFile
from time import monotonic
from urllib.parse import urlsplit

from shared.connection import CONNECT_SECONDS, Address, Connection, Stopping, Timing
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
        certificate: str | None = None,
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
            certificate: For brokers that want one: our certificate and its key, as one PEM text.
            timing: How long things take.

        Raises:
            MalformedError: The URL is not of that form, or a PEM is none.
        """
        host, port, is_secure = _parse_url(url)
        self._address = Address(
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
        self._stopping = Stopping()
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
            Connection(self._address, self._desk, self._inbox, self._timing, self._stopping).run(
                wake_out
            )
            if monotonic() - began > longest:
                wait = shortest
            # Decorrelated jitter spreads a fleet from its first try on.
            wait = min(longest, random.uniform(shortest, wait * 3))  # noqa: S311 - no secret
            self._stopping.wait(wait)


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


def _tls_context(ca: str | None, certificate: str | None) -> ssl.SSLContext:
    is_text = ca is not None and "-----BEGIN" in ca
    try:
        context = ssl.create_default_context(
            cafile=None if is_text else ca, cadata=ca if is_text else None
        )
        if certificate is not None:
            _load_certificate(context, certificate)
    except OSError as error:  # ssl.SSLError is one.
        raise MalformedError(f"expected certificates in PEM: {error}") from error
    return context


def _load_certificate(context: ssl.SSLContext, text: str) -> None:
    """Load a certificate with its key; Python reads them from a file only."""
    with NamedTemporaryFile(prefix="imxfleet-", suffix=".pem") as file:  # Its owner's alone.
        file.write(text.encode())
        file.flush()
        context.load_cert_chain(file.name)


def _check_length(topic: str, payload: bytes) -> None:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise LimitError(
            f"expected at most {PAYLOAD_BYTES_MAX} bytes on {topic}, got {len(payload)}"
        )
