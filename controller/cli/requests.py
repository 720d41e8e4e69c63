"""``fleetctl device label|restart|identify|snapshot|rm``: what is asked of one device, or of many.

Each takes devices by name, or ``-l`` with a selector over the signed labels.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.cli import completing
from controller.cli.exits import Exit
from controller.cli.fleet import Duration, opened, selector_option
from controller.cli.prompts import confirmed, yes_option
from controller.cli.rollout import Driving, driven, drives
from controller.cli.terminal import Format, Terminal, output_option
from shared.files import write_atomically
from shared.limits import CAMERAS_MAX

if TYPE_CHECKING:
    from controller.asking import Answer

ANSWER_SECONDS = 10.0
_DEVICES = click.argument(
    "devices", metavar="[DEVICE]...", nargs=-1, shell_complete=completing.devices
)
_CAMERA = click.option("--camera", type=click.IntRange(0, CAMERAS_MAX - 1), help="Which camera.")
_TIMEOUT = click.option(
    "--timeout", type=Duration(), default="10s", show_default=True, help="Wait so long for answers."
)
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say who would be asked.")


def add_requests(group: click.Group) -> None:
    """Give `fleetctl device` these commands."""
    for command in (label, restart, identify, snapshot, rm):
        group.add_command(command)


@click.command()
@_DEVICES
@selector_option()
@_CAMERA
@click.option("--reboot", is_flag=True, help="The whole Pi.")
@yes_option
@_DRY_RUN
@_TIMEOUT
@output_option
def restart(  # noqa: PLR0913 - one parameter an option
    *,
    devices: tuple[str, ...],
    selector: str | None,
    camera: int | None,
    reboot: bool,
    yes: bool,
    dry_run: bool,
    timeout: float,
    output: Format,
) -> int:
    """Restart the agent; with --camera N only that camera, with --reboot the Pi.

    Nothing is sent to a device that is away: a request is good for a minute, and never kept.
    """
    if reboot and camera is not None:
        raise click.UsageError("expected --camera or --reboot, not both")
    verb = "reboot" if reboot else "restart-agent" if camera is None else "restart-camera"

    def asks_first(found: Sequence[str]) -> bool:
        return yes or not (reboot and len(found) > 1) or confirmed(f"Reboot {len(found)} devices?")

    return _ask(verb, devices, selector, camera or 0, Asking(output, timeout, asks_first, dry_run))


@click.command()
@_DEVICES
@selector_option()
@_DRY_RUN
@_TIMEOUT
@output_option
def identify(
    *,
    devices: tuple[str, ...],
    selector: str | None,
    dry_run: bool,
    timeout: float,
    output: Format,
) -> int:
    """Make a device show itself: a line in its log."""
    return _ask("identify", devices, selector, 0, Asking(output, timeout, None, dry_run))


@click.command()
@_DEVICES
@selector_option()
@_CAMERA
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=".",
              show_default=True, help="The folder for DEVICE-CAMERA.jpg.")  # fmt: skip
@_DRY_RUN
@_TIMEOUT
@output_option
def snapshot(  # noqa: PLR0913 - one parameter an option
    *,
    devices: tuple[str, ...],
    selector: str | None,
    camera: int | None,
    out: Path,
    dry_run: bool,
    timeout: float,
    output: Format,
) -> int:
    """Ask for a picture, where `privacy: {images: on-request}` is signed; write it to a file."""
    asking = Asking(output, timeout, None, dry_run, out)
    return _ask("snapshot", devices, selector, camera or 0, asking)


class Asking:
    """How requests are made and their answers shown."""

    def __init__(
        self,
        output: Format,
        seconds: float,
        asks_first: Callable[[Sequence[str]], bool] | None,
        is_dry: bool,  # noqa: FBT001
        folder: Path | None = None,
    ) -> None:
        """Keep what was asked for."""
        self.terminal, self.seconds = Terminal(output), seconds
        self.asks_first, self.is_dry, self.folder = asks_first, is_dry, folder

    def show(self, answers: "Sequence[Answer]", camera: int) -> int:
        """Print the answers, write the pictures; exit 5 when somebody did not answer."""
        rows, documents = [], []
        for answer in answers:
            path = self._write(answer, camera)
            words = answer.text or (str(path) if path else "")
            rows.append((answer.device, answer.status, answer.code, words))
            documents.append(
                {"device": answer.device, "status": answer.status, "code": answer.code,
                 "text": answer.text, "data": answer.data, "file": str(path) if path else None}
            )  # fmt: skip
        self.terminal.table(
            ("device", "answer", "code", "text"), rows, documents=documents, empty="Nobody."
        )
        states = {answer.status for answer in answers}
        return Exit.TIMEOUT if "no answer" in states else Exit.ERROR if "error" in states else 0

    def _write(self, answer: "Answer", camera: int) -> Path | None:
        if answer.image is None or self.folder is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{answer.device}-{camera}.jpg"
        write_atomically(path, answer.image)
        return path


def _ask(
    verb: str,
    devices: tuple[str, ...],
    selector: str | None,
    camera: int,
    asking: Asking,
) -> int:
    from controller import orders  # noqa: PLC0415 - --help needs no TUF.

    with opened() as controller:
        found = orders.devices_of(controller, devices, selector)
        if asking.is_dry:
            asking.terminal.say(f"{verb}: {', '.join(found)}")
            asking.terminal.document({"verb": verb, "devices": found})
            return Exit.OK
        if asking.asks_first is not None and not asking.asks_first(found):
            return Exit.ERROR
        answers = orders.ask(controller, found, verb, seconds=asking.seconds, camera=camera)
    return asking.show(answers, camera)


@click.command()
@click.argument("words", metavar="[DEVICE]... KEY=VALUE|KEY-...", nargs=-1, required=True)
@selector_option()
@_DRY_RUN
@drives
def label(*, words: tuple[str, ...], selector: str | None, dry_run: bool, driving: Driving) -> int:
    """Change labels in fleet.yaml and on the devices: role=door sets one, role- takes it away.

    Ends once each device has reported the new identity; with --detach when it is signed. A plan
    relies on the new label from the moment that it is signed.
    """
    from controller import orders  # noqa: PLC0415
    from controller.labelling import parse_changes  # noqa: PLC0415

    named = tuple(word for word in words if "=" not in word and not word.endswith("-"))
    changes = parse_changes(tuple(word for word in words if word not in named))
    if not changes:
        raise click.UsageError("expected a label: KEY=VALUE, or KEY- to take it away")
    with opened() if dry_run else driven(driving) as controller:
        found = orders.devices_of(controller, named, selector)
        if dry_run:
            driving.terminal.say(f"label: {', '.join(found)}")
            driving.terminal.document({"devices": found, "labels": changes})
            return Exit.OK
        versions = orders.label(controller, found, changes)
        if not driving.is_detached:
            with suppress(TimeoutError):  # It is said below whom the new labels did not reach.
                controller.drive(
                    until=lambda _: not orders.unheard(controller, versions),
                    timeout_seconds=driving.timeout_seconds or ANSWER_SECONDS,
                )
        unheard = orders.unheard(controller, versions)
    heard = len(versions) - len(unheard)
    driving.terminal.say(f"{len(versions)} identities signed, {heard} reported by their devices.")
    if unheard and not driving.is_detached:
        driving.terminal.say(f"Not yet: {', '.join(unheard)}; they read it when they are back.")
    driving.terminal.document({"versions": versions, "unheard": unheard})
    return Exit.OK if not unheard or driving.is_detached else Exit.TIMEOUT


@click.command()
@click.argument("device_id", metavar="DEVICE", shell_complete=completing.devices)
@click.option("--force", is_flag=True, help="Although it is online.")
@yes_option
@drives
def rm(*, device_id: str, force: bool, yes: bool, driving: Driving) -> int:
    """Forget a device: its identity, its reports, and what the broker keeps of it.

    What it runs it goes on running. Take it out of fleet.yaml, too.
    """
    from controller import orders  # noqa: PLC0415

    with driven(driving) as controller:
        orders.devices_of(controller, (device_id,), None)
        if not yes and not confirmed(f"Forget {device_id}?"):
            return Exit.ERROR
        orders.remove(controller, device_id, force=force)
        if driving.is_detached:
            return Exit.OK
        controller.drive(until=lambda _: True, timeout_seconds=driving.timeout_seconds)
        kept = orders.clear_device(controller, device_id)
        is_declared = device_id in controller.fleet.devices
    driving.terminal.say(f"{device_id} is forgotten.")
    if is_declared:
        driving.terminal.say("fleet.yaml still declares it: take it out there.")
    if kept:
        driving.terminal.error(f"the broker has not acknowledged: {', '.join(kept)}")
    driving.terminal.document({"device": device_id, "is_declared": is_declared, "kept": kept})
    return Exit.BROKER if kept else Exit.OK
