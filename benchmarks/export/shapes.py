"""What the exporter is measured with: drawn pictures, and small networks that know them.

Networks learn scenes of 160 px. Larger inputs get as many scenes beside each other, so that shapes
have the size that a network knows: 2x2 for 320 px, 4x4 for 640.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from shared.errors import OperatorError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "shapes"
SCENE_PIXELS = 160
CROPS_PIXELS = 64  # What a classifier is trained at.
VAL_SHARE = 5  # The example draws a fifth as many pictures for val, and for test.
LOG_BYTES = 2_000
STOCK_SPLIT = "val"

Pixels = NDArray[np.uint8]


def draw(folder: Path, *, task: str, pixels: int, calibration: int) -> Path:
    """Draw a data set with that many pictures in val and in test; return what builds take."""
    is_classify = task == "classify"
    data = folder if is_classify else folder / "shapes.yaml"
    if (folder / "drawn").exists():
        return data
    tiles = max(pixels // SCENE_PIXELS, 1)
    how = () if is_classify else ("--mosaic", f"{tiles}x{tiles}")
    run(
        EXAMPLE / "draw.py", folder, "--task", task, "--images", VAL_SHARE * calibration,
        "--size", SCENE_PIXELS, *how,
    )  # fmt: skip
    (folder / "drawn").touch()
    return data


def held_out(data: Path, count: int, *, pixels: int) -> list[Pixels]:
    """Return pictures of the test split in the size of the network's input."""
    folder = data if data.is_dir() else data.parent / "images"
    paths = sorted((folder / "test").rglob("*.png"), key=lambda path: (path.name, path.parent))
    pictures = []
    for path in paths[:count]:
        with Image.open(path) as image:
            sized = image.convert("RGB").resize((pixels, pixels), Image.Resampling.BILINEAR)
            pictures.append(np.asarray(sized))
    return pictures


def calibration_of(data: Path, count: int, folder: Path) -> Path:
    """Return a data set whose val split has exactly that many pictures: stock takes them all."""
    if data.is_dir():
        return _few_crops(data, count, folder)
    document = yaml.safe_load(data.read_text(encoding="utf-8"))
    paths = sorted((data.parent / "images" / STOCK_SPLIT).iterdir())[:count]
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "calibration.txt"
    listed.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    document[STOCK_SPLIT] = str(listed)
    few = folder / "shapes.yaml"
    few.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return few


def train(folder: Path, *, family: str, task: str, images: int, epochs: int) -> Path:
    """Return weights, trained where they are not there yet."""
    weights = folder / f"{family}-{task}.pt"
    if weights.is_file():
        return weights
    data = folder / "data" / task
    drawn = draw(data, task=task, pixels=SCENE_PIXELS, calibration=images // VAL_SHARE)
    size = CROPS_PIXELS if task == "classify" else SCENE_PIXELS
    run(
        EXAMPLE / "train.py", drawn, "--task", task, "--family", family, "--width", 0.25,
        "--epochs", epochs, "--size", size, "--out", weights,
    )  # fmt: skip
    return weights


def run(script: Path, *arguments: object) -> None:
    """Run a script of the example to its good end."""
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-LOG_BYTES:].decode(errors="replace")
        raise OperatorError(f"{script.name} ended with {done.returncode}:\n{said}")


def environment() -> dict[str, str]:
    """Return ours, with Ultralytics kept from installing and from calling home."""
    return {
        **os.environ, "PYTHONPATH": str(ROOT), "YOLO_AUTOINSTALL": "False", "YOLO_OFFLINE": "True",
    }  # fmt: skip


def _few_crops(data: Path, count: int, folder: Path) -> Path:
    """Link the first crops of every class in turn; the other splits as they are."""
    few = folder / "crops"
    if few.exists():
        return few
    few.mkdir(parents=True)
    for split in ("train", "test"):
        (few / split).symlink_to((data / split).resolve(), target_is_directory=True)
    for path in _in_turn(data / STOCK_SPLIT, count):
        place = few / STOCK_SPLIT / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).symlink_to(path.resolve())
    return few


def _in_turn(folder: Path, count: int) -> Iterator[Path]:
    paths = sorted(folder.rglob("*.png"), key=lambda path: (path.name, path.parent))
    classes = sorted({path.parent.name for path in paths})
    each = -(-count // len(classes))
    for class_ in classes:
        yield from [path for path in paths if path.parent.name == class_][:each]
