"""``fleetctl serve`` as a process of its own, on a real broker, with agents without cameras."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.broker import RunningBroker
from controller.driving import read_repository
from controller.keys import Keys, load_signer
from controller.repository import Repository, create
from controller.service import Controller
from controller.store import Store
from tests.integration.conftest import BrokerHouse, on_nats
from tests.integration.test_controller import DEVICES, FLEET_YAML
from tests.puppet import Faults, Puppet, make_release

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 90.0


@dataclass
class Bed:
    """A fleet in a folder, as an operator has it, and the services that drive it."""

    folder: Path
    broker: RunningBroker
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    puppets: list[Puppet] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "imxfleet"

    def declare(self, text: str = FLEET_YAML) -> None:
        url = f'{{url: "{self.broker.url}"}}'
        (self.folder / "fleet.yaml").write_text(text.replace("{embedded: true}", url))

    def opened(self) -> Controller:
        return Controller.open(self.folder, home=self.home)

    def join(self, *devices: str, faults: Faults | None = None) -> None:
        controller = self.opened()
        for device in devices:
            self.puppets.append(Puppet(controller.add_device(device), faults).start())
        controller.close()

    def begin(self, version: int, strategy: str = "canary") -> str:
        """Write a rollout down, for whoever drives."""
        controller = self.opened()
        manifest, files = make_release("shapes", version)
        controller.import_release(manifest, files)
        controller.sign_release(manifest.release, None)
        name = controller.start_rollout(manifest.release, selector="role=door", strategy=strategy)
        controller.close()
        return name

    def serve(self) -> "Service":
        options = ["--metrics-port", "0", "-o", "jsonl"]
        command = [sys.executable, "-m", "controller", "serve", *options]
        log = (self.folder / "serve.log").open("ab")
        process = subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL,
            env={**os.environ, "XDG_DATA_HOME": str(self.folder), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        log.close()
        self.processes.append(process)
        return Service(process, self)

    def state(self, name: str) -> str:
        controller = self.opened()
        try:
            return controller.status(name).state
        finally:
            controller.close()

    def wait(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            log = (self.folder / "serve.log").read_text()[-3_000:]
            assert time.monotonic() < end, f"it never came to be: {log}"
            time.sleep(0.1)

    @property
    def running(self) -> set[str | None]:
        return {puppet.runs for puppet in self.puppets}


@dataclass
class Service:
    """One running ``serve``."""

    process: subprocess.Popen[bytes]
    bed: Bed
    url: str = ""

    def ready(self) -> "Service":
        assert self.process.stdout is not None
        self.url = json.loads(self.process.stdout.readline())["metrics"].removesuffix("/metrics")
        return self

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float | None:
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return None

    def is_healthy(self) -> bool:
        return self.get("/health")[0] == 200

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def bed(broker: RunningBroker, tmp_path: Path) -> Iterator[Bed]:
    made = Bed(tmp_path, broker)
    made.declare()
    Controller.init_fleet(tmp_path, passphrase=None, home=made.home).close()
    yield made
    for puppet in made.puppets:
        puppet.stop()
    for process in made.processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def rebuilt(folder: Path, at: datetime) -> Repository:
    """Return the fleet's repository as if it had been made some time ago."""
    roots = tuple(load_signer(folder, "root", None, number=n) for n in (1, 2, 3))
    release, controller = (load_signer(folder, r, None) for r in ("release", "controller"))
    return create(Keys("testbed", roots, 2, release, controller, is_demo=True), now=at)


def test_it_drives_what_others_write_down_and_says_so_in_metrics(bed: Bed) -> None:
    bed.join(*DEVICES)
    service = bed.serve().ready()
    name = bed.begin(1)

    bed.wait(lambda: bed.state(name) == "completed")

    bed.wait(service.is_healthy)
    text = service.get("/metrics")[1]
    assert bed.running == {"shapes@1"}
    assert service.metric('imxfleet_devices{state="online"}') == len(DEVICES)
    assert 'imxfleet_rollouts{state="completed"} 1.0' in text
    assert 'imxfleet_cameras{release="shapes@1"} 4.0' in text
    assert (service.metric("imxfleet_published_bytes_total") or 0) > 20_000 * len("shapes@1")
    assert service.metric("imxfleet_driving") == 1
    assert service.get("/nothing")[0] == 404
    assert service.end(signal.SIGTERM) == 0


