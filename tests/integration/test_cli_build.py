"""What `fleetctl model build` refuses before minutes are spent, as processes, without torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from controller.cli.exits import Exit
from controller.service import Controller
from shared.release import Role
from tests import checkpoints
from tests.tinygraph import manifest_of

FLEET = "version: 1\nfleet: shapes\nbroker: {url: 'mqtt://127.0.0.1:1'}\ndevices: {eye-1: {}}\n"
FILES: dict[str, tuple[Role, bytes]] = {
    "simulator.onnx": ("simulator", b"a graph"),
    "labels.txt": ("labels", b"circle\n"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet without a passphrase, a data set, and a model that is right but for its weights."""
    folder = tmp_path_factory.mktemp("fleet") / "project"
    (folder / "scratch").mkdir(parents=True)
    (folder / "fleet.yaml").write_text(FLEET)
    for name in ("images", "labels"):
        (folder / name / "val").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images" / "val" / "0.png")
    (folder / "labels" / "val" / "0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    names = dict(enumerate(checkpoints.LABELS))
    data = {"train": "images/val", "val": "images/val", "names": names}
    (folder / "shapes.yaml").write_text(yaml.safe_dump(data))
    checkpoints.checkpoint(folder / "best.pt")
    controller = Controller.init_fleet(
        folder, home=folder.parent / "data" / "imxfleet", passphrase=None
    )
    controller.close()
    return folder


def build(project: Path, *arguments: str, path: str | None = None) -> str:
    """Run it, which must fail in one line and leave nothing behind; return what it said."""
    scratch = project / "scratch"
    done = subprocess.run(
        [sys.executable, "-m", "controller", "model", "build", *arguments],
        cwd=project, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_DATA_HOME": str(project.parent / "data"),
             "XDG_CACHE_HOME": str(project.parent / "cache"), "TMPDIR": str(scratch),
             "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
             **({} if path is None else {"PATH": path})},
    )  # fmt: skip
    assert done.returncode == Exit.ERROR, done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout.replace("Building shapes@1 ...", "").strip()
    assert list(scratch.glob("imxfleet*")) == []
    said = [line for line in done.stderr.splitlines() if line]
    assert len(said) == 1, said
    return said[0]


def usual(project: Path, **changes: object) -> list[str]:
    options = {"data": project / "shapes.yaml", "name": "shapes", "version": 1, **changes}
    model = options.pop("model", project / "best.pt")
    pairs = ((f"--{name}", str(value)) for name, value in options.items())
    return [str(model), *(text for pair in pairs for text in pair), "--no-sign"]


def test_a_pickle_that_would_run_code_is_refused_and_has_not_run(project: Path) -> None:
    ran = project / "ran"
    call = checkpoints.Call("posix.system", f"touch {ran}")
    evil = checkpoints.write(project / "evil.pt", checkpoints.pickled({"model": call}))

    said = build(project, *usual(project, model=evil))

    assert "would run foreign code: it would load and run 'posix.system'" in said
    assert "only layers of torch and Ultralytics, tensors and plain containers are trusted" in said
    assert not ran.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "nothing.pt"}, "there is no model file"),
        ({"model": "shapes.yaml"}, "shapes.yaml is no structure of a YOLO network"),
        ({"data": "coco8.yaml"}, "there is no data set"),
        ({"imgsz": 100}, "a multiple of 32; got 100: --imgsz 96"),
        ({"imgsz": "320,672"}, "64 to 640 pixels, a multiple of 32; got 672: --imgsz 640"),
    ],
)
def test_what_cannot_be_built_is_one_line_with_what_to_do(
    project: Path, changes: dict[str, object], said: str
) -> None:
    assert said in build(project, *usual(project, **changes))


def test_data_of_another_task_are_refused(project: Path) -> None:
    pose = checkpoints.checkpoint(project / "pose.pt", task="pose", keypoints=(4, 3))

    said = build(project, *usual(project, model=pose))

    assert "the model is for pose, the data" in said
    assert "name no kpt_shape" in said


def test_a_scale_that_does_not_fit_is_refused(project: Path) -> None:
    small = checkpoints.checkpoint(
        project / "small.pt", channels=32, parameters=9_458_752, named_as="yolo11s.yaml"
    )

    said = build(project, *usual(project, model=small))

    assert "YOLO11s does not fit the sensor" in said
    assert "train yolo11n or yolov8n" in said


def test_a_name_and_version_that_stand_for_other_content_are_refused(project: Path) -> None:
    manifest = manifest_of(FILES)
    controller = Controller.open(
        project, home=project.parent / "data" / "imxfleet", passphrase=lambda _: ""
    )
    try:
        controller.import_release(manifest, {name: data for name, (_, data) in FILES.items()})
    finally:
        controller.close()

    said = build(project, *usual(project, name=manifest.name, version=manifest.version))

    assert f"{manifest.release} is already in the store" in said
    assert f"take the next version (--version {manifest.version + 1})" in said
