"""``make bench-scale``: many real MQTT connections through a whole three-wave rollout.

    python -m benchmarks.scale [--agents 200] [--brokers nats,mosquitto] [-o json]

The agents are their protocol only: each has a connection of its own (gmqtt, in load processes of
five hundred), takes the plan from `trust`, works out with the real rules what it must run, and
reports. Cameras do not exist here. What is measured is the controller: processor time, memory, and
the bytes that it sends in each wave, which must not depend on how many devices listen.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from time import monotonic, process_time

import gmqtt
from gmqtt.mqtt.constants import MQTTv311

from benchmarks.memory import memory_of
from benchmarks.release import MEASURED, add_releases
from controller.broker import LOOPBACK, BrokerOptions, run_mosquitto, run_nats
from controller.service import AT_REST, Controller, Timing
from controller.status import FleetStatus
from shared.assignment import Camera, Entry, covers
from shared.messages import (
    CameraReported,
    DeploymentReported,
    EndReported,
    Phase,
    Reported,
    encode,
    time_text,
)
from shared.topics import Topics
from shared.trust import Bundle, open_bundle

FLEET = "scale"
AGENTS_PER_PROCESS = 500
CONNECTS_PER_SECOND = 100  # A fleet that comes back all at once meets the listen backlog.
PROBE_SECONDS = 2.0
HEARTBEAT_SECONDS = 20.0
ROLLOUT_SECONDS_MAX = 900.0
_FLEET_YAML = """
version: 1
fleet: scale
broker: {{url: "{url}"}}
defaults: {{camera: simulated}}
devices:
  cam-[0001:{agents:04}]: {{}}
strategies:
  three:
    waves: [{{fraction: 1%}}, {{fraction: 10%}}, {{fraction: 100%}}]
    probe: {{seconds: 2s}}
    deadlines: {{activation: 300s, progress: 600s}}
"""


@dataclass(frozen=True, slots=True)
class Scaled:
    """One broker and one number of agents."""

    broker: str
    agents: int
    seconds: float
    controller_cpu_seconds: float
    controller_rss_bytes: int
    wave_bytes: tuple[int, ...]
    wave_messages: tuple[int, ...]
    devices_by_state: dict[str, int]
    load_average: float


class Fakes:
    """Many agents in one process; the bundle is read once for all of them."""

    def __init__(self, root: bytes) -> None:
        """Trust this root."""
        self._root = root
        self._read: tuple[str, Bundle] | None = None

    def plan_in(self, payload: bytes) -> Bundle:
        """Return the bundle in a message."""
        digest = sha256(payload).hexdigest()
        if self._read is None or self._read[0] != digest:
            self._read = (digest, open_bundle(payload, fleet=FLEET, root=self._root))
        return self._read[1]


class Fake:
    """One agent without a camera."""

    def __init__(self, device: str, fakes: Fakes) -> None:
        """Prepare; nothing is connected yet."""
        self._device, self._fakes, self._topics = device, fakes, Topics(FLEET)
        self._camera = Camera(device, 0, {"camera": "0"})
        self._bundle: Bundle | None = None
        self._entry: Entry | None = None
        self._phase: Phase | None = None
        self._seq = 0
        will = gmqtt.Message(self._topics.device(device, "status"), b"offline", qos=1, retain=True)
        self._client = gmqtt.Client(device, will_message=will)
        self._client.on_message = self._on_message
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, port: int) -> None:
        """Connect, and report for ever."""
        await self._client.connect(LOOPBACK, port, keepalive=60, version=MQTTv311)
        self._client.subscribe(self._topics.trust, qos=0)
        self._say()
        status = self._topics.device(self._device, "status")
        self._client.publish(status, b"online", qos=1, retain=True)
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._client.subscribe(self._topics.trust, qos=0)
            self._say()

    def _on_message(self, _client: object, _topic: str, payload: bytes, *_: object) -> int:
        if payload:
            self._bundle = self._fakes.plan_in(payload)
            mine = (e for e in self._bundle.plan if covers(e, self._camera))
            entry = next(mine, None)
            if entry is not None and (self._entry is None or entry.tried != self._entry.tried):
                self._entry = entry
                task = asyncio.get_running_loop().create_task(self._deploy())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._say()
        return 0

    async def _deploy(self) -> None:
        self._phase = "activating"
        self._say()
        await asyncio.sleep(PROBE_SECONDS)
        self._phase = "committed"
        self._say()

    def _say(self) -> None:
        entry, is_done = self._entry, self._phase == "committed"
        now = time_text(datetime.now(UTC))
        release = entry.release if entry is not None and is_done else None
        camera = CameraReported(
            kind="simulated",
            state="streaming" if release else "off",
            release=release,
            manifest_sha256=entry.manifest_sha256 if entry and is_done else None,
            deployment=DeploymentReported(
                rollout=entry.rollout,
                attempt=entry.attempt,
                manifest_sha256=entry.manifest_sha256,
                phase=self._phase or "idle",
                since=now,
            )
            if entry and not is_done
            else None,
            ended=(EndReported(rollout=entry.rollout, attempt=entry.attempt, phase="committed"),)
            if entry and is_done
            else (),
            owners=(entry.tried,) if entry and is_done else (),
            is_settled=entry is None or is_done,
        )
        report = Reported(
            at=now, clock="synced", boot="boot", run="fake-1", seq=self._seq,
            agent_version="0.1.0", plan_version=self._bundle.version if self._bundle else 0,
            plan_sha256=None, identity_version=1, cameras={"0": camera},
        )  # fmt: skip
        self._seq += 1
        topic = self._topics.device(self._device, "reported")
        self._client.publish(topic, encode(report, bytes_max=16_384), qos=1, retain=True)


async def play(port: int, root: bytes, devices: list[str]) -> None:
    """Be these devices."""
    fakes = Fakes(root)
    tasks = []
    for device in devices:
        tasks.append(asyncio.create_task(Fake(device, fakes).run(port)))
        await asyncio.sleep(1 / CONNECTS_PER_SECOND)
    await asyncio.gather(*tasks)


def measure(kind: str, agents: int, say: Callable[[str], None]) -> Scaled:
    """Run one rollout of three waves, and return what it cost the controller."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="imxfleet-scale-") as name:
        folder = Path(name)
        run = run_nats if kind == "nats" else run_mosquitto
        broker = run(folder / "broker", 0, BrokerOptions())
        loads: list[subprocess.Popen[bytes]] = []
        controller = _controller(folder, broker.url, agents)
        try:
            root = controller.add_device("cam-0001").root
            devices = list(controller.fleet.devices)
            for device in devices:
                controller.add_device(device)
            say(f"{kind}: {agents} devices added")
            (folder / "root.json").write_text(root)
            for start in range(0, agents, AGENTS_PER_PROCESS):
                some = devices[start : start + AGENTS_PER_PROCESS]
                command = [sys.executable, "-m", "benchmarks.scale", "--play", str(broker.port)]
                loads.append(subprocess.Popen([*command, str(folder / "root.json"), *some]))
            return _rolled_out(controller, kind, agents, load, say)
        finally:
            for process in loads:
                process.kill()
                process.wait()
            controller.close()
            broker.kill()


