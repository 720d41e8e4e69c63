"""Backup, restore, adopt: how a fleet outlives the workstation that drives it.

A backup is a tar file: the store (copied by SQLite itself, while others write), the releases'
files, the broker's certificates. Keys are in it only when asked for, and only as they are at rest,
encrypted; a demo's are not.

What was signed after the backup is on the broker: a restored controller finds a newer plan there
and stops. ``adopt`` takes that plan over. Its rollouts come to rest: what their strategies said is
not in a plan, so a person decides about each.
"""

import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, time
from typing import TYPE_CHECKING

import msgspec

from controller import audit, strategies
from controller.driving import read_repository
from controller.planning import Rollout, State, Wave
from controller.repository import Repository, bundle_bytes, sign_plan
from controller.rollout import Course, Reach
from controller.steering import plan_of
from controller.store import Record, Store
from shared.assignment import SHARE_ALL, Action, Entry
from shared.bus import Bus, BusEvent, Inbox
from shared.errors import (
    BrokerUnreachableError,
    OperatorError,
    RefusedError,
    StorageError,
)
from shared.files import sync_folder
from shared.inbox import Connected, ConnectionFailed, Received
from shared.limits import BUNDLE_BYTES, FILE_BYTES
from shared.plan import selector_text
from shared.topics import Topics
from shared.trust import Bundle, BundleDocument, open_bundle

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from controller.service import Controller

