"""What a checkpoint of Ultralytics says about its network, without torch and without running it.

A ``.pt`` file is a zip around a pickle, and loading a pickle runs what it says. So it is read here
first (`controller.export.pickled`), and refused if it names anything but what `is_trusted` lists:
layers of torch and Ultralytics, tensors, and plain containers. What passes is then loaded in the
child with Ultralytics' own restricted loader (``ULTRALYTICS_SAFE_LOAD``), which is torch's
``weights_only`` with those same classes: 17 kinds of checkpoint of version 8.4.190 loaded with it,
0.02 to 0.26 s slower than without. Trusted are therefore the installed torch and Ultralytics, and
nothing in the file.
"""

import io
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from controller.export.network import Network, head_name
from controller.export.pickled import PICKLE_BYTES_MAX, Made, read_pickle
from shared.errors import ExportError, LimitError, MalformedError, UntrustedError

FILE_BYTES_MAX = 1024**3  # YOLO11x in training, with its optimiser: 0.7 GB.
DIRECTORY_BYTES_MAX = 8 * 1024 * 1024  # Of the zip: YOLO11n has 500 entries, 40 KB.
LABELS_MAX = 10_000  # Of a structure; the release has a tighter bound.
WHAT_TO_DO = "expected a model that Ultralytics trained, e.g. runs/detect/train/weights/best.pt"
TRUST = (
    "A .pt file is a pickle, and loading one runs what it says: only layers of torch and "
    "Ultralytics, tensors and plain containers are trusted. Take the file from whom you trust, or "
    "train the model yourself"
)
_TRUSTED = re.compile(
    r"""
    (torch|ultralytics)\.nn\.modules(\.[a-z_]+)?\.[A-Z]\w*
    | torch\.nn\.parameter\.Parameter
    | ultralytics\.nn\.tasks\.[A-Z]\w*Model
    | ultralytics\.utils\.(loss|tal)\.(v8|v10|E2E|[A-Z])\w*
    | ultralytics(\.yolo)?\.utils\.IterableSimpleNamespace
    | torch\._utils\._rebuild_(tensor_v2|parameter)
    | torch\.((Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage|Size|device)
    | torch\.(float|int|bfloat|uint)\d+
    | torchvision\.transforms\.transforms\.(Compose|Normalize|Resize|CenterCrop|ToTensor)
    | torchvision\.transforms\.functional\.InterpolationMode
    | collections\.OrderedDict | (__builtin__|builtins)\.(set|getattr)
    | pathlib(\._local)?\.(Posix|Windows|PurePosix)Path
    | numpy\.dtype | numpy\._?core\.multiarray\.scalar | _codecs\.encode
    """,
    re.VERBOSE,
)
_TASKS = {
    "Detection": "detect",
    "Segmentation": "segment",
    "Pose": "pose",
    "Classification": "classify",
    "OBB": "obb",
}
_PARAMETER = "torch._utils._rebuild_parameter"
_TENSOR = "torch._utils._rebuild_tensor_v2"


def is_trusted(name: str) -> bool:
    """Return whether a checkpoint may name this class or function."""
    return _TRUSTED.fullmatch(name) is not None


def read_checkpoint(path: Path) -> Network:
    """Return what the network in a ``.pt`` file is.

    Raises:
        ExportError: It is no checkpoint, holds no network, or would run foreign code.
    """
    data = _pickle_of(path)
    try:
        document = read_pickle(data, is_trusted=is_trusted)
    except UntrustedError as error:
        raise ExportError(f"{path} would run foreign code: {error}. {TRUST}") from error
    except (LimitError, MalformedError) as error:
        raise ExportError(f"{path} does not read as a model ({error}): {WHAT_TO_DO}") from error
    model = _model(document)
    if model is None:
        raise ExportError(f"{path} holds tensors but no network: {WHAT_TO_DO}")
    assert isinstance(document, dict)
    return _network(model, document)


