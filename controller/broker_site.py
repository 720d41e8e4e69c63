"""Write a site's broker configuration with its certificates into one folder.

Written again, for a device that came later, it keeps the broker's certificate and the browsers'
passwords: only what has changed differs.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from controller.authority import Account, Issued, issue_account, issue_server
from controller.broker_config import BROWSERS, Kind, Plan, mosquitto_files, nats_files
from shared.errors import LimitError, OperatorError, StorageError
from shared.files import read_bounded, write_atomically

if TYPE_CHECKING:
    from controller.service import Controller

FILE_BYTES = 64 * 1024
PASSWORD_BYTES = 18
# Mosquitto's own way to keep a password: its name for PBKDF2 with SHA-512, and how often.
_SCHEME, _ROUNDS, _SALT_BYTES = "7", 101, 12
_SECRET = frozenset({"server.key", "browsers.passwords"})


@dataclass(frozen=True, slots=True)
class Written:
    """What was written where."""

    kind: Kind
    folder: Path
    files: tuple[str, ...]
    starts: tuple[str, ...]  # The files that a broker is started with.


def write_site(controller: "Controller", kind: Kind, folder: Path, plan: Plan) -> Written:
    """Write all that a broker's machine needs; ``plan`` is completed with the fleet's devices.

    Raises:
        OperatorError: A host is none, or the fleet has no authority that could be opened.
        StorageError: The folder cannot be written.
    """
    authority = controller.open_authority("site")
    plan = replace(plan, fleet=controller.fleet.name, devices=tuple(controller.fleet.devices))
    if kind == "mosquitto":
        plan = replace(plan, passwords=_hashed(browser_passwords(controller)))
    files = (mosquitto_files if kind == "mosquitto" else nats_files)(plan)
    site = controller.authorities.certificate("site")
    devices = controller.authorities.certificate("devices")
    files |= {"ca.pem": site, "devices-ca.pem": devices}
    if kind == "nats":
        files["clients-ca.pem"] = site + devices
    issued = _server_of(folder, plan.hosts) or issue_server(
        authority, plan.hosts, datetime.now(UTC)
    )
    files |= {"server.pem": issued.certificate, "server.key": issued.key}
    _write(folder, files)
    starts = tuple(name for name in files if name.endswith(".conf") and name != "users.conf")
    return Written(kind, folder, tuple(sorted(files)), starts)


def issue(controller: "Controller", account: Account) -> Issued:
    """Return a new certificate of an account."""
    return issue_account(controller.open_authority("site"), account, datetime.now(UTC))


def browser_passwords(controller: "Controller") -> dict[Account, str]:
    """Return the passwords of the browsers' accounts, made at the first time of asking."""
    path = controller.authorities.tls / "browsers.json"
    data = read_bounded(path, FILE_BYTES)
    known: dict[str, str] = {} if data is None else json.loads(data)
    passwords: dict[Account, str] = {
        name: known.get(name) or secrets.token_urlsafe(PASSWORD_BYTES) for name in BROWSERS
    }
    if passwords != known:
        write_atomically(path, json.dumps(passwords).encode(), mode=0o600)
    return passwords


def _hashed(passwords: Mapping[Account, str]) -> dict[Account, str]:
    return {name: _hash(password) for name, password in passwords.items()}


def _hash(password: str) -> str:
    """Return a password as Mosquitto keeps it; made of 144 random bits, it needs no more rounds."""
    salt = hashlib.sha256(password.encode()).digest()[:_SALT_BYTES]  # The same file each time.
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS)
    words = (_SCHEME, str(_ROUNDS), _text(salt), _text(digest))
    return "$" + "$".join(words)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _server_of(folder: Path, hosts: tuple[str, ...]) -> Issued | None:
    """Return the broker's certificate that is there, if it is for these hosts."""
    try:
        certificate = read_bounded(folder / "server.pem", FILE_BYTES)
        key = read_bounded(folder / "server.key", FILE_BYTES)
        if certificate is None or key is None:
            return None
        parsed = x509.load_pem_x509_certificate(certificate)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, LimitError, x509.ExtensionNotFound):
        return None
    found = {str(name.value) for name in names}
    return Issued(certificate.decode(), key.decode()) if found == set(hosts) else None


def _write(folder: Path, files: Mapping[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "store").mkdir(exist_ok=True, mode=0o700)
    except FileExistsError as error:
        raise OperatorError(f"expected a folder, got the file {folder}") from error
    except OSError as error:
        raise StorageError(f"could not write {folder}: {error.strerror}") from error
    for name, text in files.items():
        mode = 0o640 if name in _SECRET else 0o644
        write_atomically(folder / name, text.encode(), mode=mode)
