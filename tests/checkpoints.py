"""Files like those that torch.save writes of Ultralytics' networks, made without torch.

They hold the same classes, states and instructions (protocol 2), and no weights: enough to be read,
not to be loaded. tests/export/test_refusals.py compares with files that Ultralytics wrote.
"""

import functools
import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from controller.export.network import layers_of

LABELS = ("circle", "square", "triangle")
KINDS = {
    "detect": "Detection", "segment": "Segmentation", "pose": "Pose", "classify": "Classification",
}  # fmt: skip
BLOCK = "ultralytics.nn.modules.block"


class _Writer(pickle._Pickler):
    """Writes a class by its name alone: nothing has to be importable."""

    def save_global(self, obj: object, name: object = None) -> None:
        del name
        module, text = obj.__module__, obj.__qualname__  # type: ignore[attr-defined]
        self.write(pickle.GLOBAL + f"{module}\n{text}\n".encode())
        self.memoize(obj)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, type: save_global}

    def persistent_id(self, obj: object) -> object:
        return ("storage", named("torch.FloatStorage"), "0", "cpu", 1) if obj is STORAGE else None


class Call:
    """What a pickle calls with what."""

    def __init__(self, function: str, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce_ex__(self, _: object) -> tuple[object, ...]:
        return named(self.function), self.arguments


STORAGE = Call("nothing")


@functools.cache
def named(name: str) -> type:
    module, _, attribute = name.rpartition(".")
    return type(attribute, (), {"__module__": module, "__qualname__": attribute})


def pickled(value: object) -> bytes:
    file = io.BytesIO()
    _Writer(file, protocol=2).dump(value)
    return file.getvalue()


def instructions(data: bytes) -> set[str]:
    return {instruction.name for instruction, _, _ in pickletools.genops(data)}


def parameter(*sides: int) -> Call:
    tensor = Call("torch._utils._rebuild_tensor_v2", STORAGE, 0, sides, (1,), 0, OrderedDict())
    return Call("torch._utils._rebuild_parameter", tensor, 1, OrderedDict())


def module(
    name: str,
    children: Mapping[str, object] | None = None,
    parameters: Mapping[str, object] | None = None,
    **state: object,
) -> object:
    made = named(name)()
    made.__dict__.update(
        {"training": False, "_parameters": OrderedDict(parameters or {}),
         "_modules": OrderedDict(children or {}), **state}
    )  # fmt: skip
    return made


def layer(text: str) -> object:
    """Return a layer as `network.layers_of` writes it: C3k2(Bottleneck)."""
    name, _, blocks = text.rstrip(")").partition("(")
    if not blocks:
        return module(f"ultralytics.nn.modules.conv.{name}")
    repeated = {str(i): module(f"{BLOCK}.{block}") for i, block in enumerate(blocks.split(","))}
    return module(
        f"{BLOCK}.{name}", {"m": module("torch.nn.modules.container.ModuleList", repeated)}
    )


def document(  # noqa: PLR0913 - one for each thing that is found
    *,
    task: str = "detect",
    family: str = "YOLO11",
    layers: tuple[str, ...] | None = None,
    end2end: bool = False,
    channels: int = 16,
    parameters: int = 2_590_425,
    labels: tuple[str, ...] = LABELS,
    keypoints: tuple[int, int] | None = None,
    named_as: str = "yolo11n.yaml",
) -> dict[str, object]:
    """Return a checkpoint: what torch.save gets."""
    *body, head = layers or layers_of(family, task)
    first = {
        "conv": module("torch.nn.modules.conv.Conv2d", None, {"weight": parameter(channels, 3)})
    }
    parts = [module("ultralytics.nn.modules.conv.Conv", first), *map(layer, body[1:])]
    children = {"dfl": module(f"{BLOCK}.DFL")} if task != "classify" else {}
    if end2end:
        children["one2one_cv2"] = module("torch.nn.modules.container.ModuleList")
    rest = {"bias": parameter(parameters - 3 * channels)}
    parts.append(module(f"ultralytics.nn.modules.head.{head}", children, rest, reg_max=16))
    sequence = {str(number): part for number, part in enumerate(parts)}
    network = module(
        f"ultralytics.nn.tasks.{KINDS[task]}Model",
        {"model": module("torch.nn.modules.container.Sequential", sequence)},
        yaml={"nc": len(labels), "yaml_file": named_as},
        names=dict(enumerate(labels)),
        **({"kpt_shape": list(keypoints)} if keypoints else {}),
    )
    return {"epoch": -1, "ema": None, "model": network, "train_args": {"imgsz": 160}}


def write(path: Path, data: bytes, *, inner: str = "best/data.pkl") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(inner, data)
        archive.writestr("best/data/0", bytes(5_000))
    return path


def checkpoint(path: Path, **fields: object) -> Path:
    """Write a checkpoint of a network with these fields."""
    return write(path, pickled(document(**fields)))  # type: ignore[arg-type]


def structure(task: str = "detect") -> dict[str, object]:
    """Return what Ultralytics' yolo11.yaml says."""
    rows: list[list[object]] = []
    for text in layers_of("YOLO11", task):
        name, _, blocks = text.partition("(")
        rows.append([-1, 2 if blocks else 1, name, [64, blocks == "C3k)"]])
    return {
        "nc": 80, "backbone": rows[:11], "head": rows[11:],
        "scales": {"n": [0.5, 0.25, 1024], "s": [0.5, 0.5, 1024], "m": [0.5, 1.0, 512]},
    }  # fmt: skip
