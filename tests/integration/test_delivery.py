"""The delivery rules of docs/protocol.md on real brokers, each with the loss that it repairs."""

import queue
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
import pytest

from controller.broker import BrokerOptions, RunningBroker
from shared import blocks
from shared.bus import (
    Acknowledged,
    ConnectionFailed,
    Disconnected,
    Oversized,
    Received,
    SubscriptionRefused,
    Timing,
)
from shared.errors import LimitError
from shared.subscriptions import Schedule

if TYPE_CHECKING:
    from tests.integration.conftest import BrokerHouse, Client, MakeClient, Relay

PHASE = "fleet/v1/demo/device/pi-01/reported"
STATUS = "fleet/v1/demo/device/pi-01/status"
DEADLINE_SECONDS = 20.0
# A device that may read nothing but its own topics: the brokers' own words for it.
NATS_USERS = """
authorization { users: [
  { user: all, password: secret },
  { user: pi, password: secret, permissions: {
      publish: { deny: ["fleet.v1.demo.trust"] }, subscribe: { deny: ["fleet.v1.demo.trust"] } } }
] }
"""


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def test_a_message_reaches_a_subscriber_and_a_retained_one_a_late_subscriber(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    one, other = make_client(broker.url, "one"), make_client(broker.url, "other")
    one.connected()
    other.connected()
    other.subscribed("a/#")

    one.bus.publish("a/b", b"kept", 1, retain=True, token="token")

    assert other.message(b"kept") == Received("a/b", b"kept", is_retained=False)
    late = make_client(broker.url, "late")
    late.bus.subscribe("a/+")
    assert late.message(b"kept") == Received("a/b", b"kept", is_retained=True)
    one.wait_for(lambda event: event == Acknowledged("token"))


# Rule 1: QoS 0 subscriptions, and a refused one is said.


def test_a_refused_subscription_is_reported_where_the_broker_says_so(
    house: "BrokerHouse", make_client: "MakeClient"
) -> None:
    if house.kind != "nats":
        pytest.skip("Mosquitto grants every filter and delivers nothing: rule 2's business")
    broker = house.start(BrokerOptions(extra=NATS_USERS, is_open_to_all=False))
    client = make_client(broker.url, "pi", username="pi", password="secret")

    client.bus.subscribe("fleet/v1/demo/trust")

    client.wait_for(lambda event: event == SubscriptionRefused("fleet/v1/demo/trust"))


def test_a_wrong_password_is_said_to_be_refused(
    house: "BrokerHouse", make_client: "MakeClient"
) -> None:
    extra = NATS_USERS if house.kind == "nats" else ""
    broker = house.start(BrokerOptions(extra=extra, is_open_to_all=False))

    client = make_client(broker.url, "pi", username="pi", password="guessed")

    event = client.wait_for(lambda event: isinstance(event, ConnectionFailed))
    assert isinstance(event, ConnectionFailed)
    assert event.is_refused


def test_what_is_longer_than_its_subscription_allows_is_dropped_and_reported(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    client = make_client(broker.url)
    client.connected()
    client.bus.subscribe("a/long", bytes_max=10)
    client.bus.subscribe("a/#", bytes_max=1_000)

    client.bus.publish("a/long", b"x" * 11)
    client.bus.publish("a/other", b"fits")

    client.wait_for(lambda event: event == Oversized("a/long", 11, 10))
    assert client.message(topic="a/other").payload == b"fits"
    assert not any(isinstance(e, Received) and e.topic == "a/long" for e in client.heard)


def test_what_no_broker_takes_is_never_queued(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    client = make_client(broker.url)

    with pytest.raises(LimitError):
        client.bus.publish("a", b"x" * 1_000_001)
    with pytest.raises(LimitError):
        client.bus.state("a", b"x" * 1_000_001)


# Rule 2: "subscribed and got nothing" means nothing.


def test_a_repeated_subscription_brings_what_the_first_one_missed(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    """The broker loses the first answer: it is thrown away here, as a restarting NATS does."""
    writer = make_client(broker.url, "writer")
    writer.connected()
    writer.bus.state("a", b"value")
    until(lambda: writer.bus.is_settled)
    timing = Timing(reconnect_seconds=(0.05, 0.5), repeats=Schedule(after=(0.3,), every=3600.0))
    device = make_client(broker.url, "device", timing=timing)
    device.bus.subscribe("a", is_repeated=True)
    first = device.message(b"value")

    again = device.message(b"value")

    assert first.is_retained
    assert again.is_retained


def test_without_repetition_nothing_comes_again(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    writer = make_client(broker.url, "writer")
    writer.connected()
    writer.bus.state("a", b"value")
    timing = Timing(reconnect_seconds=(0.05, 0.5), repeats=Schedule(after=(0.2,), every=3600.0))
    device = make_client(broker.url, "device", timing=timing)
    device.bus.subscribe("a")
    device.message(b"value")

    assert not [event for event in device.drain(0.6) if isinstance(event, Received)]


def test_blocks_arrive_though_some_are_published_only_later(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    writer, device = make_client(broker.url, "writer"), make_client(broker.url, "device")
    writer.connected()
    device.connected()
    pieces = blocks.split_file(random.Random(1).randbytes(20 * 122_880))
    missing = pieces[3]
    for piece in pieces:
        if piece is not missing:
            writer.bus.publish(f"b/{piece.sha256}", piece.data, 1, retain=True)

    fetch = Fetch(device)
    fetch.begin(piece.sha256 for piece in pieces)
    until(lambda: fetch.turn() and fetch.state.missing_count == 1)
    writer.bus.publish(f"b/{missing.sha256}", missing.data, 1, retain=True)
    until(fetch.turn_and_is_done)

    assert fetch.stored == {piece.sha256: piece.data for piece in pieces}
    assert fetch.most_at_once == 8


# Rule 3: a disconnect right after a large publish.


def test_a_broker_that_hangs_up_on_a_large_publish_is_said_to_have_a_payload_limit(
    house: "BrokerHouse", make_client: "MakeClient"
) -> None:
    house.skip_where_payloads_are_not_limited()
    if house.kind == "nats":
        broker = house.start(BrokerOptions(payload_bytes_max=20_000))
    else:  # Its message_size_limit acknowledges and drops; this one hangs up.
        broker = house.start(BrokerOptions(extra="max_packet_size 20000"))
    client = make_client(broker.url)
    client.connected()

    client.bus.publish("a/large", b"x" * 100_000, 1, retain=True, token="token")

    event = client.wait_for(lambda event: isinstance(event, Disconnected))
    assert isinstance(event, Disconnected)
    assert event.is_payload_limit
    assert event.topic == "a/large"


def test_a_broker_that_ends_is_not_said_to_have_a_payload_limit(
    house: "BrokerHouse", make_client: "MakeClient"
) -> None:
    broker = house.start()
    client = make_client(broker.url)
    client.connected()
    client.bus.publish("a/large", b"x" * 100_000, 1, retain=True, token="token")
    client.wait_for(lambda event: event == Acknowledged("token"))

    broker.kill()

    event = client.wait_for(lambda event: isinstance(event, Disconnected))
    assert isinstance(event, Disconnected)
    assert not event.is_payload_limit


# Rule 4: the last-value outbox.


def test_paho_alone_lets_an_old_phase_overwrite_a_new_one(
    broker: RunningBroker, relay: "Relay", make_client: "MakeClient"
) -> None:
    """The loss: the client resends what was not acknowledged *after* its connect callback."""
    watcher = make_client(broker.url, "watcher")
    watcher.connected()
    watcher.subscribed(PHASE)
    entered: queue.Queue[int] = queue.Queue()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="pi-01")
    connects = iter(range(9))

    def on_connect(*_: object) -> None:
        if number := next(connects):
            client.publish(PHASE, b"probing", 1, retain=True)
        entered.put(number)

    client.on_connect = on_connect
    client.reconnect_delay_set(1, 1)
    client.connect("127.0.0.1", relay.port)
    client.loop_start()
    entered.get(timeout=DEADLINE_SECONDS)
    relay.hold_answers()
    client.publish(PHASE, b"activating", 1, retain=True)
    watcher.message(b"activating")

    relay.cut()
    entered.get(timeout=DEADLINE_SECONDS)
    phases = [watcher.message().payload for _ in range(2)]
    client.disconnect()
    client.loop_stop()

    assert sorted(phases) == [b"activating", b"probing"]
    late = make_client(broker.url, "late")
    late.bus.subscribe(PHASE)
    assert late.message().payload == phases[-1] == b"activating"


def test_an_old_phase_never_overwrites_a_new_one_after_a_reconnect(
    broker: RunningBroker, relay: "Relay", make_client: "MakeClient"
) -> None:
    watcher = make_client(broker.url, "watcher")
    watcher.connected()
    watcher.subscribed(PHASE)
    agent = make_client(relay.url, "pi-01")
    agent.connected()
    relay.hold_answers()
    agent.bus.state(PHASE, b"activating")
    watcher.message(b"activating")

    agent.bus.state(PHASE, b"probing")  # Waits: the one before is not acknowledged.
    relay.cut()
    watcher.message(b"probing")
    until(lambda: agent.bus.is_settled)

    late = make_client(broker.url, "late")
    late.bus.subscribe(PHASE)
    assert late.message().payload == b"probing"
    assert not [e for e in watcher.drain(0.3) if isinstance(e, Received)]


def test_after_a_connect_all_state_goes_out_again_and_the_status_last(
    broker: RunningBroker, relay: "Relay", make_client: "MakeClient"
) -> None:
    watcher = make_client(broker.url, "watcher")
    watcher.connected()
    watcher.subscribed("fleet/#")
    agent = make_client(relay.url, "pi-01", will=(STATUS, b"offline"))
    agent.bus.state(STATUS, b"online")
    agent.bus.state(PHASE, b"idle")
    watcher.message(b"online")

    relay.cut()
    came = [watcher.message().payload for _ in range(3)]

    # Mosquitto publishes the will first; NATS may do so after the birth: the next test.
    assert sorted(came) == [b"idle", b"offline", b"online"]
    assert came.index(b"idle") < came.index(b"online")


def test_a_will_that_comes_after_the_next_birth_does_not_leave_a_device_offline(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    timing = Timing(reconnect_seconds=(0.05, 0.5), repeats=Schedule(after=(0.3,), every=3600.0))
    agent = make_client(broker.url, "pi-01", will=(STATUS, b"offline"), timing=timing)
    agent.bus.state(STATUS, b"online")
    late = make_client(broker.url, "late-will")
    late.connected()
    watcher = make_client(broker.url, "watcher")
    watcher.connected()
    watcher.subscribed(STATUS)
    watcher.message(b"online")

    late.bus.publish(STATUS, b"offline", 1, retain=True)

    watcher.message(b"offline")
    watcher.message(b"online")


def test_a_clean_stop_leaves_the_farewell_and_a_dead_line_the_will(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    watcher = make_client(broker.url, "watcher")
    watcher.connected()
    watcher.subscribed(STATUS)
    agent = make_client(broker.url, "pi-01", will=(STATUS, b"offline"))
    agent.bus.state(STATUS, b"online")
    watcher.message(b"online")

    agent.bus.stop(b"offline")

    watcher.message(b"offline")
    late = make_client(broker.url, "late")
    late.bus.subscribe(STATUS)
    assert late.message().payload == b"offline"


# Rule 5, the agent's side: the store can be lost.


def test_an_agent_gives_a_wiped_broker_its_state_back(
    house: "BrokerHouse", make_client: "MakeClient"
) -> None:
    broker = house.start()
    agent = make_client(broker.url, "pi-01", will=(STATUS, b"offline"))
    agent.bus.state(STATUS, b"online")
    agent.bus.state(PHASE, b"committed")
    until(lambda: agent.bus.is_settled)

    wipe(house, broker)
    late = make_client(broker.url, "late")
    late.bus.subscribe("fleet/#")

    assert {late.message().payload for _ in range(2)} == {b"committed", b"online"}


# Rule 6: clean sessions.


def test_a_request_that_was_made_while_we_were_away_is_not_delivered_later(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    topic = "fleet/v1/demo/device/pi-01/request/reboot"
    operator = make_client(broker.url, "operator")
    operator.connected()
    first = make_client(broker.url, "pi-01")
    first.connected()
    first.subscribed(topic)
    first.bus.stop()

    operator.bus.publish(topic, b"now", 1, token="sent")
    operator.wait_for(lambda event: event == Acknowledged("sent"))
    again = make_client(broker.url, "pi-01")
    again.connected()
    again.subscribed(topic)
    operator.bus.publish(topic, b"later", 1)

    assert again.message(topic=topic).payload == b"later"


def test_a_persistent_session_does_deliver_it_later(broker: RunningBroker) -> None:
    """The loss: with a session, last week's reboot comes when the device comes back."""
    got: queue.Queue[bytes] = queue.Queue()

    def client(*, is_clean: bool, name: str) -> paho.Client:
        made = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, clean_session=is_clean)
        made.on_message = lambda _c, _u, message: got.put(message.payload)
        made.connect("127.0.0.1", broker.port)
        made.loop_start()
        until(made.is_connected)
        return made

    def end(made: paho.Client) -> None:
        made.disconnect()
        made.loop_stop()

    first = client(is_clean=False, name="pi-01")
    granted: queue.Queue[bool] = queue.Queue()
    first.on_subscribe = lambda *_: granted.put(item=True)
    first.subscribe("request", 1)
    granted.get(timeout=DEADLINE_SECONDS)
    end(first)
    operator = client(is_clean=True, name="operator")
    operator.publish("request", b"reboot", 1).wait_for_publish(DEADLINE_SECONDS)
    again = client(is_clean=False, name="pi-01")

    assert got.get(timeout=DEADLINE_SECONDS) == b"reboot"
    end(again)
    end(operator)


def test_what_is_published_without_a_connection_is_dropped_and_said_so(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    client = make_client(broker.url)
    client.connected()
    broker.kill()
    client.wait_for(lambda event: isinstance(event, Disconnected))

    assert client.bus.publish("a", b"telemetry") is False


# Rule 2, all topics: empty means none.


def test_cleared_state_is_gone_for_late_subscribers(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    agent = make_client(broker.url, "pi-01")
    agent.connected()
    agent.bus.state("a/b", b"value")
    agent.bus.state("a/b", b"")
    until(lambda: agent.bus.is_settled)

    late = make_client(broker.url, "late")
    late.connected()
    late.subscribed("a/b")

    assert not [event for event in late.drain(0.3) if isinstance(event, Received)]


def wipe(house: "BrokerHouse", broker: RunningBroker) -> RunningBroker:
    """Kill a broker, take its disk away, and start another in its place."""
    broker.kill()
    for path in sorted(house.folder.rglob("*"), reverse=True):
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()
    return house.start_again(broker)


class Fetch:
    """The shell around the blocks machine, as small as it gets."""

    def __init__(self, client: "Client") -> None:
        self.client = client
        self.state = blocks.Fetching()
        self.stored: dict[str, bytes] = {}
        self.is_done = False
        self.most_at_once = 0

    def begin(self, missing: object) -> None:
        self._do(blocks.start(missing, time.monotonic()))  # type: ignore[arg-type]

    def turn(self) -> bool:
        event = self.client.inbox.get(0.05)
        now = time.monotonic()
        if isinstance(event, Received):
            digest = event.topic.removeprefix("b/")
            self._do(blocks.received(self.state, digest, event.payload, now))
        self._do(blocks.ticked(self.state, now))
        return True

    def turn_and_is_done(self) -> bool:
        return self.turn() and self.is_done

    def _do(self, step: blocks.Step) -> None:
        self.state, effects = step
        self.most_at_once = max(self.most_at_once, len(self.state.asked))
        for effect in effects:
            match effect:
                case blocks.Subscribe(digest):
                    self.client.bus.subscribe(f"b/{digest}", bytes_max=122_880)
                case blocks.Unsubscribe(digest):
                    self.client.bus.unsubscribe(f"b/{digest}")
                case blocks.Store(digest, data):
                    self.stored[digest] = data
                case blocks.Done():
                    self.is_done = True
                case blocks.ReportWrong(digest):
                    raise AssertionError(digest)
