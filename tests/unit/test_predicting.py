"""`fleetctl model predict` with the example's own graphs: no fleet, no torch."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from agent.camera.scene import draw
from controller.cli import app
from controller.export.foreign import is_foreign, read_foreign
from controller.export.sources import open_source
from shared.errors import ExportError

PACKAGE = Path(__file__).resolve().parents[2] / "examples" / "shapes" / "second"
SCENES = 8


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Scenes larger than the network's input, with a black strip at the right."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(SCENES):
        wide = np.zeros((320, 400, 3), np.uint8)
        wide[:, :320] = draw(number, 40, 320)[0]
        Image.fromarray(wide).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def fleetctl(*arguments: object) -> Result:
    return CliRunner().invoke(app.fleetctl, ["model", "predict", *map(str, arguments)])


def test_objects_are_found_where_they_are_in_the_picture(pictures: Path) -> None:
    done = fleetctl(PACKAGE, pictures, "-o", "json")

    assert done.exit_code == 0, done.output
    documents = json.loads(done.stdout)
    assert [one["picture"] for one in documents] == [f"{n}.png" for n in range(SCENES)]
    right = true = 0
    for number, document in enumerate(documents):
        assert (document["width"], document["height"]) == (400, 320)
        for drawn in draw(number, 40, 320)[1]:
            box = [side * 320 for side in drawn.box]
            true += 1
            right += any(
                one["label"] == drawn.label
                and max(abs(a - b) for a, b in zip(one["box"], box, strict=True)) < 24
                for one in document["objects"]
            )
    assert right / true > 0.5, f"{right} of {true}"
    lefts = [one["box"][0] for document in documents for one in document["objects"]]
    assert min(lefts) < 30  # A picture is not cut to the network's square.


def test_each_picture_is_a_line_and_a_drawn_copy(pictures: Path, tmp_path: Path) -> None:
    done = fleetctl(PACKAGE, pictures, "--out", tmp_path / "drawn")

    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if ".png" in line]
    assert len(lines) == SCENES
    assert lines[0].startswith(f"1 of {SCENES} 0.png: ")
    for number in range(SCENES):
        with Image.open(tmp_path / "drawn" / f"{number}.png.png") as image:
            assert image.size == (400, 320)


def test_a_line_of_json_is_a_picture(pictures: Path) -> None:
    done = fleetctl(PACKAGE, pictures / "3.png", "-o", "jsonl")

    (line,) = done.stdout.splitlines()
    assert json.loads(line)["picture"] == "3.png"


def test_a_higher_score_shows_less_and_a_lower_one_says_what_a_sensor_does(pictures: Path) -> None:
    counts = {}
    for conf in ("0.05", "0.25", "0.9"):
        done = fleetctl(PACKAGE, pictures, "--conf", conf, "-o", "json")
        scores = [one["score"] for d in json.loads(done.stdout) for one in d["objects"]]
        assert all(score >= float(conf) for score in scores)
        assert ("puts out nothing below 0.25" in done.stderr) == (conf == "0.05")
        counts[conf] = len(scores)

    assert counts["0.05"] > counts["0.25"] > counts["0.9"]


@pytest.mark.parametrize(
    ("network", "source", "text"),
    [
        ("helmet", "3.png", "expected a release (helmet@8) or the folder"),
        (str(PACKAGE), "no.png", "there is no picture, folder or video"),
        (str(PACKAGE), "notes.txt", "expected a picture, a folder or a video"),
        (str(PACKAGE), "broken.png", "does not read"),
        (str(PACKAGE), "empty", "found none"),
        ("empty", "3.png", "expected simulator.onnx and labels.txt in"),
    ],
)
def test_what_cannot_be_used_is_named(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, network: str, source: str, text: str
) -> None:
    (pictures / "empty").mkdir()
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    monkeypatch.chdir(pictures)

    done = fleetctl(network, source)

    assert isinstance(done.exception, ExportError)
    assert text in str(done.exception)


def test_a_video_needs_opencv_and_says_so(tmp_path: Path) -> None:
    try:
        import cv2  # noqa: F401, PLC0415
    except ImportError:
        pass
    else:
        pytest.skip("OpenCV is installed here")
    (tmp_path / "clip.mp4").write_bytes(b"")

    with pytest.raises(ExportError, match="pip install opencv-python-headless"):
        open_source(tmp_path / "clip.mp4")


def test_a_picture_lies_as_its_camera_was_held(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # Orientation: turned by 90 degrees.
    image.save(tmp_path / "held.jpg", exif=exif)

    (picture,) = open_source(tmp_path / "held.jpg").pictures

    assert picture.pixels.shape == (40, 20, 3)


def test_a_folder_of_ultralytics_needs_onnx_and_says_so(tmp_path: Path) -> None:
    try:
        import onnx  # noqa: F401, PLC0415
    except ImportError:
        pass
    else:
        pytest.skip("onnx is installed here")
    (tmp_path / "model_imx.onnx").write_bytes(b"")

    assert is_foreign(tmp_path)
    with pytest.raises(ExportError, match="make export"):
        read_foreign(tmp_path)
