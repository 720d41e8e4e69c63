"""What survives a power cut: phases, outcomes, starts, request ids, floors.

One file, ``journal.json``, written whole and atomically: no two of its facts can disagree. Its
first line is the SHA-256 of the rest, and the version before it stays beside it: a file that a
failing SD card cut short is refused, and the version before it is what a power cut one write
earlier would have left, which ``agent.trial.resume`` knows how to continue. With neither, the
device starts as a new install and says so: it keeps no outcome, but it trusts nothing more either,
because the accepted bundle is a file of its own (the *trust journal*, ``trust.json``).

Of the bundle this file keeps only the floor. A trust journal that is missing, cut short, or older
than the floor is not believed; what runs goes on, and only a bundle at or above the floor, under a
root at or above the floor's, is accepted in its place (``agent.trusting``).
"""

import logging
import secrets
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import msgspec

from shared.errors import MalformedError, StorageError
from shared.files import write_atomically
from shared.identity import Identity
from shared.limits import REQUEST_IDS_KEPT

logger = logging.getLogger(__name__)

JOURNAL_BYTES = 2 * 1024 * 1024  # 64 answers of 16 KiB, four cameras of 64 tries: far below.
_INSTALL_CHARACTERS = 6
_DIGEST_CHARACTERS = 64


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was answered: a duplicate gets the same answer and nothing more."""

    id: str
    verb: str
    response: str


class TrustFloor(msgspec.Struct, frozen=True, kw_only=True):
    """What no later bundle may be below: plan version, its hash, its time, the root's version."""

    version: int = 0
    timestamp_sha256: str = ""
    at: str = ""
    root_version: int = 0


class Starts(msgspec.Struct, frozen=True, kw_only=True):
    """Camera starts in one boot of the kernel, counted before each start."""

    boot: str = ""
    counts: dict[str, int] = {}


class LastStart(msgspec.Struct, frozen=True, kw_only=True):
    """The last camera start of one camera: what runs that hang the Pi are counted against."""

    manifest_sha256: str
    at: str


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """The document in ``journal.json``.

    Attributes:
        install: Random, made with the state directory.
        runs: How often an agent started on this state directory.
        boots: Simulated reboots; a real one is seen in the kernel's boot id.
        cameras: The deployment journal of each camera, as ``agent.deployment`` writes it.
        watches: The watch of each camera (ladder, back-off), as the service writes it.
        last_starts: The last start of each camera that it has not survived for long yet.
        boot: The boot of the kernel that the last run of the agent saw.
        is_clean: The last run was stopped on purpose, or asked for the reboot itself.
        identity: The last good identity; its envelope, exactly as it came, proves it anew.
    """

    v: int = 1
    install: str
    runs: int = 0
    boots: int = 0
    cameras: dict[str, msgspec.Raw] = {}
    watches: dict[str, msgspec.Raw] = {}
    starts: Starts = Starts()
    last_starts: dict[str, LastStart] = {}
    boot: str = ""
    is_clean: bool = True
    identity: Identity | None = None
    identity_envelope: str | None = None
    identity_floor: int = 0
    trust: TrustFloor = TrustFloor()
    answered: tuple[Answered, ...] = ()
    rebooted_at: str | None = None


class JournalFile:
    """``journal.json`` of one state directory: the only writer."""

    def __init__(self, state: Path) -> None:
        """Read the journal, or begin one."""
        self._path = state / "journal.json"
        self._before = state / "journal.previous.json"
        self.trouble: str | None = None  # What was wrong with the file, for `refused.message`.
        self.saved = self._opened()

    def change(self, change: Callable[[Saved], Saved]) -> Saved:
        """Write the changed document durably, then believe it.

        Raises:
            StorageError: It could not be written; the document in memory is the old one.
        """
        changed = change(self.saved)
        if changed != self.saved or not self._path.exists():
            self._write(changed)
        return self.saved

    def _write(self, changed: Saved) -> None:
        if self._path.exists():
            _link(self._path, self._before)
        write_atomically(self._path, to_text(changed))
        self.saved = changed

    def _opened(self) -> Saved:
        candidates = [path for path in (self._path, self._before) if path.exists()]
        for path in candidates:
            try:
                saved = from_text(path.read_bytes())
            except (MalformedError, OSError) as error:
                self.trouble = f"{path.name}: {error}"
                logger.warning("%s is damaged and not believed: %s", path, error)
                continue
            # A run that only the damaged file counted must not be given out twice.
            return msgspec.structs.replace(saved, runs=saved.runs + (self.trouble is not None))
        if candidates:
            self._path.replace(self._path.with_suffix(".damaged"))
        return Saved(install=secrets.token_hex(_INSTALL_CHARACTERS // 2))


def to_text(saved: Saved) -> bytes:
    """Return the document after the hash that proves it whole."""
    body = msgspec.json.encode(saved)
    return sha256(body).hexdigest().encode() + b"\n" + body


def from_text(data: bytes) -> Saved:
    """Return the document in the file's bytes.

    Raises:
        MalformedError: It was cut short or changed, or is no journal of this version.
    """
    digest, newline, body = data[:JOURNAL_BYTES].partition(b"\n")
    if not newline or len(digest) != _DIGEST_CHARACTERS:
        raise MalformedError("expected a SHA-256 and a document, got another file")
    if sha256(body).hexdigest().encode() != digest:
        raise MalformedError("expected the bytes that were written, got fewer or others")
    try:
        return msgspec.json.decode(body, type=Saved)
    except msgspec.DecodeError as error:
        raise MalformedError(f"expected a journal: {error}") from error


def remembered(saved: Saved, answer: Answered) -> Saved:
    """Return the document with one answer more, the oldest ones forgotten."""
    return msgspec.structs.replace(saved, answered=(*saved.answered, answer)[-REQUEST_IDS_KEPT:])


def started(saved: Saved, *, boot: str, camera: int, start: LastStart) -> Saved:
    """Return the document with one start of a camera more, counted in this boot only."""
    counts = saved.starts.counts if saved.starts.boot == boot else {}
    key = str(camera)
    counted = Starts(boot=boot, counts={**counts, key: counts.get(key, 0) + 1})
    last = {**saved.last_starts, key: start}
    return msgspec.structs.replace(saved, starts=counted, last_starts=last)


def survived(saved: Saved, *, camera: int) -> Saved:
    """Return the document in which the camera's last start is above suspicion."""
    last = {key: start for key, start in saved.last_starts.items() if key != str(camera)}
    return msgspec.structs.replace(saved, last_starts=last)


def starts_of(saved: Saved, *, boot: str, camera: int) -> int:
    """Return how often the camera was started in this boot."""
    return saved.starts.counts.get(str(camera), 0) if saved.starts.boot == boot else 0


def _link(path: Path, before: Path) -> None:
    """Keep the file under a second name, without a moment in which neither exists."""
    spare = before.with_suffix(".spare")
    try:
        spare.unlink(missing_ok=True)
        spare.hardlink_to(path)
        spare.replace(before)
    except OSError as error:
        raise StorageError(f"could not keep {path}: {error.strerror}") from error
