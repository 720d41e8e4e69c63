"""Every message of a real run is within docs/asyncapi.yaml: controller, broker, agents, cameras.

A good release reaches everybody, a liar is rolled back at the canary, a device answers requests,
another vanishes. Whatever is heard on the broker meanwhile, on any topic, must have a channel and
fit its schema, and every channel must have been heard.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import Self

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from controller.broker import RunningBroker, run_nats
from controller.service import Controller, Timing
from shared.card import write_card
from shared.messages import time_text
from shared.topics import Topics
from tests.contract.contract import Contract, read_contract
from tests.fleet import RunningAgent, make_release

# A busy machine must not make a device late: what is judged here are messages.
TIMING = Timing(heartbeat_seconds=2.0, silence_seconds_min=120.0)
FLEET_YAML = """
version: 1
fleet: testbed
broker: {embedded: true}
defaults: {camera: simulated, bounds: {rate_hz: [1, 10]}}
devices:
  cam-1: {privacy: {images: on-request}}
  cam-2: {telemetry: {encoding: packed, events: true}}
strategies:
  canary:
    waves: [{pins: [cam-1], bake: 1s}, {fraction: 100%}]
    probe: {seconds: 2s}
    deadlines: {activation: 2m, progress: 2m}
"""
TOPICS = Topics("testbed")
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Heard:
    """One message, as its subscriber got it."""

    topic: str
    payload: bytes
    qos: int
    is_retained: bool


@dataclass
class Ear:
    """A plain MQTT client that hears all topics with QoS 1: so it is told the publisher's QoS."""

    port: int
    heard: list[Heard] = field(default_factory=list)
    _granted: Event = field(default_factory=Event)

    def __enter__(self) -> Self:
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=f"ear-{time.monotonic_ns()}")
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._granted.set()
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", self.port)
        self._client.loop_start()
        assert self._granted.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def say(self, topic: str, payload: bytes) -> None:
        self._client.publish(topic, payload, qos=1).wait_for_publish(PATIENCE_SECONDS)

    def wait_for(self, is_it: Callable[[Heard], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(map(is_it, tuple(self.heard))):
            assert time.monotonic() < deadline, "it did not come"
            time.sleep(0.05)

    def _hear(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        heard = Heard(message.topic, bytes(message.payload), message.qos, message.retain)
        self.heard.append(heard)


@dataclass
class Run:
    """All that was heard live, and what a newcomer is given at the end."""

    live: tuple[Heard, ...]
    kept: tuple[Heard, ...]


@pytest.fixture(scope="module")
def contract() -> Contract:
    return read_contract()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("capture")
    broker = run_nats(folder / "broker")
    try:
        yield play(folder, broker)
    finally:
        broker.stop()


def play(folder: Path, broker: RunningBroker) -> Run:
    (folder / "fleet.yaml").write_text(FLEET_YAML)
    controller = Controller.init_fleet(
        folder, passphrase=None, home=folder / "home", timing=TIMING, broker_url=broker.url
    )
    agents = []
    with Ear(broker.port) as ear:
        try:
            for device in ("cam-1", "cam-2"):
                card = folder / f"{device}.card.yaml"
                write_card(card, controller.add_device(device))
                agents.append(RunningAgent(device, folder / device, card).start())
            roll_out(controller, 1)
            roll_out(controller, 2, runs_as="n-another-network")
            ask(ear, "set", rate_hz=7)
            ear.wait_for(is_overridden)
            ask(ear, "snapshot")
            for what in ("cam-1/camera/0/image", "cam-2/camera/0/event", "cam-2/camera/0/packed"):
                ear.wait_for(partial(is_of, what))
            ear.wait_for(lambda heard: heard.topic.endswith("/health"))
            agents[1].kill()
            ear.wait_for(lambda heard: heard.payload == b"offline")
        finally:
            for agent in agents:
                agent.stop()
            controller.close()
    with Ear(broker.port) as late:
        late.wait_for(lambda heard: heard.topic == TOPICS.trust)
        time.sleep(2.0)  # What a broker has kept comes at once; nothing says that it was all.
    kept = tuple(heard for heard in late.heard if heard.is_retained)
    return Run(tuple(heard for heard in ear.heard if not heard.is_retained), kept)


def roll_out(controller: Controller, version: int, *, runs_as: str | None = None) -> None:
    made = make_release(version, runs_as=runs_as)
    files = {
        file.name: b"".join(made.blocks[block] for block in file.blocks)
        for file in made.manifest.files
    }
    controller.import_release(made.manifest, files)
    controller.sign_release(made.name, None)
    name = controller.start_rollout(made.name, selector="*", strategy="canary")
    status = controller.drive(name, timeout_seconds=PATIENCE_SECONDS)
    assert status is not None
    assert status.state == ("completed" if runs_as is None else "aborted"), status


def ask(ear: Ear, verb: str, **wish: int) -> None:
    now = datetime.now(UTC)
    request = {"v": 1, "id": verb, "at": time_text(now), **wish}
    request["expires"] = time_text(now + timedelta(seconds=60))
    ear.say(TOPICS.device("cam-1", f"request/{verb}"), json.dumps(request).encode())
    ear.wait_for(lambda heard: heard.topic == TOPICS.device("cam-1", f"response/{verb}"))


def is_of(what: str, heard: Heard) -> bool:
    return heard.topic.endswith(f"/device/{what}")


def is_overridden(heard: Heard) -> bool:
    is_report = heard.topic == TOPICS.device("cam-1", "reported")
    return is_report and bool(json.loads(heard.payload)["overrides"])


def test_every_message_has_a_channel_and_fits_its_schema(contract: Contract, run: Run) -> None:
    heard = [contract.judge(message.topic, message.payload) for message in run.live]

    assert set(heard) == set(contract.channels)


def test_messages_are_published_with_the_qos_that_the_contract_says(
    contract: Contract, run: Run
) -> None:
    published = {(contract.channel_of(m.topic), m.qos) for m in run.live if m.payload}

    assert published == {(name, contract.delivery(name)[0]) for name in contract.channels}


def test_the_broker_keeps_what_the_contract_says_and_nothing_else(
    contract: Contract, run: Run
) -> None:
    kept = {contract.judge(message.topic, message.payload) for message in run.kept}

    assert kept == {name for name in contract.channels if contract.delivery(name)[1]}


def test_what_really_went_over_the_wire_covers_both_good_and_bad_ends(run: Run) -> None:
    # Else the other tests here would say little.
    reports = [json.loads(m.payload) for m in run.live if m.topic.endswith("cam-1/reported")]
    phases = {r["cameras"]["0"]["deployment"]["phase"] for r in reports
              if r["cameras"].get("0", {}).get("deployment")}  # fmt: skip

    assert {"committed", "rolled_back"} <= phases
    assert any(map(is_overridden, run.live))
