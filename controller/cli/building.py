"""``fleetctl model build``: from a YOLO model to a signed release in the store."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.cli.fleet import opened, passphrase_for
from controller.cli.sizes import imgsz_option
from controller.cli.terminal import Format, Terminal, output_option, passphrase_option
from shared.errors import ExportError, OperatorError
from shared.release import parse_release

if TYPE_CHECKING:
    from controller.export.wire import BuildRequest, Progress
    from controller.service import Controller
    from controller.status import ReleaseStatus
    from shared.release import Manifest

PERMILLE = 1000
QUANTIZE_BITS = 8  # All that the sensor computes with, and all that Ultralytics takes for it.

_share = click.FloatRange(0, 1)
_OPTIONS = (
    click.argument("weights", metavar="MODEL", type=click.Path(path_type=Path)),
    click.option("--data", type=click.Path(path_type=Path), required=True,
                 help="The data set: calibration pictures."),
    click.option("--name", required=True, help="The release's name, e.g. helmet."),
    click.option("--version", required=True, type=click.IntRange(1), help="Its version, e.g. 8."),
    imgsz_option,
    click.option("--quantize", type=int, default=QUANTIZE_BITS, show_default=True,
                 help="Bits; the sensor knows only these."),
    click.option("--int8", is_flag=True, help="The same as --quantize 8."),
    click.option("--fraction", type=_share, default=1.0, show_default=True,
                 help="Share of the validation split to calibrate with."),
    click.option("--device", default="cpu", show_default=True, help="Where torch computes."),
    click.option("--nms/--no-nms", default=True, help="Inside the network; it cannot do without."),
    click.option("--conf", type=_share, default=0.25, show_default=True,
                 help="The lowest score that the network puts out."),
    click.option("--iou", type=_share, default=0.7, show_default=True,
                 help="Overlap from which its NMS takes two boxes for one object."),
    click.option("--max-det", type=click.IntRange(1, 300), default=300, show_default=True,
                 help="The most objects of a frame."),
    click.option("--images", type=click.IntRange(1), default=300, show_default=True,
                 help="Calibration pictures, at most."),
    click.option("--method", type=click.Choice(("ptq", "gptq")), default="ptq", show_default=True,
                 help="gptq also tunes how weights are rounded: minutes more."),
    click.option("--gptq-epochs", type=click.IntRange(1, 1000), default=5, show_default=True),
    click.option("--mixed-precision", type=click.Choice(("auto", "always", "never")),
                 default="auto", show_default=True,
                 help="Fewer bits for some weights; auto: only where the network does not fit."),
    click.option("--weights-memory", type=click.IntRange(1), metavar="BYTES",
                 help="What weights may take then."),
    click.option("--error-method",
                 type=click.Choice(("mse", "mae", "kl", "lp", "noclipping")),
                 default="mse", show_default=True, help="By which activations' ranges are chosen."),
    click.option("--z-threshold", type=click.FloatRange(0, min_open=True),
                 help="Leave activations out that are further from their mean, in deviations."),
    click.option("--shift-negative/--no-shift-negative", default=True, show_default=True,
                 help="Count activations unsigned that are seldom negative."),
    click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True),
    click.option("--prune", type=_share, default=0.0, metavar="RATIO",
                 help="Share of channels to take away; see docs/export.md."),
    click.option("--tensorboard", type=click.Path(path_type=Path), metavar="DIR",
                 help="Write what MCT shows of the quantisation."),
    click.option("--golden", type=click.IntRange(0, 8), default=4, show_default=True,
                 help="Held-out pictures that go along for the agent's probe."),
    click.option("--eval-images", type=click.IntRange(0), default=100, show_default=True,
                 help="Held-out pictures that accuracy is measured on; 0: it is not."),
    click.option("--min-map", type=_share, help="Refuse a network with less accuracy than this."),
    click.option("--max-drop", type=_share,
                 help="Refuse one that quantising cost more; 0.1 if not given."),
    click.option("--keep", type=click.Path(path_type=Path), metavar="FOLDER",
                 help="Also keep the folder that Ultralytics reads: best_imx_model."),
    click.option("--no-cache", is_flag=True, help="Build even what was built before."),
    click.option("--no-sign", is_flag=True, help="Leave it unsigned; `release sign` signs later."),
    passphrase_option,
    output_option,
)  # fmt: skip


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@_with_options
def build(*, passphrase_fd: int | None, output: Format, **given: Any) -> None:  # noqa: ANN401
    """Quantise and convert MODEL for the IMX500, and sign it as a release.

    MODEL is a .pt file of Ultralytics, or a .yaml structure. Minutes of work in a child process,
    which needs the export extra and Java 17; the passphrase of the release key is asked for first.
    The same inputs are built once. What Ultralytics trains is AGPL-3.0.
    """
    release = f"{given['name']}@{given['version']}"
    parse_release(release)  # Refused now, not after minutes.
    check_options(given)
    terminal = Terminal(output)
    scratch = Path(tempfile.mkdtemp(prefix="imxfleet-build-"))
    try:
        with opened(passphrase_fd) as controller:
            request = request_of(given, out=scratch / "package")
            status = _build(controller, terminal, request, given, passphrase_fd)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    announce(terminal, status)


def check_options(given: dict[str, Any]) -> None:
    """Refuse what Sony's tools cannot do for a YOLO network.

    Raises:
        ExportError: It says which option, and why.
    """
    if given["quantize"] != QUANTIZE_BITS:
        raise ExportError(
            f"expected --quantize {QUANTIZE_BITS}, got {given['quantize']}: the sensor computes "
            "with integers of eight bits (sixteen for coordinates, which are chosen by themselves)"
        )
    if not given["nms"]:
        raise ExportError(
            "--no-nms: a network for this sensor ends with its NMS, because what comes before it "
            "is larger than what the sensor can send; a classifier has none in any case"
        )
    if given["prune"]:
        raise ExportError(
            "--prune: the installed model-compression-toolkit 2.5.1 cannot prune a YOLO network: "
            "it fails to build the network again from its graph (tried: a TypeError in reshape). "
            "Train a narrower network instead (the width of its scale, in its .yaml)"
        )


def request_of(given: dict[str, Any], *, out: Path) -> "BuildRequest":
    """Return what the options ask for."""
    from controller.export.wire import BuildRequest as Request  # noqa: PLC0415 - for --help

    height, width = given["imgsz"]
    return Request(
        model=_place(given["weights"]),
        data=str(given["data"].resolve()),
        out=str(out),
        height=height,
        width=width,
        threshold_permille=round(given["conf"] * PERMILLE),
        iou_permille=round(given["iou"] * PERMILLE),
        objects_max=given["max_det"],
        calibration_images=given["images"],
        fraction=given["fraction"],
        device=given["device"],
        method=given["method"],
        gptq_epochs=given["gptq_epochs"],
        mixed_precision=given["mixed_precision"],
        weights_memory=given["weights_memory"],
        error_method=given["error_method"],
        z_threshold=given["z_threshold"],
        shift_negative=given["shift_negative"],
        seed=given["seed"],
        tensorboard=_resolved(given["tensorboard"]),
        golden_images=given["golden"],
        eval_images=given["eval_images"],
        min_map_permille=_permille(given["min_map"]),
        max_drop_permille=_permille(given["max_drop"]),
        keep=_resolved(given["keep"]),
    )


def _place(weights: Path) -> str:
    """Return where the model is; a structure that Ultralytics ships has only a name."""
    return str(weights.resolve()) if weights.exists() or weights.suffix == ".pt" else str(weights)


def _resolved(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _permille(share: float | None) -> int | None:
    return None if share is None else round(share * PERMILLE)


def _build(
    controller: "Controller",
    terminal: Terminal,
    request: "BuildRequest",
    given: dict[str, Any],
    passphrase_fd: int | None,
) -> "ReleaseStatus":
    from controller.export import cache  # noqa: PLC0415

    name, version, is_signing = given["name"], given["version"], not given["no_sign"]
    release = f"{name}@{version}"
    known = {one.release: one for one in controller.list_releases()}.get(release)
    is_cached = not given["no_cache"]
    # Only a name that is taken needs to know before the build, which looks for itself.
    key = cache.key_of(request) if is_cached and known is not None else None
    if known is not None and cache.find(key, needs_kept=request.keep is not None) is None:
        raise OperatorError(
            f"{release} is already in the store, and would be built from other inputs now: take "
            f"the next version (--version {version + 1}), or see `fleetctl release show {release}`"
        )
    passphrase = None
    if is_signing and not (known is not None and known.is_signed):
        passphrase = passphrase_for(controller, "release", passphrase_fd)
    manifest, files = _built(terminal, request, name=name, version=version, is_cached=is_cached)
    status = controller.import_release(manifest, files)
    if is_signing and not status.is_signed:
        status = controller.sign_release(status.release, passphrase)
    return status


def _built(
    terminal: Terminal, request: "BuildRequest", *, name: str, version: int, is_cached: bool
) -> "tuple[Manifest, dict[str, bytes]]":
    from controller.export.build import build_package  # noqa: PLC0415
    from controller.export.pack import make_release  # noqa: PLC0415

    with terminal.step(f"Building {name}@{version}") as tell:
        told = teller(tell, is_live=terminal.is_live)
        build_package(request, progress=told, is_cached=is_cached)
    return make_release(Path(request.out), name=name, version=version)


def teller(tell: Callable[[str], None], *, is_live: bool) -> "Callable[[Progress], None]":
    """Return what turns the exporter's progress into words: without numbers where lines stay."""
    said = set[str]()

    def told(progress: "Progress") -> None:
        text = f" ({progress.text})" if progress.text else ""
        if is_live:
            share = f" {progress.done} of {progress.total}" if progress.total else ""
            tell(f"{progress.stage}{share}{text}")
        elif (words := f"{progress.stage}{text}") not in said:
            said.add(words)
            tell(words)

    return told


def announce(terminal: Terminal, status: "ReleaseStatus") -> None:
    """Say what became of a release, and what comes next."""
    if status.is_signed:
        terminal.say(f"{status.release} is signed. Next: fleetctl rollout start {status.release}")
    else:
        terminal.say(f"{status.release} is unsigned. Next: fleetctl release sign {status.release}")
    terminal.document(status)
