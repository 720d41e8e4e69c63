"""A site's broker, started from the very files that ``fleetctl broker config`` writes."""

import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from controller.authority import Account, Issued, issue_device
from controller.broker import find_mosquitto, find_nats, nats_version
from controller.broker_config import Kind, Plan, Ports
from controller.broker_site import Written, issue, write_site
from controller.service import Controller
from shared.bus import Bus, BusEvent, Connected, Inbox, Timing

LOOPBACK = "127.0.0.1"
START_SECONDS = 30.0
QUICK = Timing(reconnect_seconds=(0.05, 0.5))
FLEET_YAML = """
version: 1
fleet: site-a
broker: {{url: "mqtts://127.0.0.1:{devices}", ca: broker/ca.pem,
  controller_url: "mqtts://127.0.0.1:{accounts}"}}
defaults: {{camera: simulated, labels: {{site: lab}}}}
devices:
  cam-[1:4]: {{labels: {{role: door}}}}
strategies:
  canary:
    waves: [{{pins: [cam-1]}}, {{fraction: 100%}}]
    probe: {{seconds: 1s}}
    deadlines: {{activation: 2s, progress: 20s}}
"""


def free_ports(count: int) -> list[int]:
    """Return ports that were free just now, all different."""
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class SecureSite:
    """A fleet with its authorities, and its broker."""

    kind: Kind
    folder: Path
    ports: Ports
    controller: Controller
    hosts: tuple[str, ...] = (LOOPBACK,)
    nats: Path | None = None  # Another server than the one that is found.
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def make(
        cls, kind: Kind, folder: Path, *, nodes: int = 1, nats: Path | None = None
    ) -> "SecureSite":
        ports = Ports(*free_ports(4))
        while nodes > 1 and not all(_is_free(p + n) for p in _all(ports) for n in range(nodes)):
            ports = Ports(*free_ports(4))  # Nodes of one machine take the ports that follow.
        if kind == "nats":
            ports = Ports(ports.devices, ports.devices, ports.browsers, ports.cluster)
        text = FLEET_YAML.format(devices=ports.devices, accounts=ports.accounts)
        (folder / "fleet.yaml").write_text(text)
        controller = Controller.init_fleet(folder, passphrase=None, home=folder / "home")
        return cls(kind, folder, ports, controller, (LOOPBACK,) * nodes, nats)

    @property
    def broker(self) -> Path:
        return self.folder / "broker"

    @property
    def ca(self) -> str:
        return str(self.broker / "ca.pem")

    def url(self, *, is_device: bool) -> str:
        port = self.ports.devices if is_device else self.ports.accounts
        return f"mqtts://{LOOPBACK}:{port}"

    def write(self) -> Written:
        version = nats_version(self.server) or (0, 0, 0) if self.kind == "nats" else (2, 11, 0)
        plan = Plan(
            fleet="", devices=(), folder=str(self.broker), ports=self.ports, bind=LOOPBACK,
            user="root", hosts=self.hosts, version=version,
        )  # fmt: skip
        return write_site(self.controller, self.kind, self.broker, plan)

    @property
    def server(self) -> Path:
        return find_mosquitto() if self.kind == "mosquitto" else self.nats or find_nats()

    def start(self) -> "SecureSite":
        written = self.write()
        self.run(written.starts)
        return self

    def run(self, files: Sequence[str]) -> None:
        for name in files:
            with (self.folder / f"{name}.log").open("ab") as log:
                command = [str(self.server), "-c", str(self.broker / name)]
                process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.broker)
            self.processes.append(process)
        self.wait()

    def wait(self) -> None:
        """Wait until fleetctl's own certificate gets in."""
        pem = self.controller.address.certificate
        assert pem is not None
        end = time.monotonic() + START_SECONDS
        while True:
            inbox: Inbox[BusEvent] = Inbox()
            url = self.url(is_device=False)
            bus = Bus(url, "is-it-up", inbox, ca=self.ca, certificate=pem, timing=QUICK)
            bus.start()
            event = inbox.get(5.0)
            bus.stop(timeout_seconds=0.0)
            if isinstance(event, Connected):
                return
            assert time.monotonic() < end, f"{event}; {self.logs}"
            time.sleep(0.05)

    @property
    def logs(self) -> str:
        return "\n".join(path.read_text()[-2_000:] for path in self.folder.glob("*.log"))

    def device(self, name: str) -> str:
        """Return a device's certificate and key as its card carries them."""
        credentials = self.controller.add_device(name).broker.credentials
        assert credentials is not None
        return credentials

    def undeclared(self, name: str) -> Issued:
        authority = self.controller.open_authority("devices")
        return issue_device(authority, name, datetime.now(UTC))

    def account(self, name: Account) -> str:
        return issue(self.controller, name).both

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()

    def wipe(self) -> None:
        """Take the broker's store away."""
        for path in self.broker.glob("store*"):
            shutil.rmtree(path)
            path.mkdir()

    def close(self) -> None:
        self.kill()
        self.controller.close()


def _all(ports: Ports) -> tuple[int, ...]:
    return (ports.devices, ports.accounts, ports.browsers, ports.cluster)


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as trial:
        try:
            trial.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
