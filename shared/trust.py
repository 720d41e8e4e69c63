"""Bytes from the bus to a judged bundle or identity: the only reader of TUF and DSSE.

A bundle carries the metadata of one TUF repository; its timestamp carries the plan. The last
accepted bundle is the *trust journal*: the floor below which nothing is accepted again. Rules:

1. A root newer than the journal's must be signed by the journal's newest root; the card's root
   counts only until the first bundle is accepted. A bundle carries every root from version 1, and
   the ones that were accepted before must come back byte for byte.
2. Signatures, thresholds, versions and hashes are python-tuf's to judge. It works in a temporary
   folder, so that a bundle that is refused has moved no counter.
3. What python-tuf cannot know is judged here: fleet, expiry without a trustworthy clock, other
   bytes under an accepted version, a controller whose clock runs ahead, the plan's schema.
4. The floor in time is the journal's ``at``. It is durable, although the journal is only the last
   bundle, because a bundle with an earlier ``at`` is refused: the last one is the highest.
5. Version and time floors fall only with a root, signed by the old one, that names none of the old
   timestamp keys and none of the old snapshot keys any more: what a stolen key counted up to
   must not lock a device out for ever.

Nothing here opens a connection, and nothing is fetched by name from anywhere but the bundle.
"""

import re
import tempfile
from binascii import Error as Base64Error
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.exceptions import VerificationError
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from shared.assignment import Entry
from shared.errors import (
    LimitError,
    MalformedError,
    RefusedError,
    StorageError,
    UnsupportedError,
    UntrustedError,
)
from shared.identity import PAYLOAD_TYPE, Identity, check_identity
from shared.limits import (
    BUNDLE_BYTES,
    IDENTITY_BYTES,
    MANIFEST_BYTES,
    RELEASES_LISTED_MAX,
    TIMESTAMP_BYTES,
)
from shared.messages import Document, SignedDocument, convert, decode, parse_time
from shared.plan import plan_from_plain
from shared.release import is_sha256, parse_release

AHEAD_MAX = timedelta(hours=24)  # A controller's clock may be this far ahead of a device's.
SIGNATURES_MAX = 8  # Of one envelope; a role has a handful of keys.
FIELD = "x-imxfleet"  # Our signed field, in root and in timestamp.
_BASE = "bundle:///"
_FILE = re.compile(r"timestamp\.json|([1-9][0-9]{0,9})\.(root|snapshot|targets)\.json")
# Where a word of python-tuf's becomes one of ours; the first that fits.
_CODES: tuple[tuple[type[Exception], type[RefusedError], str], ...] = (
    (UnsignedMetadataError, UntrustedError, "signature"),
    (ExpiredMetadataError, UntrustedError, "expired"),
    (BadVersionNumberError, UntrustedError, "replayed"),
    (LengthOrHashMismatchError, UntrustedError, "hash"),
    (DownloadLengthMismatchError, LimitError, "limit"),
    (VerificationError, UntrustedError, "signature"),
)

Role = TypeVar("Role", Root, Timestamp, Snapshot, Targets)
Files = Mapping[str, bytes]


class BundleDocument(Document, frozen=True, kw_only=True):
    """The message on ``trust``; ``fleet`` is a hint, never trusted."""

    fleet: str
    files: dict[str, str]


class RootField(SignedDocument, frozen=True, kw_only=True):
    """What root says beyond TUF."""

    fleet: str
    demo: bool


class TimestampField(SignedDocument, frozen=True, kw_only=True):
    """What the timestamp says beyond TUF."""

    at: str
    fleet: str
    plan: list[object]


class SignatureDocument(msgspec.Struct, frozen=True):
    """One signature of an envelope."""

    keyid: str
    sig: str


