"""Run Sony's converter and make what it wrote a function of its inputs alone.

Its Java part runs through a shell with unquoted arguments: the paths given here must hold nothing
that a shell would take apart, which is why the parent makes the folder.
"""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from shared.errors import ExportError

EXIT_MEMORY, EXIT_UNSUPPORTED = 1, 3  # Its exit codes, as tried.
LINES_KEPT = 8  # Of its output, for the error message.
LINE_CHARACTERS_MAX = 300
ZIP_BYTES_MAX = 64 * 1024 * 1024  # Unpacked; far above what a sensor can hold.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # The earliest that the format knows.
_DATE = re.compile(rb'("Date[^"]*"\s*:\s*")[^"]*')
_BYTES = re.compile(r"([0-9]+) ?B")
_AROUND = re.compile(r"^[-0-9:,. ]*(?:[A-Z]+ : )?(?:CODE: )?|\[/[^]]*\]$")  # Time, level, source.

Told = Callable[[str], None]


class _Memory(msgspec.Struct, frozen=True):
    usage: str = msgspec.field(name="Memory Usage")
    available: str = msgspec.field(name="Total Memory Available On Chip")
    is_fit: bool = msgspec.field(name="Fit In Chip")


class _Report(msgspec.Struct, frozen=True):
    memory: _Memory = msgspec.field(name="Memory Report")


def convert(network: Path, target: Path, *, told: Told) -> None:
    """Turn the quantised ONNX file into what the sensor loads.

    Args:
        network: The ONNX file; its stem becomes the network's name.
        target: The folder for the converter's files.
        told: Is called with each line that the converter prints.

    Raises:
        ExportError: The network does not fit the sensor, or has an operation it cannot do.
    """
    command = [
        str(Path(sys.executable).with_name("imxconv-pt")),
        *("-i", str(network)),
        *("-o", str(target)),
        *("--no-input-persistency", "--overwrite-output"),
        *("--report-size-unit", "B"),
    ]
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            last = _follow(process.stdout, told)
    except OSError as error:
        raise ExportError(f"Sony's converter does not start: {error}") from error
    if process.returncode:
        raise ExportError(_explain(process.returncode, last))


def _follow(lines: Iterator[str] | None, told: Told) -> list[str]:
    last: list[str] = []
    for line in lines or ():
        text = _AROUND.sub("", line.strip())[:LINE_CHARACTERS_MAX].strip()
        if text:
            told(text)
            last = [*last[-LINES_KEPT + 1 :], text]
    return last


def _explain(returncode: int, last: list[str]) -> str:
    said = " | ".join(last)
    match returncode:
        case code if code == EXIT_MEMORY:
            reason = (
                "the network does not fit the sensor (8 MB for weights and working memory), or the "
                "converter ran out of memory: use a smaller model or a smaller --imgsz"
            )
        case code if code == EXIT_UNSUPPORTED:
            reason = (
                "the network has an operation that the sensor cannot do: use YOLO11n or YOLOv8n "
                "without changes to their layers"
            )
        case code if code < 0:
            reason = f"it was ended by signal {-code}; 9 is what Linux sends when memory is short"
        case code:
            reason = f"it ended with exit code {code}"
    return f"Sony's converter failed: {reason}. It said: {said}"


def network_name(dnn_params: Path) -> str:
    """Return the name that the network carries, as every frame of a sensor will show it."""
    try:
        root = ET.parse(dnn_params).getroot()  # noqa: S314 - our own converter wrote it.
    except (OSError, ET.ParseError) as error:
        raise ExportError(f"the converter wrote no readable dnnParams.xml: {error}") from error
    names = [name for element in root.iter("network") if (name := element.get("name"))]
    if len(names) != 1:
        raise ExportError(f"expected one network in dnnParams.xml, got {len(names)}")
    return names[0]


def output_shapes(dnn_params: Path) -> tuple[tuple[int, ...], ...]:
    """Return the shape of each output tensor without the batch, in the network's order.

    The graph leaves the sides behind its NMS open; the converter knows them.
    """
    tensors = ET.parse(dnn_params).getroot().iter("outputTensor")  # noqa: S314 - our converter's.
    ordered = sorted(tensors, key=lambda tensor: int(tensor.get("ordinal", "0")))
    return tuple(
        tuple(int(side.get("size", "0")) for side in tensor.iter("dimension")) for tensor in ordered
    )


def memory_bytes(report: Path) -> int:
    """Return how much of the sensor's memory the network takes.

    Raises:
        ExportError: The report does not say, or says that the network does not fit.
    """
    try:
        document = msgspec.json.decode(report.read_bytes(), type=_Report).memory
    except (OSError, msgspec.DecodeError) as error:
        raise ExportError(f"the converter wrote no readable memory report: {error}") from error
    match = _BYTES.fullmatch(document.usage)
    if match is None:
        raise ExportError(f"expected bytes in the memory report, got {document.usage[:80]!r}")
    if not document.is_fit:
        raise ExportError(
            f"the network needs {document.usage} of the sensor's {document.available}: "
            "use a smaller model or a smaller --imgsz"
        )
    return int(match[1])


def normalise_zip(source: Path, target: Path) -> None:
    """Write the archive again, with no date in it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        if sum(entry.file_size for entry in old.infolist()) > ZIP_BYTES_MAX:
            raise ExportError(f"expected at most {ZIP_BYTES_MAX} bytes in {source.name}")
        for entry in sorted(old.infolist(), key=lambda entry: entry.filename):
            content = old.read(entry)
            if entry.filename.endswith(".json"):
                content = _without_dates(content)
            fresh = zipfile.ZipInfo(entry.filename, _ZIP_DATE)
            fresh.compress_type, fresh.external_attr = entry.compress_type, entry.external_attr
            new.writestr(fresh, content)


def _without_dates(content: bytes) -> bytes:
    """Return a JSON document whose dates are empty, in its own layout."""
    return _DATE.sub(rb"\1", content)
