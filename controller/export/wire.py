"""What the exporter's parent and child say to each other: one JSON document a line.

The parent writes one ``Order`` to the child's standard input and keeps the pipe open: when it
closes, the parent is gone and the child ends itself. The child answers on standard output; what its
tools print goes to standard error, which the parent keeps as a log.
"""

from typing import Literal

import msgspec

from controller.export.facts import Facts
from controller.export.receipt import Receipt

LINE_BYTES = 65_536  # Longer than any message of ours; a tool that prints here is a bug.
KEPT = "kept"  # In the job's folder: what Ultralytics reads. `package` is what a release takes.
Method = Literal["ptq", "gptq"]
MixedPrecision = Literal["auto", "always", "never"]
ErrorMethod = Literal["mse", "mae", "kl", "lp", "noclipping"]
KEPT_SUFFIX = "_imx_model"  # By which Ultralytics knows such a folder.


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True, tag="build"):
    """What to build. Names in brackets are Ultralytics' own for the same thing.

    Attributes:
        model: The trained model, a ``.pt`` file of Ultralytics, or a ``.yaml`` of its structures.
        data: The data set's YAML file, or for a classifier its folder: calibration images.
        out: The folder to make; it must not exist, or be empty.
        height: Of the network's input in pixels [imgsz].
        width: Of the network's input in pixels [imgsz].
        threshold_permille: The lowest score that the network's own NMS lets through [conf].
        iou_permille: Overlap from which its NMS takes two boxes for one object [iou].
        objects_max: The most objects of a frame [max_det].
        calibration_images: How many pictures the quantiser looks at, at most.
        fraction: Of the validation split that the pictures are taken from [fraction].
        device: Where torch computes [device].
        method: Quantise after training only, or tune the rounding of weights as well.
        gptq_epochs: Passes over the calibration pictures, with ``gptq``.
        mixed_precision: When weights may take fewer bits than eight.
        weights_memory: Bytes that weights may take where they do; None: what the sensor leaves.
        error_method: What MCT minimises when it chooses thresholds.
        z_threshold: Activations further from their mean, in standard deviations, are left out of
            the statistics; None: none are.
        shift_negative: Shift activations that are seldom negative, to count them unsigned.
        seed: Of every random choice.
        tensorboard: Folder for what MCT shows of the quantisation; None: nowhere.
        golden_images: Held-out pictures whose outputs go with the release, for the agent's probe.
        eval_images: Held-out pictures that accuracy is measured on; 0: it is not.
        min_map_permille: Refuse a network with less accuracy; None: none is refused.
        max_drop_permille: Refuse a network that lost more accuracy than this to quantisation;
            None: one that lost a tenth, where that was measured.
        seconds_max: When to give up.
        keep: Where to leave the folder that Ultralytics itself reads, too; None: nowhere.
    """

    model: str
    data: str
    out: str
    height: int = 320
    width: int = 320
    threshold_permille: int = 250
    iou_permille: int = 700
    objects_max: int = 300
    calibration_images: int = 300
    fraction: float = 1.0
    device: str = "cpu"
    method: Method = "ptq"
    gptq_epochs: int = 5
    mixed_precision: MixedPrecision = "auto"
    weights_memory: int | None = None
    error_method: ErrorMethod = "mse"
    z_threshold: float | None = None
    shift_negative: bool = True
    seed: int = 0
    tensorboard: str | None = None
    golden_images: int = 4
    eval_images: int = 100
    min_map_permille: int | None = None
    max_drop_permille: int | None = None
    seconds_max: int = 3600
    keep: str | None = None


class EvalRequest(msgspec.Struct, frozen=True, kw_only=True, tag="evaluate"):
    """What to measure.

    Attributes:
        package: The folder of an exported network.
        data: The data set: pictures, and what is true of them.
        model: The model before quantisation; None: it is not measured.
        stock: Folder that Ultralytics' own export left; None: it is not measured.
        images: How many pictures at most.
        seconds_max: When to give up.
    """

    package: str
    data: str
    model: str | None = None
    stock: str | None = None
    images: int = 300
    seconds_max: int = 3600


class Job(msgspec.Struct, frozen=True, kw_only=True, tag="job"):
    """The request as the child gets it: with a folder of its own that a shell can stand."""

    request: BuildRequest
    folder: str


class ImportJob(msgspec.Struct, frozen=True, kw_only=True, tag="import"):
    """Make a package of a folder that plain Ultralytics exported; ``folder`` as in a job."""

    source: str
    folder: str


Order = Job | EvalRequest | ImportJob


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the build is: ``total`` is 0 where it is not known."""

    stage: str
    done: int = 0
    total: int = 0
    text: str = ""


class Built(msgspec.Struct, frozen=True, tag="built"):
    """The package lies in the job's folder ``package``."""

    facts: Facts


class Evaluated(msgspec.Struct, frozen=True, kw_only=True, tag="evaluated"):
    """The package was measured; ``milliseconds`` of a frame are of this machine."""

    receipt: Receipt
    milliseconds: dict[str, float]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The build failed in a way that the child can explain."""

    text: str


Message = Progress | Built | Evaluated | Failed
