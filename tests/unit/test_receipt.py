from pathlib import Path

import msgspec
import pytest

from controller.export.build import _deliver, build_package
from controller.export.receipt import (
    METRICS,
    RECEIPT_BYTES,
    ClassScore,
    Receipt,
    check_accuracy,
    encode_receipt,
    read_receipt,
    summary_of,
)
from controller.export.wire import LINE_BYTES, BuildRequest, Evaluated
from shared.errors import ExportError
from shared.limits import LABELS_MAX
from shared.release import Receipt as Summary
from tests.receipts import receipt_of


def test_a_receipt_comes_back_as_one_text() -> None:
    receipt = receipt_of()

    data = encode_receipt(receipt)

    assert read_receipt(data) == receipt
    assert encode_receipt(read_receipt(data)) == data
    assert receipt.memory_permille == 500


def test_the_order_of_its_files_does_not_change_its_bytes() -> None:
    files = {"labels.txt": 23, "simulator.onnx": 1_276_952}

    assert encode_receipt(receipt_of(files=files)) == encode_receipt(receipt_of())


def test_a_receipt_of_as_many_classes_as_there_may_be_is_small_enough() -> None:
    classes = tuple(
        ClassScore(class_, 99_999, 0.1234, 0.1234, 0.1234) for class_ in range(LABELS_MAX)
    )
    receipt = receipt_of(classes=classes)

    data = encode_receipt(receipt)
    message = msgspec.json.encode(Evaluated(receipt=receipt, milliseconds={"quantised": 11.352437}))

    assert len(data) <= RECEIPT_BYTES
    assert len(message) < LINE_BYTES
    assert read_receipt(data).classes == classes


def test_a_receipt_that_is_too_large_is_not_even_read() -> None:
    with pytest.raises(ExportError, match=f"at most {RECEIPT_BYTES} bytes"):
        read_receipt(b" " * RECEIPT_BYTES + encode_receipt(receipt_of()))


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"task": "pose"},
        {"scores": ()},
        {"scores": receipt_of().scores[::-1]},
        {"scores": receipt_of(quantised=1.01).scores},
        {"scores": receipt_of(float32=-0.01).scores},
        {"classes": (ClassScore(0, 1, None, -1.0, None),)},
        {"classes": (ClassScore(0, -1, None, 1.0, None),)},
        {"classes": (ClassScore(LABELS_MAX, 1, None, 1.0, None),)},
        {"memory_bytes": -1},
        {"files": {"a": -1}},
    ],
)
def test_a_receipt_that_contradicts_itself_is_neither_written_nor_read(
    changes: dict[str, object],
) -> None:
    receipt = receipt_of(**changes)

    with pytest.raises(ExportError, match="not a receipt: expected"):
        encode_receipt(receipt)
    with pytest.raises(ExportError, match="not a receipt: expected"):
        read_receipt(msgspec.json.encode(receipt))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]", b"\xff", encode_receipt(receipt_of())[:-1],
        encode_receipt(receipt_of()).replace(b'"v":1', b'"v":1,"more":1'),
        encode_receipt(receipt_of()).replace(b"0.521", b'"good"'),
    ],
)  # fmt: skip
def test_what_is_no_receipt_is_refused(data: bytes) -> None:
    with pytest.raises(ExportError, match="not a receipt"):
        read_receipt(data)


def test_the_manifest_says_the_main_metric_of_the_task() -> None:
    assert summary_of(receipt_of()) == Summary(
        metric="mAP50-95", float_permille=537, quantised_permille=521
    )
    assert summary_of(receipt_of(float32=None)).float_permille is None
    assert {task: names[0] for task, names in METRICS.items()} == {
        "detect": "mAP50-95", "pose": "mAP50-95 keypoints", "segment": "mAP50-95 masks",
        "classify": "top-1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("least", "drop"), [(None, None), (521, None), (None, 16), (521, 16), (0, 1000)]
)
def test_what_is_just_accurate_enough_may_be_signed(least: int | None, drop: int | None) -> None:
    check_accuracy(receipt_of(), min_permille=least, max_drop_permille=drop)


@pytest.mark.parametrize(
    ("least", "drop", "said"),
    [
        (522, None, ["at least 0.522", "--min-map", "0.521 on 20 pictures", "0.537"]),
        (None, 15, ["at most 0.015", "--max-drop", "lost 0.016", "0.537 float", "0.521"]),
        (522, 15, ["--min-map"]),
    ],
)
def test_what_is_not_accurate_enough_is_refused_in_numbers(
    least: int | None, drop: int | None, said: list[str]
) -> None:
    with pytest.raises(ExportError) as caught:
        check_accuracy(receipt_of(), min_permille=least, max_drop_permille=drop)

    assert all(words in str(caught.value) for words in said), str(caught.value)


@pytest.mark.parametrize(("least", "drop"), [(1, None), (None, 1000)])
def test_a_limit_without_a_measurement_is_refused(least: int | None, drop: int | None) -> None:
    check_accuracy(None, min_permille=None, max_drop_permille=None)

    with pytest.raises(ExportError, match="none was measured"):
        check_accuracy(None, min_permille=least, max_drop_permille=drop)


def request_of(folder: Path, **changes: int) -> BuildRequest:
    return BuildRequest(model="best.pt", data="data", out=str(folder / "out"), **changes)


def package_of(folder: Path, receipt: Receipt | None = None) -> Path:
    package = folder / "package"
    package.mkdir()
    (package / "receipt.json").write_bytes(encode_receipt(receipt or receipt_of()))
    return package


@pytest.mark.parametrize("limit", [{"min_map_permille": 522}, {"max_drop_permille": 15}])
def test_a_package_that_lost_too_much_is_not_handed_over(
    limit: dict[str, int], tmp_path: Path
) -> None:
    request, package = request_of(tmp_path, **limit), package_of(tmp_path)

    with pytest.raises(ExportError, match=r"0\.521"):
        _deliver(request, package, None)

    assert not Path(request.out).exists()


def test_a_package_that_lost_little_is_handed_over(tmp_path: Path) -> None:
    request = request_of(tmp_path, min_map_permille=521, max_drop_permille=16)

    _deliver(request, package_of(tmp_path), None)

    assert (Path(request.out) / "receipt.json").exists()


def test_a_package_that_lost_a_tenth_is_handed_over_only_if_asked(tmp_path: Path) -> None:
    lost = receipt_of(quantised=0.436)
    package = package_of(tmp_path, lost)

    with pytest.raises(ExportError, match=r"at most 0\.100 .* lost 0\.101"):
        _deliver(request_of(tmp_path), package, None)
    _deliver(request_of(tmp_path, max_drop_permille=1000), package, None)

    assert (Path(request_of(tmp_path).out) / "receipt.json").exists()


def test_a_limit_without_pictures_to_measure_on_is_refused_before_anything_is_built(
    tmp_path: Path,
) -> None:
    request = request_of(tmp_path, min_map_permille=521, eval_images=0)

    with pytest.raises(ExportError, match="none was measured"):
        build_package(request, progress=lambda _: None)  # Else: there is no model best.pt.
