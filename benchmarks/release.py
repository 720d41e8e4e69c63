"""The two releases of a run: what the fleet runs before, and the one of 3 MB that is measured.

Both are real graphs of examples/shapes. A simulated camera fetches only graph and labels, so the
second graph is filled up, in metadata that nobody reads, until the release has its length; the
filling is random and comes first, so that the two releases share no block.
"""

import secrets
from pathlib import Path

from controller.demo import SHAPES
from controller.export.pack import FILE_NAMES, make_release
from controller.service import Controller

RELEASE_BYTES = 3_000_000
NAME = "shapes"
BEFORE, MEASURED = f"{NAME}@1", f"{NAME}@2"
_METADATA_TAG, _KEY_TAG, _VALUE_TAG = b"\x72", b"\x0a", b"\x12"  # ModelProto.metadata_props
_HEAD_BYTES = 32  # More than tags, key and lengths take.


def add_releases(controller: Controller, folder: Path) -> None:
    """Sign both."""
    folder.mkdir()
    for version, name in ((1, "first"), (2, "second")):
        graph = (SHAPES / name / FILE_NAMES["simulator"]).read_bytes()
        labels = SHAPES / name / FILE_NAMES["labels"]
        if version > 1:
            graph = filled(graph, RELEASE_BYTES - labels.stat().st_size)
        path = folder / f"{name}.onnx"
        path.write_bytes(graph)
        manifest, files = make_release(
            {"simulator": path, "labels": labels}, name=NAME, version=version
        )
        controller.import_release(manifest, files)
        controller.sign_release(manifest.release, None)


def filled(graph: bytes, length: int) -> bytes:
    """Return the graph in exactly that many bytes: a message of protobuf is a list of fields."""
    key = _field(_KEY_TAG, b"padding")
    size = length - len(graph) - _HEAD_BYTES
    assert size > 0, "the graph is longer than the release is to be"
    while True:
        value = _field(_VALUE_TAG, secrets.token_hex(size // 2 + 1)[:size].encode())
        made = _field(_METADATA_TAG, key + value) + graph
        if len(made) == length:
            return made
        size += length - len(made)


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])
