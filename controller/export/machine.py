"""What this machine has of what an export needs: Python, packages, Java, memory and disk."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from controller.export.finding import Finding, RefusedFindingError

PYTHON_MIN, PYTHON_END = (3, 11), (3, 13)  # There is no build of Sony's converter for others.
JAVA_VERSION_MIN = 17
JAVA_SECONDS = 30  # A cold JVM on a busy machine.
DISK_BYTES_MIN = 3 * 1024**3  # MCT and the converter keep several copies of the network.
MEMORY_BYTES_MIN = 6 * 1024**3  # At 320 px the converter's JVM takes 4.7 GB, Python 1.4 GB.
MEMORY_BYTES_LARGE_MIN = 9 * 1024**3  # At 640 px.
LARGE_PIXELS = 512
_EXTRA = ("torch", "ultralytics", "model_compression_toolkit", "edgemdt_tpc", "onnx")
_JAVA_VERSION = re.compile(r'version "(?:1\.)?(\d+)')
_INSTALL_JAVA = (
    f"Sony's converter needs Java {JAVA_VERSION_MIN} or newer: "
    "apt install openjdk-17-jre-headless (or newer)"
)


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Refuse a Python that Sony's converter is not built for.

    Raises:
        ExportError: It is older or newer.
    """
    found = ".".join(map(str, version))
    if not PYTHON_MIN <= version < PYTHON_END:
        raise RefusedFindingError(
            f"expected Python 3.11 or 3.12, found {found}", "make clean export PYTHON=python3.12"
        )
    return Finding("Python", found)


def check_import(work: Path) -> None:
    """Refuse where Sony's converter would not run.

    Raises:
        ExportError: Something is missing on this machine.
    """
    check_python()
    check_extra()
    check_java()
    check_disk(work)


def check_extra(names: tuple[str, ...] = _EXTRA) -> Finding:
    """Refuse where the export extra is not installed.

    Raises:
        ExportError: Something is missing.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise RefusedFindingError(
            f"the export extra is not installed (missing: {', '.join(missing)})",
            "run, in imxfleet's folder: make export",
        )
    return Finding("export extra", "installed")


def check_java(java: str = "java") -> Finding:
    """Refuse where Sony's converter would not start.

    Raises:
        ExportError: There is no Java, or it is too old.
    """
    try:
        answer = subprocess.run(
            [java, "-version"], capture_output=True, check=True, text=True, timeout=JAVA_SECONDS
        )
    except FileNotFoundError as error:
        raise RefusedFindingError("there is no Java on this machine", _INSTALL_JAVA) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise RefusedFindingError(f"Java does not start ({error})", _INSTALL_JAVA) from error
    match = _JAVA_VERSION.search(answer.stderr + answer.stdout)
    if match is None or int(match[1]) < JAVA_VERSION_MIN:
        found = match[1] if match else "one that does not tell its version"
        raise RefusedFindingError(
            f"expected Java {JAVA_VERSION_MIN} or newer, found {found}", _INSTALL_JAVA
        )
    return Finding("Java", match[1])


def check_disk(work: Path) -> Finding:
    """Refuse where temporary files would fill the disk.

    Raises:
        ExportError: There is too little room.
    """
    free = shutil.disk_usage(work).free
    if free < DISK_BYTES_MIN:
        raise RefusedFindingError(
            f"expected {DISK_BYTES_MIN >> 20} MB free in {work}, found {free >> 20}",
            "make room there, or set TMPDIR to another folder",
        )
    return Finding("disk", f"{free >> 20} MB free in {work}, {DISK_BYTES_MIN >> 20} needed")


def check_memory(pixels: int, available: int | None) -> Finding:
    """Refuse where Linux would end the build for want of memory.

    Args:
        pixels: The longer side of the network's input.
        available: What Linux says is available; None where it does not say.

    Raises:
        ExportError: There is too little.
    """
    needed = memory_needed(pixels)
    if available is None:
        return Finding("memory", "not known", "warned", f"{needed >> 20} MB are needed")
    if available < needed:
        raise RefusedFindingError(
            f"expected {needed >> 20} MB of memory available, found {available >> 20}",
            "close other programs, or build on a larger machine",
        )
    return Finding("memory", f"{available >> 20} MB available, {needed >> 20} needed")


def memory_needed(pixels: int) -> int:
    """Return the bytes that a build takes, by the longer side of its input."""
    return MEMORY_BYTES_LARGE_MIN if pixels > LARGE_PIXELS else MEMORY_BYTES_MIN


def memory_available() -> int | None:
    """Return what Linux says is available; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
