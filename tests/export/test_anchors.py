"""A head's anchors keep their values at eight bits; those of the stock head do not."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from controller.export.facts import Facts
from shared.errors import ExportError
from shared.release import Input

pytestmark = [
    pytest.mark.export,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def anchors() -> ModuleType:
    """What imports torch: seconds, and warnings that are not ours."""
    from tests.export import anchors  # noqa: PLC0415

    return anchors


def lowered(network: Path, task: str, height: int, width: int) -> None:
    from controller.export.lower import lower  # noqa: PLC0415 - needs onnx.

    facts = Facts(
        task=task,
        network_name=network.stem,
        input=Input(width=width, height=height, color="RGB"),
        outputs=(),
        threshold_permille=250,
        memory_bytes=0,
        provenance={},
    )
    lower(network, network.with_suffix(".lowered"), facts=facts, labels=("a", "b", "c"))


@pytest.mark.parametrize(
    ("source", "height", "width"),
    [("11/yolo11", 640, 640), ("v8/yolov8-pose", 384, 640), ("11/yolo11-seg", 544, 96)],
)
def test_every_positional_constant_equals_its_float_value(
    anchors: ModuleType, tmp_path: Path, source: str, height: int, width: int
) -> None:
    network, task = anchors.quantised(source, tmp_path, height=height, width=width)
    points, strides = anchors.anchors(height, width)
    centre = np.array([[width], [height]], np.float32) / 2
    expected = {"offsets": points - centre / strides, "strides": strides}
    if task == "pose":
        expected["keypoints"] = points - 0.5

    found = anchors.constants(network)

    for name, value in expected.items():
        same = [kept for held, kept in found if np.array_equal(held.reshape(-1), value.reshape(-1))]
        assert same, f"the graph holds no {name}"
        assert all(np.array_equal(kept.reshape(-1), value.reshape(-1)) for kept in same)
    assert all(np.array_equal(held, kept) for held, kept in found)
    lowered(network, task, height, width)  # The exporter's own guard is content, too.


def test_the_stock_heads_anchors_are_half_a_cell_off_and_refused(
    anchors: ModuleType, tmp_path: Path
) -> None:
    network, task = anchors.quantised(
        "11/yolo11", tmp_path, height=640, width=640, head=anchors.STOCK
    )

    assert max(np.abs(held - kept).max() for held, kept in anchors.constants(network)) == 0.5
    with pytest.raises(ExportError, match=r"off by 0\.5"):
        lowered(network, task, 640, 640)
