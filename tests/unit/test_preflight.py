"""What a build refuses in its first second: models, data, sizes, Java. No torch is needed here."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image

from controller.cli.exits import Exit, exit_of
from controller.export import dataset
from controller.export.finding import Finding
from controller.export.machine import check_extra, check_java, check_memory, check_python
from controller.export.preflight import check, examine
from controller.export.wire import BuildRequest
from shared.errors import ExportError
from tests import checkpoints
from tests.checkpoints import LABELS


@dataclass
class Bench:
    """A request that is right up to what needs torch, to be spoilt in one place."""

    folder: Path

    def __post_init__(self) -> None:
        checkpoints.checkpoint(self.model)
        for folder in ("images", "labels"):
            (self.folder / folder / "val").mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8)).save(self.folder / "images" / "val" / f"{number}.png")
            self.write_labels("2 0.5 0.5 0.2 0.2\n", number=number)
        self.write_data()

    @property
    def model(self) -> Path:
        return self.folder / "best.pt"

    @property
    def data(self) -> Path:
        return self.folder / "shapes.yaml"

    def write_model(self, **fields: object) -> None:
        checkpoints.checkpoint(self.model, **fields)

    def write_data(self, document: object = None, **more: object) -> None:
        usual = {"train": "images/val", "val": "images/val", "names": dict(enumerate(LABELS))}
        self.data.write_text(yaml.safe_dump(usual | more if document is None else document))

    def write_labels(self, text: str, *, number: int = 0) -> None:
        (self.folder / "labels" / "val" / f"{number}.txt").write_text(text)

    def request(self, **changes: object) -> BuildRequest:
        fields = {"model": str(self.model), "data": str(self.data), "out": str(self.folder / "o")}
        return BuildRequest(**{**fields, "height": 160, "width": 160, **changes})  # type: ignore[arg-type]

    def findings(self, **changes: object) -> dict[str, Finding]:
        found = examine(self.request(**changes), work=self.folder)
        return {finding.what: finding for finding in found}

    def refused(self, **changes: object) -> str:
        """Return why the request is refused, which must be an error with exit code 1."""
        with pytest.raises(ExportError) as caught:
            check(self.request(**changes), work=self.folder)
        assert exit_of(caught.value) == Exit.ERROR
        return str(caught.value)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


WHAT_TO_DO = "expected a model that Ultralytics trained, e.g. runs/detect/train/weights/best.pt"


def test_a_model_that_is_missing_is_refused(bench: Bench) -> None:
    bench.model.unlink()

    assert bench.refused() == f"there is no model file {bench.model}: {WHAT_TO_DO}"


def test_a_folder_in_the_models_place_is_refused(bench: Bench) -> None:
    bench.model.unlink()
    bench.model.mkdir()

    assert bench.refused() == f"{bench.model} is a folder: {WHAT_TO_DO}"


@pytest.mark.parametrize("content", [b"", b"epochs: 3\n", b"\x80\x02}q\x00."])
def test_a_model_that_is_empty_or_text_or_a_bare_pickle_is_refused(
    bench: Bench, content: bytes
) -> None:
    bench.model.write_bytes(content)

    refused = bench.refused()

    assert "does not read as a model" in refused
    assert WHAT_TO_DO in refused


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_model_is_refused(bench: Bench, share: float) -> None:
    whole = bench.model.read_bytes()
    bench.model.write_bytes(whole[: int(len(whole) * share)])

    assert "does not read as a model" in bench.refused()


def test_a_zip_without_a_model_is_refused(bench: Bench) -> None:
    with zipfile.ZipFile(bench.model, "w") as archive:
        archive.writestr("readme.txt", "no model")

    assert "is a zip file but holds no model" in bench.refused()


def test_another_kind_of_model_file_is_refused(bench: Bench) -> None:
    other = bench.model.rename(bench.folder / "best.onnx")

    assert bench.refused(model=str(other)) == f"best.onnx is not a .pt file: {WHAT_TO_DO}"


@pytest.mark.parametrize(("imgsz", "instead"), [(0, 64), (32, 64), (100, 96), (672, 640)])
def test_a_size_that_the_sensor_cannot_take_is_refused(
    bench: Bench, imgsz: int, instead: int
) -> None:
    assert bench.refused(height=imgsz) == (
        f"expected an image size of 64 to 640 pixels, a multiple of 32; got {imgsz}: "
        f"--imgsz {instead}"
    )
    assert f"got {imgsz}" in bench.refused(width=imgsz)


def test_data_that_is_missing_is_refused_and_never_fetched(bench: Bench) -> None:
    assert "there is no data set coco8.yaml" in bench.refused(data="coco8.yaml")
    assert "calibration needs pictures" in bench.refused(data="")


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"train": "val"}, "expected the keys train, val and names"),
        (["val"], "expected the keys train, val and names"),
        (
            {"train": "images/val", "val": "nothing", "names": {0: "a"}},
            "has no pictures in its validation",
        ),
    ],
)
def test_a_data_file_without_pictures_is_refused(bench: Bench, document: object, why: str) -> None:
    bench.write_data(document)

    assert why in bench.refused()


@pytest.mark.parametrize("content", [b"names: [\xff]", b"names: [circle"])
def test_a_data_file_that_is_no_yaml_is_refused(bench: Bench, content: bytes) -> None:
    bench.data.write_bytes(content)

    assert "does not read as YAML" in bench.refused()


def test_a_folder_that_is_in_use_is_never_written_into(bench: Bench) -> None:
    assert "is already there: name a new folder" in bench.refused(out=str(bench.folder))
    kept = bench.folder / "best_imx_model"
    (kept / "mine").mkdir(parents=True)
    assert "is already there: name a new folder" in bench.refused(keep=str(kept))


def test_a_folder_that_ultralytics_would_not_know_is_refused(bench: Bench) -> None:
    kept = str(bench.folder / "best")

    assert f"ends in _imx_model, by which Ultralytics knows it; got {kept}" in bench.refused(
        keep=kept
    )


def _java(folder: Path, *lines: str) -> str:
    java = folder / "java"
    java.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    java.chmod(0o755)
    return str(java)


WHAT_TO_INSTALL = (
    "Sony's converter needs Java 17 or newer: apt install openjdk-17-jre-headless (or newer)"
)


def test_a_missing_java_is_named_with_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        check_java(str(tmp_path / "java"))

    assert str(caught.value) == f"there is no Java on this machine: {WHAT_TO_INSTALL}"
    assert exit_of(caught.value) == Exit.ERROR


@pytest.mark.parametrize(
    ("version", "found"), [("1.8.0_392", "8"), ("11.0.21", "11"), ("16", "16")]
)
def test_an_old_java_is_refused_with_its_version(tmp_path: Path, version: str, found: str) -> None:
    java = _java(tmp_path, f"echo 'openjdk version \"{version}\" 2023-10-17' >&2")

    with pytest.raises(ExportError) as caught:
        check_java(java)

    assert str(caught.value) == (f"expected Java 17 or newer, found {found}: {WHAT_TO_INSTALL}")


@pytest.mark.parametrize("version", ["17.0.9", "21", "21-ea", "26.0.1"])
def test_a_java_that_is_new_enough_is_taken(tmp_path: Path, version: str) -> None:
    check_java(_java(tmp_path, f"echo 'openjdk version \"{version}\"' >&2"))


def test_a_java_that_fails_or_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Java does not start"):
        check_java(_java(tmp_path, "exit 3"))
    with pytest.raises(ExportError, match="found one that does not tell its version"):
        check_java(_java(tmp_path, "exit 0"))


def test_a_request_that_is_right_is_right_up_to_what_is_installed(bench: Bench) -> None:
    findings = bench.findings()

    refused = {what for what, finding in findings.items() if finding.verdict == "refused"}
    assert refused <= {"Python", "export extra", "Java", "memory", "disk"}
    assert findings["scale"].found == "YOLO11n: 2,590,425 parameters, 0.25 of full width"
    assert findings["labels"].found == "3 objects in 3 label files, 3 classes"
    assert findings["classes"].found == "3 (circle, square, triangle)"


def test_fewer_pictures_than_recommended_are_a_warning(bench: Bench) -> None:
    finding = bench.findings()["calibration data"]

    assert finding.verdict == "warned"
    assert finding.found == "3 pictures, 3 of them to calibrate with"
    assert finding.remedy == "300 or more are recommended: fewer may cost accuracy"


def test_three_hundred_pictures_are_enough_and_fewer_may_be_asked_for(bench: Bench) -> None:
    for number in range(300):
        (bench.folder / "images" / "val" / f"{number}.png").touch()

    assert bench.findings()["calibration data"].verdict == "ok"
    assert bench.findings(calibration_images=20)["calibration data"].found == (
        "300 pictures, 20 of them to calibrate with"
    )
    assert bench.findings(fraction=0.5)["calibration data"].verdict == "warned"


def test_what_is_only_looked_at_needs_no_data_but_a_build_does(bench: Bench) -> None:
    finding = bench.findings(data="", out="")["calibration data"]

    assert (finding.verdict, finding.remedy) == ("warned", "a build needs --data")
    assert bench.findings(data="")["calibration data"].verdict == "refused"


@pytest.mark.parametrize(
    ("network", "why", "remedy"),
    [
        (
            {"channels": 32, "parameters": 9_458_752, "named_as": "yolo11s.yaml"},
            "YOLO11s does not fit the sensor: it needs about 10,",
            "train yolo11n or yolov8n, at full width or less, with the same data",
        ),
        (
            {"layers": ("Conv", "C3k2(C3k)", "Detect"), "named_as": "yolo11m.yaml"},
            "the model is YOLO11m, which cannot be exported: its layers are not those of",
            "train yolo11n or yolov8n",
        ),
        (
            {"end2end": True, "named_as": "yolo26n.yaml"},
            "the model is YOLO26n, which cannot be exported: its head chooses its objects itself",
            "train yolo11n or yolov8n",
        ),
        (
            {"labels": ("a", "a" * 65, "c")},
            "the model's class names do not do",
            "rename them in the data set and train again",
        ),
    ],
)
def test_a_network_that_cannot_be_exported_is_refused_with_what_to_do(
    bench: Bench, network: dict[str, object], why: str, remedy: str
) -> None:
    bench.write_model(**network)

    refused = bench.refused()

    assert why in refused
    assert remedy in refused


def test_squeezing_is_taken_when_it_is_asked_for_and_can_help(bench: Bench) -> None:
    bench.write_model(channels=32, parameters=9_458_752, named_as="yolo11s.yaml")

    small = bench.findings(mixed_precision="always")["fit on the chip"]
    large = bench.findings(mixed_precision="always", height=640, width=640)["fit on the chip"]

    assert (small.verdict, small.remedy) == ("warned", "expect a loss of accuracy")
    assert large.verdict == "refused"


def test_a_network_near_the_limit_is_warned_about_with_the_size_that_fits(bench: Bench) -> None:
    bench.write_model(family="YOLOv8", parameters=3_157_200, named_as="yolov8n.yaml")

    finding = bench.findings(height=640, width=640)["fit on the chip"]

    assert finding.verdict == "warned"
    assert finding.remedy == "--imgsz 608 or less, or a narrower network"


def test_half_the_width_of_the_family_fits_everywhere(bench: Bench) -> None:
    bench.write_model(channels=8, parameters=810_649, named_as="yolo11n-narrow.yaml")

    finding = bench.findings(height=640, width=640)["fit on the chip"]

    assert finding.verdict == "ok"


def test_a_structure_is_a_model_without_weights(bench: Bench) -> None:
    structure = bench.folder / "yolo11n.yaml"
    structure.write_text(yaml.safe_dump(checkpoints.structure(), sort_keys=False))

    findings = bench.findings(model=str(structure))

    assert findings["model file"].found == "a structure without weights"
    assert findings["model file"].verdict == "warned"
    assert findings["family"].found == "YOLO11"
    assert findings["labels"].verdict == "ok"  # Its 80 classes are nobody's yet.


@pytest.mark.parametrize(
    ("task", "line", "why"),
    [
        ("detect", "0 0.5 0.5 0.2", "expected 5 columns: class and box; got 4 columns"),
        ("detect", "3 0.5 0.5 0.2 0.2", "class 3 is none of 0 to 2"),
        ("detect", "-1 0.5 0.5 0.2 0.2", "class -1 is none of 0 to 2"),
        ("detect", "0.5 0.5 0.5 0.2 0.2", "class 0.5 is none of 0 to 2"),
        ("detect", "0 0.5 1.5 0.2 0.2", "coordinate 1.5 is not within 0 to 1"),
        ("detect", "0 nan 0.5 0.2 0.2", "coordinate nan is not within 0 to 1"),
        ("detect", "circle 0.5 0.5 0.2 0.2", "expected numbers"),
        ("segment", "0 0.5 0.5 0.2 0.2", "an outline of three points or more; got 5 columns"),
        ("segment", "0 0.1 0.1 0.9 0.1 0.9 7", "coordinate 7 is not within 0 to 1"),
        ("pose", "0 0.5 0.5 0.2 0.2", "expected 11 columns: class, box and keypoints; got 5"),
        ("pose", "0 0.5 0.5 0.2 0.2 0.1 0.1 2 9 0.1 1", "coordinate 9 is not within 0 to 1"),
    ],
)
def test_a_label_of_another_task_or_out_of_range_is_refused_with_its_place(
    bench: Bench, task: str, line: str, why: str
) -> None:
    keypoints = (2, 3) if task == "pose" else None
    bench.write_model(task=task, keypoints=keypoints)
    bench.write_data(**({"kpt_shape": list(keypoints)} if keypoints else {}))
    good = {"detect": "1 0.5 0.5 1 1", "segment": "1 0 0 1 0 1 1",
            "pose": "1 0.5 0.5 0.2 0.2 0.1 0.1 2 0 0 0"}[task]  # fmt: skip
    for number in (0, 2):
        bench.write_labels(f"{good}\n", number=number)
    bench.write_labels(f"{good}\n\n{line}\n", number=1)

    refused = bench.refused()

    assert why in refused
    assert f"{bench.folder / 'labels' / 'val' / '1.txt'}, line 2: " in refused
    bench.write_labels(f"{good}\n", number=1)
    assert bench.findings()["labels"].verdict == "ok"


@pytest.mark.parametrize("line", ["0 0 0 1 0 1 1", "0 -0.009 1.009 0.5 0.5"])
def test_outlines_and_edges_that_ultralytics_takes_are_taken(bench: Bench, line: str) -> None:
    bench.write_labels(line)

    assert bench.findings()["labels"].verdict == "ok"


def test_a_detector_takes_the_boxes_of_pose_data(bench: Bench) -> None:
    bench.write_data(kpt_shape=[2, 3])
    for number in range(3):
        bench.write_labels("1 0.5 0.5 0.2 0.2 0.1 0.1 2 0 0 0", number=number)

    assert bench.findings()["labels"].verdict == "ok"


def test_data_of_another_kind_than_the_model_are_refused(bench: Bench) -> None:
    bench.write_model(task="classify", named_as="yolo11n-cls.yaml")
    assert "the model is for classify, the data" in bench.refused()
    assert "expected a folder a class" in bench.refused()

    bench.write_model()
    for label in LABELS:
        (bench.folder / "crops" / "val" / label).mkdir(parents=True)
        (bench.folder / "crops" / "val" / label / "0.png").touch()
    assert "the model is for detect, the data" in bench.refused(data=str(bench.folder / "crops"))

    bench.write_model(task="classify", named_as="yolo11n-cls.yaml")
    assert bench.findings(data=str(bench.folder / "crops"))["labels"].found == "3 classes"


def test_data_with_other_classes_or_keypoints_are_refused(bench: Bench) -> None:
    bench.write_data(names=["circle"])
    assert "have 1 classes, the model 3: give the data that it was" in bench.refused()

    bench.write_model(task="pose", keypoints=(2, 3))
    bench.write_data()
    assert "name no kpt_shape: expected kpt_shape: [2, 3]" in bench.refused()
    bench.write_data(kpt_shape=[4, 3])
    assert "have keypoints of shape [4, 3], the model [2, 3]" in bench.refused()


def test_pictures_without_a_single_label_are_refused(bench: Bench) -> None:
    for number in range(3):
        (bench.folder / "labels" / "val" / f"{number}.txt").unlink()

    assert "have pictures but no label files: expected e.g. " in bench.refused()


def test_pictures_may_be_listed_in_a_text_file(bench: Bench) -> None:
    (bench.folder / "val.txt").write_text("./images/val/0.png\nimages/val/2.png\nmissing.png\n")
    bench.write_data(val="val.txt")

    assert bench.findings()["calibration data"].found.startswith("2 pictures")


def test_of_many_label_files_some_are_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "LABEL_FILES_MAX", 2)

    assert bench.findings()["labels"].found == "2 objects in 2 label files, 3 classes"


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 13, 0), (4, 0, 0)])
def test_a_python_without_a_converter_is_refused(version: tuple[int, ...]) -> None:
    with pytest.raises(
        ExportError, match=r"expected Python 3\.11 or 3\.12, found [\d.]+: make clean"
    ):
        check_python(version)
    assert check_python((3, 12, 1)).found == "3.12.1"


def test_what_is_not_installed_is_named() -> None:
    with pytest.raises(ExportError, match=r"\(missing: no_such_package\): run, .*: make export"):
        check_extra(("sys", "no_such_package"))


def test_memory_that_is_short_is_refused_with_both_numbers() -> None:
    with pytest.raises(ExportError, match="expected 6144 MB of memory available, found 5000"):
        check_memory(320, 5000 << 20)
    with pytest.raises(ExportError, match="expected 9216 MB"):
        check_memory(640, 6144 << 20)
    assert check_memory(640, 9216 << 20).verdict == "ok"
    assert check_memory(640, None).verdict == "warned"