class _Bounded(io.FileIO):
    """A file of which a zip's directory cannot take all memory: it is read in one piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > DIRECTORY_BYTES_MAX:
            raise zipfile.BadZipFile(f"a directory of {size} bytes")
        return super().read(size) or b""


def _pickle_of(path: Path) -> bytes:
    if path.is_dir():
        raise ExportError(f"{path} is a folder: {WHAT_TO_DO}")
    if not path.is_file():
        raise ExportError(f"there is no model file {path}: {WHAT_TO_DO}")
    if path.suffix != ".pt":
        raise ExportError(f"{path.name} is not a .pt file: {WHAT_TO_DO}")
    size = path.stat().st_size
    if size > FILE_BYTES_MAX:
        raise ExportError(f"expected a model of at most {FILE_BYTES_MAX} bytes, got {size}: {path}")
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
            return _entry(archive, path)
    # A damaged entry: zipfile has a word of its own for each way.
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError, ValueError) as error:
        raise ExportError(f"{path} does not read as a model ({error}): {WHAT_TO_DO}") from error


def _entry(archive: zipfile.ZipFile, path: Path) -> bytes:
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise ExportError(f"{path} is a TorchScript archive, already exported: {WHAT_TO_DO}")
    pickles = [name for name in names if name.endswith("data.pkl")]
    if len(pickles) != 1:
        raise ExportError(f"{path} is a zip file but holds no model: {WHAT_TO_DO}")
    with archive.open(pickles[0]) as entry:
        return entry.read(PICKLE_BYTES_MAX + 1)


def _model(document: object) -> Made | None:
    """Return the network that Ultralytics would take: the averaged one, where there is one."""
    if not isinstance(document, dict):
        return None
    models = (document.get("ema"), document.get("model"))
    found = (model for model in models if isinstance(model, Made) and _children(model))
    return next(found, None)


def _network(model: Made, document: dict[object, object]) -> Network:
    state = _dict(model.state)
    structure = _dict(state.get("yaml"))
    layers = list(_children(_child(model, "model")).values())
    arguments = _dict(document.get("train_args"))
    kind = model.name.rpartition(".")[2].removesuffix("Model")
    pixels = arguments.get("imgsz")
    return Network(
        task=_TASKS.get(kind, kind),
        named=Path(str(structure.get("yaml_file") or "")).name,
        layers=tuple(_layer(layer) for layer in layers),
        channels=_channels(layers[0]) if layers else 0,
        parameters=sum(_numbers(model)),
        labels=_labels(state.get("names"), structure.get("nc")),
        keypoints=keypoints_of(state.get("kpt_shape") or structure.get("kpt_shape")),
        trained_pixels=pixels if isinstance(pixels, int) else None,
    )


def _layer(layer: object) -> str:
    """Return the class of a layer, with those of the blocks that it repeats."""
    children = _children(layer)
    kind = _class(layer)
    if "dfl" in children:
        state = _dict(layer.state) if isinstance(layer, Made) else {}
        reg_max = state.get("reg_max", 1)
        return head_name(
            kind,
            is_end2end="one2one_cv2" in children,
            reg_max=reg_max if isinstance(reg_max, int) else 1,
        )
    blocks = _children(children.get("m"))
    return f"{kind}({','.join(_class(block) for block in blocks.values())})" if blocks else kind


def _numbers(model: Made) -> Iterator[int]:
    """Yield the size of each parameter once."""
    seen: set[int] = set()
    waiting: list[object] = [model]
    while waiting:
        module = waiting.pop()
        if not isinstance(module, Made) or id(module) in seen:
            continue
        seen.add(id(module))
        waiting += _children(module).values()
        for parameter in _dict(_dict(module.state).get("_parameters")).values():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield math.prod(_shape(parameter))


def _shape(parameter: object) -> tuple[int, ...]:
    """Return the sides of a parameter; none is zero numbers."""
    match parameter:
        case Made(name=name, arguments=(Made(name=inner, arguments=(_, _, tuple(sides), *_)), *_)):
            if (name, inner) == (_PARAMETER, _TENSOR):
                return tuple(side for side in sides if isinstance(side, int)) or (1,)
        case _:
            pass
    return (0,)


def _channels(layer: object) -> int:
    """Return what the first convolution puts out."""
    weight = _dict(_dict(_state_of(_child(layer, "conv"))).get("_parameters")).get("weight")
    return _shape(weight)[0]


def _labels(names: object, count: object) -> tuple[str, ...]:
    if isinstance(names, dict) and names:
        return tuple(str(name)[:200] for name in names.values() if isinstance(name, str | int))
    return numbered(count)


def numbered(count: object) -> tuple[str, ...]:
    """Return as many names as there are classes, where nobody named them."""
    bounded = min(count, LABELS_MAX) if isinstance(count, int) else 0
    return tuple(map(str, range(bounded)))


def keypoints_of(value: object) -> tuple[int, int] | None:
    """Return a shape of keypoints, from a checkpoint or a YAML file."""
    match value:
        case [int(points), int(numbers)] | (int(points), int(numbers)):
            return points, numbers
        case _:
            return None


def _class(module: object) -> str:
    return module.name.rpartition(".")[2] if isinstance(module, Made) else "?"


def _child(module: object, name: str) -> object:
    return _children(module).get(name)


def _children(module: object) -> dict[object, object]:
    return _dict(_dict(_state_of(module)).get("_modules"))


def _state_of(module: object) -> object:
    return module.state if isinstance(module, Made) else None


def _dict(value: object) -> dict[object, object]:
    return value if isinstance(value, dict) else {}
