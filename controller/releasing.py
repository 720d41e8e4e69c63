"""What a person does with releases and keys beyond signing: carry, revoke, prune, rotate."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from time import time
from typing import TYPE_CHECKING

import msgspec
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Root

from controller import audit, carrying, clearing
from controller.driving import keep_identity, read_identities, read_repository
from controller.inventory import identity_of
from controller.keys import files_of, load_signer, settle_next, write_next_controller
from controller.obeying import obey
from controller.repository import Repository, delist_release, rotate_controller, take_targets
from controller.store import Intention
from shared.errors import OperatorError, UnsignedError

if TYPE_CHECKING:
    from controller.service import Controller
    from controller.status import ReleaseStatus

Passphrase = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """One role of the fleet's root, and whether its key is here."""

    role: str
    keys: tuple[str, ...]  # Their ids.
    threshold: int
    expires: datetime
    files: Mapping[str, bool]  # On this machine, by name; whether it asks for a passphrase.


def export(controller: "Controller", release: str, path: Path) -> None:
    """Write a release to one file, with the newest list of signed releases.

    Raises:
        StorageError: A byte is missing or changed.
    """
    status, manifest = controller.show_release(release)
    store = controller.store
    files = {file.name: store.blob(file.sha256) for file in manifest.files}
    targets = read_repository(store).newest_targets
    carried = carrying.Carried(manifest, files, targets)
    carrying.write(path, carried, store.blob(status.manifest_sha256))


def take(controller: "Controller", path: Path) -> "ReleaseStatus":
    """Take a release from such a file, and the list that was signed with it.

    Raises:
        UnsignedError: The list is not signed by this fleet's release key.
        OperatorError: The name stands for other content, or both machines have signed something.
    """
    carried = carrying.read(path)
    store, release = controller.store, carried.manifest.release
    take_targets(read_repository(store), carried.targets)  # Refused before anything is kept.
    controller.import_release(carried.manifest, carried.files)
    with store.transaction():
        repository = take_targets(read_repository(store), carried.targets)
        store.put("repository", repository.to_dict())
        if release in repository.listed:
            store.sign(release)
        audit.note(store, "release", release, verb="import", file=path.name)
    return next(one for one in controller.list_releases() if one.release == release)


def revoke(controller: "Controller", release: str, passphrase: str | None) -> None:
    """Delist a release and turn every entry of it to `revert`, in one plan.

    Raises:
        OperatorError: It is not listed, or the fleet is frozen.
        UnsignedError: The release key is not here, or does not open.
    """
    store = controller.store
    signer = load_signer(controller.keys, "release", passphrase)
    with store.transaction():
        obey(controller.site(), Intention(0, "revoke", "", {"release": release}))
        _delist(controller, (release,), signer)
        store.put("revoked", sorted({*store.revoked(), release}))
        store.intend("revoke", "", release=release)
        audit.note(store, "release", release, verb="revoke")


def prunable(controller: "Controller") -> tuple[str, ...]:
    """Return the releases that `prune` would delist."""
    devices, _ = controller.heard()
    site = replace(controller.site(), devices=devices)
    return clearing.prunable(site, [one.release for one in controller.fleet.rollouts])


def prune(controller: "Controller", passphrase: str | None) -> tuple[str, ...]:
    """Delist what nobody needs; return it. Nothing is reverted: nobody runs it."""
    store = controller.store
    signer = load_signer(controller.keys, "release", passphrase)
    heard = prunable(controller)
    with store.transaction():
        declared = [one.release for one in controller.fleet.rollouts]
        still = clearing.prunable(controller.site(), declared)
        found = tuple(release for release in heard if release in still)
        if found:
            _delist(controller, found, signer)
            store.intend("publish", "")
        for release in found:
            audit.note(store, "release", release, verb="prune")
    return found


