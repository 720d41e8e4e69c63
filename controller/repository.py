"""The fleet's TUF repository as one immutable value: which files there are, and their exact text.

Every function returns a new repository; the caller commits it to the store before it publishes.
The plan's version is the timestamp's, and each signature raises it. What the release key has
signed waits beside the published targets until the controller's next plan takes it up, so that the
two keys never need to be on one machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import msgspec
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from controller.keys import Keys
from shared.assignment import Entry
from shared.errors import LimitError, MalformedError, OperatorError, RefusedError, UnsignedError
from shared.identity import PAYLOAD_TYPE, Identity, check_identity
from shared.limits import IDENTITY_BYTES, MANIFEST_BYTES, RELEASES_LISTED_MAX, TIMESTAMP_BYTES
from shared.messages import encode, parse_time, time_text
from shared.plan import plan_from_plain, plan_to_plain
from shared.release import is_sha256, parse_release
from shared.topics import checked_name
from shared.trust import FIELD, Role, listed_in, open_root, pack, parse_file

ROOT_DAYS = TARGETS_DAYS = 5 * 365  # Their keys are offline; nobody fetches them every quarter.
PLAN_DAYS = 90  # Re-signed at half life: a workstation may be off for six weeks.


@dataclass(frozen=True, slots=True)
class Repository:
    """All that was signed for a fleet.

    Attributes:
        files: File name to exact text: every root, the published timestamp and snapshot, the
            targets they name, and newer targets that no plan has taken up yet.
        retired: Releases that are listed no more, with their manifests' hashes: a name stays taken.
    """

    fleet: str
    files: Mapping[str, str]
    retired: Mapping[str, str]

    @property
    def version(self) -> int:
        """Return the version of the plan."""
        return self.signed_timestamp.version

    @property
    def at(self) -> datetime:
        """Return when the plan was signed."""
        return parse_time(str(self.signed_timestamp.unrecognized_fields[FIELD]["at"]))

    @property
    def plan(self) -> tuple[Entry, ...]:
        """Return the plan as it was signed."""
        return plan_from_plain(self.signed_timestamp.unrecognized_fields[FIELD]["plan"])

    @property
    def expires(self) -> datetime:
        """Return the earliest expiry of what the bundle carries."""
        parsed = (
            self.signed_root,
            self.signed_timestamp,
            self.signed_snapshot,
            self.published_targets,
        )
        return min(signed.expires for signed in parsed)

    @property
    def plan_expires(self) -> datetime:
        """Return the expiry of what the controller's own key signs, and can sign again."""
        return min(self.signed_timestamp.expires, self.signed_snapshot.expires)

    @property
    def listed(self) -> dict[str, str]:
        """Return the signed releases and their manifests' hashes, pending ones too."""
        return listed_in(self.signed_targets)

    @property
    def root(self) -> bytes:
        """Return the newest root: what a new card carries."""
        return self.files[f"{self.root_version}.root.json"].encode()

    @property
    def root_version(self) -> int:
        """Return how many roots there have been."""
        return sum(name.endswith(".root.json") for name in self.files)

    @property
    def signed_root(self) -> Root:
        """Return what the newest root says."""
        return parse_file(Root, self.root)

    @property
    def signed_timestamp(self) -> Timestamp:
        """Return what the timestamp says."""
        return parse_file(Timestamp, self.files["timestamp.json"].encode())

    @property
    def signed_snapshot(self) -> Snapshot:
        """Return what the published snapshot says."""
        return parse_file(Snapshot, self.files[self.snapshot_name].encode())

    @property
    def published_targets(self) -> Targets:
        """Return the targets that the published snapshot names."""
        return parse_file(Targets, self.files[self.published_name].encode())

    @property
    def signed_targets(self) -> Targets:
        """Return the newest targets, pending or not."""
        return parse_file(Targets, self.files[_newest_targets(self.files)].encode())

    @property
    def newest_targets(self) -> str:
        """Return the text of the newest targets, pending or not."""
        return self.files[_newest_targets(self.files)]

    @property
    def snapshot_name(self) -> str:
        """Return the published snapshot's file name."""
        return f"{self.signed_timestamp.snapshot_meta.version}.snapshot.json"

    @property
    def published_name(self) -> str:
        """Return the published targets' file name."""
        return f"{self.signed_snapshot.meta['targets.json'].version}.targets.json"

    def to_dict(self) -> dict[str, str | dict[str, str]]:
        """Return plain values for the store."""
        return {
            "fleet": self.fleet,
            "files": dict(self.files),
            "retired": dict(self.retired),
        }


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    fleet: str
    files: dict[str, str]
    retired: dict[str, str]


