"""The evaluator against Ultralytics' own validation, against pycocotools, and what it takes."""

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from controller.export.facts import Facts, read_facts
from controller.export.wire import BuildRequest, EvalRequest, Progress
from shared.errors import ExportError
from shared.graph import Graph
from shared.release import Input
from tests.export.project import SHAPES, run, run_live

if TYPE_CHECKING:
    from controller.export.pictures import HeldOut

pytestmark = [
    pytest.mark.export,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore"),  # Of torch, which Ultralytics imports.
]

PACKAGE = SHAPES / "first"  # A trained detector's graph, as the demo rolls it out.
LABELS = ("circle", "square", "triangle")
AGREEMENT = 0.01  # pycocotools interpolates a curve of precision in another way.
IMAGES = 20


@pytest.fixture(autouse=True, scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AUTOINSTALL", "OFFLINE"):
            patch.setenv(f"YOLO_{name}", str(name == "OFFLINE"))
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    from controller.export import measure  # noqa: PLC0415 - it imports torch.

    return measure


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    run(SHAPES / "draw.py", folder, "--images", 20, "--size", 160)
    return folder / "shapes.yaml"


def facts_of(**changes: object) -> Facts:
    return msgspec.structs.replace(read_facts(PACKAGE / "simulator.onnx"), **changes)


def held_out_of(data: Path, **given: object) -> "HeldOut":
    from controller.export.pictures import held_out  # noqa: PLC0415

    options = {"facts": facts_of(), "labels": LABELS, "images": IMAGES, "calibrated": None}
    return held_out(str(data), **(options | given))


def test_a_graph_s_accuracy_is_what_pycocotools_counts(data: Path, measure: ModuleType) -> None:
    pictures = held_out_of(data)
    graph = measure.open_graph((PACKAGE / "simulator.onnx").read_bytes())

    measured = measure.measure_graph(
        graph, facts=facts_of(), labels=LABELS, held_out=pictures, told=lambda _: None
    )

    doubtful = Graph((PACKAGE / "simulator.onnx").read_bytes(), score_threshold=0.001)
    map50_95, map50 = coco_of(pictures, doubtful)
    assert map50_95 > 0.6  # It is a trained one: zero would agree with zero.
    assert measured.scores == pytest.approx((map50_95, map50), abs=AGREEMENT)
    assert sum(objects for objects, _ in measured.classes.values()) == len(truth_of(pictures))


@pytest.mark.parametrize("task", ["detect", "pose", "segment", "classify"])
def test_a_network_that_answers_with_the_truth_reaches_the_most(
    task: str, measure: ModuleType, tmp_path: Path
) -> None:
    run(SHAPES / "draw.py", tmp_path, "--images", 20, "--size", 160, "--task", task)
    given = tmp_path if task == "classify" else tmp_path / "shapes.yaml"
    facts = facts_of(task=task, input=Input(width=160, height=96, color="RGB"))
    pictures = held_out_of(given, facts=facts, images=10)

    def reached(*, is_true: bool) -> tuple[float, ...]:
        knowing = Knowing(pictures, task, is_true=is_true)
        measured = measure.measure_graph(
            knowing, facts=facts, labels=LABELS, held_out=pictures, told=lambda _: None
        )
        return measured.scores

    main, *others = reached(is_true=True)
    # Ultralytics compares masks at a quarter of the picture's size: no edge is exact there.
    assert main > (0.6 if task == "segment" else 0.99)
    assert all(score > 0.99 for score in others), others
    assert reached(is_true=False)[0] < 0.2


class Knowing:
    """A graph that knows the pictures, and answers with what is true of them or with nonsense."""

    nms = None

    def __init__(self, pictures: "HeldOut", task: str, *, is_true: bool) -> None:
        self._answers = {
            picture.tobytes(): answer_of(pictures.dataset[row], task, is_true=is_true)
            for row, picture in zip(pictures.rows, pictures.pictures(), strict=True)
        }

    def run(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.generic], ...]:
        return self._answers[image.tobytes()]


