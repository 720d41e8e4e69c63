"""A release small enough to run anywhere, and a writer of the few ONNX messages that it needs.

The `onnx` package would pull in a protobuf that the export extra pins differently, for a graph of
four nodes; these are its wire format's two kinds of field.
"""

import json
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.camera.wire import Job, Simulation
from shared.release import (
    Decode,
    File,
    Input,
    Manifest,
    Output,
    Requires,
    Role,
    block_lengths,
    encode_manifest,
)

SIDE = 64
LABELS = ("circle", "square", "triangle")
NETWORK_NAME = "n0123456789ab"
FLOAT = 1


@dataclass
class Tiny:
    """A network that sees the same few boxes in every picture.

    ``extras`` are the raw outputs of other tasks: keypoints; coefficients and prototypes.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    network_name: str = NETWORK_NAME
    extras: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def graph(self) -> bytes:
        nms = {"score_threshold": 0.25, "iou_threshold": 0.7, "max_detections": 300}
        raw = {"boxes": self.boxes, "scores": self.scores, **self.extras}
        metadata = {
            "imx_network_name": self.network_name,
            "imx_lowered": json.dumps({"nms": nms, "raw_outputs": list(raw)}),
        }
        return model(
            nodes=[
                node("ReduceMean", ["images"], "mean"),
                node("Squeeze", ["mean"], "level"),
                node("Mul", ["level", "zero"], "none"),
                *(node("Add", [f"raw_{name}", "none"], name) for name in raw),
            ],
            constants={
                "zero": np.zeros((), np.float32),
                **{f"raw_{name}": value for name, value in raw.items()},
            },
            outputs={name: value.shape for name, value in raw.items()},
            metadata=metadata | self.metadata,
        )


def tiny(*, network_name: str = NETWORK_NAME) -> Tiny:
    """Two boxes far apart, a near duplicate of the first, and one below the threshold."""
    boxes = np.array([[[8, 8, 24, 24], [8, 8, 24, 25], [32, 16, 64, 48], [0, 0, 8, 8]]], np.float32)
    scores = np.zeros((1, 4, len(LABELS)), np.float32)
    scores[0, :, :] = [[0.75, 0, 0], [0.5, 0, 0], [0, 0, 0.875], [0.125, 0, 0]]
    return Tiny(boxes, scores, network_name)


def manifest_of(
    files: dict[str, tuple[Role, bytes]], *, version: int = 1, network_name: str = NETWORK_NAME
) -> Manifest:
    return Manifest(
        name="tiny",
        version=version,
        task="detect",
        frame_rate=30,
        network_name=network_name,
        input=Input(width=SIDE, height=SIDE, color="RGB"),
        outputs=(
            Output(name="boxes", shape=(1, 300, 4), dtype="float32"),
            Output(name="scores", shape=(1, 300), dtype="float32"),
            Output(name="labels", shape=(1, 300), dtype="int32"),
            Output(name="n_valid", shape=(1, 1), dtype="float32"),
        ),
        decode=Decode(threshold_permille=250),
        labels=len(LABELS),
        requires=Requires(agent="0.1.0"),
        memory_bytes=1000,
        golden=None,
        receipt=None,
        provenance={},
        files=tuple(_file(role, name, data) for name, (role, data) in files.items()),
    )


def stage(folder: Path, graph: bytes, **changes: object) -> Manifest:
    """Write a release into a folder and return its manifest, with other fields where asked."""
    files: dict[str, tuple[Role, bytes]] = {
        "simulator.onnx": ("simulator", graph),
        "labels.txt": ("labels", "\n".join(LABELS).encode()),
    }
    for name, (_, data) in files.items():
        (folder / name).write_bytes(data)
    return msgspec.structs.replace(manifest_of(files), **changes)


def job_of(folder: Path, manifest: Manifest, simulation: Simulation | None = None) -> Job:
    return Job(
        camera=0,
        kind="simulated",
        folder=str(folder),
        manifest=encode_manifest(manifest),
        frame_rate=manifest.frame_rate,
        threshold_permille=250,
        simulation=simulation or Simulation(),
    )


def model(
    *,
    nodes: list[bytes],
    constants: dict[str, NDArray[np.float32]],
    outputs: dict[str, tuple[int, ...]],
    metadata: dict[str, str],
) -> bytes:
    """Return an ONNX model with one input `images`, 1 x 3 x SIDE x SIDE."""
    graph = b"".join(
        [
            *(_field(1, part) for part in nodes),
            _field(2, b"tiny"),
            *(_field(5, _tensor(name, value)) for name, value in constants.items()),
            _field(11, _value("images", (1, 3, SIDE, SIDE))),
            *(_field(12, _value(name, shape)) for name, shape in outputs.items()),
        ]
    )
    pairs = (_field(1, key.encode()) + _field(2, text.encode()) for key, text in metadata.items())
    return b"".join(
        [
            _number(1, 8),  # ir_version
            _field(7, graph),
            _field(8, _field(1, b"") + _number(2, 13)),  # opset 13
            *(_field(14, pair) for pair in pairs),
        ]
    )


def node(operation: str, inputs: list[str], output: str) -> bytes:
    names = b"".join(_field(1, name.encode()) for name in inputs)
    return names + _field(2, output.encode()) + _field(4, operation.encode())


def _tensor(name: str, value: NDArray[np.float32]) -> bytes:
    sides = b"".join(_number(1, side) for side in value.shape)
    return sides + _number(2, FLOAT) + _field(8, name.encode()) + _field(9, value.tobytes())


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    sides = b"".join(_field(1, _number(1, side)) for side in shape)
    tensor = _number(1, FLOAT) + _field(2, sides)
    return _field(1, name.encode()) + _field(2, _field(1, tensor))


def _number(key: int, value: int) -> bytes:
    return _varint(key << 3) + _varint(value)


def _field(key: int, data: bytes) -> bytes:
    return _varint(key << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    return bytes(data)


def _file(role: Role, name: str, data: bytes) -> File:
    digest = sha256(data).hexdigest()
    blocks = tuple(digest for _ in block_lengths(len(data)))
    return File(role=role, name=name, bytes=len(data), sha256=digest, blocks=blocks)
