"""What several tests make: a fleet with keys, a repository and a plan, and forgeries of it.

``Site`` is honest: it signs what the controller would sign. ``forged`` is not: it signs whatever
it is told to, with whichever keys a thief may hold.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from controller.keys import Keys
from controller.repository import (
    Repository,
    add_release,
    bundle_bytes,
    create,
    rotate_controller,
    sign_plan,
)
from shared.assignment import SHARE_ALL, Action, Entry, parse_selector
from shared.trust import Bundle, judge_bundle, pack

FLEET = "site-a"
NOW = datetime.now(UTC).replace(microsecond=0)  # python-tuf's own clock cannot be set.


def new_keys(fleet: str = FLEET, *, is_demo: bool = False) -> Keys:
    """Return keys that never touch the disk."""
    signers = [CryptoSigner.generate_ed25519() for _ in range(5)]
    return Keys(fleet, tuple(signers[:3]), 2, signers[3], signers[4], is_demo)


def digest_of(release: str) -> str:
    """Return the hash that stands for a release's manifest where nobody reads the manifest."""
    return sha256(release.encode()).hexdigest()


def entry(release: str = "helmet@8", rollout: str = "r-1", **changes: object) -> Entry:
    """Return an entry that gives a release to everybody."""
    everybody = Entry(
        rollout=rollout,
        attempt=1,
        action=Action.RUN,
        release=release,
        manifest_sha256=digest_of(release),
        selector=parse_selector("*"),
        pins=frozenset(),
        salt=rollout,
        share=SHARE_ALL,
    )
    return replace(everybody, **changes)


@dataclass
class Site:
    """One fleet as its controller holds it. ``now`` moves a minute with each signature."""

    keys: Keys
    repository: Repository
    now: datetime = NOW

    @classmethod
    def make(cls, fleet: str = FLEET, *, is_demo: bool = False, now: datetime = NOW) -> "Site":
        """Return a new fleet: nothing listed, an empty plan of version 1."""
        keys = new_keys(fleet, is_demo=is_demo)
        return cls(keys, create(keys, now=now), now)

    def list_releases(self, *releases: str) -> None:
        """Sign releases with the release key."""
        for release in releases:
            self.repository = add_release(
                self.repository, release, digest_of(release), 2000, self.keys.release, self.now
            )

    def plan(self, *entries: Entry, now: datetime | None = None) -> bytes:
        """Sign a plan and return its bundle."""
        self.now = now or self.now + timedelta(minutes=1)
        self.repository = sign_plan(self.repository, entries, self.keys.controller, self.now)
        return self.bundle

    def rotate(self) -> bytes:
        """Take a new controller key, and return the bundle with the new root."""
        self.now += timedelta(minutes=1)
        self.keys = replace(self.keys, controller=CryptoSigner.generate_ed25519())
        self.repository = rotate_controller(
            self.repository,
            root_signers=self.keys.root,
            controller_signer=self.keys.controller,
            now=self.now,
        )
        return self.bundle

    @property
    def bundle(self) -> bytes:
        """Return the bundle as it is published."""
        return bundle_bytes(self.repository)

    @property
    def card_root(self) -> bytes:
        """Return the root of a card that was written on the first day."""
        return self.repository.files["1.root.json"].encode()

    @property
    def files(self) -> dict[str, str]:
        """Return the files of the published bundle, to be changed."""
        return dict(json.loads(self.bundle)["files"])

    def judge(
        self, data: bytes, journal: bytes | None = None, now: datetime | None = NOW
    ) -> Bundle:
        """Judge a bundle as a device of this fleet does."""
        return judge_bundle(
            data, fleet=self.keys.fleet, card_root=self.card_root, journal=journal, now=now
        )


def bundle_of(files: dict[str, str], fleet: str = FLEET) -> bytes:
    """Return the message that carries these files."""
    return pack(fleet, files)


def sign_again(
    text: str, signers: Iterable[CryptoSigner], change: Callable[..., None] | None = None
) -> str:
    """Return a metadata file with another content, signed by these keys."""
    metadata: Metadata = Metadata.from_bytes(text.encode())
    if change is not None:
        change(metadata.signed)
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes().decode()


def forged(
    files: dict[str, str],
    keys: Keys,
    *,
    timestamp: Callable[[Timestamp], None] | None = None,
    snapshot: Callable[[Snapshot], None] | None = None,
    targets: Callable[[Targets], None] | None = None,
) -> dict[str, str]:
    """Return the files with changes that agree with each other, signed by the given keys."""
    made = {name: text for name, text in files.items() if name.endswith(".root.json")}
    old = {name.split(".")[-2]: text for name, text in files.items()}
    targets_text = old["targets"]
    if targets is not None:
        targets_text = sign_again(targets_text, [keys.release], targets)
    targets_version = json.loads(targets_text)["signed"]["version"]

    def follow_targets(signed: Snapshot) -> None:
        signed.meta["targets.json"] = _meta(targets_version, targets_text)
        if snapshot is not None:
            snapshot(signed)

    snapshot_text = sign_again(old["snapshot"], [keys.controller], follow_targets)
    snapshot_version = json.loads(snapshot_text)["signed"]["version"]

    def follow_snapshot(signed: Timestamp) -> None:
        signed.snapshot_meta = _meta(snapshot_version, snapshot_text)
        if timestamp is not None:
            timestamp(signed)

    made[f"{targets_version}.targets.json"] = targets_text
    made[f"{snapshot_version}.snapshot.json"] = snapshot_text
    made["timestamp.json"] = sign_again(old["timestamp"], [keys.controller], follow_snapshot)
    return made


def _meta(version: int, text: str) -> MetaFile:
    return MetaFile.from_data(version, text.encode(), ["sha256"])
