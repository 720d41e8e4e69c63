"""`fleetctl model check`, as a person and as a program calls it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from controller.cli.model import model
from controller.cli.sizes import parse_size
from shared.errors import ExportError
from tests import checkpoints


def run(*arguments: object) -> Result:
    return CliRunner().invoke(model, ["check", *map(str, arguments)], standalone_mode=False)


def test_every_row_is_a_document_with_what_to_do(tmp_path: Path) -> None:
    path = checkpoints.checkpoint(
        tmp_path / "best.pt", channels=32, parameters=9_458_752, named_as="yolo11s.yaml"
    )

    done = run(path, "--imgsz", "256,448", "-o", "json")

    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert done.return_value == 1
    assert rows["input size"]["found"] == "256 high, 448 wide"
    assert rows["fit on the chip"]["verdict"] == "refused"
    assert rows["fit on the chip"]["remedy"].startswith("train yolo11n or yolov8n")
    assert rows["calibration data"]["verdict"] == "warned"
    assert {"Python", "Java", "memory", "disk", "export extra"} <= set(rows)


def test_a_pickle_that_would_run_code_is_a_row_and_the_machine_is_still_looked_at(
    tmp_path: Path,
) -> None:
    data = checkpoints.pickled({"model": checkpoints.Call("os.system", "true")})
    path = checkpoints.write(tmp_path / "best.pt", data)

    done = run(path)

    assert done.return_value == 1
    assert "would run foreign code: it would load and run 'os.system'" in done.stdout
    assert "Java" in done.stdout


@pytest.mark.parametrize(
    ("text", "size"),
    [("640", (640, 640)), ("480,640", (480, 640)), ("[256, 448]", (256, 448)), ("7", (7, 7))],
)
def test_a_size_is_written_as_ultralytics_has_it(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "a", "640x480", "1,2,3", "-64", "6.4", "640,", "٣٢٠"])
def test_what_is_no_size_is_a_mistake_in_the_call(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size such as 640, or 480,640"):
        parse_size(text)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--quantize", "16"), "expected --quantize 8, got 16"),
        (("--no-nms",), "ends with its NMS"),
        (("--prune", "0.3"), "cannot prune a YOLO network"),
    ],
)
def test_what_the_tools_cannot_do_is_refused_with_the_reason(
    option: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    given = ("build", str(tmp_path / "best.pt"), "--data", str(tmp_path), "--name", "n",
             "--version", "1", *option)  # fmt: skip

    result = CliRunner().invoke(model, given)

    assert isinstance(result.exception, ExportError)
    assert said in str(result.exception)
