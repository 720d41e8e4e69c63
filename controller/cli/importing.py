"""``fleetctl model import``: from a folder of plain Ultralytics to a signed release."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.cli.building import announce, teller
from controller.cli.fleet import opened, passphrase_for
from controller.cli.terminal import Format, Terminal, output_option, passphrase_option
from shared.errors import ExportError, OperatorError
from shared.release import parse_release

if TYPE_CHECKING:
    from controller.service import Controller

ONNX_SHA256 = "onnx_sha256"  # In the provenance, by controller/export/importing.py.


@click.command(name="import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The release's name, e.g. helmet.")
@click.option("--version", required=True, type=click.IntRange(1), help="Its version, e.g. 8.")
@click.option("--no-sign", is_flag=True, help="Leave it unsigned; `release sign` signs it later.")
@passphrase_option
@output_option
def import_folder(
    *,
    folder: Path,
    name: str,
    version: int,
    no_sign: bool,
    passphrase_fd: int | None,
    output: Format,
) -> None:
    """Turn what `yolo export format=imx` left (yolo11n_imx_model) into a signed release.

    Its network is converted again, a minute or two, because all such networks bear one name and no
    camera could tell two of them apart. `model build` makes better ones of the same weights.
    """
    from controller.export.build import import_package  # noqa: PLC0415 - for --help
    from controller.export.foreign import read_foreign  # noqa: PLC0415
    from controller.export.pack import make_release  # noqa: PLC0415

    parse_release(f"{name}@{version}")  # Refused now, not after minutes.
    if not folder.is_dir():
        raise ExportError(f"expected a folder that Ultralytics exported, got {folder}")
    onnx_sha256 = read_foreign(folder).sha256  # The folder, too, is refused now.
    terminal = Terminal(output)
    with opened(passphrase_fd) as controller:
        _check_free(controller, f"{name}@{version}", onnx_sha256)
        passphrase = None if no_sign else passphrase_for(controller, "release", passphrase_fd)
        package = Path(tempfile.mkdtemp(prefix="imxfleet-import-"))
        try:
            with terminal.step(f"Importing {name}@{version}") as tell:
                facts = import_package(
                    folder.resolve(), package, progress=teller(tell, is_live=terminal.is_live)
                )
            manifest, files = make_release(package, name=name, version=version)
        finally:
            shutil.rmtree(package, ignore_errors=True)
        if warning := facts.provenance.get("coordinates"):
            terminal.say(f"Warning: {folder.name}: {warning}", style="yellow")
        status = controller.import_release(manifest, files)
        if not no_sign and not status.is_signed:
            status = controller.sign_release(status.release, passphrase)
    announce(terminal, status)


def _check_free(controller: "Controller", release: str, onnx_sha256: str) -> None:
    """Refuse a name that stands for other content; the same content may come again."""
    if all(one.release != release for one in controller.list_releases()):
        return
    _, manifest = controller.show_release(release)
    if manifest.provenance.get(ONNX_SHA256) != onnx_sha256:
        raise OperatorError(
            f"{release} is already in the store with other content: take another --version, or see"
            f" `fleetctl release show {release}`"
        )
