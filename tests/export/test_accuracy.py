"""What quantising costs, on pictures that neither training nor calibration saw."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from agent.camera.scene import CLASS_NAMES
from shared.decode.detect import decode_detect
from shared.graph import Graph
from tests.export.matching import Seen
from tests.export.project import Built, say, ultralytics_says

pytestmark = [pytest.mark.export, pytest.mark.timeout(3600)]

THRESHOLD = 0.001  # mAP wants the doubtful ones, too.
PICTURES_MAX = 200
MAP50_MIN = 0.4  # Far below what a good training reaches; a broken quantisation is near zero.
LOSS_MAX = 0.15

Pictures = list[NDArray[np.uint8]]


def test_the_quantised_detector_keeps_its_accuracy(detector: Built) -> None:
    pictures, truth = _held_out(detector.data.parent)

    float32 = _float(detector, pictures)
    quantised = _quantised(detector, pictures)
    of_float = _maps(float32, truth, detector.size)
    of_quantised = _maps(quantised, truth, detector.size)

    for name, (map50, map50_95) in {"float": of_float, "quantised": of_quantised}.items():
        say(f"{len(pictures)} held-out pictures, {name}: mAP50 {map50:.3f}, {map50_95=:.3f}")
    assert of_quantised[0] > MAP50_MIN
    assert of_quantised[0] > of_float[0] - LOSS_MAX
    assert of_quantised[1] > of_float[1] - LOSS_MAX


def _held_out(data: Path) -> tuple[Pictures, list[list[Seen]]]:
    paths = sorted((data / "images" / "test").iterdir())[:PICTURES_MAX]
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return pictures, [_labels(data / "labels" / "test" / f"{path.stem}.txt") for path in paths]


def _labels(path: Path) -> list[Seen]:
    seen = []
    for line in path.read_text().splitlines():
        class_, x, y, width, height = map(float, line.split())
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        seen.append(Seen(CLASS_NAMES[int(class_)], box))
    return seen


def _float(detector: Built, pictures: Pictures) -> list[list[Seen]]:
    answers = ultralytics_says(detector.weights, pictures, imgsz=detector.size, threshold=THRESHOLD)
    return [
        [Seen(str(one["label"]), tuple(one["box"]), float(one["score"])) for one in answer]  # type: ignore[arg-type]
        for answer in answers
    ]


def _quantised(detector: Built, pictures: Pictures) -> list[list[Seen]]:
    graph = Graph(detector.files["simulator"], score_threshold=THRESHOLD)
    size = (detector.size, detector.size)
    decoded = [
        decode_detect(graph.run(picture), size=size, labels=CLASS_NAMES, threshold=THRESHOLD)
        for picture in pictures
    ]
    return [[Seen(o.label, o.box, o.score) for o in one.objects or ()] for one in decoded]


def _maps(found: list[list[Seen]], truth: list[list[Seen]], size: int) -> tuple[float, float]:
    """Return mAP50 and mAP50-95 as COCO counts them."""
    true_rows = [
        {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for number, row in enumerate(_rows(truth, size), start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(len(truth))],
            "annotations": true_rows,
            "categories": [{"id": c, "name": name} for c, name in enumerate(CLASS_NAMES)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(_rows(found, size)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1]), float(evaluation.stats[0])


def _rows(frames: list[list[Seen]], size: int) -> list[dict]:
    return [
        {
            "image_id": number,
            "category_id": CLASS_NAMES.index(one.label),
            "bbox": [
                one.box[0] * size, one.box[1] * size,
                (one.box[2] - one.box[0]) * size, (one.box[3] - one.box[1]) * size,
            ],
            "score": one.score,
        }
        for number, frame in enumerate(frames)
        for one in frame
    ]  # fmt: skip
