"""Which library drives an AI Camera whose identity says ``auto``.

Whether a library loads, only loading it tells (its libcamera may be another Python's, or too old),
and the parent never loads one: a child does, and says what it found.

    python -m agent.camera.choice modlib|picamera2 [--twin]
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from agent.camera.process import environment_of
from agent.camera.wire import Kind

PROBE_SECONDS = 25.0  # A Pi Zero 2 W loads OpenCV in ten; the service's watchdog waits a minute.
REASON_CHARACTERS = 200
TWIN = "--twin"


@dataclass(frozen=True, slots=True)
class Choice:
    """What drives the camera, and why."""

    kind: Kind
    why: str


def choose(why_not: Callable[[Kind], str]) -> Choice:
    """Return the choice: modlib, which is written for this sensor, or else picamera2.

    Args:
        why_not: Returns why a library does not load, or an empty text.
    """
    against_modlib = why_not("modlib")
    if not against_modlib:
        return Choice("modlib", "modlib loads")
    without = f"modlib does not load: {against_modlib}"
    against_picamera2 = why_not("picamera2")
    if not against_picamera2:
        return Choice("picamera2", f"picamera2 loads; {without}")
    return Choice("modlib", f"{without}; nor does picamera2: {against_picamera2}")


def why_not(kind: Kind, *, is_twin: bool = False) -> str:
    """Return what a child found against a library; that it found nothing is a reason as well."""
    command = [sys.executable, "-m", "agent.camera.choice", kind, *([TWIN] if is_twin else [])]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment_of(kind),
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"loading took over {PROBE_SECONDS:.0f} s"
    except OSError as error:
        return f"loading failed: {error}"
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return said[-1][:REASON_CHARACTERS]


def main() -> int:
    """Load one library; say on standard error why that fails."""
    if TWIN in sys.argv:
        from agent.camera.twin.machine import plug_in  # noqa: PLC0415

        plug_in([])
    try:
        {"modlib": _load_modlib, "picamera2": _load_picamera2}[sys.argv[1]]()
    except Exception as error:  # noqa: BLE001 - Native code fails in any way.
        text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        print(text, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _load_modlib() -> object:
    """Load modlib and the libcamera that it would use, which it checks itself."""
    from modlib.devices.ai_camera import ai_camera, utils  # noqa: PLC0415

    return ai_camera.AiCamera, utils.libcamera.CameraManager


def _load_picamera2() -> object:
    from picamera2.devices.imx500 import IMX500  # noqa: PLC0415

    return IMX500


if __name__ == "__main__":
    sys.exit(main())
