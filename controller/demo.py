"""The demo: a fleet on this machine, told as a story, through the API that everybody uses.

A broker, keys, N agents as processes of their own with simulated cameras (or twins of the sensor
below the real camera library), three rollouts: a first release, a better one, a bad one. Nothing is
believed because a command returned: a release counts as running once its device reports it
committed and its detections arrive over MQTT, and the bad one counts as refused once its canary
streams the release before it again.

All of it lives in one folder. Whatever happens, no process is left behind.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from controller.broker import RunningBroker, run_nats
from controller.export.pack import FILE_NAMES, make_release
from controller.service import AT_REST, Controller
from controller.status import FleetStatus, RolloutStatus
from controller.twins import PACKER_VARIABLE, write_network, write_packer
from shared.bus import Bus
from shared.card import write_card
from shared.detections import Detections
from shared.errors import OperatorError, RefusedError
from shared.inbox import BusEvent, Inbox, Received
from shared.limits import DETECTIONS_BYTES, REPORTED_BYTES
from shared.messages import EndReported, Reported, decode
from shared.release import Role
from shared.topics import DeviceTopic, Topics

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ROOT / "examples" / "shapes"
DEVICES_DECLARED = "cam-[1:3]"  # In the fleet.yaml at the root.
CAMERA_DECLARED = "camera: simulated"
TWIN = "-twin"  # modlib-twin: a camera of kind modlib, with a twin of the sensor below.
CAMERAS = ("simulated", f"modlib{TWIN}", f"picamera2{TWIN}")
STRATEGY = "canary"
CANARY = "cam-1"
DEVICES_MAX = 50  # Each is two processes of this machine.
ROLLOUT_SECONDS_MAX = 180.0  # A loaded machine is slow; a rollout that hangs must not hang us.
SEEN_SECONDS_MAX = 60.0
BIRTH_SECONDS_MAX = 60.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.1
HEARTBEAT = "2"  # Seconds, as in the controller's DEMO_TIMING.
LOG_LINES_SHOWN = 15

Say = Callable[[str], None]
Show = Callable[[FleetStatus, str], None]  # What the fleet is like, and which rollout matters.


class DemoError(OperatorError):
    """The demo did not go as told; the text holds the end of the agents' logs."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """One thing that was to happen, and what did."""

    title: str
    expected: str
    happened: str
    is_as_told: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last frame that a camera was seen to infer, and when we saw it (monotonic)."""

    detections: Detections
    seen_at: float


@dataclass(slots=True)
class Agent:
    """One agent: a process of its own, and its log."""

    device: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """End it; one that does not is killed, and its camera child ends with it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        """Return the end of its log."""
        with suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()
            return "\n".join([f"--- {self.log}", *lines[-LOG_LINES_SHOWN:]])
        return f"--- {self.log}: none"


@dataclass(slots=True)
class _Memory:
    reported: dict[str, Reported] = field(default_factory=dict[str, Reported])
    sightings: dict[str, Sighting] = field(default_factory=dict[str, Sighting])
    releases_seen: dict[str, set[str]] = field(default_factory=dict[str, set[str]])


