"""A structure's YAML file says which network it would be, as Ultralytics reads it."""

from pathlib import Path

import pytest
import yaml

from controller.export.network import layers_of
from controller.export.structure import find_structure, read_structure
from shared.errors import ExportError
from tests.checkpoints import structure


def write(folder: Path, name: str, **changes: object) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump({**structure(), **changes}, sort_keys=False))
    return path


@pytest.mark.parametrize(
    ("name", "called", "channels", "parameters"),
    [
        ("yolo11n.yaml", "YOLO11n", 16, 2_624_080),
        ("yolo11s-mine.yaml", "YOLO11s", 32, 9_458_752),
        ("yolo11.yaml", "YOLO11n", 16, 2_624_080),  # The first of its scales.
    ],
)
def test_the_scale_is_in_the_files_name(
    tmp_path: Path, name: str, called: str, channels: int, parameters: int
) -> None:
    network = read_structure(str(write(tmp_path, name)))

    assert (network.called, network.family, network.task) == (called, "YOLO11", "detect")
    assert (network.channels, network.parameters) == (channels, parameters)
    assert (len(network.labels), network.is_trained) == (80, False)


def test_a_narrow_network_of_the_family_is_one_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, "yolo11n.yaml", scales={"n": [0.5, 0.125, 1024]})

    network = read_structure(str(path))

    assert (network.called, network.channels) == ("YOLO11 of width 0.125", 8)
    assert abs(network.parameters - 810_649) < 810_649 * 0.04


def test_the_name_without_its_scale_is_tried_next(tmp_path: Path) -> None:
    path = write(tmp_path, "yolo11.yaml")

    assert find_structure(str(tmp_path / "yolo11s.yaml")) == path
    assert read_structure(str(tmp_path / "yolo11s.yaml")).called == "YOLO11s"


def test_deeper_scales_and_other_heads_are_other_networks(tmp_path: Path) -> None:
    deep = read_structure(str(write(tmp_path, "yolo11m.yaml")))
    end2end = read_structure(str(write(tmp_path, "yolo26n.yaml", end2end=True, reg_max=1)))
    flat = read_structure(str(write(tmp_path, "yolo99n.yaml", reg_max=1)))

    assert (deep.family, deep.called) == (None, "YOLO11m")
    assert (end2end.family, end2end.called) == (None, "YOLO26n")
    assert (flat.family, flat.layers[-1]) == (None, "Detect(without DFL)")


def test_a_pose_structure_says_its_points(tmp_path: Path) -> None:
    document = structure("pose") | {"kpt_shape": [17, 3]}
    path = write(tmp_path, "yolo11n-pose.yaml", **document)

    network = read_structure(str(path))

    assert (network.task, network.keypoints) == ("pose", (17, 3))
    assert network.layers == layers_of("YOLO11", "pose")


def test_an_oriented_box_is_no_task_of_ours(tmp_path: Path) -> None:
    head = [*structure()["head"][:-1], [-1, 1, "OBB", ["nc", 1]]]  # type: ignore[index]

    network = read_structure(str(write(tmp_path, "yolo11n-obb.yaml", head=head)))

    assert (network.task, network.family) == ("OBB", None)


@pytest.mark.parametrize(
    "content",
    ["", "3", "names: [a", "backbone: 3\nhead: []", "{backbone: [], head: []}", "\x00",
     "{backbone: [[-1, 1, Conv]], head: [[1, 1, Detect, [nc]]]}",
     "{backbone: [[-1, 99999, C2f, [1]]], head: [[1, 1, Detect, [nc]]]}",
     "{scales: {x: [1]}, backbone: [[-1, 1, C2f, [1]]], head: [[1, 1, Detect, [nc]]]}", "[" * 5000],
)  # fmt: skip
def test_what_is_no_structure_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "yolo11n.yaml"
    path.write_text(content)

    with pytest.raises(ExportError, match=r"yolo11n\.yaml (is no structure|does not read as YAML)"):
        read_structure(str(path))


def test_a_structure_that_nobody_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"there is no structure yolo77q\.yaml, neither in"):
        read_structure(str(tmp_path / "yolo77q.yaml"))