STORE = "store.sqlite"
STORE_BYTES_MAX = 4 * 1024**3
FILES_MAX = 100_000
LISTEN_SECONDS = 10.0
PUBLIC = ("ca.pem", "devices-ca.pem")


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What a backup holds."""

    file: Path
    files: int
    bytes: int
    has_keys: bool


def back_up(folder: Path, target: Path, *, with_keys: bool) -> BackedUp:
    """Write a backup of a fleet's folder; whole or not at all.

    Raises:
        OperatorError: The keys are a demo's, and so not encrypted.
        StorageError: Something cannot be read or written.
    """
    part = target.with_name(target.name + ".part")
    count = 0
    try:
        with TemporaryDirectory(dir=folder) as scratch, part.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            copy = Path(scratch) / STORE
            _copy_store(folder / STORE, copy)
            with tarfile.open(fileobj=file, mode="w") as archive:
                for name, path in _members(folder, copy, with_keys=with_keys):
                    archive.add(path, arcname=name, recursive=False)
                    count += 1
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        sync_folder(target.parent)
    except FileExistsError as error:
        raise OperatorError(f"{part} is there: another backup runs, or one was cut off") from error
    except (OSError, sqlite3.Error) as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"could not write {target}: {error}") from error
    except OperatorError:
        part.unlink(missing_ok=True)
        raise
    return BackedUp(target, count, target.stat().st_size, with_keys)


def restore(source: Path, folder: Path) -> BackedUp:
    """Put a backup where there is no fleet; nothing is overwritten.

    Raises:
        OperatorError: There is a fleet already, or the file is no backup.
        StorageError: It is damaged, or cannot be written.
    """
    if (folder / STORE).exists():
        raise OperatorError(f"{folder} holds a fleet already; a restore overwrites nothing")
    making = folder.with_name(f"{folder.name}.restoring-{os.getpid()}")
    try:
        making.mkdir(parents=True, mode=0o700)
        names = _unpack(source, making)
        _check(making)
        if folder.is_dir():  # E.g. with the keys, which were brought by hand.
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                if (folder / name).exists():
                    raise OperatorError(f"{folder / name} is there already")
                (making / name).rename(folder / name)
        else:
            making.rename(folder)
        sync_folder(folder)
    except OSError as error:
        raise StorageError(f"could not restore to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    has_keys = any(name.startswith("keys/") for name in names)
    return BackedUp(source, len(names), source.stat().st_size, has_keys)


def adopt(controller: "Controller", store: Store) -> tuple[int, tuple[str, ...]]:
    """Take over the plan that the broker holds; return its new version and its rollouts.

    Raises:
        OperatorError: Somebody drives, there is nothing newer, or a release is not in the store.
        BrokerUnreachableError: No connection.
    """
    lease = store.lease()
    if lease is not None and lease.is_alive(time()):
        raise OperatorError(f"{lease.host}, process {lease.pid} drives this fleet; stop it first")
    ours = read_repository(store)
    data = _heard(controller)
    try:
        bundle = open_bundle(data, fleet=controller.fleet.name, root=ours.root)
    except RefusedError as error:
        raise OperatorError(f"our root does not vouch for the broker's plan: {error}") from error
    if bundle.version < ours.version or data == bundle_bytes(ours):
        raise OperatorError(f"the broker has version {bundle.version}, and ours is {ours.version}")
    missing = [e.release for e in bundle.plan if store.manifest_sha256(e.release) is None]
    if missing:
        wanted = ", ".join(dict.fromkeys(missing))
        raise OperatorError(f"the plan names {wanted}: `fleetctl release import` it first")
    theirs = _taken_over(ours, data)
    return _commit(controller, store, bundle, theirs, controller.signer("controller"))


def _commit(
    controller: "Controller", store: Store, bundle: Bundle, theirs: Repository, signer: "Signer"
) -> tuple[int, tuple[str, ...]]:
    now = datetime.now(UTC)
    book = tuple(_rested(entry, bundle.version + 1) for entry in bundle.plan)
    site = replace(controller.site(), book=book)
    signed = sign_plan(theirs, plan_of(site), signer, now)
    with store.transaction():
        store.put("repository", signed.to_dict())
        store.put("book", book)
        known = {record.rollout: record for record in store.records()}
        for rollout in book:
            store.save(_record(controller, rollout, known, now))
        for record in known.values():
            if not record.is_over and all(r.entry.rollout != record.rollout for r in book):
                store.save(_ended(record, now))
        names = tuple(rollout.entry.rollout for rollout in book)
        audit.note(store, "driver", "adopt", version=signed.version, rollouts=list(names))
    return signed.version, names


def _rested(entry: Entry, version: int) -> Rollout:
    """Return an entry as a rollout without a strategy: what it has, and one wave for the rest."""
    now = Wave(min(999, entry.share * 1000 // SHARE_ALL), entry.pins)
    waves = (Wave(1000, entry.pins),) if entry.share == SHARE_ALL else (now, Wave(1000))
    match entry.action:
        case Action.RUN | Action.HOLD:
            return Rollout(replace(entry, action=Action.HOLD), waves, state=State.PAUSED)
        case Action.REVERT:
            return Rollout(entry, waves, state=State.REVERTING, reverted_in=version)
        case Action.KEEP:
            return Rollout(entry, waves, state=State.ABORTED)


def _record(
    controller: "Controller", rollout: Rollout, known: Mapping[str, Record], now: datetime
) -> Record:
    entry = rollout.entry
    old = known.get(entry.rollout)
    course = Course(reaches=(Reach(entry.pins, entry.share),), attempt=entry.attempt)
    record = old or Record(
        rollout=entry.rollout,
        name=entry.release.split("@")[0],
        release=entry.release,
        selector=selector_text(entry.selector),
        strategy="adopted",
        waves=(),
        rules=controller.rules(strategies.DEFAULT),
        probe=entry.probe,
        deny=tuple(sorted(entry.deny)),
        window=entry.window,
        started_at=now,
    )
    return replace(
        record,
        strategy="adopted",
        waves=tuple((tuple(sorted(wave.pins)), wave.permille) for wave in rollout.waves),
        course=course,
        state=rollout.state.value,
        reason="operator",
        text="taken over from the broker; resume it, or abort it",
        ended_at=now if rollout.state is State.ABORTED else None,
    )


def _ended(record: Record, now: datetime) -> Record:
    text = "the plan that was taken over does not name it"
    return replace(record, state="aborted", reason="superseded", text=text, ended_at=now)


def _taken_over(ours: Repository, data: bytes) -> Repository:
    """Return the broker's files, and our own targets where they are newer and still to come."""
    files = dict(msgspec.json.decode(data, type=BundleDocument).files)
    theirs = Repository(ours.fleet, files, ours.retired)
    newer = {
        name: text
        for name, text in ours.files.items()
        if name.endswith(".targets.json") and int(name.split(".")[0]) > _targets(theirs)
    }
    gone = {name: digest for name, digest in ours.listed.items() if name not in theirs.listed}
    retired = ours.retired if newer else {**ours.retired, **gone}
    return Repository(ours.fleet, {**files, **newer}, retired)


