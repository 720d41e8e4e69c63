"""One inference on its way out of a decoder: as objects, or written as JSON. Pure."""

from dataclasses import dataclass

from shared.decode.columns import Columns, json_of, objects_of
from shared.decode.results import Decoded, Problem
from shared.detections import Class


@dataclass(frozen=True, slots=True)
class Written:
    """What ``Decoded`` says, with the objects as the text of a JSON array, and as columns."""

    objects: bytes | None = None
    columns: Columns | None = None
    classes: tuple[Class, ...] | None = None
    problems: tuple[str, ...] = ()


def decoded(found: Columns | Problem) -> Decoded:
    """Return what was found as objects."""
    if isinstance(found, Problem):
        return Decoded(objects=(), problems=(found.word,))
    return Decoded(objects=objects_of(found))


def written(found: Columns | Problem, *, bytes_max: int) -> Written:
    """Return what was found as JSON; ``bytes_max``: of one message (``json_of``)."""
    if isinstance(found, Problem):
        return Written(objects=b"[]", problems=(found.word,))
    return Written(objects=json_of(found, bytes_max=bytes_max), columns=found)
