"""Keys at rest: encrypted PKCS#8 files that only their owner may read.

Root and release keys always ask for a passphrase. Only the demo writes plain keys, in its own
folder, and its root says so, so that no real agent takes it. A passphrase never gets into a
message, and a key never leaves this module but as a signer.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from shared.errors import LimitError, OperatorError, StorageError, UnsignedError
from shared.files import read_bounded, sync_folder, write_atomically
from shared.topics import checked_name

KeyRole = Literal["root", "release", "controller"]
KEY_FILE_BYTES = 8_192  # An encrypted Ed25519 key takes 400 bytes.
ROOTS_MAX = 9  # People who can be asked to bring a key.
PASSPHRASE_BYTES_MAX = 1_000  # cryptography takes 1,023.
# PKCS#8 stretches it by 2,048 rounds only, and cryptography has no setting: length must do.
PASSPHRASE_CHARACTERS_MIN = 12


_NEXT = "controller-next.pem"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a new fleet, in memory until its repository is signed.

    Attributes:
        root_threshold: How many root keys must sign a root.
        is_demo: They were written without a passphrase; the root must say so.
    """

    fleet: str
    root: tuple[CryptoSigner, ...]
    root_threshold: int
    release: CryptoSigner
    controller: CryptoSigner
    is_demo: bool


def create_keys(
    folder: Path, *, fleet: str, passphrase: str | None, root_threshold: int = 2, roots: int = 3
) -> Keys:
    """Make a fleet's keys and write them to a new folder; never overwrite one.

    Args:
        folder: Where the files go, mode 0600 in a folder of mode 0700.
        fleet: The fleet that they are for; keys are never reused.
        passphrase: None only for the demo.
        root_threshold: How many root keys must sign a root.
        roots: How many root keys there are.

    Raises:
        OperatorError: There are keys already, or the numbers make no sense.
        StorageError: They cannot be written.
    """
    if not 1 <= root_threshold <= roots <= ROOTS_MAX:
        raise OperatorError(
            f"expected 1 <= threshold <= root keys <= {ROOTS_MAX}, got {root_threshold} of {roots}"
        )
    encryption = _encryption(passphrase)
    keys = Keys(
        fleet=checked_name(fleet),
        root=tuple(CryptoSigner.generate_ed25519() for _ in range(roots)),
        root_threshold=root_threshold,
        release=CryptoSigner.generate_ed25519(),
        controller=CryptoSigner.generate_ed25519(),
        is_demo=passphrase is None,
    )
    _write(folder, keys, encryption)
    return keys


def load_signer(
    folder: Path, role: KeyRole, passphrase: str | None, *, number: int = 1
) -> CryptoSigner:
    """Return the signer of a role; ``number`` says which of the root keys.

    Raises:
        UnsignedError: There is no such key, or the passphrase does not open it.
    """
    path = folder / _name(role, number)
    label = f"{role} key in {path}"
    try:
        data = read_bounded(path, KEY_FILE_BYTES)
    except (LimitError, StorageError) as error:
        raise UnsignedError(f"the {label} cannot be read") from error
    if data is None:
        raise UnsignedError(f"there is no {label}; `fleetctl init` makes the keys of a fleet")
    if path.stat().st_mode & 0o007:
        raise UnsignedError(f"everybody may read the {label}; chmod 600 it, or make new keys")
    return _open(data, passphrase, label)


def write_next_controller(folder: Path, signer: CryptoSigner, passphrase: str | None) -> str:
    """Write a new controller key beside the old one; return the SHA-256 of its file.

    The caller commits that hash with the root that knows the key; ``settle_next`` then does the
    rest, also after a power cut in between.
    """
    data = _pem(signer, _encryption(passphrase))
    write_atomically(folder / _NEXT, data, mode=0o600)
    return sha256(data).hexdigest()


def has_next(folder: Path) -> bool:
    """Say whether a rotation of the controller key has begun and not ended."""
    return (folder / _NEXT).exists()


