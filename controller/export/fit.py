"""How much of the sensor's memory a network will take, before anything is built. Pure.

At eight bits a parameter takes one byte; programs and tables take about the same in every network;
and the working memory grows with the pixels of the input, by more the wider the layers are. Four
numbers say that, and come within 3 % of what takes more than 3 MB, within 7 % of everything:

| network | input | parameters | width | converter says | predicted | off by |
|---|---|---|---|---|---|---|
| YOLO11n detect, 80 classes | 320x320 | 2,624,080 | 0.25 | 4,040,288 | 4,010,960 | -0.7 % |
| YOLO11n detect, 80 classes | 640x640 | 2,624,080 | 0.25 | 7,528,576 | 7,451,600 | -1.0 % |
| YOLOv8n detect, 80 classes | 544x544 | 3,157,200 | 0.25 | 6,714,624 | 6,711,683 | -0.0 % |
| YOLO11s detect, 80 classes | 320x320 | 9,458,752 | 0.5 | 11,407,136 | 11,408,832 | +0.0 % |
| YOLO11n detect, 3 classes | 64x64 | 2,590,425 | 0.25 | 2,836,672 | 2,876,300 | +1.4 % |
| YOLO11n pose, 4 keypoints | 64x64 | 2,662,653 | 0.25 | 3,002,720 | 2,948,528 | -1.8 % |
| YOLO11n segment, 3 classes | 64x64 | 2,843,193 | 0.25 | 3,096,576 | 3,129,068 | +1.0 % |
| YOLO11n segment, 3 classes | 160x160 | 2,843,193 | 0.25 | 3,372,768 | 3,369,913 | -0.1 % |
| YOLO11n classify, 3 classes | 64x64 | 1,534,947 | 0.25 | 1,759,328 | 1,820,822 | +3.5 % |
| half of YOLO11n detect | 160x160 | 810,649 | 0.125 | 1,245,824 | 1,266,969 | +1.7 % |
| half of YOLO11n detect | 320x320 | 810,649 | 0.125 | 1,903,040 | 1,915,929 | +0.7 % |
| half of YOLO11n classify | 64x64 | 472,755 | 0.125 | 726,528 | 747,366 | +2.9 % |
| YOLO11n detect, 3 classes | 320x320 | 2,590,425 | 0.25 | 3,984,672 | 3,977,305 | -0.2 % |
| YOLO11n detect, 3 classes | 640x640 | 2,590,425 | 0.25 | 7,472,960 | 7,417,945 | -0.7 % |
| YOLO11n pose, 4 keypoints | 320x320 | 2,662,653 | 0.25 | 4,164,832 | 4,049,533 | -2.8 % |
| YOLO11n pose, 4 keypoints | 640x640 | 2,662,653 | 0.25 | 7,697,184 | 7,490,173 | -2.7 % |
| YOLO11n segment, 3 classes | 320x320 | 2,843,193 | 0.25 | 4,244,576 | 4,230,073 | -0.3 % |
| YOLO11n segment, 3 classes | 640x640 | 2,843,193 | 0.25 | 7,732,864 | 7,670,713 | -0.8 % |
| YOLO11n classify, 3 classes | 320x320 | 1,534,947 | 0.25 | 2,897,248 | 2,921,827 | +0.8 % |
| YOLOv8n detect, 3 classes | 320x320 | 3,011,433 | 0.25 | 4,350,592 | 4,398,313 | +1.1 % |
| YOLOv8n detect, 3 classes | 640x640 | 3,011,433 | 0.25 | 7,836,576 | 7,838,953 | +0.0 % |
| YOLOv8n pose, 4 keypoints | 320x320 | 3,083,661 | 0.25 | 4,530,752 | 4,470,541 | -1.3 % |
| YOLOv8n pose, 4 keypoints | 640x640 | 3,083,661 | 0.25 | 8,060,800 | 7,911,181 | -1.9 % |
| YOLOv8n segment, 3 classes | 320x320 | 3,264,201 | 0.25 | 4,610,496 | 4,651,081 | +0.9 % |
| YOLOv8n classify, 3 classes | 224x224 | 1,442,131 | 0.25 | 2,114,272 | 2,244,102 | +6.1 % |
| YOLOv8n classify, 3 classes | 320x320 | 1,442,131 | 0.25 | 2,775,264 | 2,829,011 | +1.9 % |
| YOLO11n classify, 1,000 classes | 224x224 | 2,812,104 | 0.25 | 3,523,161 | 3,614,075 | +2.6 % |

All but the last are what ``imxconv-pt`` reported of networks that this exporter quantised; the last
is the design page's (42 %). `KNOWN` holds the same points; a test recomputes the table.
"""

from dataclasses import dataclass
from typing import Literal

from shared.release import SENSOR_MEMORY_BYTES

FIXED_BYTES = 240_000.0
PARAMETER_BYTES = 1.0
PARAMETER_BYTES_MIN = 0.25  # Two bits each, the fewest that the sensor's tools give.
PIXEL_BYTES = 5.7
PIXEL_BYTES_A_WIDTH = 22.0  # More for each pixel at full width.
MARGIN = 0.08  # Twice the largest error near the limit, and more than any.

