"""A small test-controller and real agent processes, for the agent's integration tests.

``Fleet`` signs as the controller does and puts what it signed, or what a thief would, on a real
broker. ``RunningAgent`` is ``python -m agent run`` as its own process.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from securesystemslib.signer import CryptoSigner

from agent.journal import Saved, from_text, to_text
from controller.repository import (
    Repository,
    add_release,
    bundle_bytes,
    create,
    rotate_controller,
    sign_identity,
    sign_plan,
)
from shared.assignment import SHARE_ALL, Action, Entry, Probe, parse_selector
from shared.blocks import split_file
from shared.bus import Acknowledged, Bus, BusEvent, Connected, Inbox, Received, Timing
from shared.card import Broker, Card, write_card
from shared.identity import CameraIdentity, Identity, Settings, TelemetrySettings
from shared.messages import time_text
from shared.release import File, Manifest, Role, encode_manifest
from shared.subscriptions import Schedule
from shared.topics import Topics
from tests.making import new_keys
from tests.tinygraph import LABELS, manifest_of, tiny

if TYPE_CHECKING:
    from controller.keys import Keys

ROOT = Path(__file__).parents[1]
FLEET = "site-a"
PATIENCE_SECONDS = 120.0  # Only what never comes takes so long.
QUICK_PROBE = Probe(seconds=1, valid_rate_permille=500, activation_seconds=15)
CameraKind = Literal["auto", "modlib", "picamera2", "simulated"]
Reported = dict[str, object]


@dataclass(frozen=True)
class Release:
    """A release of the tiny graph, cut into real blocks."""

    manifest: Manifest
    text: bytes
    blocks: dict[str, bytes]

    @property
    def name(self) -> str:
        return self.manifest.release

    @property
    def sha256(self) -> str:
        return sha256(self.text).hexdigest()

    @property
    def everything(self) -> dict[str, bytes]:
        return {self.sha256: self.text, **self.blocks}


def make_release(
    version: int = 1,
    *,
    padding: int = 0,
    runs_as: str | None = None,
    sees: int | None = None,
    **changes: object,
) -> Release:
    """Return a release whose network is named after its version.

    Args:
        version: Of the release.
        padding: Bytes that make the graph larger, in metadata that nobody reads.
        runs_as: The name that the network itself bears, where it is not the manifest's.
        sees: Of its four boxes, only so many; None: all.
        changes: Other fields of the manifest.
    """
    name = f"n{version:013}"
    graph = tiny(network_name=runs_as or name)
    if sees is not None:
        graph.scores[:, sees:] = 0
    if padding:
        graph.metadata["padding"] = os.urandom(padding // 2).hex()
    files: dict[str, tuple[Role, bytes]] = {
        "simulator.onnx": ("simulator", graph.graph()),
        "labels.txt": ("labels", "\n".join(LABELS).encode()),
    }
    manifest = manifest_of(files, version=version, network_name=name)
    blocks: dict[str, bytes] = {}
    made: list[File] = []
    for file in manifest.files:
        cut = split_file(files[file.name][1])
        blocks.update({block.sha256: block.data for block in cut})
        made.append(msgspec.structs.replace(file, blocks=tuple(b.sha256 for b in cut)))
    manifest = msgspec.structs.replace(manifest, files=tuple(made), **changes)
    return Release(manifest, encode_manifest(manifest), blocks)


def entry_of(release: Release, rollout: str = "r-1", **changes: object) -> Entry:
    """Return an entry that gives the release to everybody."""
    fields: dict[str, object] = {
        "rollout": rollout,
        "attempt": 1,
        "action": Action.RUN,
        "release": release.name,
        "manifest_sha256": release.sha256,
        "selector": parse_selector("*"),
        "pins": frozenset(),
        "salt": rollout,
        "share": SHARE_ALL,
        "probe": QUICK_PROBE,
    }
    return Entry(**{**fields, **changes})  # type: ignore[arg-type]


class Fleet:
    """The controller's keys and repository, and a client that may write everything."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.topics = Topics(FLEET)
        self.keys: Keys = new_keys(FLEET, is_demo=True)
        self.repository: Repository = create(self.keys, now=datetime.now(UTC))
        self.reported: dict[str, Reported] = {}
        self.history: dict[str, list[Reported]] = {}
        self.messages: list[Received] = []
        self._inbox: Inbox[BusEvent] = Inbox(messages_max=100_000)
        quick = Timing(reconnect_seconds=(0.05, 0.5), repeats=Schedule(after=(2.0, 10.0)))
        self.bus = Bus(url, "test-controller", self._inbox, timing=quick)
        self.bus.subscribe(self.topics.everything, is_repeated=True)
        self.bus.start()
        self.wait_for_event(lambda event: isinstance(event, Connected))
        self._tokens = 0

    def close(self) -> None:
        self.bus.stop(timeout_seconds=0.0)

    def take(self, seconds: float) -> BusEvent | None:
        """Take one event, and keep what it says."""
        event = self._inbox.get(seconds)
        if isinstance(event, Received):
            self.messages.append(event)
            levels = event.topic.split("/")
            if levels[-1] == "reported" and event.payload:
                document = json.loads(event.payload)
                self.reported[levels[-2]] = document
                self.history.setdefault(levels[-2], []).append(document)
        return event

    def wait_for_event(self, is_it: Callable[[BusEvent], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            event = self.take(0.2)
            if event is not None and is_it(event):
                return
        raise AssertionError("it did not come")

    def put(self, topic: str, payload: bytes, *, retain: bool = True) -> None:
        """Put a message on the broker, and wait until it is acknowledged."""
        self._tokens += 1
        token = f"t-{self._tokens}"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.bus.publish(topic, payload, qos=1, retain=retain, token=token):
            assert time.monotonic() < deadline, "not connected"
            self.take(0.1)
        self.wait_for_event(lambda event: event == Acknowledged(token))

    def put_blocks(self, release: Release) -> None:
        for digest, data in release.everything.items():
            self.put(self.topics.block(digest), data)

    def list_release(self, release: Release) -> None:
        """Sign a release with the release key."""
        self.repository = add_release(
            self.repository,
            release.name,
            release.sha256,
            len(release.text),
            self.keys.release,
            datetime.now(UTC),
        )

    def sign(self, *entries: Entry) -> bytes:
        """Sign a plan and return its bundle."""
        now = datetime.now(UTC)
        self.repository = sign_plan(self.repository, entries, self.keys.controller, now)
        return bundle_bytes(self.repository)

    def rotate(self) -> None:
        """Take a new controller key; its bundle is not published."""
        self.keys = replace(self.keys, controller=CryptoSigner.generate_ed25519())
        self.repository = rotate_controller(
            self.repository,
            root_signers=self.keys.root,
            controller_signer=self.keys.controller,
            now=datetime.now(UTC),
        )

    def plan(self, *entries: Entry) -> bytes:
        """Sign a plan and publish it."""
        bundle = self.sign(*entries)
        self.put(self.topics.trust, bundle)
        return bundle

    def offer(self, release: Release, rollout: str = "r-1", **changes: object) -> Entry:
        """Publish a release, and a plan that gives it to everybody."""
        self.put_blocks(release)
        self.list_release(release)
        entry = entry_of(release, rollout, **changes)
        self.plan(entry)
        return entry

    def identity(
        self,
        device: str,
        *,
        version: int = 1,
        cameras: int = 1,
        kind: CameraKind = "simulated",
        **settings: object,
    ) -> bytes:
        identity = Identity(
            fleet=FLEET,
            device=device,
            version=version,
            at=time_text(datetime.now(UTC)),
            timezone="UTC",
            labels={"role": "door"},
            cameras={str(n): CameraIdentity(kind=kind) for n in range(cameras)},
            settings=Settings(
                **{"telemetry": TelemetrySettings(threshold_permille=300), **settings}  # type: ignore[arg-type]
            ),
        )
        return sign_identity(identity, self.keys.controller)

    def enrol(self, device: str, *, cameras: int = 1, **settings: object) -> Path:
        """Publish a device's identity and write its card."""
        data = self.identity(device, cameras=cameras, **settings)
        self.put(self.topics.device(device, "identity"), data)
        path = self.folder / f"{device}.yaml"
        root = self.repository.root.decode()
        write_card(path, Card(fleet=FLEET, device=device, broker=Broker(url=self.url), root=root))
        return path

    def wait(
        self, device: str, is_it: Callable[[Reported], bool], seconds: float = PATIENCE_SECONDS
    ) -> Reported:
        """Return the first report of the device that is it, the last one included."""
        deadline = time.monotonic() + seconds
        while True:
            report = self.reported.get(device)
            if report is not None and is_it(report):
                return report
            if time.monotonic() >= deadline:
                raise AssertionError(f"{device}: never came; last {json.dumps(report)[:3000]}")
            self.take(0.2)

    def wait_phase(
        self, device: str, phase: str, rollout: str = "r-1", camera: int = 0
    ) -> Reported:
        return self.wait(device, lambda report: phase_of(report, rollout, camera) == phase)

    def wait_message(self, is_it: Callable[[Received], bool]) -> Received:
        """Return a message that is it: a new one, or one that was heard before."""
        for message in self.messages:
            if is_it(message):
                return message
        found: list[Received] = []

        def matches(event: BusEvent) -> bool:
            if isinstance(event, Received) and is_it(event):
                found.append(event)
            return bool(found)

        self.wait_for_event(matches)
        return found[0]

    def phases(self, device: str, camera: int = 0) -> list[str]:
        """Return every phase that the device reported, repetitions left out."""
        seen: list[str] = []
        for report in self.history.get(device, []):
            deployment = camera_of(report, camera).get("deployment")
            phase = deployment["phase"] if isinstance(deployment, dict) else "none"
            if not seen or seen[-1] != phase:
                seen.append(phase)
        return seen


def camera_of(report: Reported, camera: int = 0) -> dict[str, object]:
    cameras = report["cameras"]
    assert isinstance(cameras, dict)
    one = cameras.get(str(camera), {})
    assert isinstance(one, dict)
    return one


def phase_of(report: Reported, rollout: str, camera: int = 0) -> str | None:
    """Return how the rollout stands on a camera: its deployment's phase, or how it ended."""
    one = camera_of(report, camera)
    deployment = one.get("deployment")
    if isinstance(deployment, dict) and deployment["rollout"] == rollout:
        return str(deployment["phase"])
    for end in one.get("ended", []):  # type: ignore[attr-defined]
        if end["rollout"] == rollout:
            return str(end["phase"])
    return None


def cause_of(report: Reported, rollout: str, camera: int = 0) -> str | None:
    for end in camera_of(report, camera).get("ended", []):  # type: ignore[attr-defined]
        if end["rollout"] == rollout:
            return None if end["cause"] is None else str(end["cause"])
    return None


@dataclass
class RunningAgent:
    """One agent as a process of its own."""

    device: str
    state: Path
    card: Path
    arguments: tuple[str, ...] = ()
    dies: tuple[str, ...] = ()  # At its next start: in which phase, at which path (tests/dying.py).
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.state.with_suffix(".log")

    def start(self) -> "RunningAgent":
        module = ["tests.dying", *self.dies, "--"] if self.dies else ["agent"]
        self.dies = ()
        command = [sys.executable, "-m", *module, "run", "--state", str(self.state)]
        common = ["--card", str(self.card), "--demo", "--assume-clock", "--heartbeat", "5"]
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                [*command, *common, *self.arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def children(self) -> list[int]:
        """Return the camera children of this agent."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self.pid and fields[0] != "Z":
                found.append(int(path.parent.name))
        return found

    def kill(self) -> None:
        """End it as a power cut does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait_killed(self) -> None:
        """Wait until it has been killed, by itself (``dies``)."""
        assert self.process is not None
        assert self.process.wait(PATIENCE_SECONDS) == -signal.SIGKILL, self.last_words()

    def change_journal(self, change: Callable[[Saved], Saved]) -> None:
        """Change what a stopped agent finds in its journal, as if it had written it."""
        path = self.state / "journal.json"
        path.write_bytes(to_text(change(from_text(path.read_bytes()))))

    def stop(self) -> int:
        assert self.process is not None
        if self.is_alive:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGCONT)  # Where a test stopped it.
        return self.process.wait(PATIENCE_SECONDS)

    def wait_said(self, text: str, times: int = 1) -> None:
        """Wait until its log says something so many times."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.log.read_text(errors="replace").count(text) < times:
            assert time.monotonic() < deadline, self.last_words()
            time.sleep(0.05)

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]
