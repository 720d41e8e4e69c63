"""Run Sony's converter and make what it wrote a function of its inputs alone.

Its Java part runs through a shell with unquoted arguments: the paths given here must hold nothing
that a shell would take apart, which is why the parent makes the folder.
"""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shared.errors import ExportError, LimitError, StorageError
from shared.files import read_bounded

# Of its exit codes: an operation, or a use of one, that the sensor cannot do. 1 is any other error.
EXITS_OPERATION = (2, 3)
NOT_ENOUGH_MEMORY = "Not enough memory"  # Of the sensor; its exit code is 1.
LINES_KEPT = 8  # Of its output, for the error message.
LINE_CHARACTERS_MAX = 300
XML_BYTES_MAX = 1024 * 1024  # A detector's dnnParams.xml takes 2.6 KB.
REPORT_BYTES_MAX = 64 * 1024
ZIP_BYTES_MAX = 64 * 1024 * 1024  # Unpacked; far above what a sensor can hold.
MARGIN = 0.03  # Of the weights: MCT does not count the tables and programs beside them.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # The earliest that the format knows.
_DATE = re.compile(rb'("Date[^"]*"\s*:\s*")[^"]*')
_NUMBER = re.compile(r"[0-9]{1,9}")
_BYTES = re.compile(r"([0-9]+) ?B")
_SHELL_SIGNAL = 128  # A shell's exit code for a program that a signal ended, less the signal.
_TIMED = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:,.]+ "
_AROUND = re.compile(_TIMED + r"[A-Z]+ ?: (?:CODE: )?|\[/[^]]*\]$")  # Time, level, source.
_ERROR = re.compile(_TIMED + "ERROR ?: ")

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether the sensor holds a network.

    Attributes:
        is_fit: It does.
        words: What it takes, for people.
        weights_share: How much of what its weights take they may take so that it does. A share,
            because the sensor stores channels in fixed groups: in bytes, weights take more there
            than MCT counts (18 % more was seen).
    """

    is_fit: bool
    words: str
    weights_share: float = 1.0


class _NetworkMemory(msgspec.Struct, frozen=True):
    weights: str = msgspec.field(name="Model Memory Physical Size")


class _Memory(msgspec.Struct, frozen=True):
    usage: str = msgspec.field(name="Memory Usage")
    available: str = msgspec.field(name="Total Memory Available On Chip")
    is_fit: bool = msgspec.field(name="Fit In Chip")
    networks: tuple[_NetworkMemory, ...] = msgspec.field(name="Networks", default=())


class _Report(msgspec.Struct, frozen=True):
    memory: _Memory = msgspec.field(name="Memory Report")


def memory_report(network: Path, target: Path, *, converter: Path | None = None) -> Fit:
    """Return whether the network fits: the converter knows in a third of a conversion's time.

    Args:
        network: The ONNX file.
        target: The folder for the converter's report.
        converter: Its program; None: the one of this interpreter's environment.

    Raises:
        ExportError: The network has an operation that the sensor cannot do.
    """
    code, said = _run(network, target, lambda _: None, converter, "--memory-report")
    report = target / f"{network.stem}_MemoryReport.json"
    if code and not (report.is_file() and NOT_ENOUGH_MEMORY in " | ".join(said)):
        raise ExportError(_explain(code, said))
    memory = _memory(report)
    used, available = _bytes(memory.usage), _bytes(memory.available)
    words = f"{used:,} of {available:,} bytes"
    if memory.is_fit:
        return Fit(is_fit=True, words=words)
    weights = sum(_bytes(one.weights) for one in memory.networks)
    share = 1 - (used - available) / max(weights, 1) - MARGIN
    return Fit(is_fit=False, words=words, weights_share=max(share, 0.0))


def convert(network: Path, target: Path, *, told: Told, converter: Path | None = None) -> None:
    """Turn the quantised ONNX file into what the sensor loads.

    Args:
        network: The ONNX file; its stem becomes the network's name.
        target: The folder for the converter's files.
        told: Is called with each line that the converter prints.
        converter: Its program; None: the one of this interpreter's environment.

    Raises:
        ExportError: The network does not fit the sensor, or has an operation it cannot do.
    """
    code, said = _run(network, target, told, converter)
    if code:
        raise ExportError(_explain(code, said))


def _run(
    network: Path, target: Path, told: Told, converter: Path | None, *more: str
) -> tuple[int, list[str]]:
    """Return the converter's exit code, and what it said last."""
    command = [
        str(converter or Path(sys.executable).with_name("imxconv-pt")),
        *("-i", str(network)),
        *("-o", str(target)),
        *("--no-input-persistency", "--overwrite-output"),
        *("--report-size-unit", "B", *more),
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
            said = _follow(process.stdout, told)
    except OSError as error:
        raise ExportError(f"Sony's converter does not start: {error}") from error
    return process.returncode, said


def _follow(lines: Iterator[str] | None, told: Told) -> list[str]:
    """Return the last errors; where it calls nothing an error, the last lines."""
    last, errors = deque[str](maxlen=LINES_KEPT), deque[str](maxlen=LINES_KEPT)
    for line in lines or ():
        text = _AROUND.sub("", line.strip())[:LINE_CHARACTERS_MAX].strip()
        if text:
            told(text)
            last.append(text)
            if _ERROR.match(line):
                errors.append(text)
    return list(dict.fromkeys(errors or last))  # It says some errors twice.


def _explain(returncode: int, last: list[str]) -> str:
    said = " | ".join(last)
    ended_by = -returncode if returncode < 0 else returncode - _SHELL_SIGNAL
    if NOT_ENOUGH_MEMORY in said:
        reason = "the network does not fit the sensor: use a smaller model or a smaller --imgsz"
    elif returncode in EXITS_OPERATION:
        reason = (
            "the network has an operation that the sensor cannot do: use YOLO11n or YOLOv8n "
            "without changes to their layers"
        )
    elif ended_by > 0:
        reason = f"it was ended by signal {ended_by}; 9 is what Linux sends when memory is short"
    else:
        reason = f"it ended with exit code {returncode}"
    return f"Sony's converter failed: {reason}. It said: {said}"


def network_name(dnn_params: Path) -> str:
    """Return the name that the network carries, as every frame of a sensor will show it."""
    return _network(dnn_params).get("name", "")


def output_shapes(dnn_params: Path) -> tuple[tuple[int, ...], ...]:
    """Return the shape of each output tensor without the batch, in the network's order.

    The graph leaves the sides behind its NMS open; the converter knows them.

    Raises:
        ExportError: The file does not say.
    """
    tensors = _in_order(_network(dnn_params).iter("outputTensor"))
    shapes = tuple(
        tuple(_number(side, "size") for side in _in_order(tensor.iter("dimension")))
        for tensor in tensors
    )
    if not shapes or not all(shape and min(shape) > 0 for shape in shapes):
        raise ExportError(f"expected outputs with a shape in dnnParams.xml, got {shapes}")
    return shapes


def memory_bytes(report: Path) -> int:
    """Return how much of the sensor's memory the network takes.

    Raises:
        ExportError: The report does not say, or says that the network does not fit.
    """
    memory = _memory(report)
    if not memory.is_fit:
        raise ExportError(
            f"the network needs {memory.usage} of the sensor's {memory.available}: "
            "use a smaller model or a smaller --imgsz"
        )
    return _bytes(memory.usage)


def _memory(report: Path) -> _Memory:
    try:
        data = read_file(report, bytes_max=REPORT_BYTES_MAX)
        return msgspec.json.decode(data, type=_Report).memory
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ExportError(f"the converter wrote no readable memory report: {error}") from error


def _bytes(text: str) -> int:
    match = _BYTES.fullmatch(text)
    if match is None:
        raise ExportError(f"expected bytes in the memory report, got {text[:80]!r}")
    return int(match[1])


def normalise_zip(source: Path, target: Path) -> None:
    """Write the archive again, with no date in it.

    Raises:
        ExportError: It is not there, not whole, or unpacks to more than its limit.
    """
    try:
        _rewrite(source, target)
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ExportError(f"the converter wrote no readable {source.name}: {error}") from error


def read_file(path: Path, *, bytes_max: int) -> bytes:
    """Return the bytes of a file.

    Raises:
        ExportError: It is not there, cannot be read, or is longer than ``bytes_max``.
    """
    try:
        data = read_bounded(path, bytes_max)
    except (LimitError, StorageError) as error:
        raise ExportError(str(error)) from error
    if data is None:
        raise ExportError(f"there is no {path}")
    return data


def _network(dnn_params: Path) -> ET.Element:
    """Return the one network that the file describes."""
    data = read_file(dnn_params, bytes_max=XML_BYTES_MAX)
    try:
        root = ET.fromstring(data)  # noqa: S314 - bounded, and our own converter wrote it.
    except ET.ParseError as error:
        raise ExportError(f"the converter wrote no readable {dnn_params.name}: {error}") from error
    networks = [element for element in root.iter("network") if element.get("name")]
    if len(networks) != 1:
        raise ExportError(f"expected one network in {dnn_params.name}, got {len(networks)}")
    return networks[0]


def _in_order(elements: Iterable[ET.Element]) -> list[ET.Element]:
    return sorted(elements, key=lambda element: _number(element, "ordinal"))


def _number(element: ET.Element, attribute: str) -> int:
    text = element.get(attribute, "")
    if _NUMBER.fullmatch(text) is None:
        raise ExportError(f"expected a number as {element.tag}'s {attribute}, got {text[:80]!r}")
    return int(text)


def _rewrite(source: Path, target: Path) -> None:
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