def _targets(repository: Repository) -> int:
    return int(repository.published_name.split(".")[0])


def _heard(controller: "Controller") -> bytes:
    """Return what is retained on `trust`."""
    inbox: Inbox[BusEvent] = Inbox()
    address, topic = controller.address, Topics(controller.fleet.name).trust
    bus = Bus(
        address.url,
        f"fleetctl-adopt-{os.getpid()}",
        inbox,
        ca=address.ca,
        certificate=address.certificate,
    )
    bus.subscribe(topic, bytes_max=BUNDLE_BYTES, is_repeated=True)
    bus.start()
    text, end = "nobody answers", monotonic() + LISTEN_SECONDS
    try:
        while monotonic() < end:
            match inbox.get(timeout=max(end - monotonic(), 0.0)):
                case Received(_, payload) if payload:
                    return payload
                case Connected():
                    text = "it holds no plan of this fleet"
                case ConnectionFailed(reason):
                    text = reason
                case _:
                    pass
    finally:
        bus.stop()
    raise BrokerUnreachableError(f"{address.url}: {text}")


def _copy_store(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as one,
        closing(sqlite3.connect(target)) as other,
    ):
        one.backup(other)
        other.execute("UPDATE lease SET is_held = 0")  # Nobody drives a backup.
        other.commit()


def _members(folder: Path, copy: Path, *, with_keys: bool) -> Iterator[tuple[str, Path]]:
    yield STORE, copy
    for path in sorted((folder / "blobs").iterdir()):
        if not path.name.endswith(".part"):
            yield f"blobs/{path.name}", path
    for name in PUBLIC:
        if (folder / "tls" / name).is_file():
            yield f"tls/{name}", folder / "tls" / name
    if with_keys:
        for path in sorted((folder / "keys").glob("*.pem")):
            if b"ENCRYPTED" not in path.read_bytes():
                raise OperatorError(f"{path.name} is not encrypted: a demo's keys stay here")
            yield f"keys/{path.name}", path


def _unpack(source: Path, target: Path) -> list[str]:
    names: list[str] = []
    try:
        with tarfile.open(source, "r:") as archive:
            for member in archive:
                _check_member(member, len(names))
                file = archive.extractfile(member)
                assert file is not None, "a regular file"
                path = target / member.name
                path.parent.mkdir(exist_ok=True, mode=0o700)
                with path.open("xb") as out:
                    os.fchmod(out.fileno(), 0o600)
                    shutil.copyfileobj(file, out)
                    out.flush()
                    os.fsync(out.fileno())
                names.append(member.name)
    except tarfile.TarError as error:
        raise OperatorError(f"{source} is no backup: {error}") from error
    if STORE not in names:
        raise OperatorError(f"{source} is no backup: it holds no {STORE}")
    return names


def _check_member(member: tarfile.TarInfo, count: int) -> None:
    """Refuse whatever a backup of ours does not hold: its names say where files go."""
    parts = member.name.split("/")
    is_known = parts == [STORE] or (len(parts) == 2 and parts[0] in {"blobs", "tls", "keys"})  # noqa: PLR2004
    is_plain = all(part not in {"", ".", ".."} for part in parts) and member.isreg()
    size = STORE_BYTES_MAX if parts == [STORE] else FILE_BYTES
    if not (is_known and is_plain) or member.size > size or count >= FILES_MAX:
        raise OperatorError(f"no backup of ours holds {member.name[:80]!r}")


def _check(folder: Path) -> None:
    """Read all of it once: a damaged backup is found now, and not in the middle of a rollout."""
    with suppress(FileExistsError):
        (folder / "blobs").mkdir(mode=0o700)
    store = Store(folder)
    try:
        read_repository(store)
        store.records()
    finally:
        store.close()
    for path in (folder / "blobs").iterdir():
        if sha256(path.read_bytes()).hexdigest() != path.name:
            raise StorageError(f"the backup is damaged: {path.name[:12]} is not what its name says")
