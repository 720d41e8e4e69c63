"""``fleetctl support-bundle``: one file for whoever helps, with secrets removed."""

from pathlib import Path

import click

from controller.cli.exits import Exit
from controller.cli.fleet import opened
from controller.cli.terminal import Format, Terminal, output_option
from shared.errors import OperatorError


@click.command("support-bundle")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@output_option
def support_bundle(file: Path, *, force: bool, output: Format) -> int:
    """Write FILE (a zip) with what a helper needs: versions, findings, devices, rollouts, log.

    Keys are never read into it; passwords, tokens, private keys and names in URLs are taken out.
    Read it before you send it: labels and names of devices are in it.
    """
    from controller.cli.doctor import all_findings  # noqa: PLC0415 - --help needs no TUF.
    from controller.support import write_bundle  # noqa: PLC0415

    if file.exists() and not force:
        raise OperatorError(f"{file} exists; expected --force, or another FILE")
    findings = all_findings()
    with opened() as controller:
        names = write_bundle(controller, file, findings)
    terminal = Terminal(output)
    terminal.say(f"Wrote {file}: {', '.join(names)}. Read it before you send it.")
    terminal.document({"file": str(file), "names": names})
    return Exit.OK