class EnvelopeDocument(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """DSSE around an identity."""

    payload: str
    payload_type: str
    signatures: Annotated[tuple[SignatureDocument, ...], msgspec.Meta(max_length=SIGNATURES_MAX)]


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """A root that is trusted: read from the card, or signed by the root before it."""

    data: bytes
    version: int
    fleet: str
    is_demo: bool
    expires: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An accepted bundle.

    Attributes:
        version: The timestamp's, and so the plan's.
        at: When the controller signed it: the floor in time for what comes after.
        expires: The earliest expiry of the four roles.
        listed: Signed releases, ``name@version`` to SHA-256 of the manifest.
        root: The newest trusted root; identities are judged by it.
        data: The accepted message, to be kept as the journal.
    """

    fleet: str
    version: int
    at: datetime
    expires: datetime
    timestamp_sha256: str
    plan: tuple[Entry, ...]
    listed: Mapping[str, str]
    is_demo: bool
    data: bytes
    root: bytes
    root_version: int
    snapshot_version: int
    targets_version: int

    def is_expired(self, now: datetime | None) -> bool:
        """Say whether a deployment must not begin under it; without a clock its ``at`` stands in.

        Never asked for booting, rolling back, or what is under way.
        """
        return self.expires <= _moment(now, self.at)


def judge_bundle(
    data: bytes, *, fleet: str, card_root: bytes, journal: bytes | None, now: datetime | None
) -> Bundle:
    """Return the bundle in ``data``, which every rule accepts; the caller makes it the journal.

    The journal's own bytes are no news: they come back as the bundle that they are.

    Args:
        data: The message on ``trust``.
        fleet: The device's own fleet.
        card_root: The root that came on the card.
        journal: The last accepted message.
        now: The time, or None where the clock is not synchronised.

    Raises:
        RefusedError: With the ``code`` that says why; the journal stays.
        StorageError: There is no room to judge it.
    """
    before = None if journal is None else open_journal(journal, fleet=fleet, card_root=card_root)
    if before is not None and data == journal:
        return before
    files = _unpack(data)
    anchor = _check_roots(files, _known_roots(card_root, before))
    _refresh(files, anchor, {} if before is None else _unpack(before.data))
    bundle = _read(data, files, fleet)
    if before is not None and not has_rotated(before.root, bundle.root):
        _check_floors(before, bundle)
    _check_time(bundle, now)
    return bundle


def open_journal(journal: bytes, *, fleet: str, card_root: bytes) -> Bundle:
    """Return what was accepted once; never judged by expiry, or a long sleep would lock us out.

    Raises:
        UntrustedError: ``journal``: it is cut, changed, or of another root than the card's.
    """
    try:
        return open_bundle(journal, fleet=fleet, root=card_root)
    except RefusedError as error:
        raise UntrustedError(f"trust journal: {error.text}", code="journal") from error


def open_bundle(data: bytes, *, fleet: str, root: bytes) -> Bundle:
    """Return the bundle in ``data`` if our roots signed it, whatever its version and expiry.

    For the journal, and for a controller that meets a bundle of somebody else.

    Raises:
        RefusedError: It is not signed as this root, or one that this root signed, demands.
    """
    files = _unpack(data)
    numbers = _root_numbers(files)
    card = open_root(root, fleet=fleet)
    if card.version <= numbers[-1]:
        _check_roots(files, {card.version: root})
    first = min(card.version, numbers[-1])
    with _ours():
        newest = _chain(files, first, numbers[-1])
        for name in _names(files):
            _verify(newest, files[name])
    return _read(data, files, fleet)


def open_root(data: bytes, *, fleet: str) -> TrustedRoot:
    """Return the facts of a root that signs itself and is of this fleet.

    Raises:
        RefusedError: It is no such root.
    """
    with _ours():
        signed = _signed_by_itself(data)
    field = _root_field(signed)
    if field.fleet != fleet:
        raise UntrustedError(
            f"root: expected fleet {fleet}, got {field.fleet[:80]!r}", code="fleet"
        )
    return TrustedRoot(data, signed.version, field.fleet, field.demo, signed.expires)


def has_rotated(old_root: bytes, new_root: bytes) -> bool:
    """Say whether the new root names none of the old controller's keys: the floors fall then."""
    if old_root == new_root:
        return False
    with _ours():
        old, new = _parse(Root, old_root), _parse(Root, new_root)
    return all(
        set(old.get_delegated_role(role).keyids).isdisjoint(new.get_delegated_role(role).keyids)
        for role in (Timestamp.type, Snapshot.type)
    )


def judge_identity(
    data: bytes, *, trusted_root: bytes, fleet: str, device: str, floor: int
) -> Identity:
    """Return the identity in ``data``, which the controller's key has signed for this device.

    Args:
        data: The message on ``identity``: a DSSE envelope.
        trusted_root: ``Bundle.root``, or the card's root before the first bundle.
        fleet: The device's own fleet.
        device: The device's own id.
        floor: The last accepted version, or what ``identity_floor`` says.

    Raises:
        RefusedError: With the ``code`` that says why; the last good identity stays.
    """
    identity = _open_identity(data, trusted_root)
    if identity.fleet != fleet:
        raise UntrustedError(
            f"identity: expected {fleet}, got {identity.fleet[:80]!r}", code="fleet"
        )
    if identity.device != device:
        raise UntrustedError(
            f"identity: expected {device}, got {identity.device[:80]!r}", code="device"
        )
    if identity.version <= floor:
        raise UntrustedError(
            f"identity: expected a version above {floor}, got {identity.version}", code="replayed"
        )
    check_identity(identity)
    return identity


def identity_floor(kept: bytes | None, *, trusted_root: bytes) -> int:
    """Return the version that a new identity must be above, given the last accepted envelope.

    It is 0 when the key that signed the envelope is not trusted any more: the floor falls with a
    rotation, as the bundle's does.
    """
    if kept is None:
        return 0
    try:
        return _open_identity(kept, trusted_root).version
    except UntrustedError:
        return 0


def pack(fleet: str, files: Mapping[str, str]) -> bytes:
    """Return the message that carries these files.

    Raises:
        LimitError: It does not fit.
    """
    data = msgspec.json.encode(BundleDocument(fleet=fleet, files=dict(sorted(files.items()))))
    if len(data) > BUNDLE_BYTES:
        raise LimitError(f"expected a bundle of at most {BUNDLE_BYTES} bytes, got {len(data)}")
    return data


def listed_in(targets: Targets) -> dict[str, str]:
    """Return the releases that the signed targets list.

    Raises:
        LimitError: They are too many.
        UnsupportedError: They say something that this version does not know.
        MalformedError: One is not a release of ours.
    """
    if len(targets.targets) > RELEASES_LISTED_MAX:
        raise LimitError(f"targets: expected at most {RELEASES_LISTED_MAX}, got more")
    if targets.delegations is not None:
        raise UnsupportedError("targets: delegations")
    listed: dict[str, str] = {}
    for release, file in targets.targets.items():
        parse_release(release)
        digest = file.hashes.get("sha256")
        if not isinstance(digest, str) or not is_sha256(digest) or file.length > MANIFEST_BYTES:
            raise MalformedError(f"targets: {release}: expected the SHA-256 of a manifest")
        if len(file.hashes) > 1 or file.unrecognized_fields:
            raise UnsupportedError(f"targets: {release}: unknown field")
        listed[release] = digest
    return listed


def parse_file(kind: type[Role], data: bytes) -> Role:
    """Return the signed part of a metadata file of our own, whose signature is not in question.

    Raises:
        RefusedError: It is not of this kind.
    """
    with _ours():
        return _parse(kind, data)


class _InMemory(FetcherInterface):
    """Serves what the bundle holds; what it does not hold is 404, as for root N + 1."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        # Not a generator: an error inside one would escape python-tuf's wrapping.
        data = self._files.get(url.removeprefix(_BASE))
        if data is None:
            raise DownloadHTTPError(f"the bundle has no {url.removeprefix(_BASE)}", 404)
        return iter((data,))


def _unpack(data: bytes) -> Files:
    """Return the files of a message: names that TUF knows, one of each role but root."""
    document = decode(data, BundleDocument, bytes_max=BUNDLE_BYTES)
    matches = [_FILE.fullmatch(name) for name in document.files]
    if not all(matches):
        raise MalformedError("bundle: expected timestamp.json, <n>.root.json and the like")
    roles = [match[2] or "timestamp" for match in matches if match]
    if any(roles.count(role) != 1 for role in ("timestamp", "snapshot", "targets")):
        raise MalformedError("bundle: expected one timestamp, one snapshot and one targets")
    return {name: text.encode() for name, text in document.files.items()}


def _names(files: Files) -> tuple[str, str, str]:
    """Return the names of timestamp, snapshot and targets in the bundle."""
    snapshot = next(name for name in files if name.endswith(".snapshot.json"))
    targets = next(name for name in files if name.endswith(".targets.json"))
    return "timestamp.json", snapshot, targets


def _root_name(version: int) -> str:
    return f"{version}.root.json"


def _root_numbers(files: Files) -> list[int]:
    """Return the versions of the roots in the bundle: 1 to the newest, with no gap."""
    numbers = sorted(int(name.split(".")[0]) for name in files if name.endswith(".root.json"))
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise UntrustedError("bundle: expected every root from version 1", code="root")
    return numbers


def _known_roots(card_root: bytes, before: Bundle | None) -> dict[int, bytes]:
    """Return the roots that are trusted already, by version."""
    with _ours():
        known = {_parse(Root, card_root).version: card_root}
    if before is not None:
        files = _unpack(before.data)
        known |= {number: files[_root_name(number)] for number in _root_numbers(files)}
    return known


def _check_roots(files: Files, known: Mapping[int, bytes]) -> bytes:
    """Return the newest known root, once all known ones have come back byte for byte."""
    numbers = _root_numbers(files)
    newest = max(known)
    if numbers[-1] < newest:
        raise UntrustedError(f"bundle: root {newest} is left out", code="root")
    for number, data in known.items():
        if files[_root_name(number)] != data:
            raise UntrustedError(f"bundle: root {number} is not the one we trust", code="root")
    return known[newest]


def _refresh(files: Files, anchor: bytes, floor: Files) -> None:
    """Let python-tuf judge the bundle over the journal's files, then see that it judged all of it.

    An expired local file still serves as a floor when it is there as a file. python-tuf keeps a
    local file of the same version without looking at the new one, hence the comparison: what it
    did not look at must not get into the journal.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="imxfleet-trust-") as name, _ours():
            folder = Path(name)
            for file in _names(floor) if floor else ():
                (folder / _local(file)).write_bytes(floor[file])
            updater = Updater(
                name,
                _BASE,
                fetcher=_InMemory(files),
                config=UpdaterConfig(timestamp_max_length=TIMESTAMP_BYTES),
                bootstrap=anchor,
            )
            updater.refresh()
            for file in _names(files):
                if (folder / _local(file)).read_bytes() != files[file]:
                    raise UntrustedError(
                        f"{file}: other bytes under a version that was accepted before",
                        code="equivocation",
                    )
    except OSError as error:
        raise StorageError(f"no room to judge a bundle: {error.strerror}") from error


