"""A package becomes an unsigned release: the manifest and the bytes of its files.

Needs neither torch nor Sony's tools: the demo packs a release from a committed simulator graph and
its labels in the same way as ``model build`` packs what the converter wrote.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

from controller.export.convert import convert, network_name, normalise_zip, read_file
from controller.export.facts import Facts, read_facts
from controller.export.receipt import read_receipt, summary_of
from controller.export.wire import Progress
from shared.blocks import split_file
from shared.decode.labels import read_labels
from shared.errors import ExportError
from shared.golden import read_golden
from shared.limits import FILE_BYTES
from shared.release import (
    Decode,
    File,
    Golden,
    Manifest,
    Receipt,
    Requires,
    Role,
    encode_manifest,
    open_manifest,
)

AGENT_NEEDED = "0.1.0"  # The oldest agent that decodes what this exporter builds.
CONVERTER_LINES = 15  # About what it prints; only the progress bar depends on it.
FRAME_RATE = 16  # An n-sized detector at 320 px keeps up with it on the sensor, with room to spare.
FILE_NAMES: dict[Role, str] = {
    "network": "packerOut.zip",
    "dnn_params": "dnnParams.xml",
    "labels": "labels.txt",
    "memory_report": "MemoryReport.json",
    "simulator": "simulator.onnx",
    "golden": "golden.npz",
    "receipt": "receipt.json",
}
GOLDEN_TOLERANCE_PERMILLE = 100  # Another processor's rounding may move a doubtful object.


def convert_into(
    network: Path, folder: Path, package: Path, *, tell: Callable[[Progress], None]
) -> None:
    """Run the converter in ``folder/converted``, and keep what a release takes of its files.

    Raises:
        ExportError: The converter refuses the network, or what it wrote will not do.
    """
    converted = folder / "converted"
    converted.mkdir()
    lines = 0

    def told(line: str) -> None:
        nonlocal lines
        lines += 1
        tell(Progress("convert", min(lines, CONVERTER_LINES), CONVERTER_LINES, line))

    convert(network, converted, told=told)
    collect(converted, package, network=network.stem)


def collect(converted: Path, package: Path, *, network: str) -> None:
    """Take what a release needs of the converter's folder into the package's, with no date in it.

    Raises:
        ExportError: A file is missing, too large, or bears another network's name.
    """
    normalise_zip(converted / "packerOut.zip", package / FILE_NAMES["network"])
    wanted: dict[Role, str] = {
        "dnn_params": "dnnParams.xml",
        "memory_report": f"{network}_MemoryReport.json",
    }
    for role, name in wanted.items():
        data = read_file(converted / name, bytes_max=FILE_BYTES)
        (package / FILE_NAMES[role]).write_bytes(data)
    _check_name(package / FILE_NAMES["dnn_params"], network)


def files_of(folder: Path) -> dict[Role, Path]:
    """Return the files of a package's folder by role; what is not there is left out."""
    paths: dict[Role, Path] = {role: folder / name for role, name in FILE_NAMES.items()}
    return {role: path for role, path in paths.items() if path.is_file()}


def make_release(
    source: Path | Mapping[Role, Path],
    *,
    name: str,
    version: int,
    frame_rate: int = FRAME_RATE,
) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest of a package, and its files by name.

    Args:
        source: The package's folder, or its files by role; ``simulator`` and ``labels`` at least.
        name: The release's name.
        version: Its version; a name and version are never signed for other content.
        frame_rate: Frames a second that the sensor is asked for.

    Raises:
        ExportError: A file is missing, too large, or not what its role says.
        RefusedError: The name, the version, the labels or the release as a whole break a bound.
    """
    paths = files_of(source) if isinstance(source, Path) else source
    for role in ("simulator", "labels"):
        if role not in paths:
            raise ExportError(f"expected a {FILE_NAMES[role]} in the package {source}")
    facts = read_facts(paths["simulator"])
    if "dnn_params" in paths:
        _check_name(paths["dnn_params"], facts.network_name)
    contents = {
        FILE_NAMES[role]: read_file(path, bytes_max=FILE_BYTES)
        for role, path in sorted(paths.items())
    }
    manifest = Manifest(
        name=name,
        version=version,
        task=facts.task,
        frame_rate=frame_rate,
        network_name=facts.network_name,
        input=facts.input,
        outputs=facts.outputs,
        decode=Decode(threshold_permille=facts.threshold_permille, keypoints=facts.keypoints),
        labels=len(read_labels(contents[FILE_NAMES["labels"]])),
        requires=Requires(agent=AGENT_NEEDED),
        memory_bytes=facts.memory_bytes,
        golden=_golden(contents.get(FILE_NAMES["golden"]), facts),
        receipt=_receipt(contents.get(FILE_NAMES["receipt"]), facts),
        provenance=facts.provenance,
        files=tuple(_file(role, contents[FILE_NAMES[role]]) for role in sorted(paths)),
    )
    return _as_agents_read(manifest), contents


def _golden(data: bytes | None, facts: Facts) -> Golden | None:
    """Return how many golden objects may be missed, once the file reads as an agent will read it.

    Raises:
        RefusedError: It is not a golden file of this network.
    """
    if data is None:
        return None
    size = (facts.input.width, facts.input.height)
    read_golden(data, size=size, outputs=len(facts.outputs))
    return Golden(tolerance_permille=GOLDEN_TOLERANCE_PERMILLE)


def _receipt(data: bytes | None, facts: Facts) -> Receipt | None:
    """Return what the manifest says of the receipt, which must be this network's."""
    if data is None:
        return None
    receipt = read_receipt(data)
    if receipt.network_name != facts.network_name:
        raise ExportError(
            f"expected the receipt of {facts.network_name}, got that of {receipt.network_name[:80]}"
        )
    return summary_of(receipt)


def _check_name(dnn_params: Path, expected: str) -> None:
    """Refuse a network of another name: a frame would prove something else than it shows."""
    named = network_name(dnn_params)
    if named != expected:
        raise ExportError(f"expected the network to be named {expected}, got {named[:80]!r}")


def _as_agents_read(manifest: Manifest) -> Manifest:
    """Return the manifest as an agent will read it: what it would refuse is refused here."""
    data = encode_manifest(manifest)
    return open_manifest(data, sha256_expected=sha256(data).hexdigest(), release=manifest.release)


def _file(role: Role, data: bytes) -> File:
    return File(
        role=role,
        name=FILE_NAMES[role],
        bytes=len(data),
        sha256=sha256(data).hexdigest(),
        blocks=tuple(block.sha256 for block in split_file(data)),
    )
