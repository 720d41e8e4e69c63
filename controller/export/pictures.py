"""Which pictures a network is measured on, and how the network sees them. Imports torch.

The test split where the data set has one, else its validation split; never a picture that
calibrated the network, as long as that is known and others are left. They come out of Ultralytics'
own data sets, letterboxed or cropped to the network's exact input like those that calibrate.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Subset
from ultralytics.cfg import get_cfg
from ultralytics.data import ClassificationDataset, build_yolo_dataset
from ultralytics.data.utils import check_cls_dataset, check_det_dataset

from controller.export.facts import Facts
from shared.errors import ExportError

Pixels = NDArray[np.uint8]
Row = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The pictures, in the order in which they are shown.

    Attributes:
        data: The data set's file or folder.
        split: The part of it that they are from.
        dataset: Ultralytics' own; a row has the picture and what is true of it.
        rows: Which of its rows they are.
        is_held_out: Whether it is known that none of them calibrated the network.
    """

    data: str
    split: str
    dataset: "Dataset[Row]"
    rows: tuple[int, ...]
    is_held_out: bool

    def loader(self) -> "DataLoader[Row]":
        """Return what Ultralytics' validators take them from: one by one."""
        collate = getattr(self.dataset, "collate_fn", None)
        return DataLoader(Subset(self.dataset, self.rows), batch_size=1, collate_fn=collate)

    def pictures(self) -> Iterator[Pixels]:
        """Yield each picture as the network sees it: height x width x 3, RGB."""
        for row in self.rows:
            yield _pixels(self.dataset[row])

    def sha256(self) -> str:
        """Return the fingerprint of the pictures and of what is true of them."""
        digest = hashlib.sha256()
        for row in self.rows:
            one = self.dataset[row]
            digest.update(_pixels(one).tobytes())
            for name in ("cls", "bboxes", "keypoints", "masks"):
                if name in one:
                    digest.update(np.ascontiguousarray(one[name]).tobytes())
        return digest.hexdigest()


def digest_of(pixels: torch.Tensor) -> str:
    """Return what names a picture (3 x height x width, in 0..1) whatever file it lies in."""
    return hashlib.sha256(_unscaled(pixels).tobytes()).hexdigest()


def held_out(
    data: str,
    *,
    facts: Facts,
    labels: tuple[str, ...],
    images: int,
    calibrated: frozenset[str] | None,
) -> HeldOut:
    """Return the pictures to measure on.

    Args:
        data: The data set's file or folder.
        facts: Of the network: task and size of its input.
        labels: Names by class.
        images: How many at most.
        calibrated: Digests of the pictures that calibrated the network; None: it is not known.

    Raises:
        ExportError: There are none.
    """
    split, folder, document = _split(data, facts)
    dataset = _dataset(folder, document, facts=facts, labels=labels, split=split)
    spread = _spread(len(dataset))
    known = calibrated or frozenset()
    rows = _taken(dataset, spread, images=images, without=known) if known else spread[:images]
    # Where every picture calibrated, those are better than none; the receipt says so.
    is_held_out = bool(rows) if calibrated is not None else split == "test"
    rows = rows or spread[:images]
    if not rows:
        raise ExportError(f"the data set {data} has no picture to measure accuracy on")
    return HeldOut(data, split, dataset, tuple(sorted(rows)), is_held_out)


def _split(data: str, facts: Facts) -> tuple[str, object, dict[str, object]]:
    """Return the split's name, its folder and the data set's description.

    A classifier without a folder ``val`` calibrates with ``test``: then ``test`` is not held out.
    """
    try:
        document: dict[str, object] = (
            check_cls_dataset(data) if facts.task == "classify" else check_det_dataset(data)
        )
    except Exception as error:  # Ultralytics raises whatever came up.
        raise ExportError(f"the data set {data} does not read: {error}") from error
    has_both = _is_there(document.get("test")) and _is_there(document.get("val"))
    split = "test" if has_both else "val" if _is_there(document.get("val")) else "train"
    return split, document[split], document


def _is_there(place: object) -> bool:
    places = place if isinstance(place, list) else [place]
    return all(one is not None and Path(str(one)).exists() for one in places)


def _dataset(
    folder: object,
    document: dict[str, object],
    *,
    facts: Facts,
    labels: tuple[str, ...],
    split: str,
) -> "Dataset[Row]":
    size = [facts.input.height, facts.input.width]
    config = get_cfg(overrides={"task": facts.task, "imgsz": max(size), "rect": False})
    config.imgsz = size  # Ultralytics' own check of the arguments of `val` wants squares only.
    try:
        if facts.task == "classify":
            names = dict(enumerate(labels))
            return ClassificationDataset(folder, config, augment=False, prefix=split, names=names)
        return build_yolo_dataset(config, folder, 1, document, mode="val", fraction=1.0)
    except Exception as error:
        raise ExportError(f"the pictures in {folder} do not read: {error}") from error


def _spread(count: int) -> list[int]:
    """Return all rows, so that the first few of them come from all over the data set.

    A classifier's pictures lie class by class; the first hundred may all be of one.
    """
    bits = max(count - 1, 1).bit_length()
    mirrored = (int(format(number, f"0{bits}b")[::-1], 2) for number in range(1 << bits))
    return [row for row in mirrored if row < count]


def _taken(
    dataset: "Dataset[Row]", spread: list[int], *, images: int, without: frozenset[str]
) -> list[int]:
    rows: list[int] = []
    for row in spread:
        if len(rows) == images:
            break
        if hashlib.sha256(_chw(dataset[row]).tobytes()).hexdigest() not in without:
            rows.append(row)
    return rows


def _chw(row: Row) -> Pixels:
    image = row["img"]
    return image.numpy() if image.dtype == torch.uint8 else _unscaled(image)


def _pixels(row: Row) -> Pixels:
    return np.ascontiguousarray(_chw(row).transpose(1, 2, 0))


def _unscaled(pixels: torch.Tensor) -> Pixels:
    return np.ascontiguousarray((pixels * 255).round().byte().numpy())