def _local(name: str) -> str:
    """Return the name of a file in python-tuf's cache, where versions are not part of names."""
    return ".".join(name.split(".")[-2:])


def _chain(files: Files, first: int, newest: int) -> Root:
    """Return the newest root, each signed by the one before it and by itself."""
    root = _signed_by_itself(files[_root_name(first)])
    for number in range(first + 1, newest + 1):
        data = files[_root_name(number)]
        _verify(root, data)
        root = _signed_by_itself(data)
        if root.version != number:
            raise UntrustedError(f"{_root_name(number)} is version {root.version}", code="root")
    return root


def _signed_by_itself(data: bytes) -> Root:
    root = _parse(Root, data)
    _verify(root, data)
    return root


def _verify(root: Root, data: bytes) -> None:
    """Have python-tuf check a file's signatures against the keys that root names for its role."""
    metadata = Metadata[Root].from_bytes(data)
    root.verify_delegate(metadata.signed.type, metadata.signed_bytes, metadata.signatures)


def _parse(kind: type[Role], data: bytes) -> Role:
    signed = Metadata[Role].from_bytes(data).signed
    if not isinstance(signed, kind):
        raise MalformedError(f"expected {kind.type}, got {signed.type}")
    return signed


def _read(data: bytes, files: Files, fleet: str) -> Bundle:
    """Return what verified files say, once they agree with each other and with our schema."""
    names = _names(files)
    newest = _root_numbers(files)[-1]
    with _ours():
        root = _parse(Root, files[_root_name(newest)])
        timestamp = _parse(Timestamp, files[names[0]])
        snapshot = _parse(Snapshot, files[names[1]])
        targets = _parse(Targets, files[names[2]])
        _check_agreement(files, timestamp, snapshot, targets)
    for signed in (snapshot, targets):
        if signed.unrecognized_fields:
            raise UnsupportedError(f"{signed.type}: unknown field")
    root_field, field = _root_field(root), _timestamp_field(timestamp)
    for name in (root_field.fleet, field.fleet):
        if name != fleet:
            raise UntrustedError(f"expected fleet {fleet}, got {name[:80]!r}", code="fleet")
    return Bundle(
        fleet=fleet,
        version=timestamp.version,
        at=parse_time(field.at),
        expires=min(signed.expires for signed in (root, timestamp, snapshot, targets)),
        timestamp_sha256=sha256(files[names[0]]).hexdigest(),
        plan=plan_from_plain(field.plan),
        listed=listed_in(targets),
        is_demo=root_field.demo,
        data=data,
        root=files[_root_name(newest)],
        root_version=root.version,
        snapshot_version=snapshot.version,
        targets_version=targets.version,
    )


