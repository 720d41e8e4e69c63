"""What only torch or a whole installation can refuse: each ends with one line and exit code 1."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from controller.cli.exits import Exit
from tests.export.project import SHAPES, Done, Site

pytestmark = [pytest.mark.export, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    subprocess.run(
        [sys.executable, str(SHAPES / "draw.py"), str(folder), "--images", "20"],
        check=True, env={**os.environ, "PYTHONPATH": str(SHAPES.parents[1])},
    )  # fmt: skip
    return folder / "shapes.yaml"


def build(site: Site, model: Path, data: Path, *more: str, path: str | None = None) -> Done:
    done = site.fleetctl(
        "model", "build", str(model), "--data", str(data), "--name", "refused", "--version", "1",
        "--imgsz", "64", *more, path=path,
    )  # fmt: skip
    shown = site.fleetctl("release", "ls", "-o", "json")
    assert "refused" not in shown.out
    assert "Traceback" not in done.said
    return done


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real files of Ultralytics and torch that are no model which we can build."""
    folder = tmp_path_factory.mktemp("untrained")
    script = (
        "import sys, torch; from ultralytics import YOLO; "
        "YOLO('yolo11n-pose.yaml').save(sys.argv[1] + '/pose.pt'); "
        "torch.save({'weights': torch.zeros(3)}, sys.argv[1] + '/tensors.pt')"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(folder)], check=True, cwd=folder,
        env={**os.environ, "YOLO_OFFLINE": "True", "YOLO_AUTOINSTALL": "False",
             "YOLO_CONFIG_DIR": str(folder)},
    )  # fmt: skip
    return {path.stem: path for path in folder.glob("*.pt")}


def test_a_zip_that_only_looks_like_a_model_is_refused(
    site: Site, data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "best.pt"
    with zipfile.ZipFile(model, "w") as archive:
        archive.writestr("best/data.pkl", b"no pickle at all")

    done = build(site, model, data)

    assert done.code == Exit.ERROR
    assert "best.pt does not load as a YOLO model" in done.said


def test_tensors_without_a_network_are_refused(
    site: Site, data: Path, untrained: dict[str, Path]
) -> None:
    done = build(site, untrained["tensors"], data)

    assert done.code == Exit.ERROR
    assert "tensors.pt does not load as a YOLO model" in done.said
    assert "imxfleet-export-" not in done.said  # Our copy's name means nothing to its owner.


def test_a_task_that_this_version_cannot_build_is_named(
    site: Site, data: Path, untrained: dict[str, Path]
) -> None:
    done = build(site, untrained["pose"], data)

    assert done.code == Exit.ERROR
    assert "expected a model for detect or classify, got one for pose" in done.said


def test_a_missing_java_is_said_before_minutes_are_spent(
    site: Site, data: Path, untrained: dict[str, Path], tmp_path: Path
) -> None:
    done = build(site, untrained["pose"], data, path=str(tmp_path))

    assert done.code == Exit.ERROR
    assert "there is no Java on this machine" in done.said
    assert "apt install openjdk-17-jre-headless" in done.said


def test_an_old_java_is_said_with_its_version(
    site: Site, data: Path, untrained: dict[str, Path], tmp_path: Path
) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.21\" 2023-10-17' >&2\n")
    java.chmod(0o755)

    done = build(site, untrained["pose"], data, path=f"{tmp_path}:/usr/bin:/bin")

    assert done.code == Exit.ERROR
    assert "expected Java 17 or newer, found 11" in done.said