def repository_from_dict(stored: object) -> Repository:
    """Return the repository that the store kept.

    Raises:
        MalformedError: The store does not hold one.
    """
    try:
        kept = msgspec.convert(stored, _Stored)
    except msgspec.ValidationError as error:
        raise MalformedError(f"stored repository: {error}") from error
    repository = Repository(kept.fleet, kept.files, kept.retired)
    try:
        open_root(repository.root, fleet=kept.fleet)
        bundle_bytes(repository)
    except KeyError as error:
        raise MalformedError(f"stored repository: {error} is missing") from error
    return repository


def create(keys: Keys, *, now: datetime) -> Repository:
    """Return the repository of a new fleet: no release listed, an empty plan of version 1.

    Raises:
        UnsignedError: The keys cannot sign.
    """
    root = Root(version=1, expires=_days(now, ROOT_DAYS), consistent_snapshot=True)
    for signer in keys.root:
        root.add_key(signer.public_key, Root.type)
    root.roles[Root.type].threshold = keys.root_threshold
    root.add_key(keys.release.public_key, Targets.type)
    for role in (Snapshot.type, Timestamp.type):
        root.add_key(keys.controller.public_key, role)
    root.unrecognized_fields[FIELD] = {"fleet": checked_name(keys.fleet), "demo": keys.is_demo}
    targets = Targets(version=1, expires=_days(now, TARGETS_DAYS))
    files = {
        "1.root.json": _sign(root, keys.root, root),
        "1.targets.json": _sign(targets, (keys.release,), root),
    }
    return _with_plan(
        Repository(keys.fleet, files, {}), (), keys.controller, now, version=1, snapshot_version=1
    )


def add_release(
    repository: Repository,
    release: str,
    manifest_sha256: str,
    manifest_bytes_len: int,
    release_signer: Signer,
    now: datetime,
) -> Repository:
    """Return the repository with one more signed release; the next plan takes it up.

    Raises:
        OperatorError: The name is taken by other content, or there is no room.
        UnsignedError: The key is not this fleet's release key.
    """
    _check_release(release, manifest_sha256, manifest_bytes_len)
    listed = repository.listed
    if listed.get(release) == manifest_sha256:
        return repository
    if release in listed or release in repository.retired:
        raise OperatorError(f"{release} was signed before; give the new one a higher version")
    if len(listed) >= RELEASES_LISTED_MAX:
        raise OperatorError(f"expected at most {RELEASES_LISTED_MAX} listed releases; revoke some")
    targets = repository.signed_targets
    targets.targets[release] = TargetFile(manifest_bytes_len, {"sha256": manifest_sha256}, release)
    return _with_targets(repository, targets, release_signer, now)


def delist_release(
    repository: Repository, release: str, release_signer: Signer, now: datetime
) -> Repository:
    """Return the repository without this release; its name stays taken.

    The next plan takes it up; `revert` entries of it belong into that same plan.

    Raises:
        OperatorError: It is not listed.
        UnsignedError: The key is not this fleet's release key.
    """
    listed = repository.listed
    if release not in listed:
        raise OperatorError(f"{release} is not listed")
    targets = repository.signed_targets
    del targets.targets[release]
    without = _with_targets(repository, targets, release_signer, now)
    return replace(without, retired={**repository.retired, release: listed[release]})


