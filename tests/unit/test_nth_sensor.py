"""A device's camera n is its n-th AI Camera, whatever else is plugged in."""

import pytest

from agent.camera.aicamera import failed, nth_sensor
from agent.camera.camera import FailedError

MODELS: list[object] = ["imx708", "imx500", None, "imx500"]


def test_cameras_of_other_makes_are_not_counted() -> None:
    assert [nth_sensor(n, MODELS) for n in range(2)] == [1, 3]


@pytest.mark.parametrize("models", [MODELS, ["imx708"], []])
def test_a_camera_that_is_not_there_is_missing(models: list[object]) -> None:
    with pytest.raises(FailedError, match="expected an AI Camera number 2") as error:
        nth_sensor(2, models)
    assert error.value.code == "missing"


def test_a_busy_camera_is_told_from_one_that_fails_wherever_the_words_are() -> None:
    busy = RuntimeError("Failed to acquire camera: Device or resource busy")
    hidden = RuntimeError("Camera __init__ sequence did not complete.")
    hidden.__cause__ = busy

    codes = [failed(e, code="start_failed").code for e in (busy, hidden, OSError(5, "I/O error"))]

    assert codes == ["busy", "busy", "start_failed"]
