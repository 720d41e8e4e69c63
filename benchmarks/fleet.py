"""One fleet on this machine: a broker, a controller, full agents, and protocol cores.

A full agent is the process that runs on a Pi, with its camera child. A protocol core is the same
agent with a stand-in for the child, many in a process (``cores.py``): a machine that can hold two
hundred connections cannot run two hundred networks. Whatever happens, no process is left behind.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from urllib.request import urlopen

from controller.broker import LOOPBACK, BrokerOptions, RunningBroker, run_nats
from controller.service import Controller
from shared.card import write_card
from shared.errors import OperatorError

HEARTBEAT_SECONDS = 10.0  # Devices count as online once they were heard; a site's: five minutes.
CORES_PER_PROCESS = 50
CORE_FRAMES_PER_SECOND = 2  # Their frames are not what is measured, and cost every core the same.
PROBE_SECONDS = 1
STRATEGY = "at-once"
START_SECONDS_MAX = 300.0
STOP_SECONDS = 30.0
LOG_BYTES = 3_000
LIST_SECONDS_MAX = 10.0
_FLEET_YAML = """
version: 1
fleet: bench
broker: {{url: "{url}"}}
defaults: {{camera: simulated}}
devices:
{devices}
strategies:
  {strategy}:
    waves: [{{fraction: 100%}}]
    probe: {{seconds: {probe}s}}
    deadlines: {{activation: 300s, progress: 600s}}
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How many agents, and which of them are full ones; the rest are cores."""

    agents: int

    def __str__(self) -> str:
        cores = f" + {len(self.cores)} cores in {len(self.core_processes)} processes"
        return f"{len(self.full)} full" + (cores if self.cores else "")

    @property
    def full(self) -> tuple[str, ...]:
        """Return the devices with a process and a camera child of their own."""
        count = min(self.agents, os.cpu_count() or 1)  # More would wait for each other's networks.
        return tuple(f"full-{number}" for number in range(1, count + 1))

    @property
    def cores(self) -> tuple[str, ...]:
        """Return the devices whose camera is a stand-in."""
        return tuple(f"core-{n}" for n in range(1, self.agents - len(self.full) + 1))

    @property
    def core_processes(self) -> tuple[tuple[str, ...], ...]:
        """Return the cores by process."""
        cores = self.cores
        starts = range(0, len(cores), CORES_PER_PROCESS)
        return tuple(cores[start : start + CORES_PER_PROCESS] for start in starts)

    @property
    def devices(self) -> tuple[str, ...]:
        """Return all."""
        return (*self.full, *self.cores)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What runs."""

    size: Size
    folder: Path
    broker: RunningBroker
    monitor_port: int
    controller: Controller
    processes: dict[str, subprocess.Popen[bytes]]

    def check(self) -> None:
        """Raise when something has ended by itself."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                log = (self.folder / f"{name}.log").read_bytes()[-LOG_BYTES:]
                raise OperatorError(
                    f"expected {name} to run, it ended with code {process.returncode}\n"
                    + log.decode(errors="replace")
                )

    def bytes_of(self, client_id: str) -> int:
        """Return what the messages of a client that has left come to, as the broker counted."""
        url = f"http://{LOOPBACK}:{self.monitor_port}/connz?state=closed&limit=4096"
        deadline = monotonic() + LIST_SECONDS_MAX
        while monotonic() < deadline:
            with urlopen(url, timeout=LIST_SECONDS_MAX) as answer:
                connections = json.load(answer)["connections"]
            of_client = [c["in_bytes"] for c in connections if c.get("mqtt_client") == client_id]
            if of_client:  # The broker lists a connection some time after its end.
                return int(sum(of_client))
            sleep(0.1)
        raise OperatorError(f"the broker does not list {client_id}")


def state_of(folder: Path, device: str) -> Path:
    """Return a device's state folder."""
    return folder / "devices" / device


def card_of(folder: Path, device: str) -> Path:
    """Return a device's card."""
    return folder / "cards" / f"{device}.yaml"


@contextmanager
def running(folder: Path, size: Size, say: Say) -> Iterator[Fleet]:
    """Start a fleet in an empty folder, and end all of it afterwards."""
    with ExitStack() as stack:
        monitor = _free_port()
        options = BrokerOptions(extra=f'http: "{LOOPBACK}:{monitor}"')
        broker = run_nats(folder / "broker", 0, options)
        stack.callback(broker.stop)
        say(f"signing {size.agents} identities")
        controller = _controller(folder, size, broker.url)
        stack.callback(controller.close)
        fleet = Fleet(size, folder, broker, monitor, controller, {})
        stack.callback(_stop, fleet.processes)
        for device in size.full:
            _start(fleet, device, _full_command(folder, device))
        for number, devices in enumerate(size.core_processes, start=1):
            command = [sys.executable, "-m", "benchmarks.cores", str(folder), *devices]
            _start(fleet, f"cores-{number}", command)
        say(f"starting {size}")
        yield fleet


def wait_for(
    fleet: Fleet, what: str, count: Callable[[], int], say: Say, seconds_max: float
) -> None:
    """Wait until all agents are so, and say how many are."""
    begun = said_at = monotonic()
    while (done := count()) < fleet.size.agents:
        fleet.check()
        if monotonic() - said_at >= 2.0:  # noqa: PLR2004
            said_at = monotonic()
            say(f"{done} of {fleet.size.agents} {what}")
        if monotonic() - begun > seconds_max:
            raise OperatorError(
                f"expected all {fleet.size.agents} agents {what} within {seconds_max:.0f} s,"
                f" got {done}"
            )
        sleep(0.1)


def _controller(folder: Path, size: Size, url: str) -> Controller:
    project = folder / "project"
    project.mkdir()
    devices = "\n".join(f"  {device}: {{{_settings(device)}}}" for device in size.devices)
    text = _FLEET_YAML.format(url=url, devices=devices, strategy=STRATEGY, probe=PROBE_SECONDS)
    (project / "fleet.yaml").write_text(text, encoding="utf-8")
    Controller.init_fleet(project, passphrase=None, home=folder / "home").close()
    controller = Controller.open(project, home=folder / "home")
    (folder / "cards").mkdir()
    for device in size.devices:
        write_card(card_of(folder, device), controller.add_device(device))
    return controller


def _settings(device: str) -> str:
    return "" if device.startswith("full") else f"frame_rate: {CORE_FRAMES_PER_SECOND}"


def _full_command(folder: Path, device: str) -> list[str]:
    setpriv = shutil.which("setpriv")  # Ends them even where we are killed with -9.
    dying_with_us = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
    where = ["--state", str(state_of(folder, device)), "--card", str(card_of(folder, device))]
    how = ["--demo", "--assume-clock", "--heartbeat", str(HEARTBEAT_SECONDS)]
    return [*dying_with_us, sys.executable, "-m", "agent", "run", *where, *how]


def _start(fleet: Fleet, name: str, command: list[str]) -> None:
    with (fleet.folder / f"{name}.log").open("wb") as log:
        fleet.processes[name] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # Its end ends the cores.
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches us; we end them in order. No session of its own: the kernel shares the
            # processors out between sessions first, and would ignore that cores are nice.
            process_group=0,
        )


def _stop(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Ask all before the first is waited for; who does not end is killed."""
    for name, process in processes.items():
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        if name.startswith("full"):
            process.terminate()
    deadline = monotonic() + STOP_SECONDS
    for process in processes.values():
        try:
            process.wait(max(0.0, deadline - monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with closing(socket.socket()) as trial:
        trial.bind((LOOPBACK, 0))
        return int(trial.getsockname()[1])
