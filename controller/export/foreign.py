"""A folder that plain Ultralytics exported for the IMX500: what is known of it, and its graph.

Such a folder has no simulator graph, and its network is called ``model_imx`` like all others. Its
coordinates may be wrong as well: stock export rounds the constants that boxes are computed from,
and above 512 px they fall between the steps. Reading one needs the ``onnx`` package.
"""

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from controller.export.convert import output_shapes
from controller.export.facts import OUTPUTS, Facts
from controller.export.pack import FILE_NAMES
from controller.export.predict import Package, read_package
from controller.export.wire import KEPT_SUFFIX
from shared.decode.labels import write_labels
from shared.errors import ExportError, RefusedError
from shared.release import Input, Output, Task

METADATA_CHARACTERS_MAX = 200_000  # A thousand names take some twenty thousand.
INEXACT = (
    "its coordinates are not those that were trained: {why}. Objects far from the upper left "
    "corner lose the most; at 640 px such a detector reached an mAP50-95 of 0.294, one that "
    "`fleetctl model build` made of the same weights 0.484 (float: 0.512)"
)
_PERMILLE = 1000


@dataclass(frozen=True, slots=True)
class Foreign:
    """What such a folder says.

    Attributes:
        network: Its ONNX file.
        sha256: Of that file.
        labels: Names by class.
        facts: Of the network, as far as the folder says; memory and origin are open.
    """

    network: Path
    sha256: str
    labels: tuple[str, ...]
    facts: Facts


def is_foreign(folder: Path) -> bool:
    """Say whether it looks like a folder of Ultralytics' rather than a package of ours."""
    return not (folder / FILE_NAMES["simulator"]).exists() and any(folder.glob("*.onnx"))


def read_foreign(folder: Path) -> Foreign:
    """Return what the folder says of its network.

    Raises:
        ExportError: It is not such a folder, or the ``onnx`` package is not installed.
    """
    if find_spec("onnx") is None:
        raise ExportError(
            f"{folder} was exported by Ultralytics itself; reading it needs the onnx package, "
            "which comes with the export extra. Run, in imxfleet's folder: make export"
        )
    networks = sorted(folder.glob("*.onnx"))
    if len(networks) != 1:
        raise ExportError(
            f"expected one .onnx file, as in a folder ...{KEPT_SUFFIX}; "
            f"got {len(networks)}: {folder}"
        )
    from controller.export.foreign_network import read_network  # noqa: PLC0415 - it needs onnx.

    network = networks[0]
    read = read_network(network)
    task = _task(read.metadata)
    width, height = read.size
    threshold = 0.0 if read.score_threshold is None else read.score_threshold
    shapes = output_shapes(folder / FILE_NAMES["dnn_params"])
    if len(shapes) != len(OUTPUTS[task]) or len(shapes) != len(read.dtypes):
        raise ExportError(f"expected {len(OUTPUTS[task])} outputs for {task}, got {len(shapes)}")
    return Foreign(
        network=network,
        sha256=hashlib.sha256(network.read_bytes()).hexdigest(),
        labels=_labels(read.metadata),
        facts=Facts(
            task=task,
            network_name=network.stem,
            input=Input(width=width, height=height, color="RGB"),
            outputs=tuple(
                Output(name=name, shape=(1, *shape), dtype=dtype)
                for name, shape, dtype in zip(OUTPUTS[task], shapes, read.dtypes, strict=True)
            ),
            keypoints=_keypoints(read.metadata) if task == "pose" else None,
            threshold_permille=round(threshold * _PERMILLE),
            memory_bytes=0,
            provenance={},
        ),
    )


def lower_foreign(foreign: Foreign, folder: Path, *, facts: Facts) -> tuple[str, ...]:
    """Write simulator graph and labels into a folder; return what its owner should know.

    Raises:
        ExportError: The network has an operator that no simulator graph stands for.
    """
    from controller.export.lower import lower  # noqa: PLC0415 - it needs onnx.

    try:
        (folder / FILE_NAMES["labels"]).write_bytes(write_labels(foreign.labels))
    except RefusedError as error:
        raise ExportError(f"the model's class names do not do: {error}") from error
    target = folder / FILE_NAMES["simulator"]
    try:
        lower(foreign.network, target, facts=facts, labels=foreign.labels)
    except ExportError as refused:
        # Where the coordinates are all that is wrong with it, it is what the sensor would do.
        lower(foreign.network, target, facts=facts, labels=foreign.labels, is_strict=False)
        return (INEXACT.format(why=refused),)
    return ()


def foreign_package(folder: Path, work: Path) -> tuple[Package, tuple[str, ...]]:
    """Return the network of such a folder, made ready in ``work``, and what one should know."""
    foreign = read_foreign(folder)
    warnings = lower_foreign(foreign, work, facts=foreign.facts)
    return read_package(work), warnings


def _task(metadata: Mapping[str, str]) -> Task:
    given = metadata.get("task", "")
    for task in OUTPUTS:
        if task == given:
            return task
    raise ExportError(
        f"expected a network for {', '.join(OUTPUTS)} with Ultralytics' metadata, got the task "
        f"{given[:80]!r}"
    )


def _keypoints(metadata: Mapping[str, str]) -> int:
    shape = _literal(metadata, "kpt_shape")
    if not isinstance(shape, list | tuple) or not shape or not isinstance(shape[0], int):
        raise ExportError(f"expected kpt_shape [points, numbers] in the metadata, got {shape!r}")
    return shape[0]


def _labels(metadata: Mapping[str, str]) -> tuple[str, ...]:
    names = _literal(metadata, "names")
    if not isinstance(names, dict) or sorted(names) != list(range(len(names))):
        raise ExportError(f"expected names by class, from 0, in the metadata, got {names!r:.80}")
    return tuple(str(names[class_]) for class_ in sorted(names))


def _literal(metadata: Mapping[str, str], key: str) -> object:
    """Return a value that Ultralytics wrote as Python prints it."""
    text = metadata.get(key, "")
    try:
        value: object = ast.literal_eval(text[:METADATA_CHARACTERS_MAX])
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ExportError(f"the network's metadata {key} does not read: {text[:80]!r}") from error
    return value
