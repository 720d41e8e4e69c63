"""The pictures that calibrate a network: where they are, how many, and whether they fit its task.

Read as Ultralytics reads them, which replaces a data set that is not there by one from the internet
and passes over labels that it cannot read: here both are refused.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import yaml

from controller.export.checkpoint import keypoints_of
from controller.export.finding import RefusedFindingError
from controller.export.network import Network
from shared.errors import ExportError, LimitError, StorageError
from shared.files import read_bounded

DATA_BYTES_MAX = 1024 * 1024
LIST_BYTES_MAX = 64 * 1024 * 1024  # A text file that lists pictures, one a line.
LABEL_BYTES_MAX = 4 * 1024 * 1024
IMAGES_MAX = 100_000  # Counted; a folder with more is enough for anything.
LABEL_FILES_MAX = 500  # Read, of all that there are: a second's work.
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SPLITS = ("val", "validation", "valid", "test", "train")
WHAT_TO_DO = "expected the data set's YAML file, or a classifier's folder (--data shapes.yaml)"
BOX_COLUMNS = 5  # Class, centre, width and height.
OUTLINE_COLUMNS_MIN = 7  # Class, and three points.
TOLERANCE = 0.01  # By which Ultralytics lets a coordinate lie outside the picture.


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set's validation split."""

    place: Path
    labels: tuple[str, ...]
    images: tuple[Path, ...]
    keypoints: tuple[int, int] | None
    has_label_files: bool