class Witness:
    """Subscribes like any dashboard, and remembers what devices report and cameras see."""

    def __init__(self, url: str, fleet: str, on_frame: Callable[[str, Detections], None]) -> None:
        """Start to listen; ``on_frame`` is called on the witness's own thread."""
        self._topics = Topics(fleet)
        self._inbox: Inbox[BusEvent] = Inbox()
        self._bus = Bus(url, "demo-witness", self._inbox)
        self._on_frame = on_frame
        self._memory = _Memory()
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="witness", daemon=True)
        reported = self._topics.any_device("reported")
        self._bus.subscribe(reported, bytes_max=REPORTED_BYTES, is_repeated=True)
        self._bus.subscribe(self._topics.any_device("camera/+/detections"))
        self._bus.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._is_stopping.set()
        self._thread.join()
        self._bus.stop()

    def reported(self, device: str) -> Reported | None:
        """Return what a device last said of itself."""
        with self._lock:
            return self._memory.reported.get(device)

    def sighting(self, device: str) -> Sighting | None:
        """Return the last frame that arrived from a device."""
        with self._lock:
            return self._memory.sightings.get(device)

    def releases_seen(self, device: str) -> frozenset[str]:
        """Return every release from which a frame of this device ever arrived."""
        with self._lock:
            return frozenset(self._memory.releases_seen.get(device, ()))

    def is_inferring(self, device: str, release: str, *, since: float) -> bool:
        """Say whether a device reports the release as committed AND a frame of it has arrived."""
        reported, sighting = self.reported(device), self.sighting(device)
        if reported is None or sighting is None or sighting.seen_at < since:
            return False
        camera = reported.cameras.get("0")
        is_reported = camera is not None and camera.release == release
        is_running = camera is not None and camera.state == "streaming" and camera.is_settled
        return is_reported and is_running and sighting.detections.release == release

    def end(self, device: str, rollout: str) -> EndReported | None:
        """Return how a rollout ended on a device's camera, as it reports it."""
        reported = self.reported(device)
        camera = reported.cameras.get("0") if reported else None
        ended = camera.ended if camera else ()
        return next((end for end in reversed(ended) if end.rollout == rollout), None)

    def _listen(self) -> None:
        while not self._is_stopping.is_set():
            event = self._inbox.get(POLL_SECONDS)
            if isinstance(event, Received) and event.payload:
                with suppress(RefusedError):  # A malformed message is the agent's test, not ours.
                    self._remember(event)

    def _remember(self, event: Received) -> None:
        topic = self._topics.parse(event.topic)
        match topic:
            case DeviceTopic(device, "reported"):
                reported = decode(event.payload, Reported, bytes_max=REPORTED_BYTES)
                with self._lock:
                    self._memory.reported[device] = reported
            case DeviceTopic(device, rest) if rest.endswith("/detections"):
                detections = decode(event.payload, Detections, bytes_max=DETECTIONS_BYTES)
                with self._lock:
                    self._memory.sightings[device] = Sighting(detections, monotonic())
                    seen = self._memory.releases_seen.setdefault(device, set())
                    seen.add(detections.release)
                self._on_frame(device, detections)
            case _:
                pass


class Stage:
    """Everything that runs: broker, controller, agents and the witness."""

    def __init__(
        self,
        folder: Path,
        broker: RunningBroker,
        controller: Controller,
        witness: Witness,
        *,
        camera: str,
    ) -> None:
        """Take what was started; agents come later."""
        self.camera = camera
        self.folder = folder
        self.broker = broker
        self.controller = controller
        self.witness = witness
        self.agents: list[Agent] = []

    @property
    def devices(self) -> tuple[str, ...]:
        """Return the devices' names."""
        return tuple(agent.device for agent in self.agents)

    def check(self) -> None:
        """Raise DemoError when an agent or the broker has ended by itself."""
        for agent in self.agents:
            code = agent.process.poll()
            if code is not None:
                raise DemoError(
                    f"expected the agent of {agent.device} to run, it ended with code {code}\n"
                    + agent.last_words()
                )
        if not self.broker.is_alive:
            raise DemoError(f"the broker ended by itself; its log is in {self.broker.folder}")

    def wait_for(self, what: str, is_so: Callable[[], bool], *, seconds_max: float) -> float:
        """Wait until it is so; return how long that took.

        Raises:
            DemoError: It did not become so in time, or a process has ended.
        """
        begun = monotonic()
        while not is_so():
            self.check()
            if monotonic() - begun > seconds_max:
                raise self.failed(f"expected {what} within {seconds_max:.0f} s")
            sleep(POLL_SECONDS)
        return monotonic() - begun

    def failed(self, text: str) -> DemoError:
        """Return the error that shows what the agents said last."""
        return DemoError("\n".join([text, *(agent.last_words() for agent in self.agents)]))


@contextmanager
def set_up(
    folder: Path,
    *,
    devices: int,
    port: int,
    say: Say,
    on_frame: Callable[[str, Detections], None],
    camera: str = CAMERAS[0],
) -> Iterator[Stage]:
    """Start a fleet of that many devices in an empty folder; end all of it afterwards.

    Args:
        folder: For everything of it.
        devices: How many agents.
        port: The broker's; 0: any.
        say: Told what happens.
        on_frame: Told of every frame that arrives.
        camera: One of ``CAMERAS``.

    Raises:
        FleetError: Something did not start; what did is ended.
    """
    with ExitStack() as stack:
        say("Starting an MQTT broker (NATS) on this machine.")
        broker = run_nats(folder / "broker", port)
        stack.callback(broker.stop)
        kind = camera.removesuffix(TWIN)
        project = write_project(folder / "project", devices=devices, url=broker.url, camera=kind)
        say(f"It listens on {broker.url}. Making keys: a root, a release key, a controller key.")
        controller = _open(project, folder / "data" / "imxfleet")
        stack.callback(controller.close)
        witness = Witness(broker.url, controller.fleet.name, on_frame)
        stack.callback(witness.stop)
        stage = Stage(folder, broker, controller, witness, camera=camera)
        say(f"Starting {devices} agents, each a process of its own with {_in_words(camera)}.")
        for number in range(1, devices + 1):
            agent = _start_agent(stage, f"cam-{number}")
            stack.callback(agent.stop)
            stage.agents.append(agent)
        stack.callback(_tell_all_to_stop, stage.agents)
        stage.wait_for(
            "every agent to report for the first time",
            lambda: all(witness.reported(device) for device in stage.devices),
            seconds_max=BIRTH_SECONDS_MAX,
        )
        yield stage


