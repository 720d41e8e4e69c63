"""What a YOLO network is, as far as it can be told without torch, and whether we can export it.

Ultralytics counts a network's modules to tell a YOLO11n or YOLOv8n, which YOLO11s passes as well:
the two differ in width alone. We compare what the layers are, and leave the width to the prediction
of what fits the sensor. A custom width of those layers is therefore fine.
"""

import re
from dataclasses import dataclass

TASKS: tuple[str, ...] = ("detect", "pose", "segment", "classify")
HEADS = {"detect": "Detect", "pose": "Pose", "segment": "Segment", "classify": "Classify"}
FULL_CHANNELS = 64  # Of the first convolution at width 1.
WIDTHS = {0.25: "n", 0.5: "s"}  # Wider ones differ between the families.
_FAMILY = re.compile(r"(yoloe?)-?(v?)(\d+)", re.IGNORECASE)
_BACKBONES = {
    "YOLO11": (
        "Conv Conv C3k2(Bottleneck) Conv C3k2(Bottleneck) Conv C3k2(C3k) Conv C3k2(C3k)",
        (
            "SPPF C2PSA(PSABlock) "
            "Upsample Concat C3k2(Bottleneck) Upsample Concat C3k2(Bottleneck) "
            "Conv Concat C3k2(Bottleneck) Conv Concat C3k2(C3k)"
        ),
        "C2PSA(PSABlock)",
    ),
    "YOLOv8": (
        (
            "Conv Conv C2f(Bottleneck) Conv C2f(Bottleneck,Bottleneck) "
            "Conv C2f(Bottleneck,Bottleneck) Conv C2f(Bottleneck)"
        ),
        (
            "SPPF "
            "Upsample Concat C2f(Bottleneck) Upsample Concat C2f(Bottleneck) "
            "Conv Concat C2f(Bottleneck) Conv Concat C2f(Bottleneck)"
        ),
        "",
    ),
}  # Of scale n: the common part, what follows in a detector, and what in a classifier.


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What a model file says about its network.

    Attributes:
        task: As Ultralytics calls it; not only those that we build.
        named: What its own structure file was called, e.g. ``yolo11n.yaml``.
        layers: Each layer's class, with the classes of its repeated blocks in brackets.
        channels: That its first convolution puts out.
        parameters: How many numbers were trained; about, where only the structure is known.
        labels: Its classes' names, by number.
        keypoints: Points an object, and numbers a point; None where it has none.
        trained_pixels: The image size that it was trained at; None where it does not say.
        is_trained: Whether there are weights.
    """

    task: str
    named: str
    layers: tuple[str, ...]
    channels: int
    parameters: int
    labels: tuple[str, ...]
    keypoints: tuple[int, int] | None = None
    trained_pixels: int | None = None
    is_trained: bool = True

    @property
    def width(self) -> float:
        """Return its width as a share of the family's full width."""
        return self.channels / FULL_CHANNELS

    @property
    def family(self) -> str | None:
        """Return which family's n-scale has these layers; None: none that can be exported."""
        return next(
            (name for name in _BACKBONES if self.layers == layers_of(name, self.task)), None
        )

    @property
    def called(self) -> str:
        """Return the family and scale as people call them, e.g. YOLO11s."""
        found = _FAMILY.search(self.named)
        family = self.family or (f"YOLO{found[2]}{found[3]}" if found else "an unknown family")
        return f"{family}{self.scale}"

    @property
    def scale(self) -> str:
        """Return the letter of its width, or the width where no letter has it."""
        if self.family is None:
            letter = re.search(r"yoloe?-?v?\d+([nslmxt])", self.named)
            return letter[1] if letter else ""
        return WIDTHS.get(self.width, f" of width {self.width:g}")


def layers_of(family: str, task: str) -> tuple[str, ...]:
    """Return the layers of a family's n-scale; of another task, such as no network has."""
    common, detector, classifier = _BACKBONES[family]
    rest = classifier if task == "classify" else detector
    return (*f"{common} {rest}".split(), HEADS.get(task, ""))


def head_name(kind: str, *, is_end2end: bool, reg_max: int) -> str:
    """Return the name of a head, with what makes it another than the sensor's NMS expects."""
    return f"{kind}(end2end)" if is_end2end else kind if reg_max > 1 else f"{kind}(without DFL)"
