"""The golden set: held-out pictures, and what the quantised network makes of them. No torch.

Written for shared/golden.py to read, and small enough for it. The same pictures give the same
bytes: zip's dates are set to its first day.
"""

import io
import zipfile
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from shared.decode.results import Tensors
from shared.golden import GOLDEN_BYTES, INPUTS_MAX
from shared.graph import Graph
from shared.limits import FILE_BYTES

TRIED_MAX = 64  # Pictures that are looked at for some with objects in them.
HEADER_BYTES = 1_024  # Of an array in the file, at most: what it adds to its bytes.
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # The earliest that zip can say.

Pixels = NDArray[np.uint8]
Example = tuple[Pixels, Tensors]


def golden_of(pictures: Iterable[Pixels], *, graph: Graph, count: int) -> bytes:
    """Return a golden file, or nothing where there is no picture.

    Args:
        pictures: As the network sees them, none of them used for calibration.
        graph: The release's own, with its own threshold.
        count: How many examples at most; fewer where more would be too large.
    """
    chosen = _chosen(pictures, graph=graph, count=min(count, INPUTS_MAX))
    while chosen:
        data = _packed(chosen)
        if len(data) <= FILE_BYTES:
            return data
        chosen.pop()
    return b""


def _chosen(pictures: Iterable[Pixels], *, graph: Graph, count: int) -> list[Example]:
    """Return the first pictures with something in them, and others only in want of those."""
    telling: list[Example] = []
    empty: list[Example] = []
    for _, picture in zip(range(TRIED_MAX), pictures, strict=False):
        if len(telling) == count:
            break
        example = (picture, graph.run(picture))
        (telling if _tells(graph, example[1]) else empty).append(example)
        del empty[count:]
    return list(_fitting((telling + empty)[:count]))


def _tells(graph: Graph, outputs: Tensors) -> bool:
    """Say whether anything was found; a classifier always guesses."""
    return graph.nms is None or bool(np.any(outputs[1]))


def _fitting(examples: Iterable[Example]) -> Iterator[Example]:
    """Yield as many as unpack to no more than a golden set may."""
    left = GOLDEN_BYTES
    for picture, tensors in examples:
        left -= sum(array.nbytes + HEADER_BYTES for array in (picture, *tensors))
        if left < 0:
            return
        yield picture, tensors


def _packed(examples: list[Example]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for number, (picture, tensors) in enumerate(examples):
            _add(archive, f"input_{number}", picture)
            for place, tensor in enumerate(tensors):
                _add(archive, f"output_{number}_{place}", tensor)
    return file.getvalue()


def _add(archive: zipfile.ZipFile, name: str, array: NDArray[np.generic]) -> None:
    content = io.BytesIO()
    np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
    member = zipfile.ZipInfo(f"{name}.npy", date_time=_FIRST_DAY)
    member.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(member, content.getvalue(), compresslevel=9)