def _in_words(camera: str) -> str:
    if not camera.endswith(TWIN):
        return "a simulated camera"
    return f"the real {camera.removesuffix(TWIN)} on a twin of the sensor"


def write_project(project: Path, *, devices: int, url: str, camera: str = CAMERAS[0]) -> Path:
    """Write the project folder of the demo: the documented fleet.yaml, with that many devices."""
    example = (ROOT / "fleet.yaml").read_text(encoding="utf-8")
    for declared in (DEVICES_DECLARED, CAMERA_DECLARED):
        assert declared in example, "the demo's fleet is the documented one"
    text = example.replace(DEVICES_DECLARED, f"cam-[1:{devices}]")
    text = text.replace(CAMERA_DECLARED, f"camera: {camera}")
    text = text.replace("{embedded: true}", f'{{url: "{url}"}}')
    project.mkdir(parents=True, exist_ok=True)
    (project / "fleet.yaml").write_text(text, encoding="utf-8")
    return project


def tell(stage: Stage, *, say: Say, show: Show) -> tuple[Chapter, ...]:
    """Tell the story: two good releases, then a bad one; return what happened.

    Raises:
        DemoError: A process ended, or something did not happen in time.
    """
    say("Signing release shapes@1: a small detector of drawn shapes, as files and a manifest.")
    _publish(stage, _package(stage, 1), version=1)
    first = _good(stage, "shapes@1", say=say, show=show)
    say("Signing shapes@2, and rolling it out in the same way, while shapes@1 streams.")
    _publish(stage, _package(stage, 2), version=2)
    second = _good(stage, "shapes@2", say=say, show=show)
    say(
        "Signing shapes@3. It is bad: its labels file names one class where the network knows more."
    )
    say("The signature is good, so only the camera can tell. The canary tries it first.")
    _publish(stage, _spoilt(stage), version=3)
    third = _bad(stage, "shapes@3", before="shapes@2", say=say, show=show)
    return (*first, *second, *third)


def _good(stage: Stage, release: str, *, say: Say, show: Show) -> tuple[Chapter, ...]:
    begun = monotonic()
    status = _roll_out(stage, release, show)
    rolled = Chapter(
        f"{release} rolled out, {CANARY} first",
        "completed, all healthy",
        f"{status.state}, {status.counts.get('healthy', 0)} of {len(stage.devices)} healthy",
        status.state == "completed" and status.is_healthy,
        monotonic() - begun,
    )
    if not rolled.is_as_told:
        return (rolled,)
    since = monotonic()
    seen = _wait_until_inferring(stage, release, since=since)
    say(f"Every camera has been seen inferring with {release}: its frames arrive over MQTT.")
    return rolled, seen


def _bad(stage: Stage, release: str, *, before: str, say: Say, show: Show) -> tuple[Chapter, ...]:
    begun = monotonic()
    status = _roll_out(stage, release, show)
    stopped = Chapter(
        f"{release}, the bad one, rolled out",
        "stopped by the gate at the canary",
        f"{status.state} ({status.reason})",
        status.state == "aborted" and status.reason == "gate",
        monotonic() - begun,
    )
    since = monotonic()
    seen = _wait_until_inferring(stage, before, since=since)
    others = [device for device in stage.devices if device != CANARY]
    touched = [d for d in others if release in stage.witness.releases_seen(d)]
    end = stage.witness.end(CANARY, status.rollout)
    fell_back = Chapter(
        f"{CANARY} tried {release}",
        "rolled back, the release is to blame",
        "nothing reported" if end is None else f"{end.phase}, cause {end.cause}",
        end is not None and end.phase == "rolled_back" and end.cause == "release",
        seen.seconds,
    )
    spared = Chapter(
        f"the rest ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''})",  # noqa: PLR2004
        f"never ran {release}",
        f"{', '.join(touched)} ran it" if touched else f"never ran {release}",
        not touched,
        0.0,
    )
    say(f"The canary went back to {before} by itself; nobody else ever ran {release}.")
    return stopped, fell_back, spared, seen


