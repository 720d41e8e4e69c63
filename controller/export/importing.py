"""Turn a folder that plain Ultralytics exported for the IMX500 into a package. Imports onnx.

Every such network is called ``model_imx``, so no device could tell two versions apart: the ONNX
file, which is all that counts, is converted again under a name of its own. What it computes stays
as it is: where its coordinates are off, so are those of the package, and its provenance says so.
"""

import hashlib
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec

from controller.export.convert import memory_bytes
from controller.export.facts import Facts
from controller.export.foreign import Foreign, lower_foreign, read_foreign
from controller.export.pack import FILE_NAMES, convert_into
from controller.export.provenance import LICENCE, NAME_CHARACTERS
from controller.export.wire import ImportJob, Progress

CONVERTER = "imx500-converter"
COORDINATES = "coordinates"  # In the provenance: what is wrong with them.

Tell = Callable[[Progress], None]


def import_network(job: ImportJob, *, tell: Tell) -> Facts:
    """Make the package in the job's folder ``package``; return what is known of it.

    Raises:
        ExportError: It is not such a folder, or the converter or the lowering refuses its network.
    """
    source, folder = Path(job.source), Path(job.folder)
    tell(Progress("read", text=source.name))
    foreign = read_foreign(source)
    package = folder / "package"
    package.mkdir()
    network = folder / f"{_name(foreign)}.onnx"
    shutil.copyfile(foreign.network, network)
    convert_into(network, folder, package, tell=tell)
    tell(Progress("lower", text="the simulator graph"))
    return _lowered(foreign, package, name=network.stem)


def _lowered(foreign: Foreign, package: Path, *, name: str) -> Facts:
    """Write graph and labels; what is wrong with the coordinates is only known afterwards."""
    facts = msgspec.structs.replace(
        foreign.facts,
        network_name=name,
        memory_bytes=memory_bytes(package / FILE_NAMES["memory_report"]),
        provenance={
            "imported_from": foreign.network.name,
            "licence": LICENCE,
            "onnx_sha256": foreign.sha256,
            CONVERTER: version(CONVERTER),
            "onnx": version("onnx"),
        },
    )
    warnings = lower_foreign(foreign, package, facts=facts)
    if not warnings:
        return facts
    provenance = facts.provenance | {COORDINATES: warnings[0]}
    facts = msgspec.structs.replace(facts, provenance=provenance)
    lower_foreign(foreign, package, facts=facts)
    return facts


def _name(foreign: Foreign) -> str:
    """Return a name that no other network, and no other converter, gives."""
    text = f"{foreign.sha256} {version(CONVERTER)}".encode()
    return f"n{hashlib.sha256(text).hexdigest()[:NAME_CHARACTERS]}"
