"""What the controller must not forget: one SQLite file and a folder of blobs, per fleet.

SQLite in WAL mode; every change that belongs together is one transaction, and whoever drives
checks in the same transaction that the lease is still theirs. Documents are msgspec's JSON of our
own frozen types. Files of releases lie beside it under their SHA-256.
"""

import os
import socket
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import msgspec

from controller.planning import Book
from controller.rollout import Course, Rules
from controller.status import RolloutStatus
from shared.assignment import Probe, Window
from shared.errors import OperatorError, StorageError
from shared.files import read_bounded, write_atomically
from shared.limits import BLOCK_BYTES, FILE_BYTES
from shared.release import Manifest, encode_manifest

BUSY_SECONDS = 10.0
LEASE_SECONDS = 10.0  # A holder renews it every tick; one that was suspended loses it.
# Each step brings a store to its number, counted from 1; what was released never changes.
MIGRATIONS = (
    """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS releases (release TEXT PRIMARY KEY, sha256 TEXT NOT NULL,
    is_signed INTEGER NOT NULL DEFAULT 0, imported_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (sha256 TEXT PRIMARY KEY, file TEXT NOT NULL,
    start INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS rollouts (number INTEGER PRIMARY KEY, rollout TEXT UNIQUE NOT NULL,
    name TEXT NOT NULL, record BLOB NOT NULL, status BLOB);
CREATE TABLE IF NOT EXISTS intentions (id INTEGER PRIMARY KEY, verb TEXT NOT NULL,
    rollout TEXT NOT NULL, arguments BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS identities (device TEXT PRIMARY KEY, version INTEGER NOT NULL,
    payload BLOB NOT NULL, envelope BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS reports (device TEXT PRIMARY KEY, known BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS lease (id INTEGER PRIMARY KEY CHECK (id = 1), holder TEXT NOT NULL,
    host TEXT NOT NULL, pid INTEGER NOT NULL, renewed REAL NOT NULL, is_held INTEGER NOT NULL)
""",
    """
CREATE TABLE audit (number INTEGER PRIMARY KEY, entry BLOB NOT NULL, digest TEXT NOT NULL)
""",
)
SCHEMA_VERSION = len(MIGRATIONS)
Document = TypeVar("Document")
ReleaseRow = tuple[str, str, bool, datetime]  # Name, manifest's hash, signed, imported at.


