"""Every family, task and size through the real exporter, and what came out of it.

    python -m benchmarks.export.matrix --models DIR --out DIR     (make export-matrix)

DIR of the models holds yolo11-detect.pt, yolov8-pose.pt and so on; what is missing is trained. Each
row takes minutes, is printed as it comes, and is kept in --out: a run that was interrupted goes on
where it stopped. Writes matrix.md and matrix.json there.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.export import shapes
from benchmarks.export.accuracy import Accuracy, Asked, measure
from benchmarks.export.agreement import Agreement, Seen, agreement, guesses_agreement
from benchmarks.export.processes import watched
from benchmarks.export.stopwatch import Stopwatch, say
from controller.cli.comparing import markdown_table
from controller.cli.terminal import Terminal
from controller.export.build import build_package
from controller.export.pack import FILE_NAMES
from controller.export.predict import read_package
from controller.export.provenance import tools
from controller.export.wire import BuildRequest
from shared.decode.labels import read_labels
from shared.decode.rle import decode_mask
from shared.decode.task import decoder_of
from shared.detections import Object
from shared.errors import FleetError, OperatorError
from shared.graph import Graph
from shared.release import SENSOR_MEMORY_BYTES

FAMILIES = ("yolo11", "yolov8")
TASKS = ("detect", "pose", "segment", "classify")
SIZES = (320, 640)
CLASSIFY_SIZES = (224, 320)
THRESHOLD = 0.25
LOG_BYTES = 2_000
INTERRUPTED = 130
COLUMNS = (
    "network", "task", "px", "quantise, s", "convert, s", "total, s", "GB", "packerOut, MB", "chip",
    "metric", "float", "8 bit", "same as Ultralytics", "worst px", "worst score", "task's own",
)  # fmt: skip
_MEGABYTE, _GIGABYTE = 1e6, 1e9


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One network through the exporter.

    Attributes:
        stages: Seconds of each step of the build.
        memory_bytes: Of the build's processes at most, at one time.
        chip_permille: Of the sensor's memory.
    """

    family: str
    task: str
    pixels: int
    seconds: float
    stages: dict[str, float]
    memory_bytes: int
    packer_bytes: int
    chip_permille: int
    accuracy: Accuracy
    agreement: Agreement


def main() -> int:
    """Build what is not built yet, and write the table."""
    given = _parser().parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    is_whole = True
    try:
        for family, task, pixels in _wanted(given):
            is_whole &= attempt(given, family, task, pixels)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        _write(given)
    return 0 if is_whole else 1


def attempt(given: argparse.Namespace, family: str, task: str, pixels: int) -> bool:
    """Make one row where it is not there yet; return whether it is there now."""
    kept = given.out / "rows" / f"{family}-{task}-{pixels}.json"
    if kept.is_file():
        return True
    say(f"{family} {task} {pixels}: begins")
    try:
        row = _row(given, family, task, pixels)
    except FleetError as error:
        say(f"{family} {task} {pixels}: failed: {error}")
        return False
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(msgspec.json.encode(row))
    cells = zip(COLUMNS, cells_of(row), strict=True)
    say(", ".join(f"{name} {cell}" for name, cell in cells if cell))
    return True


