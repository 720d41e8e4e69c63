"""The whole main job: the controller, a real broker, and real agents with their camera children."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from controller.broker import RunningBroker
from controller.service import Controller, Timing
from controller.status import FleetStatus, RolloutStatus
from shared.card import write_card
from tests.fleet import RunningAgent, make_release

# An agent beats every five seconds here.
TIMING = Timing(heartbeat_seconds=2.0, silence_seconds_min=20.0, tick_seconds=0.05)
FLEET_YAML = """
version: 1
fleet: testbed
broker: {embedded: true}
defaults: {camera: simulated}
devices: {cam-1: {}, cam-2: {}, cam-3: {}}
strategies:
  canary:
    waves: [{pins: [cam-1], bake: 1s}, {fraction: 100%}]
    probe: {seconds: 2s}
    deadlines: {activation: 20s, progress: 40s}
"""
DEVICES = ("cam-1", "cam-2", "cam-3")
PATIENCE_SECONDS = 60.0


@dataclass
class Site:
    """A controller and the agents of its fleet."""

    controller: Controller
    agents: dict[str, RunningAgent] = field(default_factory=dict)

    def release(self, version: int, *, runs_as: str | None = None) -> str:
        made = make_release(version, runs_as=runs_as)
        files = {
            file.name: b"".join(made.blocks[block] for block in file.blocks)
            for file in made.manifest.files
        }
        self.controller.import_release(made.manifest, files)
        self.controller.sign_release(made.manifest.release, None)
        return made.manifest.release

    def start(self, release: str) -> str:
        return self.controller.start_rollout(release, selector="*", strategy="canary")

    def drive(self, name: str) -> RolloutStatus:
        status = self.controller.drive(name, timeout_seconds=PATIENCE_SECONDS)
        assert status is not None
        return status

    @property
    def running(self) -> dict[str, str | None]:
        devices = self.controller.list_devices()
        return {
            status.device: camera.release
            for status in devices
            for camera in status.cameras.values()
            if camera is not None
        }


@pytest.fixture
def site(broker: RunningBroker, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "fleet.yaml").write_text(FLEET_YAML)
    controller = Controller.init_fleet(
        tmp_path,
        passphrase=None,
        home=tmp_path / "home",
        timing=TIMING,
        broker_url=broker.url,
    )
    made = Site(controller)
    for device in DEVICES:
        card = tmp_path / f"{device}.card.yaml"
        write_card(card, controller.add_device(device))
        made.agents[device] = RunningAgent(device, tmp_path / device, card).start()
    yield made
    for agent in made.agents.values():
        agent.stop()
    controller.close()


def test_good_goes_everywhere_bad_stops_at_the_canary_and_an_abort_goes_back(site: Site) -> None:
    good = site.release(1)
    liar = site.release(2, runs_as="n-another-network")  # Its frames prove another network.
    better = site.release(3)

    first = site.drive(site.start(good))
    bad = site.drive(site.start(liar))
    after_bad = site.running
    third = site.start(better)
    site.controller.drive(
        third, until=lambda fleet: _is_in_wave(fleet, third, 1), timeout_seconds=PATIENCE_SECONDS
    )
    site.controller.abort(third)
    aborted = site.drive(third)

    assert (first.state, first.is_healthy) == ("completed", True)
    assert (bad.state, bad.reason) == ("aborted", "gate")
    assert after_bad == dict.fromkeys(DEVICES, good)
    assert (aborted.state, aborted.reason) == ("aborted", "operator")
    assert site.running == dict.fromkeys(DEVICES, good)


def test_agents_killed_during_a_rollout_end_healthy(site: Site) -> None:
    name = site.start(site.release(1))
    site.controller.drive(
        name, until=lambda fleet: _is_in_wave(fleet, name, 1), timeout_seconds=PATIENCE_SECONDS
    )
    site.agents["cam-2"].kill()
    site.agents["cam-2"].start()

    status = site.drive(name)

    assert (status.state, status.is_healthy) == ("completed", True)
    assert site.running == dict.fromkeys(DEVICES, "tiny@1")


def _is_in_wave(fleet: FleetStatus, name: str, wave: int) -> bool:
    return any(one.rollout == name and one.wave >= wave for one in fleet.rollouts)
