"""``fleetctl backup``, ``restore`` and ``adopt``: when the workstation's disk is lost."""

from pathlib import Path

import click

from controller.cli.fleet import opened
from controller.cli.terminal import Format, Terminal, output_option, passphrase_option
from shared.errors import OperatorError


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--keys", "with_keys", is_flag=True,
              help="The keys, too, encrypted as they are at rest.")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite the file.")
@output_option
def backup(file: Path, *, with_keys: bool, force: bool, output: Format) -> None:
    """Write the fleet's store, releases and public certificates to FILE; a driver may go on."""
    from controller.backup import back_up  # noqa: PLC0415 - --help needs no TUF.

    if file.exists() and not force:
        raise OperatorError(f"{file} exists; expected --force, or another file")
    with opened() as controller:
        done = back_up(controller.folder, file.absolute(), with_keys=with_keys)
    terminal = Terminal(output)
    terminal.say(f"Wrote {done.files} files, {done.bytes / 1e6:.1f} MB, to {file}.")
    if not with_keys:
        terminal.say("Without keys: who restores it needs the folder of the keys, or `--keys`.")
    terminal.document(done)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@output_option
def restore(file: Path, output: Format) -> None:
    """Put a backup where the fleet of ./fleet.yaml has nothing yet."""
    from controller.backup import restore as put_back  # noqa: PLC0415
    from controller.service import folder_of  # noqa: PLC0415

    folder = folder_of(Path.cwd())
    done = put_back(file, folder)
    terminal = Terminal(output)
    terminal.say(f"Restored {done.files} files to {folder}.")
    if not done.has_keys:
        terminal.say(f"It holds no keys: put them into {folder / 'keys'}.")
    if (folder / "tls").is_dir():
        own = folder / "tls" / "controller.pem"
        terminal.say(f"For a broker with TLS: fleetctl broker account controller --to {own}")
    terminal.say("Next: fleetctl rollout history, then fleetctl adopt where the broker is newer.")
    terminal.document(done)


@click.command()
@passphrase_option
@output_option
def adopt(passphrase_fd: int | None, output: Format) -> None:
    """Take over a plan that another controller, or a newer self of this one, signed.

    Its rollouts come to rest: `rollout resume` goes on with everyone, `rollout abort` goes back.
    """
    with opened(passphrase_fd) as controller:
        version, rollouts = controller.adopt()
    terminal = Terminal(output)
    terminal.say(f"Plan {version} takes the place of the broker's once somebody drives.")
    for name in rollouts:
        terminal.say(f"  {name} is at rest: fleetctl rollout resume {name}, or abort {name}")
    terminal.document({"version": version, "rollouts": rollouts})
