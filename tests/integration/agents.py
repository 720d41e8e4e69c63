"""A fleet on a real broker with real agents, ended with the test."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from agent.camera.wire import Fault, Simulation
from controller.broker import RunningBroker
from tests.fleet import Fleet, Reported, RunningAgent, camera_of


@dataclass
class Site:
    """What a test works with."""

    fleet: Fleet
    folder: Path
    broker: RunningBroker
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
        card = self.fleet.enrol(device, cameras=cameras, **settings)
        path = self.folder / f"{device}.simulation.json"
        path.write_bytes(msgspec.json.encode(Simulation(faults=faults)))
        simulate = ("--simulate", str(path))
        made = RunningAgent(device, self.folder / device, card, (*simulate, *arguments), dies=dies)
        self.agents.append(made.start())
        return made

    def set_faults(self, device: str, *faults: Fault) -> None:
        """Other faults, from the agent's next start on."""
        path = self.folder / f"{device}.simulation.json"
        path.write_bytes(msgspec.json.encode(Simulation(faults=faults)))


def is_streaming(report: Reported) -> bool:
    return camera_of(report)["state"] == "streaming"


def open_site(broker: RunningBroker, folder: Path) -> Iterator[Site]:
    site = Site(Fleet(broker.url, folder), folder, broker)
    try:
        yield site
    finally:
        for agent in site.agents:
            agent.stop()
        site.fleet.close()
