"""Real brokers, each in a folder of its own on a free loopback port."""

import datetime as dt
import ipaddress
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controller.broker import (
    BrokerOptions,
    RunningBroker,
    find_mosquitto,
    find_nats,
    nats_version,
    run_mosquitto,
    run_nats,
)
from shared.bus import Bus, BusEvent, Connected, Inbox, Received, Subscribed, Timing
from shared.errors import OperatorError
from shared.subscriptions import Schedule

PATIENCE_SECONDS = 20.0
QUICK = Timing(reconnect_seconds=(0.05, 0.5), repeats=Schedule(after=(), every=3600.0))


@dataclass
class BrokerHouse:
    """Starts brokers of one kind, and stops them when the test ends."""

    kind: str
    folder: Path
    brokers: list[RunningBroker] = field(default_factory=list)

    def start(self, options: BrokerOptions | None = None, port: int = 0) -> RunningBroker:
        run = {"nats": run_nats, "mosquitto": run_mosquitto}[self.kind]
        broker = run(self.folder, port, options)
        self.brokers.append(broker)
        return broker

    def skip_where_payloads_are_not_limited(self) -> None:
        if self.kind == "nats" and (nats_version(find_nats()) or (0,)) < (2, 10):
            pytest.skip("NATS 2.9 takes MQTT payloads of any length: nothing is lost there")

    def start_again(
        self, old: RunningBroker, options: BrokerOptions | None = None
    ) -> RunningBroker:
        return self.start(options, old.port)


@dataclass
class Client:
    """A bus with an inbox, and all that was heard on it."""

    bus: Bus
    inbox: Inbox[BusEvent]
    heard: list[BusEvent] = field(default_factory=list)

    def wait_for(
        self, is_it: Callable[[BusEvent], bool], seconds: float = PATIENCE_SECONDS
    ) -> BusEvent:
        """Return the first new event that is it; what came before is in ``heard``."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            event = self.inbox.get(left)
            if event is None:
                break
            self.heard.append(event)
            if is_it(event):
                return event
        raise AssertionError(f"it did not come; heard {self.heard[-20:]}")

    def connected(self) -> None:
        self.wait_for(lambda event: isinstance(event, Connected))

    def subscribed(self, topic: str) -> None:
        self.bus.subscribe(topic)
        self.wait_for(lambda event: event == Subscribed(topic))

    def message(self, payload: bytes | None = None, topic: str | None = None) -> Received:
        def is_it(event: BusEvent) -> bool:
            return (
                isinstance(event, Received)
                and payload in (None, event.payload)
                and topic in (None, event.topic)
            )

        event = self.wait_for(is_it)
        assert isinstance(event, Received)
        return event

    def drain(self, seconds: float) -> list[BusEvent]:
        """Return what comes in some time: only for showing that something does NOT come."""
        deadline = time.monotonic() + seconds
        events: list[BusEvent] = []
        while (left := deadline - time.monotonic()) > 0:
            event = self.inbox.get(left)
            if event is not None:
                events.append(event)
        self.heard.extend(events)
        return events


class Relay:
    """A line between a client and a broker that can be held and cut: real TCP, no mock.

    Held towards the client, the broker's acknowledgements do not arrive; the broker has the
    messages.
    """

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._is_holding = threading.Event()
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def hold_answers(self) -> None:
        self._is_holding.set()

    def cut(self) -> None:
        """Break the line; the next connection is forwarded normally."""
        pair, self._pair = self._pair, None
        for end in pair or ():
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._is_holding.clear()

    def close(self) -> None:
        self._is_over.set()
        self.cut()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            pass
        self._thread.join(5)
        self._listener.close()

    def _run(self) -> None:
        while not self._is_over.is_set():
            client, _ = self._listener.accept()
            with client:
                if self._is_over.is_set():
                    return
                with (
                    suppress(OSError),
                    socket.create_connection(("127.0.0.1", self._broker_port)) as broker,
                ):
                    self._pair = (client, broker)
                    self._forward(client, broker)

    def _forward(self, client: socket.socket, broker: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, broker)
            selector.register(broker, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select(0.5):
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is broker and self._is_holding.is_set():
                        continue
                    target.sendall(data)


MakeClient = Callable[..., Client]
# What does not depend on the kind of broker is shown on one.
on_nats = pytest.mark.parametrize("house", ["nats"], indirect=True)


def _is_there(kind: str) -> bool:
    try:
        {"nats": find_nats, "mosquitto": find_mosquitto}[kind]()
    except OperatorError:
        return False
    return True


@pytest.fixture(params=["nats", "mosquitto"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerHouse]:
    """Both kinds of broker; NATS comes with the wheel, Mosquitto where it is installed."""
    kind: str = request.param
    if not _is_there(kind):
        assert kind != "nats", "the wheel brings it"
        pytest.skip("no Mosquitto here")
    made = BrokerHouse(kind, tmp_path / "broker")
    yield made
    for broker in made.brokers:
        broker.kill()


@pytest.fixture
def broker(house: BrokerHouse) -> RunningBroker:
    return house.start()


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    """Make and start buses that end with the test."""
    with ExitStack() as stack:

        def make(url: str, name: str = "client", **options: object) -> Client:
            inbox: Inbox[BusEvent] = Inbox()
            options.setdefault("timing", QUICK)
            bus = Bus(url, name, inbox, **options)  # type: ignore[arg-type]
            bus.start()
            stack.callback(bus.stop, timeout_seconds=0.0)
            return Client(bus, inbox)

        yield make


@pytest.fixture
def relay(broker: RunningBroker) -> Iterator[Relay]:
    """A line to the broker that can be held and cut."""
    made = Relay(broker.port)
    yield made
    made.close()


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """Make a certificate for loopback that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = dt.datetime.now(dt.UTC)
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (tmp_path / "ca.pem").write_bytes(certificate.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return tmp_path


def secure_url(house: BrokerHouse, authority: Path) -> str:
    """Start a broker that also listens with that certificate."""
    if house.kind != "mosquitto":
        pytest.skip("one broker shows it: TLS is Python's own")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listener = (
        f"listener {port} 127.0.0.1\ncertfile {authority / 'ca.pem'}\n"
        f"keyfile {authority / 'key.pem'}\nallow_anonymous true"
    )
    house.start(BrokerOptions(extra=listener))
    return f"mqtts://127.0.0.1:{port}"
