"""What differs between two releases: accuracy, sizes, memory, input, labels, origin. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from controller.export.receipt import Receipt
from shared.release import Manifest

Value = str | int | float | None
ARGUMENTS = "arguments"  # The key of the provenance under which the exporter keeps its options.
_DIGITS = 4  # Of a difference of accuracies: their own.


@dataclass(frozen=True, slots=True)
class Described:
    """A release as it is compared; without a receipt only the manifest's summary is known."""

    manifest: Manifest
    labels: tuple[str, ...]
    receipt: Receipt | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same; None: the release has it not, or does not tell."""

    about: str
    name: str
    one: Value
    other: Value

    @property
    def change(self) -> float | int | None:
        """Return by how much the second is more, where both are numbers."""
        if isinstance(self.one, str) or isinstance(self.other, str):
            return None
        if self.one is None or self.other is None:
            return None
        return round(self.other - self.one, _DIGITS)


def differences(one: Described, other: Described) -> tuple[Difference, ...]:
    """Return what differs, the most important first."""
    first, second = _facts(one), _facts(other)
    return tuple(
        Difference(about, name, first[about].get(name), second[about].get(name))
        for about in first
        for name in {**first[about], **second[about]}
        if first[about].get(name) != second[about].get(name)
    )


def _facts(release: Described) -> Mapping[str, Mapping[str, Value]]:
    manifest = release.manifest
    arguments, origin = _origin(manifest.provenance)
    return {
        "accuracy": dict(_accuracies(release)),
        "class": dict(_classes(release)),
        "network": {
            "task": manifest.task,
            "input": f"{manifest.input.width} x {manifest.input.height} {manifest.input.color}",
            "threshold": manifest.decode.threshold_permille / 1000,
            "keypoints": manifest.decode.keypoints,
            "memory": manifest.memory_bytes or None,
            "frame rate": manifest.frame_rate,
            "outputs": ", ".join(
                f"{output.name} {'x'.join(map(str, output.shape))}" for output in manifest.outputs
            ),
            "agent": manifest.requires.agent,
        },
        "size": {file.name: file.bytes for file in manifest.files},
        "label": {str(class_): label for class_, label in enumerate(release.labels)},
        "argument": arguments,
        "origin": origin,
    }


def _accuracies(release: Described) -> Iterator[tuple[str, Value]]:
    if release.receipt is not None:
        for score in release.receipt.scores:
            yield f"{score.metric}, quantised", score.quantised
            yield f"{score.metric}, float", score.float32
        pictures = release.receipt.pictures
        yield "measured on", f"{pictures.count} of {pictures.split}, {pictures.sha256[:12]}"
    elif (summary := release.manifest.receipt) is not None:
        for kind, permille in (
            ("quantised", summary.quantised_permille),
            ("float", summary.float_permille),
        ):
            yield f"{summary.metric}, {kind}", None if permille is None else permille / 1000


def _classes(release: Described) -> Iterator[tuple[str, Value]]:
    """Yield the main metric by the name of the class: its number may be another's elsewhere."""
    if release.receipt is not None:
        for score in release.receipt.classes:
            yield label_of(release.labels, score.class_), score.quantised


def label_of(labels: tuple[str, ...], class_: int) -> str:
    """Return the name of a class."""
    return labels[class_] if class_ < len(labels) else f"class {class_}"


def _origin(provenance: Mapping[str, str]) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return the exporter's options one by one, and the rest of the provenance."""
    rest: dict[str, Value] = {key: value for key, value in provenance.items() if key != ARGUMENTS}
    text = provenance.get(ARGUMENTS, "{}")
    try:
        options = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeError):  # An older exporter wrote words.
        return {}, {**rest, ARGUMENTS: text}
    return {
        name: None if option is None else _as_value(option) for name, option in options.items()
    }, rest


def _as_value(option: object) -> Value:
    if isinstance(option, str | int | float) and not isinstance(option, bool):
        return option
    return msgspec.json.encode(option).decode()
