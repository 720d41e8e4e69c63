"""``fleetctl release export|import|revoke|prune``: carry a release, take it back, tidy up."""

from pathlib import Path

import click

from controller.cli import completing
from controller.cli.exits import Exit
from controller.cli.fleet import opened
from controller.cli.prompts import confirmed, yes_option
from controller.cli.rollout import Driving, driven, drives
from controller.cli.terminal import Format, PassphraseReader, Terminal, output_option
from shared.errors import OperatorError

_NAME = click.argument("name_version", metavar="NAME@VERSION", shell_complete=completing.releases)


def add_ends(group: click.Group) -> None:
    """Give `fleetctl release` these commands."""
    for command in (export, take, revoke, prune):
        group.add_command(command)


@click.command()
@_NAME
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@output_option
def export(name_version: str, *, file: Path, force: bool, output: Format) -> None:
    """Write a release to FILE: to be signed on the machine that has the release key, and back."""
    from controller import releasing  # noqa: PLC0415 - --help needs no TUF.

    if file.exists() and not force:
        raise OperatorError(f"{file} exists; expected --force, or another FILE")
    with opened() as controller:
        releasing.export(controller, name_version, file)
    terminal = Terminal(output)
    terminal.say(f"Wrote {file}. On the other machine: fleetctl release import {file.name}")
    terminal.document({"release": name_version, "file": str(file)})


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@output_option
def take(file: Path, output: Format) -> None:
    """Take a release from FILE, and what the release key has signed with it."""
    from controller import releasing  # noqa: PLC0415

    with opened() as controller:
        status = releasing.take(controller, file)
    terminal = Terminal(output)
    terminal.say(f"{status.release} is in the store, {status.state}.")
    terminal.document(status)


@click.command()
@_NAME
@yes_option
@drives
def revoke(*, name_version: str, yes: bool, driving: Driving) -> int:
    """Take a release back from everybody, and let nobody run it again.

    One plan delists it and reverts all its rollouts, finished ones too. A device with nothing to
    go back to keeps running it, and is reported until it runs something else.
    """
    from controller import releasing  # noqa: PLC0415

    reader = PassphraseReader(driving.passphrase_fd)
    with driven(driving, reader=reader) as controller:
        running = controller.show_release(name_version)[0].running_on
        question = f"Revoke {name_version}, which {running} cameras run? It cannot be taken back."
        if not yes and not confirmed(question):
            return Exit.ERROR
        passphrase = None if controller.is_demo else reader("release")
        releasing.revoke(controller, name_version, passphrase)
        if not driving.is_detached:
            controller.drive(until=lambda _: True, timeout_seconds=driving.timeout_seconds)
        status = controller.fleet_status()
    said = "whoever drives next says so" if driving.is_detached else f"plan {status.plan_version}"
    driving.terminal.say(f"{name_version} is revoked: {said}. `fleetctl rollout watch` shows how")
    driving.terminal.say("devices leave it; `fleetctl device ls` who still runs it.")
    driving.terminal.document({"release": name_version, "plan_version": status.plan_version})
    return Exit.OK


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what it would delist.")
@drives
def prune(*, dry_run: bool, driving: Driving) -> int:
    """Delist the releases that no entry of the plan, device or undo needs; revert nothing.

    A bundle lists at most 500. What is delisted can never be signed again under that name and
    version; its files stay in the store.
    """
    from controller import releasing  # noqa: PLC0415

    reader = PassphraseReader(driving.passphrase_fd)
    with opened(reader=reader) if dry_run else driven(driving, reader=reader) as controller:
        found = releasing.prunable(controller)
        if found and not dry_run:
            passphrase = None if controller.is_demo else reader("release")
            found = releasing.prune(controller, passphrase)
            if not driving.is_detached:
                controller.drive(until=lambda _: True, timeout_seconds=driving.timeout_seconds)
    said = "would be delisted" if dry_run else "delisted"
    names = ", ".join(found) if found else "nothing"
    driving.terminal.say(f"{len(found)} {said}: {names}.")
    driving.terminal.document({"releases": found, "dry_run": dry_run})
    return Exit.OK
