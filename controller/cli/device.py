"""``fleetctl device``: give a device its card, list devices, look at one, ask it something."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.cli import completing
from controller.cli.fleet import matching, opened, selector_option
from controller.cli.requests import add_requests
from controller.cli.terminal import Format, Terminal, output_option, passphrase_option
from controller.cli.watchable import Watching, watch_options
from shared.errors import OperatorError

if TYPE_CHECKING:
    from controller.status import DeviceStatus
    from shared.messages import CameraReported


@click.group()
def device() -> None:
    """Add devices, list them, look at one, ask one for something."""


@device.command()
@click.argument("device_id", metavar="DEVICE", shell_complete=completing.devices)
@click.option("--card", type=click.Path(dir_okay=False, path_type=Path),
              help="Where to write the card file. Default: ./DEVICE.card.yaml")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite the card file.")
@passphrase_option
@output_option
def add(
    device_id: str, *, card: Path | None, force: bool, passphrase_fd: int | None, output: Format
) -> None:
    """Sign the identity of a device of fleet.yaml, and write its card file.

    The card holds what an agent must know to trust this fleet: broker, device id and root. Copy
    it to the Pi as /boot/firmware/fleet-agent.yaml.
    """
    from shared.card import write_card  # noqa: PLC0415

    path = card or Path(f"{device_id}.card.yaml")
    if path.exists() and not force:
        raise OperatorError(
            f"{path} exists; expected --force, or another --card (device {device_id})"
        )
    with opened(passphrase_fd) as controller:
        write_card(path, controller.add_device(device_id))
    terminal = Terminal(output)
    terminal.say(f"{device_id}: wrote {path}. On the Pi it is /boot/firmware/fleet-agent.yaml; to")
    terminal.say("try it here with a simulated camera:")
    terminal.say(f"  fleet-agent run --state ./{device_id} --card {path}")
    terminal.document({"device": device_id, "card": str(path)})


@device.command()
@selector_option()
@watch_options
@output_option
def ls(selector: str | None, output: Format, watching: Watching) -> int:
    """List the devices that are declared or were heard; with -l: those whose labels match."""

    def show() -> None:
        with opened() as controller:
            devices = matching(controller.list_devices(), selector)
        Terminal(output).table(
            ("device", "state", "runs", "labels", "plan", "notes"),
            [_row(item) for item in devices],
            documents=devices,
            empty="No devices. Declare them in fleet.yaml." if selector is None else "Nobody.",
            wide=("identity", "agent", "last heard (UTC)", "cameras"),
            wide_rows=[_wide(item) for item in devices],
        )

    return watching.repeat(show)


@device.command()
@click.argument("device_id", metavar="DEVICE", shell_complete=completing.devices)
@output_option
def show(device_id: str, output: Format) -> None:
    """Show what is known of one device."""
    with opened() as controller:
        status = controller.show_device(device_id)
    Terminal(output).facts(_facts(status), document=status)


def _row(status: "DeviceStatus") -> tuple[str, ...]:
    return (
        status.device,
        status.state,
        ", ".join(_runs(camera) for camera in status.cameras.values()) or "-",
        _labels(status),
        str(status.plan_version or "-"),
        "; ".join(status.notes),
    )


def _wide(status: "DeviceStatus") -> tuple[str, ...]:
    return (
        f"{status.identity_reported} of {status.identity_version}",
        status.agent_version or "-",
        f"{status.last_heard:%Y-%m-%d %H:%M:%S}" if status.last_heard else "never",
        "; ".join(f"{number}: {_camera(one)}" for number, one in status.cameras.items()),
    )


def _facts(status: "DeviceStatus") -> dict[str, str]:
    heard = f"{status.last_heard:%Y-%m-%d %H:%M:%S} UTC" if status.last_heard else "never"
    identity = f"version {status.identity_version} signed, {status.identity_reported} on the device"
    facts = {
        "device": status.device,
        "state": status.state,
        "last heard": heard,
        "labels": _labels(status) or "-",
        "identity": identity,
        "plan": f"version {status.plan_version}" if status.plan_version else "none reported",
        "agent": status.agent_version or "unknown",
    }
    for number, camera in status.cameras.items():
        facts[f"camera {number}"] = _camera(camera)
    return facts | {f"note {index}": note for index, note in enumerate(status.notes, start=1)}


def _camera(camera: "CameraReported | None") -> str:
    if camera is None:
        return "nothing reported"
    words = f"{camera.kind}, {camera.state}, {_runs(camera)}, {camera.starts} starts since boot"
    if camera.previous:
        words += f", before it {camera.previous}"
    if camera.deployment:
        words += f"; {camera.deployment.rollout}: {camera.deployment.phase.replace('_', ' ')}"
        if camera.deployment.error:
            words += f" ({camera.deployment.error.text})"
    return words


def _runs(camera: "CameraReported | None") -> str:
    return "-" if camera is None or camera.release is None else camera.release


def _labels(status: "DeviceStatus") -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(status.labels.items()))


add_requests(device)
