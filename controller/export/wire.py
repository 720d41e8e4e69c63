"""What the exporter's parent and child say to each other: one JSON document a line.

The parent writes one ``Job`` to the child's standard input and keeps the pipe open: when it closes,
the parent is gone and the child ends itself. The child answers on standard output; what its tools
print goes to standard error, which the parent keeps as a log.
"""

import msgspec

from controller.export.facts import Facts

LINE_BYTES = 65_536  # Longer than any message of ours; a tool that prints here is a bug.
KEPT = "kept"  # In the job's folder: what Ultralytics reads. `package` is what a release takes.
KEPT_SUFFIX = "_imx_model"  # By which Ultralytics knows such a folder.


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to build.

    Attributes:
        model: The trained model, a ``.pt`` file of Ultralytics.
        data: The data set's YAML file, or for a classifier its folder: calibration images.
        out: The folder to make; it must not exist, or be empty.
        imgsz: Each side of the network's input in pixels.
        threshold_permille: The lowest score that the network's own NMS lets through.
        iou_permille: Overlap from which its NMS takes two boxes for one object.
        objects_max: The most objects of a frame.
        calibration_images: How many pictures the quantiser looks at.
        seconds_max: When to give up.
        keep: Where to leave the folder that Ultralytics itself reads, too; None: nowhere.
    """

    model: str
    data: str
    out: str
    imgsz: int = 320
    threshold_permille: int = 250
    iou_permille: int = 700
    objects_max: int = 300
    calibration_images: int = 300
    seconds_max: int = 3600
    keep: str | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The request as the child gets it: with a folder of its own that a shell can stand."""

    request: BuildRequest
    folder: str


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the build is: ``total`` is 0 where it is not known."""

    stage: str
    done: int = 0
    total: int = 0
    text: str = ""


class Built(msgspec.Struct, frozen=True, tag="built"):
    """The package lies in the job's folder ``package``."""

    facts: Facts


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The build failed in a way that the child can explain."""

    text: str


Message = Progress | Built | Failed
