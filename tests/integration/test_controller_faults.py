"""Faults and bad input at the controller: puppets obey the real rules, the broker is real."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from controller.broker import BrokerOptions, RunningBroker
from controller.cli.exits import Exit
from controller.service import Controller
from controller.status import DeviceStatus, FleetStatus
from shared.bus import Received
from shared.detections import Detections, encode_detections
from shared.errors import NotEchoedError, OperatorError, RefusedError
from shared.messages import CameraReported, DeploymentReported, Reported, encode
from shared.topics import Topics
from tests.integration.conftest import BrokerHouse, MakeClient, on_nats
from tests.integration.test_cli import fleetctl
from tests.integration.test_controller import (
    DEVICES,
    FLEET_YAML,
    PATIENCE_SECONDS,
    QUICK,
    Bed,
)
from tests.puppet import Puppet, make_release

TOPICS = Topics("testbed")
HUGE = "9" * 5_000
JUNK = (
    b"{", b"\xff", b"[]", b"null", b"7", b'{"v":1,"at":[]}', b'{"v":2}', b"[" * 16_000,
    b"x" * 20_000, json.dumps({"v": 1, "run": f"x-{HUGE}", "cameras": {HUGE: {}}}).encode(),
)  # fmt: skip


def open_bed(folder: Path, broker: RunningBroker) -> Iterator[Bed]:
    (folder / "fleet.yaml").write_text(FLEET_YAML)
    home = folder / "home"
    controller = Controller.init_fleet(
        folder, passphrase=None, home=home, timing=QUICK, broker_url=broker.url
    )
    made = Bed(folder, home, broker, controller)
    try:
        yield made
    finally:
        for puppet in made.puppets.values():
            puppet.stop()
        controller.close()


@pytest.fixture
def bed(broker: RunningBroker, tmp_path: Path) -> Iterator[Bed]:
    yield from open_bed(tmp_path, broker)


def test_malformed_messages_on_every_topic_do_not_stop_a_rollout_that_is_driven(
    bed: Bed, make_client: MakeClient
) -> None:
    bed.join(*DEVICES)
    vandal = make_client(bed.broker.url, "vandal")
    vandal.connected()
    name = bed.controller.start_rollout(bed.release(1), selector="role=door", strategy="canary")
    block = make_release("shapes", 1)[0].files[0].blocks[0]
    topics = [TOPICS.trust, TOPICS.block(block)]
    for device in ("cam-1", "cam-4", "stranger"):
        topics += [TOPICS.device(device, rest) for rest in ("reported", "status", "a/b/c")]
    junk = iter(JUNK)

    def vandalise(_: FleetStatus) -> None:
        for payload in islice(junk, 2):
            for topic in topics:
                vandal.bus.publish(topic, payload, 1, retain=True)

    status = bed.controller.drive(name, on_change=vandalise, timeout_seconds=PATIENCE_SECONDS)

    assert next(junk, None) is None, "all of it was sent while the rollout was driven"
    assert status is not None
    assert (status.state, status.is_healthy) == ("completed", True)
    assert bed.running == {"shapes@1"}


@on_nats
def test_names_that_a_device_makes_up_get_into_no_topic(bed: Bed, make_client: MakeClient) -> None:
    bed.join("cam-1", "cam-2", "cam-3")
    deployment = DeploymentReported(
        rollout="+/#", attempt=1, manifest_sha256="../#", phase="fetching", since="",
        missing_blocks=("#", "+/trust", "../x", "a" * 5_000),
    )  # fmt: skip
    camera = CameraReported(
        kind="#", state="streaming", release="+@1", deployment=deployment, owners=(("#", 1),)
    )
    report = Reported(
        at="2026-11-24T03:00:00.000Z", clock="synced", boot="#", run="+/#-1", seq=0,
        agent_version="#", plan_version=0, plan_sha256="#", identity_version=0,
        cameras={"0": camera},
    )  # fmt: skip
    device = make_client(bed.broker.url, "injector")
    device.connected()
    device.subscribed("#")
    for name in ("cam-4", "stranger"):
        device.bus.state(TOPICS.device(name, "status"), b"online")
        device.bus.state(TOPICS.device(name, "reported"), encode(report, bytes_max=16_384))

    status = bed.roll_out(1)

    assert (status.state, status.is_healthy) == ("completed", True)
    device.drain(0.5)
    heard = {event.topic for event in device.heard if isinstance(event, Received)}
    assert len(heard) > len(DEVICES)
    for topic in heard:
        TOPICS.parse(topic)  # Raises where it is no topic of this fleet.


@on_nats
def test_names_that_an_operator_makes_up_are_refused(bed: Bed) -> None:
    for name in ("+", "#", "cam-1/#", "../cam-1", "cam.1", "CAM-1", ""):
        manifest, files = make_release("shapes", 1)
        with pytest.raises(RefusedError):
            bed.controller.import_release(msgspec.structs.replace(manifest, name=name), files)
        with pytest.raises(OperatorError):
            bed.controller.add_device(name)
    bed.controller.add_device("cam-1")
    release = bed.release(1)
    with pytest.raises(OperatorError):
        bed.controller.start_rollout(release, selector="role=door", strategy="all", name="a/#")
    with pytest.raises(OperatorError):
        bed.controller.start_rollout(release, selector="role=+/#", strategy="all")


@on_nats
def test_a_new_card_with_an_old_device_s_id_takes_its_place_and_says_so(bed: Bed) -> None:
    bed.join("cam-1")
    bed.roll_out(1, "all")
    old = bed.puppets["cam-1"]
    old.stop()

    new = Puppet(old.card, install="new-card").start()
    bed.puppets["cam-1"] = new
    replaced = until_noted(bed, "reinstalled")
    status = bed.roll_out(2, "all")
    bed.puppets["old"] = Puppet(old.card, install="puppet").start()  # Out of the drawer again.
    doubled = until_noted(bed, "duplicate_device")

    assert replaced.state == "online"
    assert (status.state, status.is_healthy, new.runs) == ("completed", True, "shapes@2")
    assert any("reinstalled" in note for note in doubled.notes)


def until_noted(bed: Bed, note: str) -> DeviceStatus:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        status = bed.controller.show_device("cam-1")
        if any(note in one for one in status.notes):
            return status
        assert time.monotonic() < deadline, status


def test_a_broker_killed_during_a_rollout_and_restarted_empty_is_only_a_delay(
    bed: Bed, house: BrokerHouse, tmp_path: Path, make_client: MakeClient
) -> None:
    bed.join(*DEVICES)
    bed.roll_out(1)
    name = bed.controller.start_rollout(bed.release(2), selector="role=door", strategy="canary")
    killed: list[str] = []

    def kill_once(fleet: FleetStatus) -> None:
        status = next(one for one in fleet.rollouts if one.rollout == name)
        if not killed and status.counts.get("healthy"):
            killed.append(status.state)
            bed.broker.kill()
            house.folder = tmp_path / "empty"
            house.start(port=bed.broker.port)

    status = bed.controller.drive(name, on_change=kill_once, timeout_seconds=PATIENCE_SECONDS)

    assert killed == ["running"]
    assert status is not None
    assert (status.state, status.is_healthy) == ("completed", True)
    assert bed.running == {"shapes@2"}
    late = make_client(bed.broker.url, "late")
    for block in make_release("shapes", 2)[0].files[0].blocks:
        late.bus.subscribe(TOPICS.block(block))
        late.message(topic=TOPICS.block(block))


@pytest.mark.parametrize("house", ["mosquitto"], indirect=True)  # NATS hangs up: test_publisher.
def test_a_broker_that_acknowledges_and_drops_is_said_and_the_rollout_goes_on_once_it_is_mended(
    house: BrokerHouse, tmp_path: Path
) -> None:
    broker = house.start(BrokerOptions(payload_bytes_max=20_000))
    with contextmanager(open_bed)(tmp_path, broker) as bed:
        bed.join(*DEVICES)
        name = bed.controller.start_rollout(bed.release(1), selector="role=door", strategy="canary")
        with pytest.raises(NotEchoedError):
            bed.drive(name)
        assert bed.running == {None}

        broker.kill()
        house.start_again(broker)

        assert bed.drive(name).is_healthy
        assert bed.running == {"shapes@1"}


@on_nats
def test_tail_shows_nothing_of_messages_and_topics_that_are_none(
    broker: RunningBroker, tmp_path: Path, make_client: MakeClient
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "fleet.yaml").write_text(
        FLEET_YAML.replace("embedded: true", f'url: "{broker.url}"')
    )
    Controller.init_fleet(project, passphrase=None, home=tmp_path / "data" / "imxfleet").close()
    camera = make_client(broker.url, "camera")
    camera.connected()
    frame = encode_detections(
        Detections(
            at="2026-11-24T03:00:00.123Z", run="x-1", seq=1, frame=87, release="shapes@1",
            task="detect", dnn_ms=58.8, objects=(),
        )
    )  # fmt: skip
    for number, payload in ((0, b"{"), (1, b"[]"), ("x", frame), ("1" * 50, frame), (3, frame)):
        camera.bus.state(f"fleet/v1/testbed/device/cam-1/camera/{number}/detections", payload)

    ended = fleetctl(project, "tail", "--count", "1", "--timeout", "20s", "-o", "jsonl")

    assert ended.returncode == Exit.OK, ended.stderr
    assert json.loads(ended.stdout)["camera"] == 3
