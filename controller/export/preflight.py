"""What can be known in a second before minutes are spent. Imports no torch.

Every check says what was expected, what was found, and what to do about it.
"""

import re
import shutil
import subprocess
import zipfile
from importlib.util import find_spec
from pathlib import Path

import yaml

from controller.export.wire import KEPT_SUFFIX, BuildRequest
from shared.errors import ExportError
from shared.release import INPUT_PIXELS_MAX, INPUT_PIXELS_MIN

JAVA_VERSION_MIN = 17
JAVA_SECONDS = 30  # A cold JVM on a busy machine.
STRIDE_PIXELS = 32  # The coarsest grid of a YOLO network.
DISK_BYTES_MIN = 3 * 1024**3  # MCT and the converter keep several copies of the network.
MEMORY_BYTES_MIN = 6 * 1024**3  # At 320 px the converter's JVM takes 4.7 GB, Python 1.4 GB.
MEMORY_BYTES_LARGE_MIN = 9 * 1024**3  # At 640 px.
LARGE_PIXELS = 512
DATA_BYTES_MAX = 1024 * 1024
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_EXTRA = ("torch", "ultralytics", "model_compression_toolkit", "edgemdt_tpc", "onnx")
_JAVA_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


def check(request: BuildRequest, *, work: Path) -> None:
    """Refuse a build that cannot succeed.

    Args:
        request: What is to be built.
        work: Where temporary files will lie.

    Raises:
        ExportError: It says which expectation is not met and what to do.
    """
    for side in (request.height, request.width):
        _check_size(side)
    _check_model(Path(request.model))
    _check_data(request.data)
    _check_out(Path(request.out))
    _check_keep(request.keep)
    _check_extra()
    check_java()
    _check_room(work, max(request.height, request.width))


def check_java(java: str = "java") -> None:
    """Refuse where Sony's converter would not start.

    Raises:
        ExportError: There is no Java, or it is too old.
    """
    what_to_do = (
        f"Sony's converter needs Java {JAVA_VERSION_MIN} or newer: "
        "apt install openjdk-17-jre-headless (or newer)"
    )
    try:
        answer = subprocess.run(
            [java, "-version"], capture_output=True, check=True, text=True, timeout=JAVA_SECONDS
        )
    except FileNotFoundError as error:
        raise ExportError(f"there is no Java on this machine. {what_to_do}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise ExportError(f"Java does not start ({error}). {what_to_do}") from error
    match = _JAVA_VERSION.search(answer.stderr + answer.stdout)
    if match is None or int(match[1]) < JAVA_VERSION_MIN:
        found = match[1] if match else "one that does not tell its version"
        raise ExportError(f"expected Java {JAVA_VERSION_MIN} or newer, found {found}. {what_to_do}")


def _check_size(imgsz: int) -> None:
    if not INPUT_PIXELS_MIN <= imgsz <= INPUT_PIXELS_MAX or imgsz % STRIDE_PIXELS:
        raise ExportError(
            f"expected an image size of {INPUT_PIXELS_MIN} to {INPUT_PIXELS_MAX} pixels, "
            f"a multiple of {STRIDE_PIXELS}; got {imgsz}"
        )


def _check_model(model: Path) -> None:
    what_to_do = "expected a model that Ultralytics trained, e.g. runs/detect/train/weights/best.pt"
    if model.is_dir():
        raise ExportError(f"{model} is a folder: {what_to_do}")
    if not model.is_file():
        raise ExportError(f"there is no model file {model}: {what_to_do}")
    if model.suffix != ".pt":
        raise ExportError(f"{model.name} is not a .pt file: {what_to_do}")
    try:
        with zipfile.ZipFile(model) as archive:
            is_model = any(name.endswith("data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise ExportError(f"{model} does not read as a model ({error}): {what_to_do}") from error
    if not is_model:
        raise ExportError(f"{model} is a zip file but holds no model: {what_to_do}")


def _check_data(data: str) -> None:
    """Refuse what Ultralytics would replace silently by a data set from the internet."""
    what_to_do = "expected the data set's YAML file, or a classifier's folder (--data shapes.yaml)"
    if not data:
        raise ExportError(
            f"calibration needs pictures like those that the camera sees: {what_to_do}"
        )
    path = Path(data)
    if path.is_dir():
        folders = [path / split for split in ("val", "test", "train")]
    elif path.is_file():
        folders = _folders_of(path)
    else:
        raise ExportError(f"there is no data set {data}: {what_to_do}")
    if not any(_has_image(folder) for folder in folders):
        raise ExportError(f"the data set {data} has no pictures in its validation split")


def _folders_of(data: Path) -> list[Path]:
    """Return where a data file says that its pictures are."""
    if data.stat().st_size > DATA_BYTES_MAX:
        raise ExportError(f"expected a data file of at most {DATA_BYTES_MAX} bytes: {data}")
    try:
        document = yaml.safe_load(data.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ExportError(f"{data} does not read as YAML: {error}") from error
    if not isinstance(document, dict) or "names" not in document or "val" not in document:
        raise ExportError(f"expected the keys train, val and names in {data}")
    root = data.parent / str(document.get("path") or ".")
    places = document["val"]
    return [root / str(place) for place in (places if isinstance(places, list) else [places])]


def _has_image(place: Path) -> bool:
    """Return whether there are pictures; a list of them in a text file counts."""
    if place.is_file():
        return place.suffix == ".txt" and place.stat().st_size > 0
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in place.rglob("*"))


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} is already there: name a new folder")


def _check_keep(keep: str | None) -> None:
    if keep is None:
        return
    if not keep.endswith(KEPT_SUFFIX):
        raise ExportError(
            f"expected a folder whose name ends in {KEPT_SUFFIX}, by which Ultralytics knows it; "
            f"got {keep}"
        )
    _check_out(Path(keep))


def _check_extra() -> None:
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"the export extra is not installed (missing: {', '.join(missing)}). "
            "Run, in imxfleet's folder: make export"
        )


def _check_room(work: Path, imgsz: int) -> None:
    free = shutil.disk_usage(work).free
    if free < DISK_BYTES_MIN:
        raise ExportError(f"expected {DISK_BYTES_MIN >> 20} MB free in {work}, found {free >> 20}")
    needed = MEMORY_BYTES_LARGE_MIN if imgsz > LARGE_PIXELS else MEMORY_BYTES_MIN
    available = _memory_available()
    if available is not None and available < needed:
        raise ExportError(
            f"expected {needed >> 20} MB of memory available, found {available >> 20}: "
            "close other programs, or build on a larger machine"
        )


def _memory_available() -> int | None:
    """Return what Linux says is available; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
