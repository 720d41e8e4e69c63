"""``fleetctl model build``: from a YOLO model to a signed release in the store."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.cli.checking import check
from controller.cli.fleet import opened, passphrase_for
from controller.cli.terminal import Format, Terminal, output_option, passphrase_option
from shared.release import parse_release

if TYPE_CHECKING:
    from controller.export.wire import BuildRequest, Progress
    from controller.status import ReleaseStatus
    from shared.release import Manifest

PERMILLE = 1000


@click.group()
def model() -> None:
    """Turn a YOLO model into a release."""


@model.command()
@click.argument("weights", metavar="MODEL.pt", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path),
              help="The data set: calibration images.")  # fmt: skip
@click.option("--name", required=True, help="The release's name, e.g. helmet.")
@click.option("--version", required=True, type=click.IntRange(1), help="Its version, e.g. 8.")
@click.option("--imgsz", type=click.IntRange(64, 640), default=320, show_default=True,
              help="Each side of the network's input in pixels.")  # fmt: skip
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.25, show_default=True,
              help="The lowest score that the network puts out.")  # fmt: skip
@click.option("--keep", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Also keep the folder that Ultralytics reads: best_imx_model.")  # fmt: skip
@click.option("--no-sign", is_flag=True, help="Leave it unsigned; `release sign` signs it later.")
@passphrase_option
@output_option
def build(  # noqa: PLR0913 - one parameter an option
    *,
    weights: Path,
    data: Path,
    name: str,
    version: int,
    imgsz: int,
    threshold: float,
    keep: Path | None,
    no_sign: bool,
    passphrase_fd: int | None,
    output: Format,
) -> None:
    """Quantise and convert a YOLO model for the IMX500, and sign it as a release.

    Minutes of work in a child process, which needs the export extra and Java 17. The passphrase of
    the release key is asked for first. The result of Ultralytics' tools is AGPL-3.0.
    """
    from controller.export.wire import BuildRequest as Request  # noqa: PLC0415 - for --help

    parse_release(f"{name}@{version}")  # Refused now, not after minutes.
    terminal = Terminal(output)
    with opened(passphrase_fd) as controller:
        passphrase = None if no_sign else passphrase_for(controller, "release", passphrase_fd)
        scratch = Path(tempfile.mkdtemp(prefix="imxfleet-build-"))
        try:
            request = Request(
                model=str(weights.resolve()),
                data=str(data.resolve()),
                out=str(scratch / "package"),
                height=imgsz,
                width=imgsz,
                threshold_permille=round(threshold * PERMILLE),
                keep=None if keep is None else str(keep.resolve()),
            )
            manifest, files = _built(terminal, request, name=name, version=version)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        status = controller.import_release(manifest, files)
        if not no_sign:
            status = controller.sign_release(status.release, passphrase)
    _announce(terminal, status)


def _built(
    terminal: Terminal, request: "BuildRequest", *, name: str, version: int
) -> "tuple[Manifest, dict[str, bytes]]":
    from controller.export.build import build_package  # noqa: PLC0415
    from controller.export.pack import make_release  # noqa: PLC0415

    with terminal.step(f"Building {name}@{version}") as tell:
        build_package(request, progress=_teller(tell))
    return make_release(Path(request.out), name=name, version=version)


def _teller(tell: Callable[[str], None]) -> "Callable[[Progress], None]":
    """Return what turns the exporter's progress into words."""

    def told(progress: "Progress") -> None:
        share = f" {progress.done} of {progress.total}" if progress.total else ""
        text = f" ({progress.text})" if progress.text else ""
        tell(f"{progress.stage}{share}{text}")

    return told


def _announce(terminal: Terminal, status: "ReleaseStatus") -> None:
    if status.is_signed:
        terminal.say(f"{status.release} is signed. Next: fleetctl rollout start {status.release}")
    else:
        terminal.say(f"{status.release} is unsigned. Next: fleetctl release sign {status.release}")
    terminal.document(status)


model.add_command(check)