def take_targets(repository: Repository, text: str) -> Repository:
    """Return the repository with a list of releases that was signed on another machine.

    An older list, or the same, changes nothing.

    Raises:
        UnsignedError: Our root does not vouch for it.
        OperatorError: It does not have all that ours has: both machines signed something.
    """
    try:
        metadata = Metadata[Targets].from_bytes(text.encode())
        repository.signed_root.verify_delegate(
            Targets.type, metadata.signed_bytes, metadata.signatures
        )
    except (RepositoryError, DeserializationError) as error:
        raise UnsignedError(
            f"its list of releases is not signed by this fleet's release key ({error})"
        ) from error
    theirs, ours = listed_in(metadata.signed), repository.listed
    newest = repository.signed_targets.version
    if metadata.signed.version <= newest and theirs.items() <= ours.items():
        return repository
    missing = sorted(name for name in ours if theirs.get(name) != ours[name])
    if missing or metadata.signed.version <= newest:
        what = ", ".join(missing[:3]) or "a newer list"
        raise OperatorError(
            f"its list of releases was signed without {what}, which is signed here: bring a release"
            " of here to the machine with the key, and sign there again"
        )
    return _with_targets_text(repository, metadata.signed.version, text)


def sign_plan(
    repository: Repository, entries: Sequence[Entry], controller_signer: Signer, now: datetime
) -> Repository:
    """Return the repository with this plan, one version up, and with all releases signed so far.

    Raises:
        OperatorError: The clock is behind the last plan's, or no agent would take the plan.
        UnsignedError: The key is not this fleet's controller key.
    """
    if time_text(now) < time_text(repository.at):
        raise OperatorError(
            f"this machine's clock says {time_text(now)}, but the last plan was signed at "
            f"{time_text(repository.at)}: set the clock, devices would refuse the plan"
        )
    return _with_plan(
        repository,
        entries,
        controller_signer,
        now,
        version=repository.version + 1,
        snapshot_version=repository.signed_snapshot.version + 1,
    )


