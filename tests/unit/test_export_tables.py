"""What the exporter's benchmarks print of what they measured."""

import argparse
from pathlib import Path

import msgspec
import pytest

from benchmarks.export import __main__ as beside
from benchmarks.export import matrix
from benchmarks.export.accuracy import Accuracy
from benchmarks.export.agreement import Agreement

GIGABYTE = 1_000_000_000


def side(*, seconds: float, fault: str = "") -> beside.Side:
    return beside.Side(
        load_before=0.5,
        seconds=seconds,
        together_bytes=5 * GIGABYTE,
        python_bytes=2 * GIGABYTE,
        java_bytes=4 * GIGABYTE,
        packer_bytes=0 if fault else 2_560_000,
        fault=fault,
    )


def rows(*, stock: beside.Side, ours: beside.Side, stock_map: float | None) -> list[dict[str, str]]:
    accuracy = Accuracy(
        metric="mAP50-95", images=9, float32=0.5, quantised=0.48, milliseconds=9, stock=stock_map
    )
    one = beside.Compared(
        task="detect", pixels=640, calibration=300, stock=stock, ours=ours, accuracy=accuracy
    )
    return [dict(zip(beside.COLUMNS, row, strict=True)) for row in beside.rows_of(one)]


def test_both_exporters_stand_below_each_other() -> None:
    stock, ours = rows(stock=side(seconds=300), ours=side(seconds=100), stock_map=0.294)

    assert (stock["exporter"], ours["exporter"]) == (beside.STOCK, beside.OURS)
    assert (stock["times faster"], ours["times faster"]) == ("", "3.0")
    assert (stock["exported"], ours["exported"]) == ("0.294", "0.480")
    assert (stock["peak, GB"], stock["Python, GB"], stock["Java, GB"]) == ("5.0", "2.0", "4.0")
    assert (stock["packerOut, MB"], stock["what happened"]) == ("2.56", "built")


def test_who_was_killed_has_no_size_and_no_accuracy_and_nobody_is_faster() -> None:
    killed = side(seconds=900, fault="killed: it took 16.1 GB, more than it may")

    stock, ours = rows(stock=killed, ours=side(seconds=100), stock_map=None)

    assert stock["what happened"] == killed.fault
    assert (stock["packerOut, MB"], stock["exported"]) == ("", "")
    assert ours["times faster"] == ""
    assert ours["exported"] == "0.480"


def row(task: str, **agreed: float) -> matrix.Row:
    return matrix.Row(
        family="yolo11",
        task=task,
        pixels=320,
        seconds=100,
        stages={"quantise": 31.4, "convert": 60.0},
        memory_bytes=5 * GIGABYTE,
        packer_bytes=2_600_000,
        chip_permille=480,
        accuracy=Accuracy(metric="top-1", images=9, float32=0.5, quantised=0.4, milliseconds=9),
        agreement=Agreement(pictures=4, pairs=19, alone=1, share=0.95, score_worst=0.012, **agreed),
    )


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (row("classify"), {"task's own": "", "worst px": ""}),
        (row("detect", pixels_worst=0.5), {"task's own": "", "worst px": "0.50"}),
        (
            row("pose", pixels_worst=0.5, keypoints_share=0.9, keypoints_worst=2.5),
            {"task's own": "90.0% of points, worst 2.50 px"},
        ),
        (
            row("segment", pixels_worst=0.5, mask_iou=0.99, mask_iou_worst=0.9),
            {"task's own": "mask IoU 0.9900, worst 0.900"},
        ),
    ],
    ids=["classify", "detect", "pose", "segment"],
)
def test_a_row_of_the_matrix_says_what_its_task_is_about(
    one: matrix.Row, expected: dict[str, str]
) -> None:
    cells = dict(zip(matrix.COLUMNS, matrix.cells_of(one), strict=True))

    assert cells["same as Ultralytics"] == "95.0% of 20"
    assert (cells["quantise, s"], cells["convert, s"], cells["total, s"]) == ("31", "60", "100")
    assert (cells["chip"], cells["float"], cells["8 bit"]) == ("48 %", "0.500", "0.400")
    assert {name: cells[name] for name in expected} == expected


def test_a_row_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    kept = tmp_path / "rows" / "yolo11-pose-320.json"
    kept.write_bytes(msgspec.json.encode(row("pose", pixels_worst=0.5)))
    given = argparse.Namespace(out=tmp_path)  # Nothing in it to build with.

    assert matrix.attempt(given, "yolo11", "pose", 320)
    with pytest.raises(AttributeError):
        matrix.attempt(given, "yolo11", "pose", 640)
