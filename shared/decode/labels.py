"""The names of a release's classes: a text file, one name a line, in the order of classes. Pure.

The exporter, the agent and its camera child read the file with this one function, because a line
that one of them skips names every class after it wrongly. It is strict where ``str.splitlines`` is
not: only a line feed ends a line, and a name holds no control character, so that as many names
come out as were written.
"""

import unicodedata
from collections.abc import Iterable

from shared.errors import LimitError, MalformedError
from shared.limits import LABELS_MAX, NAME_CHARACTERS_MAX

CHARACTER_BYTES_MAX = 4  # Of UTF-8.
LABELS_BYTES = LABELS_MAX * (NAME_CHARACTERS_MAX * CHARACTER_BYTES_MAX + 1)
_CONTROL = frozenset({"Cc", "Zl", "Zp"})  # Unicode's categories: controls, line and paragraph ends.
_SHOWN_CHARACTERS = 80


def read_labels(data: bytes) -> tuple[str, ...]:
    """Return the names in a labels file.

    Raises:
        LimitError: There are too many, or one is too long.
        MalformedError: It is not UTF-8, a line is blank, or a name holds a control character.
    """
    if len(data) > LABELS_BYTES:
        raise LimitError(f"labels: expected at most {LABELS_BYTES} bytes, got {len(data)}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"labels: expected UTF-8: {error}") from error
    return _checked(tuple(text.removesuffix("\n").split("\n")))


def write_labels(labels: Iterable[str]) -> bytes:
    """Return the labels file from which ``read_labels`` reads these very names.

    Raises:
        LimitError: There are too many, or one is too long.
        MalformedError: There is none, one is blank, or one holds a control character.
    """
    return "".join(f"{label}\n" for label in _checked(tuple(labels))).encode()


def _checked(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(labels) > LABELS_MAX:
        raise LimitError(f"labels: expected at most {LABELS_MAX}, got {len(labels)}")
    if not labels:
        raise MalformedError("labels: expected at least one")
    for number, label in enumerate(labels, start=1):
        shown = f"got {label[:_SHOWN_CHARACTERS]!r} in line {number}"
        if len(label) > NAME_CHARACTERS_MAX:
            raise LimitError(f"labels: expected at most {NAME_CHARACTERS_MAX} characters, {shown}")
        if not label.strip():
            raise MalformedError(f"labels: expected a name, {shown}")
        if any(unicodedata.category(character) in _CONTROL for character in label):
            raise MalformedError(f"labels: expected no control character, {shown}")
    return labels
