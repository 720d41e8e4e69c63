"""Packages that were built before: the same inputs give the same package, so it is built once.

The key is a hash of all that has a part in the result: the model's bytes, the options, the tools'
versions, this exporter's own code, and the data set's files by name, size and time of change (as
make and git do: hashing a hundred thousand pictures takes longer than anybody waits).
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import msgspec
import yaml

from controller.export.provenance import arguments_of, tools, weights_sha256
from controller.export.wire import BuildRequest

PACKAGES_MAX = 12  # Some 15 MB each.
FILES_MAX = 200_000  # Of a data set; a larger one is not kept in mind.
PACKAGE, KEPT = "package", "kept"
_CODE = ("controller/export", "shared")


def key_of(request: BuildRequest) -> str | None:
    """Return the key of a build, or None where its inputs cannot be told in short."""
    try:
        data = _fingerprint(Path(request.data))
        parts = {
            "model": weights_sha256(Path(request.model)),
            "data": data,
            "arguments": dict(arguments_of(request)),
            "measured": [request.golden_images, request.eval_images],
            "tools": tools(),
            "code": _code(),
        }
    except (OSError, PackageNotFoundError, yaml.YAMLError, UnicodeDecodeError):
        return None  # The build itself says what is wrong.
    if data is None:
        return None
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def find(key: str | None, *, needs_kept: bool) -> Path | None:
    """Return the folder of an earlier build, with its ``package`` and perhaps ``kept``."""
    if key is None:
        return None
    place = _home() / key
    if not (place / PACKAGE).is_dir() or (needs_kept and not (place / KEPT).is_dir()):
        return None
    with suppress(OSError):
        os.utime(place)  # It is the newest now.
    return place


def keep(key: str | None, package: Path, kept: Path | None) -> None:
    """Keep a package; what goes wrong here takes nothing away from its build."""
    if key is None:
        return
    with suppress(OSError):
        home = _home()
        home.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
        try:
            shutil.copytree(package, scratch / PACKAGE)
            if kept is not None:
                shutil.copytree(kept, scratch / KEPT)
            shutil.rmtree(home / key, ignore_errors=True)
            scratch.rename(home / key)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        _forget(home)


def _forget(home: Path) -> None:
    places = sorted(home.iterdir(), key=lambda place: place.stat().st_mtime, reverse=True)
    for place in places[PACKAGES_MAX:]:
        shutil.rmtree(place, ignore_errors=True)


def _home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "imxfleet" / "builds"


def _code() -> str:
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for folder in _CODE:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _fingerprint(data: Path) -> str | None:
    """Return a hash over the data set's files; None where there are too many."""
    digest, root = hashlib.sha256(), data
    if data.is_file():
        content = data.read_bytes()
        digest.update(content)
        document = yaml.safe_load(content)
        given = document.get("path") if isinstance(document, dict) else None
        root = data.parent / str(given or ".")
    for number, entry in enumerate(_files(root)):
        if number >= FILES_MAX:
            return None
        state = entry.stat()
        digest.update(f"{entry.path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            elif not entry.name.endswith(".cache"):  # Ultralytics writes it, and so changes it.
                yield entry
