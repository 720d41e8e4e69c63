"""``fleetctl keys``: who may sign what, and a new controller key after a theft."""

import click

from controller.cli.exits import Exit
from controller.cli.fleet import opened
from controller.cli.prompts import confirmed, yes_option
from controller.cli.rollout import Driving, drives
from controller.cli.terminal import Format, PassphraseReader, Terminal, output_option


@click.group()
def keys() -> None:
    """List the fleet's keys; rotate the controller's."""


@keys.command()
@output_option
def ls(output: Format) -> None:
    """List the roles, their keys and expiry, and which key files this machine has."""
    from controller.releasing import list_keys  # noqa: PLC0415 - --help needs no TUF.

    with opened() as controller:
        found = list_keys(controller)
    Terminal(output).table(
        ("role", "keys", "needed", "expires (UTC)", "files here"),
        [
            (
                one.role,
                ", ".join(key[:12] for key in one.keys),
                f"{one.threshold} of {len(one.keys)}",
                f"{one.expires:%Y-%m-%d}",
                ", ".join(name if asks else f"{name} (plain)" for name, asks in one.files.items())
                or "none",
            )
            for one in found
        ],
        documents=found,
        empty="",
    )


@keys.command()
@yes_option
@drives
def rotate(*, yes: bool, driving: Driving) -> int:
    """Make a new controller key, and a root that knows only it; needs the root keys.

    After a theft of the controller key: the next plan is signed by the new one, devices forget how
    far the thief has counted, and every identity is signed again. Nobody else may drive meanwhile.
    """
    from controller import releasing  # noqa: PLC0415

    reader = PassphraseReader(driving.passphrase_fd)
    with opened(reader=reader) as controller:
        if not yes and not confirmed("Replace the controller key of this fleet?"):
            return Exit.ERROR
        repository = releasing.rotate(controller, reader)
    with opened(reader=reader) as controller:
        if not driving.is_detached:
            controller.drive(until=lambda _: True, timeout_seconds=driving.timeout_seconds)
    driving.terminal.say(f"Root {repository.root_version} knows the new controller key; plan")
    driving.terminal.say(f"{repository.version} is signed by it. Back up the keys' folder again.")
    driving.terminal.document({"root": repository.root_version, "plan": repository.version})
    return Exit.OK