@on_nats
def test_of_two_services_one_drives_and_the_other_takes_over(bed: Bed) -> None:
    bed.join(*DEVICES)
    first = bed.serve().ready()
    bed.wait(lambda: first.metric("imxfleet_driving") == 1)
    second = bed.serve().ready()
    bed.wait(second.is_healthy)
    assert second.metric("imxfleet_driving") == 0
    name = bed.begin(1)
    bed.wait(lambda: any(puppet.runs for puppet in bed.puppets))

    first.end()

    bed.wait(lambda: bed.state(name) == "completed")
    bed.wait(lambda: second.metric("imxfleet_driving") == 1)
    assert bed.running == {"shapes@1"}


@on_nats
def test_killed_again_and_again_it_continues(bed: Bed) -> None:
    """What is lost at each single step is the simulation's business; these are real processes."""
    bed.join(*DEVICES)
    chance = random.Random(7)
    name = bed.begin(1)
    for _ in range(5):
        service = bed.serve().ready()
        time.sleep(chance.uniform(0.0, 2.0))
        service.end()

    bed.serve()

    bed.wait(lambda: bed.state(name) == "completed")
    assert bed.running == {"shapes@1"}
    assert all(puppet.activated == ["shapes@1"] for puppet in bed.puppets)


@on_nats
def test_without_a_broker_it_waits_and_says_that_it_is_not_well(
    bed: Bed, house: BrokerHouse
) -> None:
    service = bed.serve().ready()
    bed.wait(service.is_healthy)

    bed.broker.kill()
    bed.wait(lambda: not service.is_healthy())
    assert "broker" in service.get("/health")[1]
    bed.broker = house.start_again(bed.broker)

    bed.wait(service.is_healthy)
    assert service.process.poll() is None


@on_nats
def test_a_changed_fleet_yaml_is_taken_over_and_a_broken_one_is_not(bed: Bed) -> None:
    service = bed.serve().ready()
    bed.wait(service.is_healthy)
    never_seen = 'imxfleet_devices{state="never_seen"}'
    bed.wait(lambda: service.metric(never_seen) == 4)

    bed.declare("nonsense")
    bed.wait(lambda: "going on with what it said" in (bed.folder / "serve.log").read_text())
    assert service.metric(never_seen) == 4
    bed.declare(FLEET_YAML.replace("cam-[1:4]", "cam-[1:7]"))

    bed.wait(lambda: service.metric(never_seen) == 7)


@on_nats
def test_past_half_of_its_life_the_plan_is_signed_once_more(bed: Bed) -> None:
    store = Store(bed.home / "testbed")
    folder = bed.home / "testbed" / "keys"
    aged = rebuilt(folder, datetime.now(UTC) - timedelta(days=50))
    with store.transaction():
        store.put("repository", aged.to_dict())

    service = bed.serve().ready()
    bed.wait(lambda: read_repository(store).version > aged.version)
    bed.wait(service.is_healthy)
    time.sleep(1.0)  # Ticks pass; it must not sign at each of them.

    after = read_repository(store)
    store.close()
    assert after.version == aged.version + 1
    assert after.plan_expires - datetime.now(UTC) > timedelta(days=89)


@on_nats
def test_another_controller_ends_it(bed: Bed) -> None:
    bed.join("cam-1")
    store = Store(bed.home / "testbed")
    kept = store.get("repository", dict[str, object])
    service = bed.serve().ready()
    name = bed.begin(1, "all")
    bed.wait(lambda: bed.state(name) != "running" or read_repository(store).version > 2)
    service.end()
    with store.transaction():  # Yesterday's backup.
        store.put("repository", kept)
        store.put("book", ())
    store.close()

    late = bed.serve()

    assert late.process.wait(PATIENCE_SECONDS) == 1
    assert "another controller" in (bed.folder / "serve.log").read_text()
