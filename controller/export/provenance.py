"""Where a network comes from: what the manifest says of it, and the name that follows from it.

What changes the network is an argument here; where files lie and how long we wait is not.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec

from controller.export.wire import BuildRequest

LICENCE = "AGPL-3.0"  # Of models that Ultralytics trained.
TOOLS = (
    "ultralytics-opencv-headless", "torch", "torchvision", "model-compression-toolkit",
    "mct-quantizers", "edge-mdt-cl", "edge-mdt-tpc", "imx500-converter", "uni-pytorch",
    "sdspconv", "conv-allocator", "uni-model", "onnx", "onnxruntime", "numpy",
)  # fmt: skip
NAME_CHARACTERS = 12  # Of the hash: two networks of one fleet will not share it.
_NO_ARGUMENTS = frozenset({
    "model", "data", "out", "keep", "tensorboard", "seconds_max",
    "golden_images", "eval_images", "min_map_permille", "max_drop_permille",
})  # fmt: skip


def arguments_of(request: BuildRequest) -> Mapping[str, object]:
    """Return the options that the network itself depends on."""
    fields: dict[str, object] = msgspec.to_builtins(request)
    fields.pop("type")
    return {name: value for name, value in fields.items() if name not in _NO_ARGUMENTS}


def tools() -> dict[str, str]:
    """Return the version of every tool that has a part in the network."""
    return {tool: version(tool) for tool in TOOLS}


def weights_sha256(model: Path) -> str:
    """Return the hash of the file; a structure that Ultralytics ships counts by its name."""
    if not model.is_file():
        return hashlib.sha256(model.name.encode()).hexdigest()
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def network_name(request: BuildRequest, *, weights_sha256: str, calibration_sha256: str) -> str:
    """Return a name that no other weights, pictures, arguments or tools give."""
    parts = {
        "weights": weights_sha256,
        "calibration": calibration_sha256,
        "arguments": arguments_of(request),
        "tools": tools(),
    }
    text = json.dumps(parts, sort_keys=True).encode()
    return f"n{hashlib.sha256(text).hexdigest()[:NAME_CHARACTERS]}"


def provenance_of(
    request: BuildRequest, *, weights_sha256: str, calibration: Mapping[str, str]
) -> dict[str, str]:
    """Return what the signed manifest says: weights, data, arguments, tools and host.

    The host counts because floating point differs between processors and their libraries.
    """
    return {
        "arguments": json.dumps(arguments_of(request), sort_keys=True),
        "host_machine": platform.machine(),
        "host_python": platform.python_version(),
        "host_system": platform.system(),
        "licence": LICENCE,
        "weights_sha256": weights_sha256,
        **{f"calibration_{name}": value for name, value in calibration.items()},
        **tools(),
    }
