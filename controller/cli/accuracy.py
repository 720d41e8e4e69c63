"""How measured accuracy looks: for people and for programs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from controller.differences import label_of

if TYPE_CHECKING:
    from controller.cli.terminal import Terminal
    from controller.export.receipt import ClassScore, Receipt, Score


def print_receipt(terminal: "Terminal", receipt: "Receipt", labels: tuple[str, ...]) -> None:
    """Print what was measured, as tables for people."""
    main = receipt.main.metric
    terminal.table(
        ("accuracy", "float", "stock", "quantised", "lost"),
        [(score.metric, *_words(score)) for score in receipt.scores],
        documents=(), empty="",
    )  # fmt: skip
    terminal.table(
        ("class", "objects", f"{main}: float", "stock", "quantised", "lost"),
        [
            (label_of(labels, score.class_), str(score.objects), *_words(score))
            for score in receipt.classes
        ],
        documents=(), empty="",
    )  # fmt: skip
    terminal.say(pictures_words(receipt))


def receipt_document(receipt: "Receipt", labels: tuple[str, ...]) -> Mapping[str, object]:
    """Return a receipt with the names of its classes."""
    fields: dict[str, object] = msgspec.to_builtins(receipt)
    classes = [
        {
            "class": score.class_,
            "label": label_of(labels, score.class_),
            "objects": score.objects,
            "float32": score.float32,
            "quantised": score.quantised,
            "stock": score.stock,
        }
        for score in receipt.classes
    ]
    return fields | {"classes": classes, "memory_permille": receipt.memory_permille}


def pictures_words(receipt: "Receipt") -> str:
    """Return what was looked at, and what that is worth."""
    pictures = receipt.pictures
    worth = (
        "none of which calibrated the network"
        if pictures.is_held_out
        else "some or all of which calibrated the network: expect less of others"
    )
    return (
        f"Measured on {pictures.count} pictures with {pictures.objects} objects of the split"
        f" {pictures.split}, {worth} ({pictures.sha256[:12]})."
    )


def _words(score: "Score | ClassScore") -> tuple[str, str, str, str]:
    lost = "" if score.float32 is None else f"{score.float32 - score.quantised:.3f}"
    return _number(score.float32), _number(score.stock), _number(score.quantised), lost


def _number(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"
