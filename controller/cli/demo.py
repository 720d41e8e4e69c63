"""``fleetctl demo``: the main job on this machine, narrated for a newcomer."""

import shutil
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import click

from controller.cli.exits import Exit
from controller.cli.seen import frame_line
from controller.cli.terminal import Format, Terminal, output_option
from shared.detections import Detections

if TYPE_CHECKING:
    from rich.live import Live

    from controller.cli.watching import Watcher
    from controller.demo import Chapter, Stage
    from controller.status import FleetStatus, RolloutStatus

DEVICES_MAX = 50  # Each is two processes of this machine.
CAMERAS = ("simulated", "modlib-twin", "picamera2-twin")  # As in controller/demo.py.
LINE_SECONDS = 1.0  # One line a camera and second is as fast as people read.


@click.command()
@click.option("--once", is_flag=True, help="End by itself; exit 0 only if all went as told.")
@click.option("--devices", type=click.IntRange(2, DEVICES_MAX), default=3, show_default=True,
              help="How many agents to start.")  # fmt: skip
@click.option("--camera", type=click.Choice(CAMERAS), default=CAMERAS[0], show_default=True,
              help="-twin: the real library, on a sensor of software.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The broker's port; 0: any.")
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path),
              help="Also write the rollouts' pictures to this SVG file.")  # fmt: skip
@output_option
def demo(
    *, once: bool, devices: int, camera: str, port: int, picture: Path | None, output: Format
) -> int:
    """Show it all on this machine: broker, agents, three rollouts, live detections.

    Starts a broker and agents with simulated cameras in a temporary folder, rolls out two good
    releases and a bad one, and says what happened. Needs no fleet.yaml and changes nothing else.
    """
    from controller.demo import set_up, tell  # noqa: PLC0415 - --help needs no broker.

    terminal = Terminal(output)
    folder = Path(tempfile.mkdtemp(prefix="imxfleet-demo-"))
    begun = monotonic()
    stream = _Stream(terminal)
    screen = _Screen(terminal)
    is_as_told = is_interrupted = False
    try:
        told = set_up(
            folder, devices=devices, port=port, say=terminal.say, on_frame=stream.show,
            camera=camera,
        )  # fmt: skip
        with told as stage:
            chapters = tell(stage, say=screen.say, show=screen.show)
            screen.finish()
            is_as_told = all(chapter.is_as_told for chapter in chapters)
            _sum_up(terminal, chapters, seconds=monotonic() - begun)
            if picture is not None:
                screen.save(picture)
            if not is_as_told:
                terminal.error(str(stage.failed("the demo did not go as told")))
            elif not once:
                _stream(terminal, stage, stream)
    except KeyboardInterrupt:
        is_interrupted = True  # Nothing went wrong: there is nothing to look into.
        raise
    finally:
        screen.finish()
        _put_away(terminal, folder, is_kept=not (is_as_told or is_interrupted))
    return Exit.OK if is_as_told else Exit.ERROR


class _Screen:
    """Shows each rollout while it is driven, one after the other."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._rollout = ""
        self._watcher: Watcher | None = None
        self._live: Live | None = None
        self._fullest: dict[str, RolloutStatus] = {}
        self._last: dict[str, RolloutStatus] = {}

    def show(self, fleet: "FleetStatus", rollout: str) -> None:
        from controller.cli.watching import Watcher, live_picture  # noqa: PLC0415

        if rollout != self._rollout or self._watcher is None:
            self.finish()
            self._rollout = rollout
            self._live = live_picture(self._terminal)
            if self._live is not None:
                self._live.start()
            self._watcher = Watcher(self._terminal, rollout, self._live)
        self._watcher.show(fleet)
        self._remember(fleet, rollout)

    def say(self, text: str) -> None:
        """Leave the picture as it is, and say what comes next below it."""
        self.finish()
        self._terminal.say(text)

    def finish(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None
        self._watcher = None

    def save(self, path: Path) -> None:
        """Write what was seen in the middle of the second rollout and at the end of the third."""
        from controller.cli.picture import write_svg  # noqa: PLC0415

        second, third = sorted(self._last)[1:3]
        write_svg(path, (self._fullest[second], self._last[third]))

    def _remember(self, fleet: "FleetStatus", rollout: str) -> None:
        status = next(item for item in fleet.rollouts if item.rollout == rollout)
        earlier = self._fullest.get(rollout)
        is_fuller = earlier is None or _states(status) >= _states(earlier)
        if is_fuller and not status.is_over:
            self._fullest[rollout] = status
        self._last[rollout] = status
        self._fullest.setdefault(rollout, status)


def _states(status: "RolloutStatus") -> tuple[int, int]:
    """Return how much there is to see: the wave, and how many different phases."""
    phases = {camera.phase for device in status.devices for camera in device.cameras}
    return status.wave, len(phases)


class _Stream:
    """Prints frames as they arrive, once it is opened; one line a camera and second."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._is_open = threading.Event()
        self._shown: dict[str, float] = {}

    def open(self) -> None:
        self._is_open.set()

    def show(self, device: str, detections: Detections) -> None:
        now = monotonic()
        if not self._is_open.is_set() or now - self._shown.get(device, 0.0) < LINE_SECONDS:
            return
        self._shown[device] = now
        self._terminal.say(frame_line(device, 0, detections))


def _sum_up(terminal: Terminal, chapters: "tuple[Chapter, ...]", *, seconds: float) -> None:
    rows = [
        ("yes" if c.is_as_told else "NO", c.title, c.expected, c.happened, f"{c.seconds:.1f}")
        for c in chapters
    ]
    terminal.say()
    terminal.table(
        ("as told", "what", "expected", "happened", "s"), rows, documents=chapters, empty=""
    )
    verdict = "All of it went as told" if all(c.is_as_told for c in chapters) else "Not as told"
    terminal.say(f"{verdict}, in {seconds:.1f} s.")


def _stream(terminal: Terminal, stage: "Stage", stream: _Stream) -> None:
    """Show what the cameras see until Ctrl-C."""
    project, data = stage.folder / "project", stage.folder / "data"
    terminal.say()
    terminal.say("It keeps running. Look at it from another terminal:")
    terminal.say(f"  cd {project}")
    terminal.say(f"  export XDG_DATA_HOME={data}")
    terminal.say(f"  {_fleetctl()} device ls")
    terminal.say("What the cameras see, until Ctrl-C:")
    stream.open()
    with suppress(KeyboardInterrupt):
        stage.wait_for("never", lambda: False, seconds_max=float("inf"))
    terminal.say("Stopping broker and agents.")


def _fleetctl() -> str:
    return str(Path(sys.executable).with_name("fleetctl"))


def _put_away(terminal: Terminal, folder: Path, *, is_kept: bool) -> None:
    """Remove the folder; keep it when something went wrong, and say where it is."""
    if is_kept and any(folder.iterdir()):
        terminal.say(f"Logs and state are kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