def rotate_controller(
    repository: Repository,
    *,
    root_signers: Sequence[Signer],
    controller_signer: Signer,
    now: datetime,
) -> Repository:
    """Return the repository with a new root that knows only this controller key, and its plan.

    Both timestamp and snapshot keys change, so devices drop the floors that a stolen key set.

    Raises:
        UnsignedError: Too few root keys, or keys of another fleet.
        OperatorError: The clock is behind the last plan's, or this key is the controller's already.
    """
    root = repository.signed_root
    new = controller_signer.public_key
    for role in (Snapshot.type, Timestamp.type):
        if new.keyid in root.roles[role].keyids:
            raise OperatorError("this is the controller key already; make a new one to rotate")
        for keyid in tuple(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        root.add_key(new, role)
    root.version += 1
    root.expires = _days(now, ROOT_DAYS)
    text = _sign(root, root_signers, repository.signed_root)
    rooted = replace(repository, files={**repository.files, f"{root.version}.root.json": text})
    return sign_plan(rooted, repository.plan, controller_signer=controller_signer, now=now)


def controller_keys(repository: Repository) -> tuple[Key, ...]:
    """Return the keys that may sign plans, of the newest root."""
    root = repository.signed_root
    return tuple(root.get_key(keyid) for keyid in root.get_delegated_role(Timestamp.type).keyids)


def bundle_bytes(repository: Repository) -> bytes:
    """Return the message for ``trust``.

    Raises:
        LimitError: It does not fit.
    """
    names = ("timestamp.json", repository.snapshot_name, repository.published_name)
    roots = (name for name in repository.files if name.endswith(".root.json"))
    return pack(repository.fleet, {name: repository.files[name] for name in (*roots, *names)})


def sign_identity(identity: Identity, controller_signer: Signer) -> bytes:
    """Return the message for a device's ``identity``.

    Raises:
        OperatorError: No agent would take it.
    """
    try:
        check_identity(identity)
        payload = encode(identity, bytes_max=IDENTITY_BYTES)
    except RefusedError as error:
        raise OperatorError(f"{identity.device}: {error.text}") from error
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(controller_signer)
    data = msgspec.json.encode(envelope.to_dict())
    if len(data) > IDENTITY_BYTES:
        raise OperatorError(
            f"{identity.device}: expected an identity of at most {IDENTITY_BYTES} bytes, "
            f"got {len(data)}"
        )
    return data


def _with_targets(
    repository: Repository, targets: Targets, release_signer: Signer, now: datetime
) -> Repository:
    """Return the repository with newer targets, which wait beside the published ones."""
    targets.version += 1
    targets.expires = _days(now, TARGETS_DAYS)
    text = _sign(targets, (release_signer,), repository.signed_root)
    return _with_targets_text(repository, targets.version, text)


def _with_targets_text(repository: Repository, version: int, text: str) -> Repository:
    published = repository.published_name
    kept = {
        name: kept_text
        for name, kept_text in repository.files.items()
        if not name.endswith(".targets.json") or name == published
    }
    return replace(repository, files={**kept, f"{version}.targets.json": text})


def _with_plan(
    repository: Repository,
    entries: Sequence[Entry],
    controller_signer: Signer,
    now: datetime,
    *,
    version: int,
    snapshot_version: int,
) -> Repository:
    """Return the repository with the newest targets under a new snapshot and a new timestamp."""
    root, expires = repository.signed_root, _days(now, PLAN_DAYS)
    name = _newest_targets(repository.files)
    targets = repository.files[name]
    snapshot = Snapshot(version=snapshot_version, expires=expires)
    snapshot.meta["targets.json"] = _meta(int(name.split(".")[0]), targets)
    snapshot_text = _sign(snapshot, (controller_signer,), root)
    timestamp = Timestamp(version=version, expires=expires)
    timestamp.snapshot_meta = _meta(snapshot_version, snapshot_text)
    timestamp.unrecognized_fields[FIELD] = {
        "at": time_text(now),
        "fleet": repository.fleet,
        "plan": _plain(entries),
    }
    text = _sign(timestamp, (controller_signer,), root)
    roots = {n: t for n, t in repository.files.items() if n.endswith(".root.json")}
    signed = replace(
        repository,
        files={
            **roots,
            name: targets,
            f"{snapshot_version}.snapshot.json": snapshot_text,
            "timestamp.json": text,
        },
    )
    _check_sizes(signed, text)
    return signed


def _check_sizes(repository: Repository, timestamp: str) -> None:
    """Refuse to sign what agents refuse to read."""
    if len(timestamp.encode()) > TIMESTAMP_BYTES:
        raise OperatorError(
            f"the plan takes more than {TIMESTAMP_BYTES} bytes; shorten pins or deny"
        )
    try:
        bundle_bytes(repository)
    except LimitError as error:
        raise OperatorError(error.text) from error


def _plain(entries: Sequence[Entry]) -> list[dict[str, object]]:
    try:
        return plan_to_plain(entries)
    except RefusedError as error:
        raise OperatorError(f"no agent would take this plan: {error.text}") from error


def _check_release(release: str, manifest_sha256: str, manifest_bytes_len: int) -> None:
    try:
        parse_release(release)
    except MalformedError as error:
        raise OperatorError(error.text) from error
    if not is_sha256(manifest_sha256) or not 0 < manifest_bytes_len <= MANIFEST_BYTES:
        raise OperatorError(f"{release}: expected a manifest of 1 to {MANIFEST_BYTES} bytes")


def _newest_targets(files: Mapping[str, str]) -> str:
    names = [name for name in files if name.endswith(".targets.json")]
    return max(names, key=lambda name: int(name.split(".")[0]))


def _meta(version: int, text: str) -> MetaFile:
    """Return what binds a file byte for byte, beyond its version."""
    return MetaFile.from_data(version, text.encode(), ["sha256"])


def _sign(signed: Role, signers: Sequence[Signer], root: Root) -> str:
    """Return the text of a signed file, once the root agrees that these keys may sign it."""
    metadata = Metadata(signed)
    try:
        for signer in signers:
            metadata.sign(signer, append=True)
        root.verify_delegate(signed.type, metadata.signed_bytes, metadata.signatures)
        if isinstance(signed, Root):
            signed.verify_delegate(signed.type, metadata.signed_bytes, metadata.signatures)
        return metadata.to_bytes().decode()
    except RepositoryError as error:
        raise UnsignedError(
            f"{signed.type}: the fleet's root does not let this key sign it ({error})"
        ) from error


def _days(now: datetime, days: int) -> datetime:
    return now.astimezone(UTC) + timedelta(days=days)
