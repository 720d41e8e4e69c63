"""The receipt: the measured accuracy of a network, a file of its release. Imports no torch.

It holds what follows from the network and the pictures alone: accuracy before and after
quantisation, per class of its main metric, the pictures' fingerprint, sizes and memory. It holds
no date, no host and no milliseconds: a release is named by its bytes, and the same inputs must give
the same bytes again. How fast a frame was is printed where it was measured, and kept nowhere.

Metrics bear the names that people know. The first of ``scores`` is the main one: of the boxes of
a detector, the keypoints of pose, the masks of segment, the guesses of a classifier.
"""

import msgspec

from shared.errors import ExportError
from shared.limits import LABELS_MAX
from shared.release import SENSOR_MEMORY_BYTES, Task
from shared.release import Receipt as Summary

RECEIPT_BYTES = 49_152  # A thousand classes take 35 KB; it fits a line of the exporter's child.
METRICS: dict[Task, tuple[str, ...]] = {
    "detect": ("mAP50-95", "mAP50"),
    "pose": ("mAP50-95 keypoints", "mAP50 keypoints", "mAP50-95 boxes", "mAP50 boxes"),
    "segment": ("mAP50-95 masks", "mAP50 masks", "mAP50-95 boxes", "mAP50 boxes"),
    "classify": ("top-1", "top-5"),
}
DIGITS = 4  # Beyond them, accuracy on some hundred pictures says nothing.
_PERMILLE = 1000


class Score(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One metric of the float model, of ours and of Ultralytics' own export; 0 to 1."""

    metric: str
    float32: float | None
    quantised: float
    stock: float | None


class ClassScore(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The main metric of one class; a list in JSON, to keep a thousand of them small."""

    class_: int
    objects: int
    float32: float | None
    quantised: float
    stock: float | None


class Pictures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was looked at.

    Attributes:
        split: Of the data set.
        count: How many pictures.
        objects: How many objects are in them.
        is_held_out: Whether it is known that none of them was used for calibration.
        sha256: Of their pixels, as the network sees them, and of what is true of them.
    """

    split: str
    count: int
    objects: int
    is_held_out: bool
    sha256: str


class Receipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured of one network.

    Attributes:
        files: Bytes by file name, of the package that was measured.
        memory_bytes: What the network takes on the sensor; 0 where it is unknown.
    """

    v: int = 1
    task: Task
    network_name: str
    scores: tuple[Score, ...]
    classes: tuple[ClassScore, ...]
    pictures: Pictures
    files: dict[str, int]
    memory_bytes: int

    @property
    def main(self) -> Score:
        """Return the metric that the release is judged by."""
        return self.scores[0]

    @property
    def memory_permille(self) -> int:
        """Return the network's share of the sensor's memory."""
        return _PERMILLE * self.memory_bytes // SENSOR_MEMORY_BYTES


def encode_receipt(receipt: Receipt) -> bytes:
    """Return the one text of a receipt.

    Raises:
        ExportError: It is larger than a receipt may be, or contradicts itself.
    """
    data = msgspec.json.encode(receipt, order="deterministic")
    read_receipt(data)
    return data


def read_receipt(data: bytes) -> Receipt:
    """Return the receipt in a file's bytes.

    Raises:
        ExportError: It is too large, or not a receipt.
    """
    if len(data) > RECEIPT_BYTES:
        raise ExportError(f"expected a receipt of at most {RECEIPT_BYTES} bytes, got {len(data)}")
    try:
        receipt = msgspec.json.decode(data, type=Receipt)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ExportError(f"not a receipt: {error}") from error
    problem = _problem(receipt)
    if problem:
        raise ExportError(f"not a receipt: expected {problem}")
    return receipt


def summary_of(receipt: Receipt) -> Summary:
    """Return what the signed manifest says of it."""
    main = receipt.main
    return Summary(
        metric=main.metric,
        float_permille=None if main.float32 is None else round(main.float32 * _PERMILLE),
        quantised_permille=round(main.quantised * _PERMILLE),
    )


def check_accuracy(
    receipt: Receipt | None, *, min_permille: int | None, max_drop_permille: int | None
) -> None:
    """Refuse a network that is not accurate enough to be signed.

    Args:
        receipt: What was measured; None: nothing was.
        min_permille: The least accuracy; None: none is asked.
        max_drop_permille: The most that quantising may cost; None: no matter how much.

    Raises:
        ExportError: It says what was asked, what was measured and what to do.
    """
    if min_permille is None and max_drop_permille is None:
        return
    if receipt is None:
        raise ExportError(
            "--min-map and --max-drop need an accuracy, and none was measured: give a data set "
            "with labelled pictures, and --eval-images of at least 1"
        )
    main, count = receipt.main, receipt.pictures.count
    if min_permille is not None and _permille(main.quantised) < min_permille:
        raise ExportError(
            f"expected a {main.metric} of at least {min_permille / _PERMILLE:.3f} (--min-map), "
            f"measured {main.quantised:.3f} on {count} pictures (float: {_words(main.float32)}). "
            "Train longer or on more pictures, take a larger --imgsz, or lower --min-map"
        )
    if max_drop_permille is None or main.float32 is None:
        return
    drop = main.float32 - main.quantised
    if _permille(drop) > max_drop_permille:
        raise ExportError(
            f"expected to lose at most {max_drop_permille / _PERMILLE:.3f} of {main.metric} to "
            f"quantisation (--max-drop), lost {drop:.3f}: {main.float32:.3f} float, "
            f"{main.quantised:.3f} quantised on {count} pictures. Calibrate with more and more "
            "typical pictures, try --method gptq, or raise --max-drop"
        )


def _permille(score: float) -> float:
    """Return a thousandfold that is no last bit off: a limit that is just met is met."""
    return round(score * _PERMILLE, 1)


def _words(score: float | None) -> str:
    return "not measured" if score is None else f"{score:.3f}"


def _problem(receipt: Receipt) -> str:
    """Return what was expected of a receipt and is not so; nothing where all is well."""
    scores: list[Score | ClassScore] = [*receipt.scores, *receipt.classes]
    values = [
        value
        for score in scores
        for value in (score.float32, score.quantised, score.stock)
        if value is not None
    ]
    counts = [
        receipt.pictures.count, receipt.pictures.objects, receipt.memory_bytes,
        *receipt.files.values(), *(one.objects for one in receipt.classes),
    ]  # fmt: skip
    expected = {
        "version 1": receipt.v == 1,
        f"the metrics {', '.join(METRICS[receipt.task])}": (
            tuple(score.metric for score in receipt.scores) == METRICS[receipt.task]
        ),
        "accuracies of 0 to 1": all(0 <= value <= 1 for value in values),
        "counts of at least 0": all(count >= 0 for count in counts),
        f"classes below {LABELS_MAX}": all(0 <= o.class_ < LABELS_MAX for o in receipt.classes),
    }
    return next((what for what, is_so in expected.items() if not is_so), "")
