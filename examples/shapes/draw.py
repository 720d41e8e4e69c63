"""Draw data sets of shapes with the scene that simulated cameras look at.

    python examples/shapes/draw.py FOLDER --images 1000 --size 160

writes FOLDER/shapes.yaml with images and labels for a detector, and with ``--crops`` a folder per
class with one shape a picture for a classifier. The splits train, val and test come from different
scenes, and none of them from those that the demo's cameras show. The exporter calibrates with val,
so only test is held out.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

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
_MARGIN = 0.15  # Around a shape that is cut out, as a share of its longer side.


def write_detection(folder: Path, *, images: int, size: int) -> Path:
    """Write pictures and YOLO labels of every split; return the data file."""
    for split, count in _counts(images).items():
        pictures, labels = folder / "images" / split, folder / "labels" / split
        pictures.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for number, picture, truth in _drawn(split, count, size):
            picture.save(pictures / f"{number:05}.png", compress_level=1)
            (labels / f"{number:05}.txt").write_text("".join(map(_line, truth)), encoding="utf-8")
    data = folder / "shapes.yaml"
    document = {
        "path": str(folder.resolve()),
        "train": "images/train",
        "val": "images/val",
        "test": "images/test",
        "names": dict(enumerate(CLASS_NAMES)),
    }
    data.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return data


def write_crops(folder: Path, *, images: int, size: int) -> Path:
    """Write one shape a picture, a folder a class; return the folder."""
    for split, count in _counts(images).items():
        for name in CLASS_NAMES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for number, picture, truth in _drawn(split, count, size):
            for place, drawn in enumerate(truth):
                crop = picture.crop(_surroundings(drawn, size)).resize((CROP_PIXELS, CROP_PIXELS))
                crop.save(folder / split / drawn.label / f"{number:05}-{place}.png")
    return folder


def _counts(images: int) -> dict[str, int]:
    others = max(images // 5, OTHER_IMAGES_MIN)
    return {"train": images, "val": others, "test": others}


def _drawn(split: str, count: int, size: int) -> Iterator[tuple[int, Image.Image, list[Drawn]]]:
    for number in range(count):
        picture, truth = draw(FIRST_SEED[split] + number, number * FRAMES_APART, size)
        yield number, Image.fromarray(picture), list(truth)


def _line(drawn: Drawn) -> str:
    left, top, right, bottom = drawn.box
    middle = f"{(left + right) / 2:.6f} {(top + bottom) / 2:.6f}"
    return f"{drawn.class_} {middle} {right - left:.6f} {bottom - top:.6f}\n"


def _surroundings(drawn: Drawn, size: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = (side * size for side in drawn.box)
    half = max(right - left, bottom - top) * (0.5 + _MARGIN)
    x, y = (left + right) / 2, (top + bottom) / 2
    return round(x - half), round(y - half), round(x + half), round(y + half)


def main() -> None:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description="Draw a data set of shapes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1000, help="of the training split")
    parser.add_argument("--size", type=int, default=160, help="of each side in pixels")
    parser.add_argument("--crops", action="store_true", help="for a classifier")
    arguments = parser.parse_args()
    write = write_crops if arguments.crops else write_detection
    print(write(arguments.folder, images=arguments.images, size=arguments.size))


if __name__ == "__main__":
    main()
