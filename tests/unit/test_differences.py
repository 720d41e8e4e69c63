import json
from dataclasses import replace

import msgspec
import pytest

from controller.differences import Described, Difference, Value, differences
from controller.export.receipt import ClassScore
from shared.release import File, Input, Receipt, Role
from tests.receipts import receipt_of
from tests.tinygraph import LABELS, manifest_of

ARGUMENTS = {"width": 320, "z_threshold": None, "shift_negative": True, "fraction": 1.0}


def described(**changes: object) -> Described:
    manifest = msgspec.structs.replace(
        manifest_of({"labels.txt": ("labels", b"circle\n")}),
        provenance={"arguments": json.dumps(ARGUMENTS), "torch": "2.14.1"},
        **changes,
    )
    return Described(manifest, LABELS, receipt_of())


def file_of(role: Role, name: str, size: int) -> File:
    digest = "0" * 64
    return File(role=role, name=name, bytes=size, sha256=digest, blocks=(digest,))


def found(other: Described, one: Described | None = None) -> set[tuple[str, str, Value, Value]]:
    return {(it.about, it.name, it.one, it.other) for it in differences(one or described(), other)}


def test_a_release_does_not_differ_from_itself_under_another_version() -> None:
    assert differences(described(version=1), described(version=2)) == ()


def test_accuracy_differs_as_a_whole_and_by_class() -> None:
    classes = (ClassScore(0, 16, 0.5, 0.45, None), ClassScore(1, 3, None, 0.9, None))
    better = replace(described(), receipt=receipt_of(quantised=0.53, classes=classes))

    (first, *_) = differences(described(), better)

    assert first == Difference("accuracy", "mAP50-95, quantised", 0.521, 0.53)
    assert first.change == 0.009
    assert found(better) == {
        ("accuracy", "mAP50-95, quantised", 0.521, 0.53),
        ("class", "circle", 0.4, 0.45),
        ("class", "square", None, 0.9),
        ("class", "triangle", 1.0, None),
    }


def test_accuracies_of_other_pictures_say_so() -> None:
    pictures = msgspec.structs.replace(receipt_of().pictures, count=9, sha256="1" * 64)

    assert found(replace(described(), receipt=receipt_of(pictures=pictures))) == {
        ("accuracy", "measured on", "20 of test, 000000000000", "9 of test, 111111111111")
    }


def test_without_a_receipt_s_file_the_manifest_s_summary_is_compared() -> None:
    summary = Receipt(metric="top-1", float_permille=None, quantised_permille=900)
    one = replace(described(receipt=summary), receipt=None)
    two = replace(
        described(receipt=msgspec.structs.replace(summary, quantised_permille=850)), receipt=None
    )

    assert found(two, one) == {("accuracy", "top-1, quantised", 0.9, 0.85)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"memory_bytes": 4000}, ("network", "memory", 1000, 4000)),
        (
            {"input": Input(width=320, height=256, color="RGB")},
            ("network", "input", "64 x 64 RGB", "320 x 256 RGB"),
        ),
        ({"task": "segment"}, ("network", "task", "detect", "segment")),
        ({"frame_rate": 16}, ("network", "frame rate", 30, 16)),
        (
            {"files": (file_of("labels", "labels.txt", 9),)},
            ("size", "labels.txt", 7, 9),
        ),
        ({"files": ()}, ("size", "labels.txt", 7, None)),
    ],
)
def test_what_the_network_is_differs(
    changes: dict[str, object], expected: tuple[str, str, Value, Value]
) -> None:
    assert found(described(**changes)) == {expected}


def test_labels_differ_by_their_class() -> None:
    relabelled = replace(described(), labels=("circle", "box", "triangle", "star"), receipt=None)

    assert found(relabelled, replace(described(), receipt=None)) == {
        ("label", "1", "square", "box"),
        ("label", "3", None, "star"),
    }


def test_arguments_differ_one_by_one_and_tools_by_their_versions() -> None:
    other = described()
    provenance = {
        "arguments": json.dumps({**ARGUMENTS, "width": 640, "z_threshold": 16.0}),
        "torch": "2.15.0",
        "numpy": "2.4.6",
    }
    manifest = msgspec.structs.replace(other.manifest, provenance=provenance)

    assert found(replace(other, manifest=manifest)) == {
        ("argument", "width", 320, 640),
        ("argument", "z_threshold", None, 16.0),
        ("origin", "torch", "2.14.1", "2.15.0"),
        ("origin", "numpy", None, "2.4.6"),
    }


@pytest.mark.parametrize("text", ["imgsz 320", "[]", "{"])
def test_arguments_that_are_no_options_are_compared_as_words(text: str) -> None:
    other = described()
    manifest = msgspec.structs.replace(other.manifest, provenance={"arguments": text})

    assert ("origin", "arguments", None, text) in found(replace(other, manifest=manifest))


@pytest.mark.parametrize(
    ("one", "other", "change"),
    [(1, 4, 3), (0.5, 0.25, -0.25), (None, 4, None), (4, None, None), ("1", "2", None)],
)
def test_only_two_numbers_have_a_difference(one: Value, other: Value, change: float | None) -> None:
    assert Difference("size", "a", one, other).change == change