def _check_agreement(
    files: Files, timestamp: Timestamp, snapshot: Snapshot, targets: Targets
) -> None:
    """See that timestamp names this snapshot, and snapshot these targets, and nothing else."""
    _, snapshot_name, targets_name = _names(files)
    if set(snapshot.meta) != {"targets.json"}:
        raise UnsupportedError("snapshot: roles beyond targets")
    if snapshot_name != f"{snapshot.version}.snapshot.json":
        raise MalformedError(f"{snapshot_name} is version {snapshot.version}")
    if targets_name != f"{targets.version}.targets.json":
        raise MalformedError(f"{targets_name} is version {targets.version}")
    for meta, name, version in (
        (timestamp.snapshot_meta, snapshot_name, snapshot.version),
        (snapshot.meta["targets.json"], targets_name, targets.version),
    ):
        if meta.version != version:
            raise UntrustedError(f"expected version {meta.version}, got {name}", code="replayed")
        meta.verify_length_and_hashes(files[name])


def _root_field(root: Root) -> RootField:
    return _only_field(root, RootField)


def _timestamp_field(timestamp: Timestamp) -> TimestampField:
    return _only_field(timestamp, TimestampField)


Field = TypeVar("Field", RootField, TimestampField)


def _only_field(signed: Root | Timestamp, kind: type[Field]) -> Field:
    """Return our own signed field; another field that we do not know refuses the whole."""
    unknown = set(signed.unrecognized_fields) - {FIELD}
    if unknown:
        raise UnsupportedError(f"{signed.type}: unknown field {min(unknown)[:80]!r}")
    return convert(signed.unrecognized_fields.get(FIELD), kind, f"{signed.type}: {FIELD}")


