"""A fleet on a real broker with real agents, ended with the test."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from agent.camera.wire import Fault, Kind, Simulation
from controller.broker import RunningBroker
from shared.assignment import Entry, Probe
from tests.cameras import release_for
from tests.fleet import QUICK_PROBE, Fleet, Release, Reported, RunningAgent, camera_of, entry_of


@dataclass
class Site:
    """What a test works with."""

    fleet: Fleet
    folder: Path
    broker: RunningBroker
    kind: Kind = "simulated"
    agents: list[RunningAgent] = field(default_factory=list)

    def agent(
        self,
        device: str,
        *arguments: str,
        faults: tuple[Fault, ...] = (),
        cameras: int = 1,
        dies: tuple[str, ...] = (),
        **settings: object,
    ) -> RunningAgent:
        """Enrol a device and start its agent."""
        settings.setdefault("kind", self.kind)
        card = self.fleet.enrol(device, cameras=cameras, **settings)
        path = self._simulation(device, faults)
        simulate = ("--simulate", str(path))
        made = RunningAgent(device, self.folder / device, card, (*simulate, *arguments), dies=dies)
        self.agents.append(made.start())
        return made

    def set_faults(self, device: str, *faults: Fault) -> None:
        """Other faults, from the agent's next start on."""
        self._simulation(device, faults)

    def release(self, version: int = 1, **changes: object) -> Release:
        """Return a release for the cameras of this site."""
        return release_for(self.kind, version, **changes)

    @property
    def probe(self) -> Probe:
        """Return a quick probe; real libraries take seconds to load, many on a busy machine."""
        return replace(QUICK_PROBE, activation_seconds=15 if self.kind == "simulated" else 50)

    def entry(self, release: Release, rollout: str = "r-1", **changes: object) -> Entry:
        """Return an entry that gives the release to everybody, for the cameras of this site."""
        return entry_of(release, rollout, **{"probe": self.probe, **changes})

    def offer(self, release: Release, rollout: str = "r-1") -> Entry:
        """Publish a release, and a plan that gives it to everybody."""
        return self.fleet.offer(release, rollout, probe=self.probe)

    def _simulation(self, device: str, faults: tuple[Fault, ...]) -> Path:
        path = self.folder / f"{device}.simulation.json"
        simulation = Simulation(faults=faults, twin=self.kind != "simulated")
        path.write_bytes(msgspec.json.encode(simulation))
        return path


def is_streaming(report: Reported) -> bool:
    return camera_of(report)["state"] == "streaming"


def open_site(broker: RunningBroker, folder: Path, kind: Kind = "simulated") -> Iterator[Site]:
    site = Site(Fleet(broker.url, folder), folder, broker, kind)
    try:
        yield site
    finally:
        for agent in site.agents:
            agent.stop()
        site.fleet.close()