def answer_of(row: dict, task: str, *, is_true: bool) -> tuple[NDArray[np.generic], ...]:
    """Return the output tensors that say what is true, in the form of the sensor's."""
    if task == "classify":
        right = row["cls"] if is_true else (row["cls"] + 1) % 3
        return (np.eye(3, dtype=np.float32)[right][None],)
    _, height, width = row["img"].shape
    count = len(row["cls"])
    boxes, scores = np.zeros((1, 300, 4), np.float32), np.zeros((1, 300), np.float32)
    labels = np.zeros((1, 300), np.int32)
    middle, sides = np.split(row["bboxes"].numpy() * ([width, height] * 2), 2, axis=1)
    boxes[0, :count] = np.hstack([middle - sides / 2, middle + sides / 2])
    boxes += 0 if is_true else 300
    scores[0, :count] = 0.9
    labels[0, :count] = row["cls"].numpy().ravel()
    if task == "pose":
        points = np.zeros((1, 300, 12), np.float32)
        scaled = row["keypoints"].numpy() * (width, height, 1) + (0 if is_true else 300)
        points[0, :count] = scaled.reshape(count, -1)
        return boxes, scores, labels, points
    if task == "segment":  # A prototype for each object, and the one that picks it.
        drawn = row["masks"].numpy()[0]
        prototypes = np.full((1, 32, height // 4, width // 4), -1, np.float32)
        for number in range(count):
            prototypes[0, number][drawn == number + 1] = 1
        coefficients = np.zeros((1, 300, 32), np.float32)
        coefficients[0, range(count), range(count)] = 9
        return boxes, scores, labels, coefficients, prototypes
    return boxes, scores, labels, np.array([[count]], np.float32)


def test_a_model_of_another_task_is_refused(
    data: Path, measure: ModuleType, tmp_path: Path
) -> None:
    from ultralytics import YOLO  # noqa: PLC0415

    weights = tmp_path / "new.pt"
    YOLO("yolo11n-pose.yaml").save(str(weights))
    request = EvalRequest(package=str(PACKAGE), data=str(data), model=str(weights), images=1)

    with pytest.raises(ExportError, match=r"expected a model for detect, .*new\.pt is for pose"):
        measure.evaluate(request, tell=lambda _: None)


def test_what_is_no_export_of_ultralytics_is_refused(
    data: Path, measure: ModuleType, tmp_path: Path
) -> None:
    stock = tmp_path / "best_imx_model"
    stock.mkdir()
    request = EvalRequest(package=str(PACKAGE), data=str(data), stock=str(stock), images=1)

    with pytest.raises(ExportError, match=r"expected one \.onnx file"):
        measure.evaluate(request, tell=lambda _: None)


def test_every_picture_counts_once_and_progress_is_told(data: Path, measure: ModuleType) -> None:
    told: list[Progress] = []
    request = EvalRequest(package=str(PACKAGE), data=str(data), images=6)

    evaluated = measure.evaluate(request, tell=told.append)

    assert evaluated.receipt.pictures.count == 6
    assert (evaluated.receipt.pictures.split, evaluated.receipt.pictures.is_held_out) == (
        "test", True,
    )  # fmt: skip
    assert [(step.done, step.total) for step in told] == [(n, 6) for n in range(1, 7)]
    assert evaluated.milliseconds["quantised"] > 0
    assert evaluated.receipt.main.float32 is None
    assert evaluated.receipt.files == {path.name: path.stat().st_size for path in PACKAGE.iterdir()}
    again = measure.evaluate(request, tell=told.append)
    assert again.receipt == evaluated.receipt  # Time is not in it.


@pytest.mark.parametrize(("width", "height"), [(160, 96), (96, 160), (160, 160)])
def test_the_network_sees_pictures_of_exactly_its_size(width: int, height: int, data: Path) -> None:
    size = Input(width=width, height=height, color="RGB")
    pictures = held_out_of(data, facts=facts_of(input=size), images=3)

    seen = list(pictures.pictures())

    assert {picture.shape for picture in seen} == {(height, width, 3)}
    scale = min(width, height) / 160
    for row in pictures.rows:
        one = pictures.dataset[row]
        boxes = one["bboxes"].numpy()[:, 2:] * (width, height) / (160 * scale)
        drawn = np.loadtxt(truth_path(one["im_file"]), ndmin=2)[:, 3:]
        assert np.allclose(np.sort(boxes, 0), np.sort(drawn, 0), atol=0.01)


def test_no_picture_that_calibrated_is_measured_on(data: Path, tmp_path: Path) -> None:
    only_val = without_test(data, tmp_path)
    every = held_out_of(only_val, images=1000)
    calibrated = digests(every)[:15]

    left = held_out_of(only_val, images=1000, calibrated=frozenset(calibrated))

    assert len(every.rows) == 20
    assert left.is_held_out
    assert sorted(digests(left)) == sorted(set(digests(every)) - set(calibrated))


def test_where_every_picture_calibrated_the_receipt_says_so(data: Path, tmp_path: Path) -> None:
    only_val = without_test(data, tmp_path)
    every = held_out_of(only_val, images=1000)

    none_left = held_out_of(only_val, calibrated=frozenset(digests(every)))
    not_known = held_out_of(only_val)

    assert len(none_left.rows) == IMAGES
    assert not none_left.is_held_out
    assert not not_known.is_held_out


def test_pictures_of_a_classifier_are_from_all_classes(tmp_path: Path) -> None:
    folder = tmp_path / "crops"
    run(SHAPES / "draw.py", folder, "--images", 20, "--size", 160, "--task", "classify")
    size = Input(width=64, height=64, color="RGB")

    pictures = held_out_of(folder, facts=facts_of(task="classify", input=size), images=12)

    classes = [pictures.dataset[row]["cls"] for row in pictures.rows]
    assert set(classes) == {0, 1, 2}
    assert {picture.shape for picture in pictures.pictures()} == {(64, 64, 3)}


def test_the_fingerprint_is_of_pixels_and_of_truth(data: Path, tmp_path: Path) -> None:
    whole = held_out_of(data).sha256()
    moved = copied(data, tmp_path / "moved")
    label = next((moved.parent / "labels" / "test").glob("*.txt"))
    lines = label.read_text().splitlines()
    label.write_text("\n".join(["0 0.5 0.5 0.25 0.25", *lines[1:]]) + "\n")
    painted = copied(data, tmp_path / "painted")
    picture = next((painted.parent / "images" / "test").glob("*.png"))
    Image.open(picture).rotate(180).save(picture)

    assert held_out_of(copied(data, tmp_path / "same")).sha256() == whole
    assert len({whole, held_out_of(moved).sha256(), held_out_of(painted).sha256()}) == 3


def test_a_build_s_proof_is_a_golden_set_and_a_receipt(
    data: Path, measure: ModuleType, tmp_path: Path
) -> None:
    package, weights = package_of(tmp_path), new_model(tmp_path)

    measure.add_proof(
        package, request_of(data, tmp_path), weights=weights, calibrated=frozenset(),
        tell=lambda _: None,
    )  # fmt: skip
    first = {path.name: path.read_bytes() for path in package.iterdir()}
    measure.add_proof(
        package, request_of(data, tmp_path), weights=weights, calibrated=frozenset(),
        tell=lambda _: None,
    )  # fmt: skip

    assert set(first) == {"simulator.onnx", "labels.txt", "golden.npz", "receipt.json"}
    assert {path.name: path.read_bytes() for path in package.iterdir()} == first


def test_of_pictures_without_labels_there_is_no_receipt(
    data: Path, measure: ModuleType, tmp_path: Path
) -> None:
    package, weights = package_of(tmp_path), new_model(tmp_path)
    bare = copied(data, tmp_path / "bare")
    for label in (bare.parent / "labels" / "test").glob("*.txt"):
        label.unlink()

    measure.add_proof(
        package, request_of(bare, tmp_path), weights=weights, calibrated=frozenset(),
        tell=lambda _: None,
    )  # fmt: skip

    assert not (package / "receipt.json").exists()
    assert (package / "golden.npz").exists()


def test_model_eval_measures_a_package_in_a_child_and_leaves_nothing_behind(
    data: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = ("model", "eval", str(PACKAGE), "--data", str(data), "--images", "20", "-o", "json")
    done = run_live(
        [sys.executable, "-m", "controller", *command], folder=tmp_path,
        environment={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip

    assert done.code == 0, done.said
    document = json.loads(done.out)
    assert document["receipt"]["pictures"]["count"] == 20
    assert [one["label"] for one in document["receipt"]["classes"]] == list(LABELS)
    assert document["milliseconds"]["quantised"] > 0
    assert done.said.count("(quantised)") == 1  # A line a step where lines stay.
    assert not list(scratch.glob("imxfleet-*"))


def package_of(folder: Path) -> Path:
    package = folder / "package"
    shutil.copytree(PACKAGE, package)
    return package


def new_model(folder: Path) -> str:
    """Return an untrained model: its accuracy is zero, but it has one."""
    from ultralytics import YOLO  # noqa: PLC0415

    YOLO("yolo11n.yaml").save(str(folder / "new.pt"))
    return str(folder / "new.pt")


def request_of(data: Path, folder: Path) -> BuildRequest:
    return BuildRequest(
        model="new.pt", data=str(data), out=str(folder / "out"), height=160, width=160,
        golden_images=2, eval_images=4,
    )  # fmt: skip


def copied(data: Path, folder: Path) -> Path:
    """Return a copy of a data set elsewhere."""
    shutil.copytree(data.parent, folder, ignore=shutil.ignore_patterns("*.cache", "train"))
    for part in ("images", "labels"):
        (folder / part / "train").mkdir()
    document = yaml.safe_load(data.read_text())
    (folder / "shapes.yaml").write_text(yaml.safe_dump(document | {"path": str(folder)}))
    return folder / "shapes.yaml"


def without_test(data: Path, folder: Path) -> Path:
    here = copied(data, folder / "only-val")
    document = yaml.safe_load(here.read_text())
    here.write_text(yaml.safe_dump({k: v for k, v in document.items() if k != "test"}))
    return here


def digests(pictures: "HeldOut") -> list[str]:
    from controller.export.pictures import digest_of  # noqa: PLC0415

    return [digest_of(pictures.dataset[row]["img"] / 255) for row in pictures.rows]


def truth_path(picture: str) -> Path:
    return Path(picture.replace("/images/", "/labels/")).with_suffix(".txt")


def truth_of(pictures: "HeldOut") -> list[dict]:
    """Return what is true as COCO writes it, read from the files themselves."""
    rows: list[dict] = []
    for number, row in enumerate(pictures.rows):
        for line in truth_path(pictures.dataset[row]["im_file"]).read_text().splitlines():
            class_, x, y, width, height = map(float, line.split())
            box = [(x - width / 2) * 160, (y - height / 2) * 160, width * 160, height * 160]
            rows.append({
                "id": len(rows) + 1, "image_id": number, "category_id": int(class_), "bbox": box,
                "area": box[2] * box[3], "iscrowd": 0,
            })  # fmt: skip
    return rows


def coco_of(pictures: "HeldOut", graph: Graph) -> tuple[float, float]:
    """Return mAP50-95 and mAP50 as pycocotools counts them."""
    found = []
    for number, picture in enumerate(pictures.pictures()):
        boxes, scores, labels, *_ = graph.run(picture)
        for box, score, label in zip(boxes[0], scores[0], labels[0], strict=True):
            if score > 0:
                left, top, right, bottom = map(float, box)
                found.append({
                    "image_id": number, "category_id": int(label), "score": float(score),
                    "bbox": [left, top, right - left, bottom - top],
                })  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(len(pictures.rows))],
            "annotations": truth_of(pictures),
            "categories": [{"id": c, "name": name} for c, name in enumerate(LABELS)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])