def _check_floors(before: Bundle, bundle: Bundle) -> None:
    """See that neither version nor time goes back, and that no version says two things."""
    if bundle.version < before.version:
        raise UntrustedError(
            f"expected a version of at least {before.version}, got {bundle.version}",
            code="replayed",
        )
    if bundle.version == before.version and bundle.timestamp_sha256 != before.timestamp_sha256:
        raise UntrustedError(f"version {bundle.version} says two things", code="equivocation")
    if bundle.at < before.at:
        raise UntrustedError(
            f"expected signed at {before.at:%Y-%m-%dT%H:%M:%SZ} or later, "
            f"got {bundle.at:%Y-%m-%dT%H:%M:%SZ}",
            code="clock",
        )


def _check_time(bundle: Bundle, now: datetime | None) -> None:
    """See that nothing has expired, and that the controller's clock is not far ahead of ours."""
    if now is not None and bundle.at - now > AHEAD_MAX:
        raise UntrustedError(
            f"signed at {bundle.at:%Y-%m-%dT%H:%M:%SZ}, more than 24 h ahead", code="clock"
        )
    if bundle.is_expired(now):  # Its `at` is not below the floor, so it is the floor from now on.
        raise UntrustedError(f"expired on {bundle.expires:%Y-%m-%dT%H:%M:%SZ}", code="expired")


def _moment(now: datetime | None, floor: datetime) -> datetime:
    return floor if now is None else max(now, floor)


def _open_identity(data: bytes, trusted_root: bytes) -> Identity:
    """Return the identity whose envelope a key of the trusted root's timestamp role has signed."""
    document = decode(data, EnvelopeDocument, bytes_max=IDENTITY_BYTES)
    if document.payload_type != PAYLOAD_TYPE:
        raise UntrustedError("identity: an envelope of another type", code="type")
    with _ours():
        root = _parse(Root, trusted_root)
        role = root.get_delegated_role(Timestamp.type)
        envelope = Envelope.from_dict(msgspec.to_builtins(document))
        envelope.verify([root.get_key(keyid) for keyid in role.keyids], role.threshold)
    return decode(envelope.payload, Identity, bytes_max=IDENTITY_BYTES)


@contextmanager
def _ours() -> Iterator[None]:
    """Turn what the libraries raise for bad input into errors of ours; nothing else escapes.

    Raises:
        RefusedError: Every way in which python-tuf or securesystemslib refuses what they parse.
    """
    try:
        yield
    except (RepositoryError, DownloadError, SigningError) as error:
        raise _refusal(error) from error
    except (ValueError, TypeError, KeyError, AttributeError, Base64Error) as error:
        # Both libraries parse untrusted JSON by hand; what slips through is malformed input.
        raise MalformedError(f"metadata: {type(error).__name__}: {error}"[:200]) from error


def _refusal(error: Exception) -> RefusedError:
    for theirs, ours, code in _CODES:
        if isinstance(error, theirs):
            return ours(f"{error}"[:200], code=code)
    kind: Literal["unreadable metadata", "metadata"] = (
        "unreadable metadata"
        if isinstance(error, DeserializationError | SerializationError)
        else "metadata"
    )
    return MalformedError(f"{kind}: {error}"[:200])
