"""A fleet as its user makes it: fleetctl's commands, a real broker, agents as processes."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.camera.wire import Simulation
from controller.broker import RunningBroker
from controller.service import Controller
from controller.store import Store
from shared.detections import Detections
from shared.messages import decode
from shared.release import Manifest, Role

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ROOT / "examples" / "shapes"
PASSPHRASE = "a long enough passphrase"
ASK_FOR_A_PASSPHRASE = {
    ("init",), ("model", "build"), ("model", "import"), ("device", "add"), ("rollout", "start"),
}  # fmt: skip
SECONDS_BETWEEN_LINES = 3.0  # What is shown of a command that prints hundreds of lines.
_PROGRESS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
FLEET_YAML = """\
version: 1
fleet: shapes
broker: {{url: "{url}"}}
defaults:
  camera: simulated
  telemetry: {{encoding: json, rate_hz: 4, threshold: 0.25}}
devices:
  eye-[1:3]: {{labels: {{task: detect}}}}
  poser: {{labels: {{task: pose}}}}
  cutter: {{labels: {{task: segment}}}}
  sorter: {{labels: {{task: classify}}}}
strategies:
  quick:
    waves: [{{fraction: 100%}}]
    probe: {{seconds: 3s, valid_rate: 50%}}
    deadlines: {{activation: 60s, progress: 120s}}
"""


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    said: str


@dataclass(frozen=True)
class Built:
    """A release as it lies in the store, and the folder that Ultralytics reads."""

    weights: Path
    data: Path
    manifest: Manifest
    files: dict[Role, bytes]
    folder: Path

    @property
    def size(self) -> int:
        return self.manifest.input.width

    @property
    def sides(self) -> tuple[int, int]:
        """Return width and height of what the network takes."""
        return self.manifest.input.width, self.manifest.input.height


@dataclass
class Site:
    """The project folder of a fleet, its broker and its agents."""

    project: Path
    broker: RunningBroker
    agents: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def fleetctl(self, *arguments: str, path: str | None = None) -> Done:
        """Run fleetctl as a script does: ``fleetctl ... --passphrase-fd 3 3<file``."""
        (self.project / "passphrase").write_text(f"{PASSPHRASE}\n")
        with (self.project / "passphrase").open("rb") as file:
            needs = arguments[:2] in ASK_FOR_A_PASSPHRASE
            secret = ("--passphrase-fd", str(file.fileno())) if needs else ()
            return run_live(
                [str(Path(sys.executable).with_name("fleetctl")), *arguments, *secret],
                folder=self.project,
                environment=self._environment | ({} if path is None else {"PATH": path}),
                pass_fds=(file.fileno(),),
            )

    def build(
        self, weights: Path, data: Path, *more: str, name: str, imgsz: str, keep: bool = True
    ) -> Built:
        folder = self.project / f"{name}_imx_model"
        kept = ("--keep", str(folder)) if keep else ()
        done = self.fleetctl(
            "model", "build", str(weights), "--data", str(data), "--name", name, "--images", "60",
            "--version", "1", "--imgsz", imgsz, "-o", "json", *kept, *more,
        )  # fmt: skip
        assert done.code == 0, done.said[-3000:]
        assert json.loads(done.out)["is_signed"]
        manifest, files = self.stored(f"{name}@1")
        return Built(weights, data, manifest, files, folder)

    def stored(self, release: str) -> tuple[Manifest, dict[Role, bytes]]:
        """Return what the store holds of a release, read as another program would."""
        home = self.project / "data" / "imxfleet"
        controller = Controller.open(self.project, home=home, passphrase=lambda _: PASSPHRASE)
        try:
            _, manifest = controller.show_release(release)
            folder = controller.folder
        finally:
            controller.close()
        store = Store(folder)
        try:
            return manifest, {file.role: store.blob(file.sha256) for file in manifest.files}
        finally:
            store.close()

    def start_agent(self, device: str, simulation: Simulation) -> None:
        """Add the device, and start its agent with the card that this wrote."""
        added = self.fleetctl("device", "add", device)
        assert added.code == 0, added.said
        settings = self.project / f"{device}.simulation.json"
        settings.write_bytes(msgspec.json.encode(simulation))
        with (self.project / f"{device}.log").open("ab") as log:
            self.agents[device] = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("fleet-agent")),
                    *("run", "--state", str(self.project / device)),
                    *("--card", str(self.project / f"{device}.card.yaml")),
                    *("--simulate", str(settings), "--assume-clock", "--heartbeat", "5"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def roll_out(self, release: str, *, selector: str) -> None:
        done = self.fleetctl(
            "rollout", "start", release, "--selector", selector, "--strategy", "quick",
            "--timeout", "180s", "-o", "json",
        )  # fmt: skip
        assert done.code == 0, f"{done.out}\n{done.said}\n{self._logs()}"

    def frames(self, device: str, count: int) -> list[Detections]:
        """Return what the device's camera says over MQTT, as any subscriber hears it."""
        done = self.fleetctl(
            "tail", device, "--count", str(count), "--timeout", "180s", "-o", "jsonl"
        )
        assert done.code == 0, f"{done.said}\n{self._logs()}"
        lines = [json.loads(line) for line in done.out.splitlines()]
        assert all(line["device"] == device for line in lines)
        return [
            decode(json.dumps(line["detections"]).encode(), Detections, bytes_max=1_000_000)
            for line in lines
        ]

    def stop_agents(self) -> None:
        for agent in self.agents.values():
            agent.send_signal(signal.SIGTERM)
        for agent in self.agents.values():
            assert agent.wait(60) == 0
        self.agents.clear()

    def close(self) -> None:
        self.stop_agents()
        self.broker.stop()

    @property
    def _environment(self) -> dict[str, str]:
        homes = {"XDG_DATA_HOME": "data", "XDG_CACHE_HOME": "cache"}
        return {**os.environ, **{name: str(self.project / at) for name, at in homes.items()}}

    def _logs(self) -> str:
        return "\n".join(
            f"{device}: {(self.project / f'{device}.log').read_text(errors='replace')[-2000:]}"
            for device in self.agents
        )


