"""The bus itself: clean sessions, TLS, threads, bounds."""

import socket
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.broker import RunningBroker
from shared.bus import Bus, BusEvent, Connected, ConnectionFailed, Inbox, Received
from shared.errors import MalformedError
from shared.inbox import INBOX_BYTES
from tests.integration.conftest import secure_url

if TYPE_CHECKING:
    from tests.integration.conftest import BrokerHouse, MakeClient

CLEAN_SESSION = 0x02


def test_every_connection_asks_for_a_clean_session(make_client: "MakeClient") -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        make_client(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        flags = []
        for _ in range(2):
            connection, _ = server.accept()
            with connection:
                packet = connection.recv(100)  # CONNECT, length, 00 04 MQTT, level, flags.
                flags.append(packet[9])

    assert all(flag & CLEAN_SESSION for flag in flags)


def test_tls_takes_the_authority_as_text_and_as_a_path(
    house: "BrokerHouse", authority: Path, make_client: "MakeClient"
) -> None:
    url, path = secure_url(house, authority), authority / "ca.pem"
    data = b"x" * 300_000  # More than one TLS record: what it has decrypted must be read.

    one = make_client(url, "one", ca=path.read_text())
    other = make_client(url, "other", ca=str(path))
    one.connected()
    other.connected()
    other.subscribed("a")
    one.bus.publish("a", data)

    assert other.message(topic="a").payload == data


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broker_that_our_authority_does_not_vouch_for_gets_no_password(
    house: "BrokerHouse", authority: Path, make_client: "MakeClient"
) -> None:
    url = secure_url(house, authority)

    client = make_client(url, username="pi", password="secret")

    event = client.wait_for(lambda event: isinstance(event, ConnectionFailed))
    assert isinstance(event, ConnectionFailed)
    assert "certificate" in event.text.lower()


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1", "http://127.0.0.1", "mqtt://", "mqtt://pi:secret@host", "mqtt://host:99999"],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(MalformedError):
        Bus(url, "client", Inbox[BusEvent]())


def test_an_authority_that_is_no_pem_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello")

    with pytest.raises(MalformedError):
        Bus("mqtts://host", "client", Inbox[BusEvent](), ca=str(tmp_path / "ca.pem"))
    with pytest.raises(MalformedError):
        Bus("mqtts://host", "client", Inbox[BusEvent](), ca=str(tmp_path / "none.pem"))


def test_no_broker_is_said_and_tried_again(make_client: "MakeClient") -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = make_client(f"mqtt://127.0.0.1:{port}")

    for _ in range(2):
        event = client.wait_for(lambda event: isinstance(event, ConnectionFailed))
        assert event == ConnectionFailed(
            f"127.0.0.1:{port}: [Errno 111] Connection refused", is_refused=False
        )


def test_a_flood_is_dropped_and_counted_and_the_line_stays_up(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    inbox: Inbox[BusEvent] = Inbox(messages_max=10)
    bus = Bus(broker.url, "slow", inbox)
    bus.subscribe("a")
    bus.start()
    writer = make_client(broker.url, "writer")
    writer.connected()
    probe = make_client(broker.url, "probe")
    probe.connected()
    probe.subscribed("a")
    deadline = time.monotonic() + 20.0

    while inbox.dropped == 0:
        assert time.monotonic() < deadline
        for _ in range(20):
            writer.bus.publish("a", b"x")
        probe.message(topic="a")

    held = [inbox.get(0) for _ in range(len(inbox))]
    assert sum(isinstance(event, Received) for event in held) <= 10
    assert Connected() in held  # What the bus itself says is never dropped.
    assert bus.is_connected
    bus.stop()


def test_an_inbox_is_bounded_in_bytes_too() -> None:
    inbox: Inbox[BusEvent] = Inbox()
    large = Received("a", b"x" * (INBOX_BYTES // 2), is_retained=False)

    assert [inbox.offer(large) for _ in range(3)] == [True, True, False]
    inbox.get(0)
    assert inbox.offer(large)


def test_many_threads_may_publish_at_once(broker: RunningBroker, make_client: "MakeClient") -> None:
    """Each of paho's own threads would write to the socket; here one does."""
    reader, writer = make_client(broker.url, "reader"), make_client(broker.url, "writer")
    reader.connected()
    writer.connected()
    reader.subscribed("a/#")

    def publish(name: str) -> None:
        for number in range(100):
            assert writer.bus.publish(f"a/{name}", f"{number} {'x' * 2_000}".encode(), 1)

    threads = [threading.Thread(target=publish, args=[str(name)]) for name in range(5)]
    for thread in threads:
        thread.start()
    came: dict[str, list[int]] = {}
    for _ in range(500):
        event = reader.message()
        came.setdefault(event.topic, []).append(int(event.payload.split()[0]))
    for thread in threads:
        thread.join()

    assert came == {f"a/{name}": list(range(100)) for name in range(5)}


def test_stop_is_quick_though_no_broker_answers(make_client: "MakeClient") -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = make_client(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        connection, _ = server.accept()

        client.bus.stop(b"offline", timeout_seconds=1.0)
        connection.close()

    assert not [t for t in threading.enumerate() if t.name == "bus-client"]


def test_the_context_checks_names_and_refuses_old_tls() -> None:
    bus = Bus("mqtts://host", "client", Inbox[BusEvent]())

    context = bus._address.tls
    assert context is not None
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