Fit = Literal["fits", "may not fit", "does not fit"]


@dataclass(frozen=True, slots=True)
class Known:
    """A network whose memory the converter has told."""

    name: str
    parameters: int
    width: float
    height_pixels: int
    width_pixels: int
    measured_bytes: int


KNOWN = (
    Known("YOLO11n detect, 80 classes", 2_624_080, 0.25, 320, 320, 4_040_288),
    Known("YOLO11n detect, 80 classes", 2_624_080, 0.25, 640, 640, 7_528_576),
    Known("YOLOv8n detect, 80 classes", 3_157_200, 0.25, 544, 544, 6_714_624),
    Known("YOLO11s detect, 80 classes", 9_458_752, 0.5, 320, 320, 11_407_136),
    Known("YOLO11n detect, 3 classes", 2_590_425, 0.25, 64, 64, 2_836_672),
    Known("YOLO11n pose, 4 keypoints", 2_662_653, 0.25, 64, 64, 3_002_720),
    Known("YOLO11n segment, 3 classes", 2_843_193, 0.25, 64, 64, 3_096_576),
    Known("YOLO11n segment, 3 classes", 2_843_193, 0.25, 160, 160, 3_372_768),
    Known("YOLO11n classify, 3 classes", 1_534_947, 0.25, 64, 64, 1_759_328),
    Known("half of YOLO11n detect", 810_649, 0.125, 160, 160, 1_245_824),
    Known("half of YOLO11n detect", 810_649, 0.125, 320, 320, 1_903_040),
    Known("half of YOLO11n classify", 472_755, 0.125, 64, 64, 726_528),
    Known("YOLO11n detect, 3 classes", 2_590_425, 0.25, 320, 320, 3_984_672),
    Known("YOLO11n detect, 3 classes", 2_590_425, 0.25, 640, 640, 7_472_960),
    Known("YOLO11n pose, 4 keypoints", 2_662_653, 0.25, 320, 320, 4_164_832),
    Known("YOLO11n pose, 4 keypoints", 2_662_653, 0.25, 640, 640, 7_697_184),
    Known("YOLO11n segment, 3 classes", 2_843_193, 0.25, 320, 320, 4_244_576),
    Known("YOLO11n segment, 3 classes", 2_843_193, 0.25, 640, 640, 7_732_864),
    Known("YOLO11n classify, 3 classes", 1_534_947, 0.25, 320, 320, 2_897_248),
    Known("YOLOv8n detect, 3 classes", 3_011_433, 0.25, 320, 320, 4_350_592),
    Known("YOLOv8n detect, 3 classes", 3_011_433, 0.25, 640, 640, 7_836_576),
    Known("YOLOv8n pose, 4 keypoints", 3_083_661, 0.25, 320, 320, 4_530_752),
    Known("YOLOv8n pose, 4 keypoints", 3_083_661, 0.25, 640, 640, 8_060_800),
    Known("YOLOv8n segment, 3 classes", 3_264_201, 0.25, 320, 320, 4_610_496),
    Known("YOLOv8n classify, 3 classes", 1_442_131, 0.25, 224, 224, 2_114_272),
    Known("YOLOv8n classify, 3 classes", 1_442_131, 0.25, 320, 320, 2_775_264),
    Known("YOLO11n classify, 1,000 classes", 2_812_104, 0.25, 224, 224, 3_523_161),
)


def predict_bytes(*, parameters: int, width: float, height_pixels: int, width_pixels: int) -> int:
    """Return how much of the sensor's memory the network will take at eight bits.

    Args:
        parameters: Of the network.
        width: Of its layers, as a share of the family's full width.
        height_pixels: Of its input.
        width_pixels: Of its input.
    """
    working = height_pixels * width_pixels * (PIXEL_BYTES + PIXEL_BYTES_A_WIDTH * width)
    return round(FIXED_BYTES + PARAMETER_BYTES * parameters + working)


def squeezed_bytes(predicted_bytes: int, *, parameters: int) -> int:
    """Return the least that mixed precision can make of it: the working memory stays."""
    return predicted_bytes - round((PARAMETER_BYTES - PARAMETER_BYTES_MIN) * parameters)


def judge(predicted_bytes: int) -> Fit:
    """Say whether a network fits, with a margin for what the prediction does not know."""
    if predicted_bytes * (1 + MARGIN) <= SENSOR_MEMORY_BYTES:
        return "fits"
    if predicted_bytes * (1 - MARGIN) <= SENSOR_MEMORY_BYTES:
        return "may not fit"
    return "does not fit"


def side_that_fits(*, parameters: int, width: float, step: int) -> int:
    """Return the largest square input, in steps, with which the network fits; 0: none."""
    side = 0
    while judge(_square(parameters, width, side + step)) == "fits":
        side += step
    return side


def _square(parameters: int, width: float, side: int) -> int:
    return predict_bytes(parameters=parameters, width=width, height_pixels=side, width_pixels=side)