def _controller(folder: Path, url: str, agents: int) -> Controller:
    (folder / "fleet.yaml").write_text(_FLEET_YAML.format(url=url, agents=agents))
    timing = Timing(heartbeat_seconds=HEARTBEAT_SECONDS, silence_seconds_min=300.0)
    controller = Controller.init_fleet(folder, passphrase=None, home=folder / "home", timing=timing)
    add_releases(controller, folder / "releases")
    return controller


def _rolled_out(
    controller: Controller, kind: str, agents: int, load: float, say: Callable[[str], None]
) -> Scaled:
    first = controller.new_driver()  # What every broker gets once: identities, the empty plan.
    first.run(until=lambda _: first.online >= agents, on_change=None, timeout_seconds=600)
    say(f"{kind}: {agents} online")
    name = controller.start_rollout(MEASURED, selector="*", strategy="three")
    driver = controller.new_driver()
    waves: dict[int, tuple[int, int]] = {}
    begun, cpu = monotonic(), process_time()

    def is_over(status: FleetStatus) -> bool:
        one = next(r for r in status.rollouts if r.rollout == name)
        waves[one.wave] = driver.sent
        return one.state in AT_REST

    driver.run(until=is_over, on_change=None, timeout_seconds=ROLLOUT_SECONDS_MAX)
    status = controller.status(name)
    sent = [waves[wave] for wave in sorted(waves)]
    before = [(0, 0), *sent]
    return Scaled(
        broker=kind,
        agents=agents,
        seconds=round(monotonic() - begun, 1),
        controller_cpu_seconds=round(process_time() - cpu, 1),
        controller_rss_bytes=memory_of(os.getpid()).rss_bytes,
        wave_bytes=tuple(after[0] - b[0] for after, b in zip(sent, before, strict=False)),
        wave_messages=tuple(after[1] - b[1] for after, b in zip(sent, before, strict=False)),
        devices_by_state=dict(status.counts),
        load_average=round(load, 1),
    )


def main() -> None:
    """Measure, or be a load process."""
    if sys.argv[1:2] == ["--play"]:
        port, root, *devices = sys.argv[2:]
        asyncio.run(play(int(port), Path(root).read_bytes(), devices))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--brokers", default="nats,mosquitto")
    options = parser.parse_args()
    for kind in options.brokers.split(","):
        result = measure(kind, options.agents, lambda text: print(text, file=sys.stderr))  # noqa: T201
        print(json.dumps(asdict(result)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
