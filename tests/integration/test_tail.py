"""``fleetctl tail`` as a person calls it, at a broker that speaks TLS."""

import json
from pathlib import Path

import msgspec
import pytest

from controller.cli.exits import Exit
from controller.service import Controller
from shared.detections import Detections, encode_detections
from shared.messages import TrackEvent
from shared.packed import encode_packed
from shared.topics import Topics
from tests.integration.conftest import BrokerHouse, MakeClient, on_nats, secure_url
from tests.integration.test_cli import fleetctl

FLEET = """\
version: 1
fleet: site-a
broker: {{url: "{url}", ca: ca.pem}}
devices: {{cam-1: {{camera: simulated}}}}
"""
FRAME = Detections(
    at="2026-11-24T03:00:00.123Z", run="k3v9q2-17", seq=1, frame=87, release="helmet@8",
    task="detect", dnn_ms=58.8, objects=(),
)  # fmt: skip
only_mosquitto = pytest.mark.parametrize("house", ["mosquitto"], indirect=True)


@only_mosquitto
def test_tail_trusts_the_authority_that_fleet_yaml_names(
    house: BrokerHouse, authority: Path, tmp_path: Path, make_client: MakeClient
) -> None:
    url = secure_url(house, authority)
    project = tmp_path / "project"
    project.mkdir()
    (project / "fleet.yaml").write_text(FLEET.format(url=url))
    (project / "ca.pem").write_bytes((authority / "ca.pem").read_bytes())
    home = tmp_path / "data" / "imxfleet"
    Controller.init_fleet(project, passphrase=None, home=home).close()
    camera = make_client(url, "camera", ca=str(authority / "ca.pem"))
    camera.connected()
    topic = Topics("site-a").camera("cam-1", 0, "detections")
    camera.bus.state(topic, encode_detections(FRAME))  # Kept, so that it waits for the reader.

    ended = fleetctl(project, "tail", "--count", "1", "--timeout", "20s", "-o", "jsonl")

    assert ended.returncode == Exit.OK, ended.stderr
    assert json.loads(ended.stdout)["device"] == "cam-1"


@on_nats
def test_tail_shows_packed_frames_and_what_happened_to_tracked_objects(
    house: BrokerHouse, tmp_path: Path, make_client: MakeClient
) -> None:
    broker = house.start()
    project = tmp_path / "project"
    project.mkdir()
    (project / "fleet.yaml").write_text(FLEET.format(url=broker.url).replace(", ca: ca.pem", ""))
    Controller.init_fleet(project, passphrase=None, home=tmp_path / "data" / "imxfleet").close()
    camera = make_client(broker.url, "camera")
    camera.connected()
    topics = Topics("site-a")
    event = TrackEvent(
        at=FRAME.at, release="helmet@8", event="leave", track=7, label="person", class_=0,
        dwell_ms=12_300,
    )  # fmt: skip
    said = {
        "event": msgspec.json.encode(event),
        "packed": encode_packed([FRAME, FRAME]).payload,
        "detections": b"not a frame",
    }
    for what, payload in said.items():  # Kept, so that they wait for the reader.
        camera.bus.state(topics.camera("cam-1", 0, what), payload)
    camera.bus.state(topics.camera("cam-2", 0, "packed"), b"nor is this one")

    shown = fleetctl(project, "tail", "--timeout", "6s")
    told = fleetctl(project, "tail", "--timeout", "6s", "-o", "jsonl")

    assert shown.returncode == told.returncode == Exit.OK, shown.stderr
    lines = shown.stdout.splitlines() + shown.stderr.splitlines()
    assert sum("nothing seen" in line for line in lines) == 2
    assert sum("person #7 left after 12.3 s" in line for line in lines) == 1
    documents = [json.loads(line) for line in told.stdout.splitlines()]
    frames = [one["detections"] for one in documents if "detections" in one]
    assert frames == [json.loads(encode_detections(FRAME))] * 2
    assert [one["event"]["dwell_ms"] for one in documents if "event" in one] == [12_300]