def _row(given: argparse.Namespace, family: str, task: str, pixels: int) -> Row:
    weights = shapes.train(
        given.models, family=family, task=task, images=given.train_images, epochs=given.epochs
    )
    # A classifier's crops are the same at every size.
    drawn = given.out / "data" / (task if task == "classify" else f"{task}-{pixels}")
    data = shapes.draw(drawn, task=task, pixels=pixels, calibration=given.calibration)
    package = given.out / "packages" / f"{family}-{task}-{pixels}"
    kept = package.with_name(f"{package.name}_imx_model")
    for left in (package, kept):
        shutil.rmtree(left, ignore_errors=True)  # Of a run that was interrupted.
    request = BuildRequest(
        model=str(weights),
        data=str(data),
        out=str(package),
        height=pixels,
        width=pixels,
        calibration_images=given.calibration,
        eval_images=0,  # Measured below, outside of the build's seconds.
        golden_images=0,
        keep=str(kept),
    )
    stopwatch = Stopwatch(f"{family} {task} {pixels}")
    with watched() as peak:
        facts = build_package(request, progress=stopwatch, is_cached=False)
    stages = stopwatch.stop()
    say(f"{family} {task} {pixels}: measuring accuracy")
    reached = measure(
        Asked(weights=str(weights), data=str(data), package=str(package), images=given.images)
    )
    say(f"{family} {task} {pixels}: comparing with Ultralytics")
    return Row(
        family=family,
        task=task,
        pixels=pixels,
        seconds=sum(stages.values()),
        stages=stages,
        memory_bytes=peak.together_bytes,
        packer_bytes=(package / FILE_NAMES["network"]).stat().st_size,
        chip_permille=1000 * facts.memory_bytes // SENSOR_MEMORY_BYTES,
        accuracy=reached,
        agreement=compared(package, kept, shapes.held_out(data, given.compared, pixels=pixels)),
    )


def compared(package: Path, kept: Path, pictures: list[shapes.Pixels]) -> Agreement:
    """Return how our graph and decoder agree with Ultralytics on the folder that it reads."""
    ours = list(_ours(package, pictures))
    theirs = ultralytics_sees(kept, pictures)
    if read_package(package).manifest.task == "classify":
        return guesses_agreement(ours, theirs)
    return agreement(ours, theirs, threshold=THRESHOLD)


def _ours(package: Path, pictures: list[shapes.Pixels]) -> Iterator[list[Seen]]:
    read = read_package(package)
    manifest, labels = read.manifest, read_labels(read.labels)
    is_classify = manifest.task == "classify"
    decode = decoder_of(manifest, labels, threshold=0.0 if is_classify else THRESHOLD)
    graph = Graph(read.graph)
    size = np.array([manifest.input.width, manifest.input.height], np.float64)
    for picture in pictures:
        decoded = decode(graph.run(picture))
        if decoded.problems:
            raise OperatorError(f"{package}: {', '.join(decoded.problems)}")
        objects, classes = decoded.objects or (), decoded.classes or ()
        yield [seen_of(one, size) for one in objects] or [Seen(c.label, c.score) for c in classes]


