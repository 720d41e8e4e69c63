"""Read a YAML file written by people: every error has its line, and all are told at once.

PyYAML composes the nodes with their positions; nothing here lets YAML guess what a word means.
YAML 1.1 reads ``off`` as false and ``22:00`` as 1320: where text is expected, such a word is
refused with the quoting that mends it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TypeVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from shared.errors import InventoryError

_STRING = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_GOT_CHARACTERS_MAX = 40
_INTEGER = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_PERCENTAGE = re.compile(r"([0-9]{1,3})(?:\.([0-9]))?%")
PERMILLE_ALL = 1000

Value = TypeVar("Value")
Reader = Callable[[Node, "Problems"], Value | None]  # None: a problem was noted.


@dataclass(slots=True)
class Problems:
    """What is wrong with one file, in the order of its lines."""

    file: str
    found: list[tuple[int, int, str]] = field(default_factory=list[tuple[int, int, str]])

    def add(self, node: Node, text: str) -> None:
        """Note a problem at a node."""
        self.found.append((node.start_mark.line + 1, node.start_mark.column + 1, text))

    def expected(self, node: Node, what: str, *, names: tuple[str, ...] = ()) -> None:
        """Note what was expected, what came, and the known word that is nearest to it."""
        self.add(node, f"expected {what}, got {shown(node)}{nearest(node, names)}")

    def raise_if_any(self) -> None:
        """Raise InventoryError with all problems, one a line."""
        if self.found:
            lines = [
                f"{self.file}:{line}:{column}: {text}" for line, column, text in sorted(self.found)
            ]
            raise InventoryError("\n".join(dict.fromkeys(lines)))


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a mapping, as parsed and as documented."""

    name: str
    kind: str
    meaning: str
    default: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """The keys that a mapping may have."""

    title: str
    keys: tuple[Key, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the known keys."""
        return tuple(key.name for key in self.keys)


class Fields:
    """One mapping: unknown and repeated keys are problems, known ones are taken by name."""

    def __init__(self, node: Node, problems: Problems, section: Section) -> None:
        """Note what does not belong here."""
        self.node = node
        self._problems = problems
        self._section = section
        self._nodes: dict[str, Node] = {}
        for key, value in entries(node, problems):
            if key.value in section.names:
                self._nodes[key.value] = value
            else:
                known = ", ".join(section.names)
                near = nearest(key, section.names)
                problems.add(
                    key, f"unknown key {shown(key)} in {section.title}{near}; expected {known}"
                )

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def at(self, name: str) -> Node:
        """Return the node of a key, or of the whole mapping where it has none."""
        assert name in self._section.names
        return self._nodes.get(name, self.node)

    def take(self, name: str, reader: Reader[Value], default: Value) -> Value:
        """Return the value of a key, or the default where it is absent or wrong."""
        assert name in self._section.names
        node = self._nodes.get(name)
        value = None if node is None else reader(node, self._problems)
        return default if value is None else value

    def require(self, name: str, reader: Reader[Value], default: Value) -> Value:
        """Return the value of a key that must be there; the default stands in for errors only."""
        if name not in self._nodes and isinstance(self.node, MappingNode):
            self._problems.add(self.node, f"expected {name} in {self._section.title}, got none")
        return self.take(name, reader, default)


def compose(text: str, file: str) -> tuple[Node, Problems]:
    """Return the root node of a YAML text.

    Raises:
        InventoryError: It is not one YAML document.
    """
    problems = Problems(file)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "1:1" if mark is None else f"{mark.line + 1}:{mark.column + 1}"
        raise InventoryError(f"{file}:{where}: expected YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InventoryError(f"{file}:1:1: expected YAML: {error}") from error
    if node is None:
        raise InventoryError(f"{file}:1:1: expected a mapping, got an empty file")
    return node, problems


def entries(node: Node, problems: Problems) -> Iterator[tuple[ScalarNode, Node]]:
    """Yield keys and values of a mapping; a key that comes twice is a problem."""
    if not isinstance(node, MappingNode):
        problems.expected(node, "a mapping (key: value)")
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            problems.expected(key, "a key of one word")
        elif key.value in seen:
            problems.add(key, f"{key.value!r} comes twice, first in line {seen[key.value]}")
        else:
            seen[key.value] = key.start_mark.line + 1
            yield key, value


def items(node: Node, problems: Problems) -> tuple[Node, ...]:
    """Return the items of a list."""
    if isinstance(node, SequenceNode):
        return tuple(node.value)
    problems.expected(node, "a list")
    return ()


def is_null(node: Node) -> bool:
    """Say whether a key was written without a value."""
    return isinstance(node, ScalarNode) and node.tag == _NULL and node.style is None


def text(node: Node, problems: Problems) -> str | None:
    """Read text; a word that YAML takes for something else has to be quoted."""
    if not isinstance(node, ScalarNode):
        problems.expected(node, "text")
        return None
    if node.tag != _STRING:
        kind = node.tag.rpartition(":")[2]
        problems.add(
            node,
            f'expected text, got {node.value}, which YAML reads as {kind}: write "{node.value}"',
        )
        return None
    return str(node.value)


def matching(pattern: str, what: str) -> Reader[str]:
    """Return a reader of text of one form."""

    def read(node: Node, problems: Problems) -> str | None:
        value = text(node, problems)
        if value is not None and re.fullmatch(pattern, value) is None:
            problems.expected(node, what)
            return None
        return value

    return read


def choice(*names: Value) -> Reader[Value]:
    """Return a reader of one of some words."""

    def read(node: Node, problems: Problems) -> Value | None:
        value = text(node, problems)
        if value is None:
            return None
        for name in names:
            if name == value:
                return name
        words = tuple(map(str, names))
        problems.expected(node, " | ".join(words), names=words)
        return None

    return read


def boolean(node: Node, problems: Problems) -> bool | None:
    """Read ``true`` or ``false``, and no other word for them."""
    value = _plain(node)
    if value in {"true", "false"}:
        return value == "true"
    problems.expected(node, "true or false")
    return None


def integer(low: int, high: int) -> Reader[int]:
    """Return a reader of a whole number within bounds."""

    def read(node: Node, problems: Problems) -> int | None:
        value = _plain(node)
        if value is None or not _INTEGER.fullmatch(value) or not low <= int(value) <= high:
            problems.expected(node, f"a whole number from {low} to {high}")
            return None
        return int(value)

    return read


def permille(node: Node, problems: Problems) -> int | None:
    """Read a number from 0 to 1 as permille."""
    value = _plain(node)
    if value is None or not _NUMBER.fullmatch(value) or float(value) > 1:
        problems.expected(node, "a number from 0 to 1, e.g. 0.5")
        return None
    return round(float(value) * PERMILLE_ALL)


def percentage(node: Node, problems: Problems) -> int | None:
    """Read ``10%`` as 100 permille."""
    value = _plain(node)
    match = None if value is None else _PERCENTAGE.fullmatch(value)
    found = None if match is None else int(match[1]) * 10 + int(match[2] or 0)
    if found is None or found > PERMILLE_ALL:
        is_bare = value is not None and _NUMBER.fullmatch(value) is not None
        problems.expected(node, f"a percentage, e.g. {value}%" if is_bare else "a percentage (10%)")
        return None
    return found


def duration(node: Node, problems: Problems) -> int | None:
    """Read ``90s``, ``30m``, ``2h`` or ``1d`` as seconds."""
    value = _plain(node)
    match = None if value is None else _DURATION.fullmatch(value)
    if match is None:
        is_bare = value is not None and _INTEGER.fullmatch(value) is not None
        what = f"{value}s or {value}m" if is_bare else "90s, 30m, 2h or 1d"
        problems.expected(node, f"a duration with its unit, e.g. {what}")
        return None
    return int(match[1]) * _SECONDS[match[2]]


def pair_of(reader: Reader[int]) -> Reader[tuple[int, int]]:
    """Return a reader of ``[lowest, highest]``."""

    def read(node: Node, problems: Problems) -> tuple[int, int] | None:
        values = [reader(item, problems) for item in items(node, problems)]
        numbers = [value for value in values if value is not None]
        if len(numbers) < len(values):
            return None
        if len(numbers) != 2 or numbers[0] > numbers[1]:  # noqa: PLR2004 - a pair
            problems.expected(node, "[lowest, highest]")
            return None
        return numbers[0], numbers[1]

    return read


def list_of(reader: Reader[Value]) -> Reader[tuple[Value, ...]]:
    """Return a reader of a list of things, none of them twice."""

    def read(node: Node, problems: Problems) -> tuple[Value, ...] | None:
        values: list[Value] = []
        for item in items(node, problems):
            value = reader(item, problems)
            if value is not None and value in values:
                problems.add(item, f"{shown(item)} comes twice in this list")
            elif value is not None:
                values.append(value)
        return tuple(values)

    return read


def mapping_of(key: Reader[str], reader: Reader[Value]) -> Reader[Mapping[str, Value]]:
    """Return a reader of a mapping with keys of one form."""

    def read(node: Node, problems: Problems) -> Mapping[str, Value] | None:
        values: dict[str, Value] = {}
        for name_node, value_node in entries(node, problems):
            name, value = key(name_node, problems), reader(value_node, problems)
            if name is not None and value is not None:
                values[name] = value
        return values

    return read


def shown(node: Node) -> str:
    """Return what was written, for an error message."""
    if isinstance(node, ScalarNode):
        if is_null(node) and not node.value:
            return "nothing"
        return repr(str(node.value)[:_GOT_CHARACTERS_MAX])
    return "a list" if isinstance(node, SequenceNode) else "a mapping"


def nearest(node: Node, names: tuple[str, ...]) -> str:
    """Return a question about the known name that is nearest to what was written, if any is."""
    written = str(node.value) if isinstance(node, ScalarNode) else ""
    close = get_close_matches(written, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _plain(node: Node) -> str | None:
    """Return an unquoted word as it was written, whatever YAML takes it for."""
    if isinstance(node, ScalarNode) and node.style is None:
        return str(node.value)
    return None
