"""What a build refuses in its first second: models, data, sizes, Java. No torch is needed here."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image

from controller.cli.exits import Exit, exit_of
from controller.export.preflight import check, check_java
from controller.export.wire import BuildRequest
from shared.errors import ExportError


@dataclass
class Bench:
    """A request that is right up to what needs torch, to be spoilt in one place."""

    folder: Path

    def __post_init__(self) -> None:
        with zipfile.ZipFile(self.model, "w") as archive:
            archive.writestr("best/data.pkl", b"pickled")
            archive.writestr("best/data/0", bytes(5_000))
        (self.folder / "val").mkdir()
        Image.new("RGB", (8, 8)).save(self.folder / "val" / "0.png")
        self.write_data({"train": "val", "val": "val", "names": {0: "circle"}})

    @property
    def model(self) -> Path:
        return self.folder / "best.pt"

    @property
    def data(self) -> Path:
        return self.folder / "shapes.yaml"

    def write_data(self, document: object) -> None:
        self.data.write_text(yaml.safe_dump(document))

    def refused(self, **changes: object) -> str:
        """Return why the request is refused, which must be an error with exit code 1."""
        fields = {"model": str(self.model), "data": str(self.data), "out": str(self.folder / "o")}
        request = BuildRequest(**{**fields, "height": 160, "width": 160, **changes})  # type: ignore[arg-type]
        with pytest.raises(ExportError) as caught:
            check(request, work=self.folder)
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


@pytest.mark.parametrize("imgsz", [32, 100, 672])
def test_a_size_that_the_sensor_cannot_take_is_refused(bench: Bench, imgsz: int) -> None:
    assert bench.refused(height=imgsz) == (
        f"expected an image size of 64 to 640 pixels, a multiple of 32; got {imgsz}"
    )


def test_data_that_is_missing_is_refused_and_never_fetched(bench: Bench) -> None:
    assert "there is no data set coco8.yaml" in bench.refused(data="coco8.yaml")
    assert "calibration needs pictures" in bench.refused(data="")


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"train": "val"}, "expected the keys train, val and names"),
        (["val"], "expected the keys train, val and names"),
        ({"train": "v", "val": "nothing", "names": {0: "a"}}, "has no pictures in its validation"),
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

    assert str(caught.value) == f"there is no Java on this machine. {WHAT_TO_INSTALL}"
    assert exit_of(caught.value) == Exit.ERROR


@pytest.mark.parametrize(
    ("version", "found"), [("1.8.0_392", "8"), ("11.0.21", "11"), ("16", "16")]
)
def test_an_old_java_is_refused_with_its_version(tmp_path: Path, version: str, found: str) -> None:
    java = _java(tmp_path, f"echo 'openjdk version \"{version}\" 2023-10-17' >&2")

    with pytest.raises(ExportError) as caught:
        check_java(java)

    assert str(caught.value) == (f"expected Java 17 or newer, found {found}. {WHAT_TO_INSTALL}")


@pytest.mark.parametrize("version", ["17.0.9", "21", "21-ea", "26.0.1"])
def test_a_java_that_is_new_enough_is_taken(tmp_path: Path, version: str) -> None:
    check_java(_java(tmp_path, f"echo 'openjdk version \"{version}\"' >&2"))


def test_a_java_that_fails_or_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Java does not start"):
        check_java(_java(tmp_path, "exit 3"))
    with pytest.raises(ExportError, match="found one that does not tell its version"):
        check_java(_java(tmp_path, "exit 0"))
