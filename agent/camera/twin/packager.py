"""A stand-in for Sony's ``imx500-package``: packerOut.zip -> network.rpk, in the real framing.

    python -m agent.camera.twin.packager -i packerOut.zip -o folder -f input_format.json

Sony's blocks hold the network for the sensor. Ours hold the simulator graph, which the zip must
carry beside Sony's files (controller/twins.py): the twin runs what was packaged and uploaded.
"""

import argparse
import json
import stat
import struct
import sys
import zipfile
from pathlib import Path

from agent.camera.packer import RPK_NAME
from agent.camera.rpk import CPIO_MAGIC, FOOTER, HEADER_BYTES, INFO_NAME, MAGIC
from shared.errors import MalformedError
from shared.graph import Graph

GRAPH_NAME = "simulator.onnx"
BLOCK_BYTES = 1024 * 1024
COMMAND_NAME = "imx500-package"
_TRAILER = "TRAILER!!!"
# Eight bits less 128: what the sensor makes of a pixel for a network of signed numbers.
NORM_SCALE, NORM_SHIFT = "0x400", "0x1800"
_SCALED = {"RGB": ("K00", "K11", "K22"), "BGR": ("K02", "K11", "K20")}
_SCALES, _SHIFTS = ("K00", "K02", "K11", "K20", "K22"), ("K03", "K13", "K23")


def main() -> int:
    """Do as the command does."""
    parser = argparse.ArgumentParser(prog=COMMAND_NAME)
    parser.add_argument("-i", dest="network", type=Path, required=True)
    parser.add_argument("-o", dest="folder", type=Path, required=True)
    parser.add_argument("-f", dest="formats", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        color = json.loads(arguments.formats.read_text())[0]["format"]
        with zipfile.ZipFile(arguments.network) as archive:
            graph = archive.read(GRAPH_NAME)
        (arguments.folder / RPK_NAME).write_bytes(rpk_of(graph, color=color))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, MalformedError) as error:
        print(f"{COMMAND_NAME}: {arguments.network}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def rpk_of(graph: bytes, *, color: str) -> bytes:
    """Return the packaged network of a graph.

    Raises:
        MalformedError: It is not a simulator graph with a fixed input.
    """
    size = Graph(graph).input_size
    if size is None:
        raise MalformedError("expected a graph with an input of a fixed size")
    parts = [graph[start : start + BLOCK_BYTES] for start in range(0, len(graph), BLOCK_BYTES)]
    info = [
        "networkID=000000", "apParamSize=0", "networkNum=1", "networkOrdinal=0",
        f"inputTensorWidth={size[0]}", f"inputTensorHeight={size[1]}",
        f"inputTensorFormat={color}",
        *(f"inputTensorNorm_{k}={NORM_SCALE if k in _SCALED[color] else 0}" for k in _SCALES),
        *(f"inputTensorNorm_{k}={NORM_SHIFT}" for k in _SHIFTS),
    ]  # fmt: skip
    blocks = b"".join(_block(part) for part in parts)
    return blocks + _cpio(INFO_NAME, "".join(f"{line}\n" for line in info).encode())


def _block(part: bytes) -> bytes:
    header = MAGIC + struct.pack(">I", len(part))
    return header.ljust(HEADER_BYTES, b"\0") + part + FOOTER


def _cpio(name: str, data: bytes) -> bytes:
    return _entry(name, data) + _entry(_TRAILER, b"")


def _entry(name: str, data: bytes) -> bytes:
    text = name.encode() + b"\0"
    numbers = (0, stat.S_IFREG | 0o644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(text), 0)
    head = CPIO_MAGIC + b"".join(f"{number:08X}".encode() for number in numbers) + text
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


if __name__ == "__main__":
    sys.exit(main())