def _delist(controller: "Controller", releases: tuple[str, ...], signer: Signer) -> None:
    store, now = controller.store, datetime.now(UTC)
    repository = read_repository(store)
    for release in releases:
        repository = delist_release(repository, release, signer, now)
    store.put("repository", repository.to_dict())


def list_keys(controller: "Controller") -> tuple[KeyStatus, ...]:
    """Return which keys hold which role, until when, and which files are here."""
    repository = read_repository(controller.store)
    root, files = repository.signed_root, files_of(controller.keys)
    expires = {
        "root": root.expires,
        "targets": repository.signed_targets.expires,
        "snapshot": repository.signed_snapshot.expires,
        "timestamp": repository.signed_timestamp.expires,
    }
    return tuple(
        KeyStatus(
            role=role,
            keys=tuple(root.roles[role].keyids),
            threshold=root.roles[role].threshold,
            expires=expires[role],
            files={name: asks for name, asks in files.items() if name.startswith(_FILES[role])},
        )
        for role in ("root", "targets", "snapshot", "timestamp")
    )


_FILES = {"root": "root", "targets": "release", "snapshot": "controller", "timestamp": "controller"}


def rotate(controller: "Controller", passphrase: Passphrase) -> Repository:
    """Replace the controller key: after a theft, or a fast-forward by a thief.

    Every device drops the floors that the old key has set, and takes a new identity. Needs as many
    root keys as the root asks for; holds the lease, so that nobody signs with the old one.

    Raises:
        OperatorError: Somebody drives.
        UnsignedError: Too few root keys are here, or one does not open.
    """
    store, holder = controller.store, f"rotate-{token_hex(4)}"
    roots = _root_signers(controller, passphrase)
    new = CryptoSigner.generate_ed25519()
    secret = None if controller.is_demo else passphrase("controller")
    if not store.take_lease(holder, time()):
        raise OperatorError(
            f"{controller.driver().holder} drives this fleet: end it first, it has the old key"
        )
    try:
        with store.transaction(holder):
            digest = write_next_controller(controller.keys, new, secret)
            repository = rotate_controller(
                read_repository(store), root_signers=roots, controller_signer=new,
                now=datetime.now(UTC),
            )  # fmt: skip
            store.put("repository", repository.to_dict())
            store.put("controller_key", digest)
            _sign_again(controller, new)
            audit.note(store, "keys", "controller", verb="rotate", root=repository.root_version)
            audit.note_all(store, [_planned(repository)])
            audit.seal(store, new)
        settle_next(controller.keys, digest)
    finally:
        store.give_lease(holder)
    return repository


def _planned(repository: Repository) -> audit.Note:
    text = repository.files["timestamp.json"]
    return audit.of_plan(repository.plan, repository.version, text)


def _root_signers(controller: "Controller", passphrase: Passphrase) -> tuple[Signer, ...]:
    root = read_repository(controller.store).signed_root
    needed = root.roles[Root.type].threshold
    signers: list[Signer] = []
    for number in range(1, len(root.roles[Root.type].keyids) + 1):
        if f"root-{number}.pem" in files_of(controller.keys) and len(signers) < needed:
            secret = None if controller.is_demo else passphrase("root")
            signers.append(load_signer(controller.keys, "root", secret, number=number))
    if len(signers) < needed:
        raise UnsignedError(
            f"expected {needed} root keys in {controller.keys}, found {len(signers)}: bring them"
        )
    return tuple(signers)


def _sign_again(controller: "Controller", signer: Signer) -> None:
    """Sign every identity with the new key: devices do not take the old one's any more."""
    store, now = controller.store, datetime.now(UTC)
    for device, signed in read_identities(store).items():
        declared, version = controller.fleet.devices.get(device), signed.version + 1
        identity = (
            msgspec.structs.replace(signed, version=version)
            if declared is None
            else identity_of(controller.fleet.name, declared, version=version, at=now)
        )
        keep_identity(store, identity, signer)
