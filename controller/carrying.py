"""A release as one file, for a release key that is on another machine: export, sign there, import.

    here     release export helmet@8 helmet.zip     (manifest, files, the newest signed list)
    there    release import helmet.zip; release sign helmet@8; release export helmet@8 signed.zip
    here     release import signed.zip              (the list is taken if our root vouches for it)

A zip file, stored and not compressed; every name in it is known before it is read, and every
length is bounded. The files are what the manifest says, or nothing is taken.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shared.errors import LimitError, OperatorError
from shared.files import read_bounded, write_atomically
from shared.limits import BUNDLE_BYTES, FILE_BYTES, MANIFEST_BYTES, RELEASE_BYTES
from shared.release import Manifest

MANIFEST, TARGETS, FILES = "manifest.json", "targets.json", "files/"
CARRIED_BYTES = RELEASE_BYTES + MANIFEST_BYTES + BUNDLE_BYTES + 65_536  # And the zip's own tables.
_AT = (1980, 1, 1, 0, 0, 0)  # The same release is the same file.


@dataclass(frozen=True, slots=True)
class Carried:
    """What such a file holds."""

    manifest: Manifest
    files: Mapping[str, bytes]
    targets: str


def write(path: Path, carried: Carried, manifest: bytes) -> None:
    """Write it; ``manifest``: its exact text."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        contents = {FILES + name: data for name, data in carried.files.items()}
        for name, data in {
            MANIFEST: manifest, TARGETS: carried.targets.encode(), **contents
        }.items():  # fmt: skip
            archive.writestr(zipfile.ZipInfo(name, _AT), data)
    write_atomically(path, buffer.getvalue(), mode=0o644)


def read(path: Path) -> Carried:
    """Read it.

    Raises:
        OperatorError: It is no such file.
    """
    try:
        data = read_bounded(path, CARRIED_BYTES)
    except LimitError as error:
        raise OperatorError(f"{path}: {error}") from error
    if data is None:
        raise OperatorError(f"expected a file of `fleetctl release export`, found none at {path}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _carried(archive)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError) as error:
        raise OperatorError(f"{path} is no file of `fleetctl release export`: {error}") from error


def _carried(archive: zipfile.ZipFile) -> Carried:
    manifest = msgspec.json.decode(_member(archive, MANIFEST, MANIFEST_BYTES), type=Manifest)
    files = {file.name: _member(archive, FILES + file.name, FILE_BYTES) for file in manifest.files}
    return Carried(manifest, files, _member(archive, TARGETS, BUNDLE_BYTES).decode())


def _member(archive: zipfile.ZipFile, name: str, bytes_max: int) -> bytes:
    """Return one file of it; a length that lies ends the reading at the bound."""
    with archive.open(name) as member:
        data = member.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise ValueError(f"expected at most {bytes_max} bytes in {name}")
    return data
