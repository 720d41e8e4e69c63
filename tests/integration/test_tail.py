"""``fleetctl tail`` as a person calls it, at a broker that speaks TLS."""

import json
from pathlib import Path

import pytest

from controller.cli.exits import Exit
from controller.service import Controller
from shared.detections import Detections, encode_detections
from shared.topics import Topics
from tests.integration.conftest import BrokerHouse, MakeClient, secure_url
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
