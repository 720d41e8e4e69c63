import re

import pytest

from controller.export import fit
from controller.export.fit import KNOWN, MARGIN, Known, judge, predict_bytes, side_that_fits
from shared.release import SENSOR_MEMORY_BYTES

LARGE_BYTES = 3_000_000


def predicted(known: Known) -> int:
    return predict_bytes(
        parameters=known.parameters, width=known.width,
        height_pixels=known.height_pixels, width_pixels=known.width_pixels,
    )  # fmt: skip


@pytest.mark.parametrize("known", KNOWN, ids=str)
def test_a_known_network_is_predicted_within_the_margin(known: Known) -> None:
    error = abs(predicted(known) - known.measured_bytes) / known.measured_bytes
    assert error <= (MARGIN / 2 if known.measured_bytes > LARGE_BYTES else MARGIN)
    wrong = "does not fit" if known.measured_bytes < SENSOR_MEMORY_BYTES else "fits"
    assert judge(predicted(known)) != wrong


def test_the_table_in_the_text_is_what_the_coefficients_give() -> None:
    rows = re.findall(r"\| ([\d,]+) \| ([\d,]+) \| ([-+][\d.]+) % \|", fit.__doc__ or "")

    assert rows == [
        (
            f"{known.measured_bytes:,}",
            f"{predicted(known):,}",
            f"{(predicted(known) / known.measured_bytes - 1) * 100:+.1f}",
        )
        for known in KNOWN
    ]


def test_between_fitting_and_not_lies_a_margin_on_both_sides() -> None:
    assert judge(round(SENSOR_MEMORY_BYTES / (1 + MARGIN)) - 1) == "fits"
    assert judge(round(SENSOR_MEMORY_BYTES / (1 + MARGIN)) + 1) == "may not fit"
    assert judge(round(SENSOR_MEMORY_BYTES / (1 - MARGIN)) - 10) == "may not fit"
    assert judge(round(SENSOR_MEMORY_BYTES / (1 - MARGIN)) + 10) == "does not fit"


def test_the_largest_side_that_fits_is_told() -> None:
    assert side_that_fits(parameters=3_157_200, width=0.25, step=32) == 608  # YOLOv8n
    assert side_that_fits(parameters=20_114_688, width=1.0, step=32) == 0  # YOLO11m
