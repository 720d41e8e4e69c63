"""Change a device's labels in the text of fleet.yaml, and nothing else of it. Pure.

People keep that file in git, with comments and in their own order: so only the span of the labels
is replaced, at the places that the YAML parser names, and the result is compared with the fleet
that it was meant to be.
"""

from collections.abc import Mapping
from dataclasses import replace

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from controller.document import compose
from controller.inventory import parse_fleet
from shared.errors import OperatorError

Labels = Mapping[str, str | None]  # None: take the label away.


def relabelled(text: str, device: str, changes: Labels, file: str = "fleet.yaml") -> str:
    """Return the text with other labels of one device.

    Raises:
        OperatorError: It is not declared there by its own name, or a label comes from defaults.
        InventoryError: A label's name or value is none.
    """
    key, value = _declared(text, device, file)
    own = _own_labels(value)
    for name, wanted in changes.items():
        if wanted is None and name not in own:
            raise OperatorError(
                f"{device} has no label {name!r} of its own in {file}, line"
                f" {key.start_mark.line + 1}; one of `defaults` can only be changed there"
            )
    labels = {**own, **changes}
    kept = {name: wanted for name, wanted in labels.items() if wanted is not None}
    after = _with_labels(text, value, kept)
    _check(text, after, device, file)
    return after


def parse_changes(written: tuple[str, ...]) -> dict[str, str | None]:
    """Return the changes in ``role=door`` (set) and ``role-`` (take away).

    Raises:
        OperatorError: One is neither.
    """
    changes: dict[str, str | None] = {}
    for word in written:
        name, is_set, value = word.partition("=")
        if is_set and name and value:
            changes[name] = value
        elif not is_set and len(word) > 1 and word.endswith("-"):
            changes[word[:-1]] = None
        else:
            raise OperatorError(f"expected key=value, or key- to take it away, got {word!r}")
    return changes


def _declared(text: str, device: str, file: str) -> tuple[ScalarNode, Node]:
    root, _ = compose(text, file)
    assert isinstance(root, MappingNode), "it was parsed before"
    devices = next(value for key, value in root.value if key.value == "devices")
    for key, value in devices.value:
        if key.value == device:
            return key, value
    raise OperatorError(
        f"{device} is declared in {file} only by a range; write a line of its own for it,"
        " and take it out of the range"
    )


def _own_labels(value: Node) -> dict[str, str]:
    node = _labels_node(value)
    if not isinstance(node, MappingNode):
        return {}
    return {str(key.value): str(label.value) for key, label in node.value}


def _labels_node(value: Node) -> Node | None:
    if not isinstance(value, MappingNode):
        return None
    return next((node for key, node in value.value if key.value == "labels"), None)


def _with_labels(text: str, value: Node, labels: Mapping[str, str]) -> str:
    written = "{" + ", ".join(f"{_word(k)}: {_word(v)}" for k, v in labels.items()) + "}"
    node = _labels_node(value)
    if node is not None:
        return _replaced(text, node.start_mark.index, _end(node), written)
    if isinstance(value, MappingNode) and value.value:
        start = value.value[0][0].start_mark.index
        column = value.value[0][0].start_mark.column
        after = ", " if value.flow_style else "\n" + " " * column
        return _replaced(text, start, start, f"labels: {written}{after}")
    return _replaced(text, value.start_mark.index, _end(value), f"{{labels: {written}}}")


def _end(node: Node) -> int:
    """Return where a node ends; a block mapping's own mark is after the comments that follow."""
    if isinstance(node, MappingNode) and not node.flow_style and node.value:
        return _end(node.value[-1][1])
    return int(node.end_mark.index)


def _replaced(text: str, start: int, end: int, new: str) -> str:
    return text[:start] + new + text[end:]


def _word(word: str) -> str:
    """Return a word as YAML reads it back as text: `off` and `7` have to be quoted."""
    try:
        is_plain = yaml.safe_load(word) == word
    except yaml.YAMLError:
        is_plain = False
    return word if is_plain else f'"{word}"'


def _check(before: str, after: str, device: str, file: str) -> None:
    """See that nothing else has changed: the text was edited, so what it says is compared."""
    old, new = parse_fleet(before, file), parse_fleet(after, file)
    labels = new.devices[device].settings.labels
    settings = replace(old.devices[device].settings, labels=labels)
    wanted = {**old.devices, device: replace(old.devices[device], settings=settings)}
    if new.devices != wanted or new.broker != old.broker or new.rollouts != old.rollouts:
        raise OperatorError(f"{file} is written in a way that cannot be edited; change {device}'s"
                            " labels there by hand")  # fmt: skip
