"""The whole main job: the controller, a real broker, and real agents with their camera children."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from agent.camera.wire import Fault, Simulation
from controller.broker import RunningBroker
from controller.service import Controller, Timing
from controller.status import FleetStatus, RolloutStatus
from shared.card import write_card
from tests.fleet import RunningAgent, make_release
from tests.integration.conftest import on_nats

# An agent beats every five seconds here.
TIMING = Timing(heartbeat_seconds=6.0, silence_seconds_min=20.0, tick_seconds=0.05)
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
    deadlines: {activation: 60s, progress: 60s}
  hasty:
    waves: [{pins: [cam-1]}, {fraction: 100%}]
    deadlines: {activation: 8s}
"""
DEVICES = ("cam-1", "cam-2", "cam-3")
ENDLESS = Simulation(faults=(Fault(kind="slow_upload", release="tiny@9", value=600.0),))
PATIENCE_SECONDS = 120.0


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

    def start(self, release: str, strategy: str = "canary") -> str:
        return self.controller.start_rollout(release, selector="*", strategy=strategy)

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
    simulation = tmp_path / "simulation.json"
    simulation.write_bytes(msgspec.json.encode(ENDLESS))
    for device in DEVICES:
        card = tmp_path / f"{device}.card.yaml"
        write_card(card, controller.add_device(device))
        agent = RunningAgent(device, tmp_path / device, card, ("--simulate", str(simulation)))
        made.agents[device] = agent.start()
    for agent in made.agents.values():
        agent.wait_said("connected to the broker")
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


@on_nats
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


@on_nats
def test_a_first_release_that_fails_at_the_canary_stops_there_with_nothing_to_go_back_to(
    site: Site,
) -> None:
    bad = site.drive(site.start(site.release(2, runs_as="n-another-network")))
    after_bad = site.running
    good = site.drive(site.start(site.release(1)))

    assert (bad.state, bad.reason) == ("aborted", "gate")
    assert after_bad == dict.fromkeys(DEVICES)
    assert (good.state, good.is_healthy) == ("completed", True)
    assert site.running == dict.fromkeys(DEVICES, "tiny@1")


@on_nats
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_device_that_hangs_during_activation_counts_as_silent_and_not_as_offline(
    site: Site, how: signal.Signals
) -> None:
    """Stopped it stays connected; killed its last will says ``offline``."""
    first = site.drive(site.start(site.release(1)))
    assert first.is_healthy, first
    site.controller._timing = replace(TIMING, silence_seconds_min=8.0)
    name = site.start(site.release(9), "hasty")
    agent = site.agents["cam-1"]
    hung: list[str] = []

    def hang(fleet: FleetStatus) -> None:
        canary = [d for one in fleet.rollouts if one.rollout == name for d in one.devices]
        if not hung and any(d.cameras[0].phase == "activating" for d in canary):
            os.kill(agent.pid, how)
            hung.append("cam-1")

    site.controller.drive(
        name,
        on_change=hang,
        until=lambda fleet: _reason(fleet, name) == "gate",
        timeout_seconds=PATIENCE_SECONDS,
    )

    status = site.controller.status(name)
    assert "(1 silent)" in (status.text or "")
    others = [d for d in status.devices if d.device != "cam-1"]
    assert not any(device.is_treated for device in others)
    if how == signal.SIGSTOP:
        os.kill(agent.pid, signal.SIGCONT)
    else:
        agent.kill()
        agent.start()
    assert site.drive(name).state == "aborted"
    assert site.running == dict.fromkeys(DEVICES, "tiny@1")


def _reason(fleet: FleetStatus, name: str) -> str | None:
    return next(one.reason for one in fleet.rollouts if one.rollout == name)


def _is_in_wave(fleet: FleetStatus, name: str, wave: int) -> bool:
    return any(one.rollout == name and one.wave >= wave for one in fleet.rollouts)