class LeaseLostError(StorageError):
    """Another process has taken over; what was begun here is rolled back."""

    def __init__(self) -> None:
        super().__init__("another process drives this fleet now")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One rollout as the store keeps it, beside its entry in the book.

    Attributes:
        reason: operator, approval, inconclusive, gate, revoked, superseded, refused; None while all
            goes well.
        text: The reason in words.
        ran_before: What its devices ran when it began, with how many cameras.
    """

    rollout: str
    name: str
    release: str
    selector: str
    strategy: str
    waves: tuple[tuple[tuple[str, ...], int], ...]  # Pins and permille.
    rules: Rules
    probe: Probe
    deny: tuple[str, ...] = ()
    window: Window | None = None
    started_at: datetime
    course: Course = field(default_factory=Course)
    state: str = "running"
    reason: str | None = None
    text: str | None = None
    ended_at: datetime | None = None
    ran_before: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def is_over(self) -> bool:
        """Say whether it has ended."""
        return self.state in {"completed", "aborted"}


@dataclass(frozen=True, slots=True)
class Intention:
    """What an operator asked for, until the holder of the lease acts on it.

    ``rollout`` is empty where it is about the whole fleet.
    """

    id: int
    verb: str
    rollout: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Frozen:
    """Who has frozen the fleet, when and why."""

    who: str
    at: datetime
    reason: str = ""

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"the fleet is frozen since {self.at:%Y-%m-%d %H:%M} UTC by {self.who}{why}"


@dataclass(frozen=True, slots=True)
class Lease:
    """Who drives, or drove last."""

    holder: str
    host: str
    pid: int
    renewed: float
    is_held: bool

    def is_alive(self, now: float) -> bool:
        """Say whether its holder still drives: in time, and on this machine not dead."""
        if not self.is_held or not 0 <= now - self.renewed < LEASE_SECONDS:
            return False
        return self.host != socket.gethostname() or _is_running(self.pid)


class Store:
    """One fleet's store. Raises StorageError where SQLite or the disk does not do its part."""

    def __init__(self, folder: Path) -> None:
        """Open it, or make it."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._blobs = folder / "blobs"
        self._blobs.mkdir(exist_ok=True, mode=0o700)
        self._path = folder / "store.sqlite"
        try:
            self._database = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        except sqlite3.Error as error:
            raise StorageError(f"cannot open {self._path}: {error}") from error
        self._execute("PRAGMA journal_mode=WAL")
        self._execute("PRAGMA synchronous=FULL")
        self._migrate()

    def close(self) -> None:
        """Close it; what was committed stays."""
        self._database.close()

    def _migrate(self) -> None:
        if self._version() == SCHEMA_VERSION:
            return  # Nothing is written: whoever only looks disturbs no driver.
        with self.transaction():
            found = self._version()  # Another process may just have done it.
            if found > SCHEMA_VERSION:
                raise StorageError(
                    f"{self._path} is of version {found}, written by a newer fleetctl; expected at"
                    f" most {SCHEMA_VERSION}: upgrade this one"
                )
            for migration in MIGRATIONS[found:]:
                for statement in migration.split(";"):
                    self._execute(statement)
            self._execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _version(self) -> int:
        (version,) = self._execute("PRAGMA user_version").fetchone()
        return int(version)

    def summary(self) -> dict[str, object]:
        """Return what a helper wants to know of it: is it whole, and how much is in it."""
        (check,) = self._execute("PRAGMA quick_check(1)").fetchone()
        tables = ("releases", "rollouts", "intentions", "identities", "reports", "audit")
        counts = {
            table: self._execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in tables
        }
        return {"version": self._version(), "check": str(check), "rows": counts}

    @contextmanager
    def transaction(self, holder: str | None = None) -> Iterator[None]:
        """Do all of it or nothing; with a holder, only while the lease is theirs."""
        self._execute("BEGIN IMMEDIATE")
        try:
            self._check_lease(holder)
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite ends some by itself, e.g. on a full disk.
                self._execute("ROLLBACK")
            raise

    def version_seen(self) -> int:
        """Return a number that changes when another process has written."""
        (version,) = self._execute("PRAGMA data_version").fetchone()
        return int(version)

    def _execute(
        self, statement: str, values: Sequence[str | bytes | float] = ()
    ) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.Error as error:  # Busy, full, read-only, damaged.
            raise StorageError(f"cannot use {self._path}: {error}") from error

    # Single documents.

    def get(self, key: str, kind: type[Document]) -> Document | None:
        """Return a document by its key."""
        row = self._execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else _decode(row[0], kind)

    def put(self, key: str, document: object) -> None:
        """Keep a document."""
        self._execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, msgspec.json.encode(document))
        )

    def book(self) -> Book:
        """Return the rollouts whose entries are in the plan."""
        return self.get("book", Book) or ()

    def frozen(self) -> Frozen | None:
        """Return who has frozen the fleet, if anybody has."""
        kept = self.get("frozen", tuple[Frozen, ...])
        return kept[0] if kept else None

    def keep_frozen(self, frozen: Frozen | None) -> None:
        """Keep who has frozen the fleet."""
        self.put("frozen", () if frozen is None else (frozen,))

    def revoked(self) -> frozenset[str]:
        """Return the releases that were revoked."""
        return self.get("revoked", frozenset[str]) or frozenset()

    # Releases.

    def add_release(self, manifest: Manifest, files: Mapping[str, bytes], now: float) -> None:
        """Keep a release, unsigned.

        Raises:
            OperatorError: The name and version stand for other content already, or a file differs
                from what the manifest says.
        """
        data = encode_manifest(manifest)
        digest = sha256(data).hexdigest()
        known = self.manifest_sha256(manifest.release)
        if known is not None and known != digest:
            raise OperatorError(
                f"{manifest.release} is in the store with other content; expected a new version"
            )
        for file in manifest.files:
            content = files.get(file.name, b"")
            if sha256(content).hexdigest() != file.sha256:
                raise OperatorError(
                    f"{manifest.release}: {file.name} is not what its manifest says"
                )
            self._write_blob(content)
        self._write_blob(data)
        with self.transaction():
            self._execute(
                "INSERT OR IGNORE INTO releases VALUES (?, ?, 0, ?)",
                (manifest.release, digest, now),
            )
            self._index(digest, digest, 0, len(data))
            for file in manifest.files:
                start = 0
                for block in file.blocks:
                    self._index(block, file.sha256, start, 0)
                    start += BLOCK_BYTES

    def _index(self, block: str, file: str, start: int, size: int) -> None:
        self._execute(
            "INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?)", (block, file, start, size)
        )

    def sign(self, release: str) -> None:
        """Note that a release is signed; within a transaction with the repository."""
        self._execute("UPDATE releases SET is_signed = 1 WHERE release = ?", (release,))

    def releases(self) -> tuple[ReleaseRow, ...]:
        """Return name, manifest's hash, signed or not, and time of import of every release."""
        rows = self._execute("SELECT * FROM releases ORDER BY imported_at, release")
        return tuple(
            (release, digest, bool(is_signed), datetime.fromtimestamp(at, UTC))
            for release, digest, is_signed, at in rows
        )

    def manifest_sha256(self, release: str) -> str | None:
        """Return the hash of a release's manifest."""
        row = self._execute("SELECT sha256 FROM releases WHERE release = ?", (release,)).fetchone()
        return None if row is None else str(row[0])

    def blob(self, digest: str) -> bytes:
        """Return a file or manifest, its bytes hashed.

        Raises:
            StorageError: It is missing or changed.
        """
        data = read_bounded(self._blobs / digest, FILE_BYTES)
        if data is None or sha256(data).hexdigest() != digest:
            raise StorageError(
                f"blob {digest[:12]} is missing or changed; import its release again"
            )
        return data

    def block(self, digest: str) -> bytes:
        """Return one block of a file, or a manifest, its bytes hashed."""
        row = self._execute("SELECT file, start FROM blocks WHERE sha256 = ?", (digest,)).fetchone()
        if row is None:
            raise StorageError(f"block {digest[:12]} belongs to no release of the store")
        block = _read_part(self._blobs / row[0], start=row[1])
        if sha256(block).hexdigest() != digest:
            raise StorageError(
                f"block {digest[:12]} is missing or changed; import its release again"
            )
        return block

    def _write_blob(self, data: bytes) -> None:
        path = self._blobs / sha256(data).hexdigest()
        if not path.is_file():
            write_atomically(path, data)

    # Rollouts and intentions.

    def next_rollout(self) -> str:
        """Return the id of a new rollout; within a transaction."""
        row = self._execute("SELECT COALESCE(MAX(number), 0) + 1 FROM rollouts").fetchone()
        return f"r-{row[0]}"

    def save(self, record: Record) -> None:
        """Keep a rollout."""
        self._execute(
            "INSERT INTO rollouts (number, rollout, name, record) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (rollout) DO UPDATE SET record = excluded.record",
            (
                int(record.rollout.removeprefix("r-")),
                record.rollout,
                record.name,
                msgspec.json.encode(record),
            ),
        )

    def save_status(self, status: RolloutStatus) -> None:
        """Keep how a rollout looks, for whoever watches from another process."""
        self._execute(
            "UPDATE rollouts SET status = ? WHERE rollout = ?",
            (msgspec.json.encode(status), status.rollout),
        )

    def records(self) -> tuple[Record, ...]:
        """Return all rollouts, newest first."""
        rows = self._execute("SELECT record FROM rollouts ORDER BY number DESC")
        return tuple(_decode(row[0], Record) for row in rows)

    def record(self, name: str) -> Record:
        """Return a rollout by its id, or the newest of a name.

        Raises:
            OperatorError: There is none.
        """
        row = self._execute(
            "SELECT record FROM rollouts WHERE rollout = ?1 OR name = ?1"
            " ORDER BY rollout = ?1 DESC, number DESC LIMIT 1",
            (name,),
        ).fetchone()
        if row is None:
            raise OperatorError(f"expected a rollout, got {name!r}; see `fleetctl rollout history`")
        return _decode(row[0], Record)

    def status(self, rollout: str) -> RolloutStatus | None:
        """Return how a rollout looked when its driver last said so."""
        row = self._execute("SELECT status FROM rollouts WHERE rollout = ?", (rollout,)).fetchone()
        return None if row is None or row[0] is None else _decode(row[0], RolloutStatus)

    def intend(self, verb: str, rollout: str, **arguments: object) -> None:
        """Leave a wish for the holder of the lease."""
        self._execute(
            "INSERT INTO intentions (verb, rollout, arguments) VALUES (?, ?, ?)",
            (verb, rollout, msgspec.json.encode(arguments)),
        )

    def intentions(self) -> tuple[Intention, ...]:
        """Return what nobody has acted on yet, oldest first."""
        rows = self._execute("SELECT * FROM intentions ORDER BY id")
        return tuple(
            Intention(number, verb, rollout, _decode(arguments, dict[str, object]))
            for number, verb, rollout, arguments in rows
        )

    def forget(self, intention: Intention) -> None:
        """Take a wish off the list."""
        self._execute("DELETE FROM intentions WHERE id = ?", (intention.id,))

    # Devices.

    def save_identity(self, device: str, version: int, payload: bytes, envelope: bytes) -> None:
        """Keep a signed identity."""
        self._execute(
            "INSERT OR REPLACE INTO identities VALUES (?, ?, ?, ?)",
            (device, version, payload, envelope),
        )

    def identities(self) -> dict[str, tuple[int, bytes, bytes]]:
        """Return version, payload and envelope by device."""
        rows = self._execute("SELECT * FROM identities ORDER BY device")
        return {device: (version, payload, data) for device, version, payload, data in rows}

    def save_known(self, device: str, known: object) -> None:
        """Keep what was last heard of a device."""
        self._execute(
            "INSERT OR REPLACE INTO reports VALUES (?, ?)", (device, msgspec.json.encode(known))
        )

    def known(self, kind: type[Document]) -> dict[str, Document]:
        """Return what was last heard of each device."""
        rows: Sequence[tuple[str, bytes]] = self._execute("SELECT * FROM reports").fetchall()
        return {device: _decode(data, kind) for device, data in rows}

    def forget_device(self, device: str) -> None:
        """Forget a device's identity and what was heard of it."""
        self._execute("DELETE FROM identities WHERE device = ?", (device,))
        self._execute("DELETE FROM reports WHERE device = ?", (device,))

    # The audit log (controller/audit.py); within a transaction.

    def add_audit(self, number: int, entry: bytes, digest: str) -> None:
        """Append an entry."""
        self._execute("INSERT INTO audit VALUES (?, ?, ?)", (number, entry, digest))

    def audit_rows(self, after: int = 0) -> tuple[tuple[int, bytes, str], ...]:
        """Return number, text and digest of the entries after a number, oldest first."""
        query = "SELECT number, CAST(entry AS BLOB), digest FROM audit WHERE number > ?"
        rows = self._execute(f"{query} ORDER BY number", (after,))  # Cast: a person may edit.
        return tuple((number, entry, str(digest)) for number, entry, digest in rows)

    def audit_last(self) -> tuple[int, str]:
        """Return number and digest of the newest entry; 0 and nothing where there is none."""
        query = "SELECT number, digest FROM audit ORDER BY number DESC LIMIT 1"
        row = self._execute(query).fetchone()
        return (0, "") if row is None else (int(row[0]), str(row[1]))

    # The lease.

    def lease(self) -> Lease | None:
        """Return who drives, or drove last."""
        row = self._execute("SELECT holder, host, pid, renewed, is_held FROM lease").fetchone()
        return None if row is None else Lease(row[0], row[1], row[2], row[3], bool(row[4]))

    def take_lease(self, holder: str, now: float) -> bool:
        """Take or renew the lease; False while another holder lives."""
        with self.transaction():
            lease = self.lease()
            if lease is not None and lease.holder != holder and lease.is_alive(now):
                return False
            self._execute(
                "INSERT OR REPLACE INTO lease VALUES (1, ?, ?, ?, ?, 1)",
                (holder, socket.gethostname(), os.getpid(), now),
            )
        return True

    def give_lease(self, holder: str) -> None:
        """Give the lease back, if it is theirs."""
        self._execute("UPDATE lease SET is_held = 0 WHERE holder = ?", (holder,))

    def _check_lease(self, holder: str | None) -> None:
        lease = None if holder is None else self.lease()
        if holder is not None and (lease is None or lease.holder != holder or not lease.is_held):
            raise LeaseLostError


def _decode(data: bytes, kind: type[Document]) -> Document:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise StorageError(f"the store holds what this version cannot read: {error}") from error


def _read_part(path: Path, *, start: int) -> bytes:
    """Return the bytes of a block, or none where they are not to be had; the file may be long."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(BLOCK_BYTES)
    except OSError:
        return b""


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
