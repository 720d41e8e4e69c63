"""The exporter beside `yolo export format=imx`: same model, pictures and machine, in one run.

    python -m benchmarks.export --model best.pt --task detect     (make bench-export)

Both sides build in a process of their own, one after the other. What takes more memory than
--memory-max is killed, and that is the result: the kernel would take the whole machine down with
it. Accuracy is one evaluator's on held-out pictures. Writes bench-export.md and .json to --out.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from time import monotonic

import msgspec

from benchmarks.export import shapes
from benchmarks.export.accuracy import Accuracy, Asked, measure
from benchmarks.export.processes import Peak, watched
from benchmarks.export.stopwatch import Stopwatch, say
from controller.cli.comparing import markdown_table
from controller.cli.terminal import Terminal
from controller.export.build import build_package
from controller.export.pack import FILE_NAMES
from controller.export.provenance import tools
from controller.export.wire import KEPT_SUFFIX, BuildRequest
from shared.errors import ExportError, FleetError

OURS, STOCK = "fleetctl model build", "yolo export format=imx"
LOG_BYTES = 1_500
LINE_CHARACTERS = 300
INTERRUPTED = 130
COLUMNS = (
    "task", "px", "pictures", "exporter", "load before", "total, s", "times faster",
    "peak, GB", "Python, GB", "Java, GB", "packerOut, MB", "metric", "float", "exported",
    "what happened",
)  # fmt: skip
_MEGABYTE, _GIGABYTE = 1e6, 1e9
QUICK = {
    "sizes": (64,), "calibration": 10, "images": 20, "train_images": 100, "epochs": 1,
    "tasks": ("detect",),
}  # fmt: skip


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What one exporter took.

    Attributes:
        load_before: Of the machine, before it began: on a busy one, seconds say little.
        fault: Empty where it came to its end.
    """

    load_before: float
    seconds: float
    together_bytes: int
    python_bytes: int
    java_bytes: int
    packer_bytes: int = 0
    fault: str = ""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One task and size, with both; no accuracy where ours failed."""

    task: str
    pixels: int
    calibration: int
    stock: Side
    ours: Side
    accuracy: Accuracy | None


def main() -> int:
    """Measure, and write what is there after each case."""
    given = _parser().parse_args()
    if given.quick:
        vars(given).update(QUICK)
    given.out.mkdir(parents=True, exist_ok=True)
    done: list[Compared] = []
    try:
        for task, pixels in product(given.tasks, given.sizes):
            done.append(_compare(given, task, pixels))
            _write(given, done)
    except FleetError as error:
        say(f"bench-export: {error}")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    rows = [row for one in done for row in rows_of(one)]
    Terminal("table").table(COLUMNS, rows, documents=(), empty="Nothing.")
    return 1 if any(one.ours.fault for one in done) else 0


def _compare(given: argparse.Namespace, task: str, pixels: int) -> Compared:
    weights = given.model or shapes.train(
        given.out / "models", family=given.family, task=task, images=given.train_images,
        epochs=given.epochs,
    )  # fmt: skip
    say(f"{task} {pixels}: drawing")
    drawn = given.out / "data" / f"{task}-{pixels}-{given.calibration}"
    data = shapes.draw(drawn, task=task, pixels=pixels, calibration=given.calibration)
    few = shapes.calibration_of(data, given.calibration, drawn / "calibration")
    work = given.out / "work" / f"{task}-{pixels}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    limit = round(given.memory_max * _GIGABYTE)
    package, theirs = work / "package", work / f"stock{KEPT_SUFFIX}"
    ours = _ours(weights, few, package, pixels=pixels, given=given, limit_bytes=limit)
    say(f"{task} {pixels}: ours took {ours.seconds:.0f} s {ours.fault}")
    stock = _stock(weights, few, theirs, pixels=pixels, limit_bytes=limit)
    say(f"{task} {pixels}: stock took {stock.seconds:.0f} s {stock.fault}")
    reached = None
    if not ours.fault:
        reached = measure(
            Asked(
                weights=str(weights), data=str(data), package=str(package), images=given.images,
                stock=None if stock.fault else str(theirs),
            )
        )  # fmt: skip
    return Compared(
        task=task, pixels=pixels, calibration=given.calibration, stock=stock, ours=ours,
        accuracy=reached,
    )  # fmt: skip


def _ours(
    weights: Path,
    data: Path,
    package: Path,
    *,
    pixels: int,
    given: argparse.Namespace,
    limit_bytes: int,
) -> Side:
    request = BuildRequest(
        model=str(weights.resolve()),
        data=str(data.resolve()),
        out=str(package),
        height=pixels,
        width=pixels,
        calibration_images=given.calibration,
        eval_images=0,  # Measured afterwards, for both alike.
        golden_images=0,
    )
    began, fault = monotonic(), ""
    with watched(limit_bytes) as peak:
        try:
            build_package(request, progress=Stopwatch(f"ours {pixels}"), is_cached=False)
        except ExportError as error:
            fault = _line(str(error))
    return _side(peak, monotonic() - began, package, fault)


def _stock(weights: Path, data: Path, target: Path, *, pixels: int, limit_bytes: int) -> Side:
    say(f"stock {pixels}")
    copy = target.with_name("stock.pt")
    shutil.copyfile(weights, copy)  # Ultralytics writes beside the model.
    command = [
        sys.executable, "-m", "benchmarks.export.stock", str(copy), str(data.resolve()), str(pixels)
    ]  # fmt: skip
    began, fault = monotonic(), ""
    with (
        tempfile.TemporaryDirectory() as config,
        target.with_name("stock.log").open("wb") as log,
        watched(limit_bytes) as peak,
    ):
        done = subprocess.run(
            command,
            cwd=shapes.ROOT,
            env=shapes.environment() | {"YOLO_CONFIG_DIR": config},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        said = target.with_name("stock.log").read_bytes()[-LOG_BYTES:].decode(errors="replace")
        fault = f"ended with code {done.returncode}: {_line(said.strip().rpartition(chr(10))[2])}"
    return _side(peak, monotonic() - began, target, fault)


def _side(peak: Peak, seconds: float, folder: Path, fault: str) -> Side:
    if peak.is_ended:
        fault = f"killed: it took {peak.together_bytes / _GIGABYTE:.1f} GB, more than it may"
    packer = folder / FILE_NAMES["network"]
    if not fault and not packer.is_file():
        fault = f"left no {packer.name}"
    return Side(
        load_before=round(peak.load_before, 1),
        seconds=round(seconds, 1),
        together_bytes=peak.together_bytes,
        python_bytes=peak.python_bytes,
        java_bytes=peak.java_bytes,
        packer_bytes=packer.stat().st_size if packer.is_file() else 0,
        fault=fault,
    )


def rows_of(one: Compared) -> Iterator[tuple[str, ...]]:
    """Yield both rows of a case, as people read them."""
    reached = one.accuracy
    for name, side in ((STOCK, one.stock), (OURS, one.ours)):
        exported = None
        if reached is not None:
            exported = reached.stock if side is one.stock else reached.quantised
        is_faster = side is one.ours and not one.stock.fault and not side.fault
        yield (
            one.task,
            str(one.pixels),
            str(one.calibration),
            name,
            f"{side.load_before:.1f}",
            f"{side.seconds:.0f}",
            f"{one.stock.seconds / side.seconds:.1f}" if is_faster else "",
            *(
                f"{size / _GIGABYTE:.1f}"
                for size in (side.together_bytes, side.python_bytes, side.java_bytes)
            ),
            f"{side.packer_bytes / _MEGABYTE:.2f}" if side.packer_bytes else "",
            "" if reached is None else reached.metric,
            "" if reached is None else f"{reached.float32:.3f}",
            "" if exported is None else f"{exported:.3f}",
            side.fault or "built",
        )


def _write(given: argparse.Namespace, done: list[Compared]) -> None:
    versions = ", ".join(f"{name} {number}" for name, number in sorted(tools().items()))
    note = (
        f"{datetime.now(UTC):%Y-%m-%d}; the same {given.calibration} calibration pictures for "
        f"both; accuracy on {given.images} held-out ones, score threshold 0.001; memory: PSS of "
        f"all processes of one exporter at most, sampled. {versions}."
    )
    text = markdown_table(COLUMNS, [row for one in done for row in rows_of(one)])
    (given.out / "bench-export.md").write_text(f"{text}\n{note}\n", encoding="utf-8")
    data = msgspec.json.format(msgspec.json.encode(done), indent=1)
    (given.out / "bench-export.json").write_bytes(data)


def _line(text: str) -> str:
    return " ".join(text.split())[:LINE_CHARACTERS].replace("|", "/")


def words(text: str) -> tuple[str, ...]:
    """Return what stands between commas."""
    return tuple(text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers between commas."""
    return tuple(int(word) for word in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--model", type=Path, metavar="FILE.pt", help="default: one is trained")
    parser.add_argument("--family", default="yolo11", help="of what is trained")
    parser.add_argument("--tasks", "--task", type=words, default=("detect",), metavar="TASK,...")
    parser.add_argument("--sizes", type=numbers, default=(320, 640), metavar="PIXELS,...")
    parser.add_argument("--calibration", type=int, default=100, help="pictures")
    parser.add_argument("--images", type=int, default=100, help="that accuracy is measured on")
    parser.add_argument("--memory-max", type=float, default=16.0, metavar="GB")
    parser.add_argument("--train-images", type=int, default=1600)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("build/bench-export"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="a trial: tiny, untrained, 64 px")
    return parser


if __name__ == "__main__":
    sys.exit(main())