def settle_next(folder: Path, committed: str | None) -> None:
    """End a rotation: the new controller key takes the old one's place, or goes if nobody has it.

    Args:
        folder: Where the keys are.
        committed: The SHA-256 of the file of the key that the newest root knows, if it was rotated.
    """
    path = folder / _NEXT
    data = read_bounded(path, KEY_FILE_BYTES)
    if data is None:
        return
    try:
        if sha256(data).hexdigest() == committed:
            path.replace(folder / _name("controller", 1))
        else:
            path.unlink()
        sync_folder(folder)
    except OSError as error:
        raise StorageError(f"could not end the rotation in {folder}: {error.strerror}") from error


def files_of(folder: Path) -> dict[str, bool]:
    """Return the key files that are here, and whether each asks for a passphrase."""
    return {
        path.name: b"ENCRYPTED" in (read_bounded(path, KEY_FILE_BYTES) or b"")
        for path in sorted(folder.glob("*.pem"))
    }


def needs_passphrase(folder: Path, role: KeyRole, *, number: int = 1) -> bool:
    """Say whether opening this key takes a passphrase: whether to ask for one.

    Raises:
        UnsignedError: There is no such key, or it is no key.
    """
    try:
        load_signer(folder, role, None, number=number)
    except PassphraseNeededError:
        return True
    return False


class PassphraseNeededError(UnsignedError):
    """The key is encrypted and no passphrase was given."""


def _name(role: KeyRole, number: int) -> str:
    return f"root-{number}.pem" if role == "root" else f"{role}.pem"


def _encryption(passphrase: str | None) -> KeySerializationEncryption:
    if passphrase is None:
        return NoEncryption()
    encoded = passphrase.encode()
    if len(passphrase) < PASSPHRASE_CHARACTERS_MIN or len(encoded) > PASSPHRASE_BYTES_MAX:
        raise OperatorError(
            f"expected a passphrase of at least {PASSPHRASE_CHARACTERS_MIN} characters, and of at"
            f" most {PASSPHRASE_BYTES_MAX} bytes"
        )
    return BestAvailableEncryption(encoded)


def _pem(signer: CryptoSigner, encryption: KeySerializationEncryption) -> bytes:
    key = load_pem_private_key(signer.private_bytes, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _write(folder: Path, keys: Keys, encryption: KeySerializationEncryption) -> None:
    """Write all keys beside the folder, then rename: a power cut leaves all of them or none."""
    if folder.exists() and any(folder.iterdir()):
        raise OperatorError(f"{folder} is not empty; keys are never overwritten or reused")
    signers = {
        **{_name("root", n): signer for n, signer in enumerate(keys.root, start=1)},
        _name("release", 1): keys.release,
        _name("controller", 1): keys.controller,
    }
    making = folder.with_name(f"{folder.name}.making-{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        making.mkdir(mode=0o700)
        for name, signer in signers.items():
            write_atomically(making / name, _pem(signer, encryption), mode=0o600)
        making.rename(folder)
    except OSError as error:
        raise StorageError(f"could not write keys to {folder}: {error.strerror}") from error
    finally:
        _remove(making)


def _remove(folder: Path) -> None:
    with suppress(OSError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _open(data: bytes, passphrase: str | None, label: str) -> CryptoSigner:
    """Return the signer in a file; the errors of cryptography say nothing that helps a person."""
    is_encrypted = b"ENCRYPTED" in data
    if is_encrypted and passphrase is None:
        raise PassphraseNeededError(f"the {label} asks for its passphrase")
    secret = passphrase.encode() if is_encrypted and passphrase is not None else None
    try:
        key = load_pem_private_key(data, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = "the passphrase does not open it" if is_encrypted else "it is no PKCS#8 file"
        raise UnsignedError(f"the {label} cannot be opened: {reason}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UnsignedError(f"the {label} is not an Ed25519 key")
    return CryptoSigner(key)
