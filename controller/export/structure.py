"""What a structure of Ultralytics, such as ``yolo11n.yaml``, says about its network.

Ultralytics takes the scale from the file's name, looks for ``yolo11n.yaml`` and then for
``yolo11.yaml``, where it is told and then among those that it ships. So do we, and import nothing.
"""

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import yaml

from controller.export.checkpoint import keypoints_of, numbered
from controller.export.network import FULL_CHANNELS, HEADS, Network, head_name
from shared.errors import ExportError, LimitError, StorageError
from shared.files import read_bounded

STRUCTURE_BYTES_MAX = 256 * 1024  # yolo11.yaml: 2 KB.
LAYERS_MAX = 1_000
SUFFIXES = frozenset({".yaml", ".yml"})
REG_MAX = 16  # Steps of a box's side, where the structure does not say.
WIDTH_STEP = 8  # Channels come in multiples of it.
_SCALE = re.compile(r"yolo(?:e-)?v?\d+([nslmx])")
_WITHOUT_SCALE = re.compile(r"(\d+)([nslmx])(.+)?$")
_DEEP_SCALES = frozenset("mlx")  # Whose C3k2 all repeat C3k.
_REPEATED = {"C3k2": "Bottleneck", "C2f": "Bottleneck", "C2PSA": "PSABlock"}
# Parameters at widths 0.25 and 0.5, with 80 classes (a classifier: 1,000), as Ultralytics counts.
_PARAMETERS = {
    ("YOLO11", "detect"): (2_624_080, 9_458_752),
    ("YOLO11", "pose"): (2_908_507, 9_948_811),
    ("YOLO11", "segment"): (2_876_848, 10_113_248),
    ("YOLO11", "classify"): (2_812_104, 6_724_008),
    ("YOLOv8", "detect"): (3_157_200, 11_166_560),
    ("YOLOv8", "pose"): (3_295_470, 11_626_046),
    ("YOLOv8", "segment"): (3_409_968, 11_821_056),
    ("YOLOv8", "classify"): (2_719_288, 6_361_736),
}


def find_structure(model: str) -> Path:
    """Return the file that Ultralytics would take for a structure's path or name.

    Raises:
        ExportError: There is none.
    """
    path = Path(model)
    general = path.with_name(_WITHOUT_SCALE.sub(r"\1\3", path.name))
    shipped = _shipped()
    for candidate in (path, general, shipped.get(path.name), shipped.get(general.name)):
        if candidate is not None and candidate.is_file():
            return candidate
    raise ExportError(
        f"there is no structure {path.name}, neither in {path.parent} nor among those that "
        "Ultralytics ships: expected e.g. yolo11n.yaml or yolov8n-pose.yaml"
    )


def read_structure(model: str) -> Network:
    """Return what the network of a structure would be; it has no weights.

    Raises:
        ExportError: It is no structure of a YOLO network.
    """
    file = find_structure(model)
    name = Path(model).name
    try:
        document = yaml.safe_load(read_bounded(file, STRUCTURE_BYTES_MAX) or b"")
        return _network(document, name)
    except (LimitError, StorageError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ExportError(f"{file} does not read as YAML: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ExportError(
            f"{file} is no structure of a YOLO network ({error!r}): expected backbone, head and "
            "scales as in Ultralytics' yolo11.yaml"
        ) from error


def _shipped() -> dict[str, Path]:
    spec = find_spec("ultralytics")
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
    return {path.name: path for root in roots for path in root.glob("cfg/models/*/*.yaml")}


def _network(document: "dict[str, object]", name: str) -> Network:
    scale = _scale_of(document, name)
    depth, width, channels_max = scale[1]
    rows = [*_rows(document["backbone"]), *_rows(document["head"])]
    if len(rows) > LAYERS_MAX:
        raise ValueError(f"{len(rows)} layers")
    layers = [_layer(row, depth=depth, is_deep=scale[0] in _DEEP_SCALES) for row in rows[:-1]]
    kind = str(rows[-1][2])
    reg_max = document.get("reg_max", REG_MAX)
    is_end2end = bool(document.get("end2end"))
    layers.append(head_name(kind, is_end2end=is_end2end, reg_max=int(str(reg_max))))
    task = next((task for task, head in HEADS.items() if head == kind), kind)
    network = Network(
        task=task,
        named=name,
        layers=tuple(layers),
        channels=_channels(min(FULL_CHANNELS, channels_max) * width),
        parameters=0,
        labels=numbered(document.get("nc")),
        keypoints=keypoints_of(document.get("kpt_shape")) if task == "pose" else None,
        is_trained=False,
    )
    return _with_parameters(network)


def _scale_of(document: "dict[str, object]", name: str) -> tuple[str, tuple[float, float, float]]:
    """Return the scale of the file's name, or the first; and depth, width, most channels."""
    scales = document.get("scales")
    if not isinstance(scales, dict):
        depth, width = document.get("depth_multiple", 1.0), document.get("width_multiple", 1.0)
        return "", (float(str(depth)), float(str(width)), float("inf"))
    found = _SCALE.search(Path(name).stem)
    letter = found[1] if found else next(iter(scales))
    depth, width, channels_max = scales[letter]
    return letter, (float(depth), float(width), float(channels_max))


def _rows(value: object) -> list[list[object]]:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise TypeError("expected lists of layers")
    return value


def _layer(row: list[object], *, depth: float, is_deep: bool) -> str:
    _, repeats, module, arguments = row
    if not isinstance(repeats, int) or not isinstance(arguments, list):
        raise TypeError(f"expected [from, repeats, module, arguments], got {str(row)[:80]}")
    kind = str(module).removeprefix("nn.")
    block = _REPEATED.get(kind)
    if block is None:
        return kind
    if kind == "C3k2" and (is_deep or arguments[1:2] == [True]):
        block = "C3k"
    count = max(round(repeats * depth), 1) if repeats > 1 else repeats
    if not 0 < count <= LAYERS_MAX:
        raise ValueError(f"{count} blocks")
    return f"{kind}({','.join([block] * count)})"


def _channels(value: float) -> int:
    return max(WIDTH_STEP, -int(-value // WIDTH_STEP) * WIDTH_STEP)


def _with_parameters(network: Network) -> Network:
    """Add the number of parameters: a curve through two known widths, 3 % low at half of n."""
    known = _PARAMETERS.get((network.family or "", network.task))
    if known is None:
        return network
    narrow, wide = known  # a w^2 + b w at w = 1/4 and 1/2.
    square = 8 * (wide - 2 * narrow)
    linear = 4 * narrow - square / 4
    return replace(network, parameters=round(square * network.width**2 + linear * network.width))