def _wait_until_inferring(stage: Stage, release: str, *, since: float) -> Chapter:
    witness = stage.witness
    seconds = stage.wait_for(
        f"every camera to be seen inferring with {release}",
        lambda: all(witness.is_inferring(d, release, since=since) for d in stage.devices),
        seconds_max=SEEN_SECONDS_MAX,
    )
    happened = f"{len(stage.devices)} of {len(stage.devices)} cameras"
    return Chapter(f"seen inferring with {release}", "every camera", happened, True, seconds)  # noqa: FBT003


def _roll_out(stage: Stage, release: str, show: Show) -> RolloutStatus:
    controller = stage.controller
    rollout = controller.start_rollout(release, selector="role=door", strategy=STRATEGY)

    def is_at_rest(fleet: FleetStatus) -> bool:
        stage.check()
        return any(one.rollout == rollout and one.state in AT_REST for one in fleet.rollouts)

    try:
        controller.drive(
            rollout,
            until=is_at_rest,
            on_change=lambda fleet: show(fleet, rollout),
            timeout_seconds=ROLLOUT_SECONDS_MAX,
        )
    except TimeoutError as error:
        text = f"expected {rollout} of {release} to end within {ROLLOUT_SECONDS_MAX:.0f} s"
        raise stage.failed(text) from error
    return controller.status(rollout)


def _publish(stage: Stage, source: dict[Role, Path], *, version: int) -> None:
    manifest, files = make_release(source, name="shapes", version=version)
    status = stage.controller.import_release(manifest, files)
    stage.controller.sign_release(status.release, None)


def _package(stage: Stage, version: int) -> dict[Role, Path]:
    """Return the files of the version's package: a graph that examples/shapes built."""
    folders = sorted(path.parent for path in SHAPES.rglob(FILE_NAMES["simulator"]))
    if not folders:
        raise OperatorError(f"expected a {FILE_NAMES['simulator']} below {SHAPES}, found none")
    folder = folders[min(version, len(folders)) - 1]
    files: dict[Role, Path] = {r: folder / FILE_NAMES[r] for r in ("simulator", "labels")}
    if stage.camera.endswith(TWIN):
        made = stage.folder / "packages" / folder.name
        if not made.exists():
            made.mkdir(parents=True)
            write_network(made, graph=files["simulator"])
        files["network"] = made / FILE_NAMES["network"]
    return files


def _spoilt(stage: Stage) -> dict[Role, Path]:
    """Return a package whose labels file has lost all lines but its first."""
    package, folder = _package(stage, 2), stage.folder / "spoilt"
    folder.mkdir()
    labels = folder / FILE_NAMES["labels"]
    first, *_ = package["labels"].read_text(encoding="utf-8").splitlines()
    labels.write_text(f"{first}\n", encoding="utf-8")
    return {**package, "labels": labels}


def _open(project: Path, home: Path) -> Controller:
    Controller.init_fleet(project, passphrase=None, home=home).close()
    return Controller.open(project, home=home)


def _start_agent(stage: Stage, device: str) -> Agent:
    folder = stage.folder
    card = folder / "cards" / f"{device}.yaml"
    card.parent.mkdir(exist_ok=True)
    write_card(card, stage.controller.add_device(device))
    log = folder / f"{device}.log"
    state = folder / "devices" / device
    command = [sys.executable, "-m", "agent", "run", "--state", str(state), "--card", str(card)]
    options, environment = _twin_of(stage) if stage.camera.endswith(TWIN) else ([], {})
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*_dying_with_us(), *command, "--demo", "--assume-clock", "--heartbeat", HEARTBEAT,
             *options],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C reaches us first; we end them in order.
        )  # fmt: skip
    return Agent(device, process, log)


def _twin_of(stage: Stage) -> tuple[list[str], dict[str, str]]:
    """Return what an agent is told when its camera is a twin: options, and variables."""
    simulation = stage.folder / "twin.yaml"
    simulation.write_text("twin: true\n", encoding="utf-8")
    packer = write_packer(stage.folder)
    return ["--simulate", str(simulation)], {PACKER_VARIABLE: str(packer)}


def _dying_with_us() -> list[str]:
    """Return what ends a child when this process is killed with -9, where Debian has it."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    # Killed before the child asked for the signal, we send none: then it sees another parent.
    unless_orphan = '[ "$PPID" = "$0" ] || exit 1; exec "$@"'
    return [setpriv, "--pdeathsig", "TERM", "sh", "-c", unless_orphan, str(os.getpid())]


def _tell_all_to_stop(agents: list[Agent]) -> None:
    """Signal all before the first is waited for, so that they end at the same time."""
    for agent in agents:
        with suppress(ProcessLookupError):
            agent.process.terminate()