def open_dataset(data: str) -> Dataset:
    """Return the data set that a path names; nothing is fetched in its place.

    Raises:
        ExportError: It is missing, does not read, or has no pictures to validate with.
    """
    if not data:
        raise RefusedFindingError(
            "calibration needs pictures like those that the camera sees", WHAT_TO_DO
        )
    path = Path(data)
    if path.is_dir():
        dataset = _folders(path)
    elif path.is_file():
        dataset = _labelled(path)
    else:
        raise RefusedFindingError(f"there is no data set {data}", WHAT_TO_DO)
    if not dataset.images:
        raise RefusedFindingError(
            f"the data set {data} has no pictures in its validation split",
            f"expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    return dataset


def check_match(dataset: Dataset, network: Network) -> str:
    """Return what the labels hold, in words.

    Raises:
        ExportError: The data are for another task, or for other classes.
    """
    is_classifier = network.task == "classify"
    if dataset.has_label_files == is_classifier:
        kind = "a folder a class" if is_classifier else "a YAML file and label files"
        raise RefusedFindingError(
            f"the model is for {network.task}, the data {dataset.place} are not",
            f"expected {kind}: give the data that it was trained with",
        )
    _check_classes(dataset, network)
    if network.task == "pose":
        _check_keypoints(dataset, network)
    return f"{len(dataset.labels)} classes" if is_classifier else _check_labels(dataset, network)


def _check_classes(dataset: Dataset, network: Network) -> None:
    count = len(network.labels)
    if network.is_trained and len(dataset.labels) != count:
        raise RefusedFindingError(
            f"the data {dataset.place} have {len(dataset.labels)} classes, the model {count}",
            "give the data that it was trained with",
        )


def _check_keypoints(dataset: Dataset, network: Network) -> None:
    if dataset.keypoints is None:
        raise RefusedFindingError(
            f"the model is for pose, the data {dataset.place} name no kpt_shape",
            f"expected kpt_shape: {list(network.keypoints or ())} and labels with keypoints",
        )
    if network.is_trained and dataset.keypoints != network.keypoints:
        raise RefusedFindingError(
            f"the data {dataset.place} have keypoints of shape {list(dataset.keypoints)}, "
            f"the model {list(network.keypoints or ())}",
            "give the data that it was trained with",
        )


def _check_labels(dataset: Dataset, network: Network) -> str:
    """Read some of the label files, spread over the whole split."""
    step = max(1, len(dataset.images) // LABEL_FILES_MAX)
    files = objects = 0
    for image in dataset.images[::step][:LABEL_FILES_MAX]:
        label = label_of(image)
        if not label.is_file():
            continue
        files += 1
        for number, line in enumerate(_lines(label), 1):
            why = fault_of_line(
                line,
                task=network.task,
                classes=len(dataset.labels),
                keypoints=dataset.keypoints,
            )
            if why:
                raise RefusedFindingError(
                    f"{label}, line {number}: {why[0]}", why[1] or "mend or remove that line"
                )
            objects += 1
    if not files:
        raise RefusedFindingError(
            f"the data {dataset.place} have pictures but no label files",
            f"expected e.g. {label_of(dataset.images[0])}",
        )
    return f"{objects} objects in {files} label files, {len(dataset.labels)} classes"


def fault_of_line(
    line: str, *, task: str, classes: int, keypoints: tuple[int, int] | None
) -> tuple[str, str] | None:
    """Return what is wrong with a line of a label file, and what to do; None: nothing is."""
    try:
        class_, *numbers = map(float, line.split())
    except ValueError:
        return "expected numbers", ""
    pose_columns = BOX_COLUMNS + (keypoints[0] * keypoints[1] if keypoints else 0)
    columns = 1 + len(numbers)
    is_outline = columns >= OUTLINE_COLUMNS_MIN and columns % 2 == 1
    expected = {
        "detect": columns in {BOX_COLUMNS, pose_columns} or is_outline,
        "segment": is_outline and columns != pose_columns,
        "pose": columns == pose_columns,
    }
    if not expected.get(task, True):
        return _columns_fault(task, columns, pose_columns)
    if not (class_.is_integer() and 0 <= class_ < classes):
        return f"class {class_:g} is none of 0 to {classes - 1}", ""
    if columns == pose_columns and keypoints is not None:
        numbers = _coordinates(numbers, keypoints[1] if task == "pose" else 0)
    outside = [number for number in numbers if not -TOLERANCE <= number <= 1 + TOLERANCE]
    if outside:
        return f"coordinate {outside[0]:g} is not within 0 to 1", ""
    return None


def _columns_fault(task: str, columns: int, pose_columns: int) -> tuple[str, str]:
    wanted = {
        "detect": "5 columns: class and box",
        "segment": "class and an outline of three points or more",
        "pose": f"{pose_columns} columns: class, box and keypoints",
    }[task]
    return f"the model is for {task}, expected {wanted}; got {columns} columns", (
        f"give data that are labelled for {task}"
    )


def _coordinates(numbers: list[float], size: int) -> list[float]:
    """Return the box and the points of a pose, without what says whether a point is seen.

    Args:
        numbers: Of one line.
        size: Numbers a point; 0: only the box counts.
    """
    box, points = numbers[: BOX_COLUMNS - 1], numbers[BOX_COLUMNS - 1 :]
    if not size:
        return box
    return box + [number for place, number in enumerate(points) if place % size < 2]  # noqa: PLR2004 - x, y


def label_of(image: Path) -> Path:
    """Return where Ultralytics looks for a picture's labels."""
    parts = list(image.parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _lines(label: Path) -> list[str]:
    try:
        text = (read_bounded(label, LABEL_BYTES_MAX) or b"").decode("utf-8-sig")
    except (LimitError, StorageError, UnicodeDecodeError) as error:
        raise ExportError(f"{label} does not read as labels: {error}") from error
    return [line for line in text.splitlines() if line.strip()]


def _folders(folder: Path) -> Dataset:
    """Return a classifier's data: a folder a class in the split that Ultralytics would take."""
    for split in SPLITS:
        images = tuple(_images(folder / split))
        if images:
            classes = sorted(path.name for path in (folder / split).iterdir() if path.is_dir())
            return Dataset(folder, tuple(classes), images, None, has_label_files=False)
    return Dataset(folder, (), (), None, has_label_files=False)


def _labelled(data: Path) -> Dataset:
    """Return what a data file says."""
    try:
        document = yaml.safe_load((read_bounded(data, DATA_BYTES_MAX) or b"").decode())
    except LimitError as error:
        raise ExportError(
            f"expected a data file of at most {DATA_BYTES_MAX} bytes: {data}"
        ) from error
    except (StorageError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ExportError(f"{data} does not read as YAML: {error}") from error
    if not isinstance(document, dict) or "names" not in document or "val" not in document:
        raise ExportError(f"expected the keys train, val and names in {data}")
    root = data.parent / str(document.get("path") or ".")
    places = document["val"] if isinstance(document["val"], list) else [document["val"]]
    images = (image for place in places for image in _images(root / str(place)))
    names = document["names"]
    labels = names.values() if isinstance(names, dict) else names
    return Dataset(
        data,
        tuple(str(label) for label in labels) if isinstance(labels, Iterable) else (),
        tuple(islice(images, IMAGES_MAX)),
        keypoints_of(document.get("kpt_shape")),
        has_label_files=True,
    )


def _images(place: Path) -> Iterator[Path]:
    """Yield the pictures below a folder, or those that a text file lists, in order."""
    if place.is_file():
        yield from _listed(place)
        return
    count = 0
    for folder, folders, names in os.walk(place):
        folders.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(folder, name)
                count += 1
                if count >= IMAGES_MAX:
                    return


def _listed(file: Path) -> Iterator[Path]:
    try:
        text = (read_bounded(file, LIST_BYTES_MAX) or b"").decode()
    except (LimitError, StorageError, UnicodeDecodeError) as error:
        raise ExportError(f"{file} does not read as a list of pictures: {error}") from error
    for line in text.splitlines():
        image = file.parent / line.strip()
        if image.suffix.lower() in IMAGE_SUFFIXES and image.is_file():
            yield image
