"""Package a network for the sensor of this device: packerOut.zip -> network.rpk.

Sony's packer is Java and exists for arm64 only (``apt install imx500-tools``). It gets plain paths
without a shell, a bounded heap (a Pi Zero 2 W has 512 MB and a stream running beside it), and a
time limit. The caller keeps the result by (SHA-256 of the zip, ``packer_version()``, colour).
"""

import json
import os
import signal
import subprocess
from pathlib import Path

from shared.errors import CameraError

PACKER = Path(os.environ.get("FLEET_AGENT_PACKER", "/usr/bin/imx500-package"))
PACK_SECONDS = 300.0  # Seconds on a Pi 5; a Pi Zero 2 W swaps.
JAVA_HEAP = "-Xmx192m"
RPK_NAME = "network.rpk"
SAID_CHARACTERS = 300
_SHELL_COULD_NOT_RUN = range(126, 193)  # Not executable, not found, or 128 and a signal's number.


class NoPackerError(CameraError):
    """The packer cannot be run on this device, which says nothing of the network."""


def package(network: Path, folder: Path, *, color: str) -> Path:
    """Return the path of the packaged network, freshly made in ``folder``.

    Args:
        network: packerOut.zip, verified.
        folder: A new, empty folder: nothing in it is reused.
        color: RGB or BGR, as in the manifest.

    Raises:
        NoPackerError: The packer is not installed, cannot be run, was killed, or took too long.
        CameraError: The packer ran and will not have this network.
        OSError: The folder cannot be written.
    """
    if not PACKER.is_file():
        raise NoPackerError(f"{PACKER} is not installed: apt install imx500-tools (arm64 only)")
    folder.mkdir(parents=True)
    format_file = folder / "input_format.json"
    format_file.write_text(json.dumps([{"ordinal": 0, "format": color}]))
    _run([str(PACKER), "-i", str(network), "-o", str(folder), "-f", str(format_file)])
    rpk = folder / RPK_NAME
    if not rpk.is_file() or rpk.stat().st_size == 0:
        raise CameraError(f"{PACKER.name} ended well but wrote no {RPK_NAME}")
    return rpk


def packer_version() -> str:
    """Return the installed packer's version, or an empty text where it is not known."""
    command = ["/usr/bin/dpkg-query", "-W", "-f", "${Version}", "imx500-tools"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _run(command: list[str]) -> None:
    try:
        returncode, said = _outcome(command)
    except subprocess.TimeoutExpired as error:
        text = f"{PACKER.name} of imx500-tools took over {PACK_SECONDS:.0f} s"
        raise NoPackerError(text) from error
    except OSError as error:
        raise NoPackerError(f"{PACKER.name} of imx500-tools cannot be run: {error}") from error
    if returncode == 0:
        return
    if returncode < 0 or returncode in _SHELL_COULD_NOT_RUN:
        text = f"{PACKER.name} of imx500-tools was killed or cannot be run ({returncode})"
        raise NoPackerError(f"{text}: {said}")
    raise CameraError(f"{PACKER.name} ended with {returncode}: {said}")


def _outcome(command: list[str]) -> tuple[int, str]:
    """Return how a program ended and what it said last; whatever it started ends with it."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "JAVA_TOOL_OPTIONS": JAVA_HEAP},
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=PACK_SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # The script, and its Java.
            raise
    return process.returncode, (errors or output).strip()[-SAID_CHARACTERS:]