def say(text: str) -> None:
    """Show how far the suite is: it takes minutes."""
    sys.stdout.write(f"  {text}\n")
    sys.stdout.flush()


def draw_and_train(
    folder: Path, *more: str, task: str, images: int, epochs: int, size: int
) -> Path:
    """Make data and weights with the example's own commands; return the weights."""
    data = folder / "data"
    run(SHAPES / "draw.py", data, "--images", images, "--size", 160, "--task", task)
    given = data if task == "classify" else data / "shapes.yaml"
    weights = folder / "best.pt"
    run(
        SHAPES / "train.py", given, "--task", task, "--epochs", epochs, "--size", size,
        "--out", weights, *more, loud=True,
    )  # fmt: skip
    return weights


def ultralytics_says(
    model: Path, frames: Sequence[NDArray[np.uint8]], *, imgsz: int, threshold: float
) -> list[list[dict[str, object]]]:
    """Return what Ultralytics itself predicts on these frames."""
    given = io.BytesIO()
    np.save(given, np.stack(frames))
    script = Path(__file__).with_name("ultralytics_says.py")
    done = run(script, model, imgsz, threshold, given=given.getvalue())
    answers: list[list[dict[str, object]]] = json.loads(done.out)
    return answers


def run(script: Path, *arguments: object, given: bytes = b"", loud: bool = False) -> Done:
    """Run a script of ours to its good end."""
    command = [sys.executable, str(script), *map(str, arguments)]
    done = run_live(command, folder=ROOT, given=given, loud=loud)
    assert done.code == 0, done.said[-3000:]
    return done


def run_live(
    command: list[str],
    *,
    folder: Path,
    environment: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
    given: bytes = b"",
    loud: bool = False,
) -> Done:
    """Run a command to its end, and show every few seconds what it says meanwhile.

    ``loud``: it says so on standard output, too, and has no other result.
    """
    here = {"PYTHONPATH": str(ROOT), **(environment or os.environ)}
    with subprocess.Popen(
        command, cwd=folder, env=here, pass_fds=pass_fds, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT if loud else subprocess.PIPE,
    ) as process:  # fmt: skip
        said: list[str] = []
        moving = process.stdout if loud else process.stderr
        assert moving is not None
        echo = threading.Thread(target=_echo, args=(moving, said))
        echo.start()
        assert process.stdin is not None
        process.stdin.write(given)
        process.stdin.close()
        out = b""
        if not loud:
            assert process.stdout is not None
            out = process.stdout.read()
        echo.join()
    return Done(process.returncode, out.decode(errors="replace"), "\n".join(said))


def _echo(lines: IO[bytes], said: list[str]) -> None:
    shown_at = 0.0
    with io.TextIOWrapper(lines, errors="replace") as moving:  # Its lines may end in \r alone.
        for line in moving:
            text = _PROGRESS.sub("", line).strip()
            if not text:
                continue
            said.append(text)
            if time.monotonic() - shown_at >= SECONDS_BETWEEN_LINES:
                shown_at = time.monotonic()
                say(text[:140])
