"""Draw data sets of shapes with the scene that simulated cameras look at.

    python examples/shapes/draw.py FOLDER --images 1000 --size 160 --task detect

writes FOLDER/shapes.yaml with images and labels for ``detect``, ``segment`` (outlines) or ``pose``
(a shape's topmost, rightmost, lowest and leftmost point), and for ``classify`` a folder per class
with one shape a picture. ``--mosaic 4x4`` puts as many scenes beside each other: a network trained
on one scene of 160 px sees 16 of them at 640 px, with shapes of the size that it knows. The splits
train, val and test come from different scenes, and none of them from those that the demo's cameras
show. The exporter calibrates with val, so only test is held out.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from agent.camera.scene import CLASS_NAMES, Drawn, draw

FIRST_SEED = {
    "train": 1_000_000,
    "val": 2_000_000,
    "test": 3_000_000,
}  # Simulated cameras count from zero.
FRAMES_APART = 37  # Of one picture and the next: so each shows another moment of its own scene.
CROP_PIXELS = 96
OTHER_IMAGES_MIN = 20  # Of val and of test.
POINTS = ("top", "right", "bottom", "left")
MIRRORED = [0, 3, 2, 1]  # Which point is which in a picture that is mirrored.
_MARGIN = 0.15  # Around a shape that is cut out, as a share of its longer side.

Tiles = tuple[int, int]  # Columns and rows.
Picture = tuple[int, Image.Image, list[tuple[Drawn, Tiles]]]  # Objects with their tile.


def write_labelled(folder: Path, *, task: str, images: int, size: int, tiles: Tiles) -> Path:
    """Write pictures and YOLO labels of every split; return the data file."""
    for split, count in _counts(images).items():
        pictures, labels = folder / "images" / split, folder / "labels" / split
        pictures.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for number, picture, truth in _drawn(split, count, size, tiles):
            picture.save(pictures / f"{number:05}.png", compress_level=1)
            text = "".join(_line(task, drawn, at, tiles) for drawn, at in truth)
            (labels / f"{number:05}.txt").write_text(text, encoding="utf-8")
    data = folder / "shapes.yaml"
    document: dict[str, object] = {
        "path": str(folder.resolve()),
        "train": "images/train",
        "val": "images/val",
        "test": "images/test",
        "names": dict(enumerate(CLASS_NAMES)),
    }
    if task == "pose":
        document |= {"kpt_shape": [len(POINTS), 3], "flip_idx": MIRRORED}
    data.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return data


def write_crops(folder: Path, *, images: int, size: int) -> Path:
    """Write one shape a picture, a folder a class; return the folder."""
    for split, count in _counts(images).items():
        for name in CLASS_NAMES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for number, picture, truth in _drawn(split, count, size, (1, 1)):
            for place, (drawn, _) in enumerate(truth):
                crop = picture.crop(_surroundings(drawn, size)).resize((CROP_PIXELS, CROP_PIXELS))
                crop.save(folder / split / drawn.label / f"{number:05}-{place}.png")
    return folder


def _counts(images: int) -> dict[str, int]:
    others = max(images // 5, OTHER_IMAGES_MIN)
    return {"train": images, "val": others, "test": others}


def _drawn(split: str, count: int, size: int, tiles: Tiles) -> Iterator[Picture]:
    columns, rows = tiles
    for number in range(count):
        whole = np.zeros((rows * size, columns * size, 3), np.uint8)
        truth = []
        for place in range(columns * rows):
            row, column = divmod(place, columns)
            scene = number * columns * rows + place
            picture, seen = draw(FIRST_SEED[split] + scene, scene * FRAMES_APART, size)
            whole[row * size : (row + 1) * size, column * size : (column + 1) * size] = picture
            truth += [(drawn, (column, row)) for drawn in seen]
        yield number, Image.fromarray(whole), truth


def _line(task: str, drawn: Drawn, at: Tiles, tiles: Tiles) -> str:
    def placed(x: float, y: float) -> str:
        sides = zip((x, y), at, tiles, strict=True)
        return " ".join(f"{(min(max(side, 0), 1) + tile) / of:.6f}" for side, tile, of in sides)

    left, top, right, bottom = drawn.box
    middle = placed((left + right) / 2, (top + bottom) / 2)
    box = f"{middle} {(right - left) / tiles[0]:.6f} {(bottom - top) / tiles[1]:.6f}"
    if task == "segment":
        return f"{drawn.class_} {' '.join(placed(x, y) for x, y in drawn.outline)}\n"
    if task == "pose":
        points = " ".join(f"{placed(x, y)} {seen}" for x, y, seen in drawn.extremes)
        return f"{drawn.class_} {box} {points}\n"
    return f"{drawn.class_} {box}\n"


def _surroundings(drawn: Drawn, size: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = (side * size for side in drawn.box)
    half = max(right - left, bottom - top) * (0.5 + _MARGIN)
    x, y = (left + right) / 2, (top + bottom) / 2
    return round(x - half), round(y - half), round(x + half), round(y + half)


def _tiles(text: str) -> Tiles:
    columns, rows = text.split("x")
    return int(columns), int(rows)


def main() -> None:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description="Draw a data set of shapes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1000, help="of the training split")
    parser.add_argument("--size", type=int, default=160, help="of a scene's sides in pixels")
    parser.add_argument("--task", choices=("detect", "segment", "pose", "classify"))
    parser.add_argument("--mosaic", type=_tiles, default=(1, 1), metavar="COLUMNSxROWS")
    given = parser.parse_args()
    if given.task == "classify":
        print(write_crops(given.folder, images=given.images, size=given.size))
    else:
        task = given.task or "detect"
        print(
            write_labelled(
                given.folder, task=task, images=given.images, size=given.size, tiles=given.mosaic
            )
        )


if __name__ == "__main__":
    main()