def seen_of(one: Object, size: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Seen:
    """Return an object of ours in pixels of that width and height."""
    left, top, right, bottom = (np.array(one.box).reshape(2, 2) * size).ravel().tolist()
    return Seen(
        label=one.label,
        score=one.score,
        box=(left, top, right, bottom),
        keypoints=None if one.keypoints is None else np.array(one.keypoints)[:, :2] * size,
        mask=None if one.mask is None else decode_mask(one.mask),
    )


def ultralytics_sees(kept: Path, pictures: list[shapes.Pixels]) -> list[list[Seen]]:
    """Return what Ultralytics predicts from the folder that it reads, picture by picture."""
    given = io.BytesIO()
    np.save(given, np.stack(pictures))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.export.predicted", str(kept), str(THRESHOLD)],
        input=given.getvalue(),
        env=shapes.environment(),
        cwd=shapes.ROOT,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr[-LOG_BYTES:].decode(errors="replace")
        raise OperatorError(f"Ultralytics' prediction ended with {done.returncode}:\n{said}")
    answers: list[list[dict[str, object]]] = json.loads(done.stdout)
    return [[_theirs(one) for one in answer] for answer in answers]


class _Theirs(msgspec.Struct, frozen=True):
    label: str
    score: float
    box: tuple[float, float, float, float] | None = None
    keypoints: list[list[float]] | None = None
    mask: list[list[int]] | None = None


def _theirs(answer: dict[str, object]) -> Seen:
    one = msgspec.convert(answer, _Theirs)
    return Seen(
        label=one.label,
        score=one.score,
        box=one.box,
        keypoints=None if one.keypoints is None else np.array(one.keypoints)[:, :2],
        mask=None if one.mask is None else np.array(one.mask, np.bool_),
    )


def cells_of(row: Row) -> tuple[str, ...]:
    """Return a row as people read it."""
    agreed, reached = row.agreement, row.accuracy
    own = ""
    if agreed.keypoints_share is not None:
        own = f"{agreed.keypoints_share:.1%} of points, worst {agreed.keypoints_worst:.2f} px"
    if agreed.mask_iou is not None:
        own = f"mask IoU {agreed.mask_iou:.4f}, worst {agreed.mask_iou_worst:.3f}"
    return (
        row.family,
        row.task,
        str(row.pixels),
        f"{row.stages.get('quantise', 0.0):.0f}",
        f"{row.stages.get('convert', 0.0):.0f}",
        f"{row.seconds:.0f}",
        f"{row.memory_bytes / _GIGABYTE:.1f}",
        f"{row.packer_bytes / _MEGABYTE:.2f}",
        f"{row.chip_permille / 10:.0f} %",
        reached.metric,
        f"{reached.float32:.3f}",
        f"{reached.quantised:.3f}",
        f"{agreed.share:.1%} of {agreed.pairs + agreed.alone}",
        "" if agreed.pixels_worst is None else f"{agreed.pixels_worst:.2f}",
        f"{agreed.score_worst:.3f}",
        own,
    )


def _write(given: argparse.Namespace) -> None:
    kept = [given.out / "rows" / "-".join((f, t, f"{p}.json")) for f, t, p in _wanted(given)]
    rows = [msgspec.json.decode(path.read_bytes(), type=Row) for path in kept if path.is_file()]
    versions = ", ".join(f"{name} {number}" for name, number in sorted(tools().items()))
    note = (
        f"{datetime.now(UTC):%Y-%m-%d}, {given.calibration} calibration pictures; accuracy on "
        f"{given.images} held-out ones; agreement: our graph and decoder beside Ultralytics on "
        f"the same exported folder, {given.compared} pictures: objects within a pixel and 0.05 of "
        f"score (classify: the same best class). {versions}."
    )
    text = markdown_table(COLUMNS, [cells_of(row) for row in rows])
    (given.out / "matrix.md").write_text(f"{text}\n{note}\n", encoding="utf-8")
    data = msgspec.json.format(msgspec.json.encode(rows), indent=1)
    (given.out / "matrix.json").write_bytes(data)
    Terminal("table").table(COLUMNS, [cells_of(row) for row in rows], documents=(), empty="No row.")


def _wanted(given: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    for family, task in product(given.families, given.tasks):
        default = CLASSIFY_SIZES if task == "classify" else SIZES
        for pixels in given.sizes or default:
            yield family, task, pixels


def words(text: str) -> tuple[str, ...]:
    """Return what stands between commas."""
    return tuple(text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers between commas."""
    return tuple(int(word) for word in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export.matrix", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("build/models"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("build/matrix"), metavar="DIR")
    parser.add_argument("--families", type=words, default=FAMILIES, metavar="NAME,...")
    parser.add_argument("--tasks", type=words, default=TASKS, metavar="TASK,...")
    parser.add_argument("--sizes", type=numbers, metavar="PIXELS,...", help="of all tasks")
    parser.add_argument("--calibration", type=int, default=100, help="pictures")
    parser.add_argument("--images", type=int, default=100, help="that accuracy is measured on")
    parser.add_argument("--compared", type=int, default=16, help="pictures, with Ultralytics")
    parser.add_argument("--train-images", type=int, default=1600, help="of networks not there yet")
    parser.add_argument("--epochs", type=int, default=8, help="of networks not there yet")
    return parser


if __name__ == "__main__":
    sys.exit(main())
