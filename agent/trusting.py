"""The trust journal: the last accepted bundle, in a file of its own, and the last good identity.

``trust.json`` is the message itself; its signatures prove it whole. When it is missing, cut short,
or older than the floor in ``journal.json``, it is not believed: what runs goes on, nothing new
begins, and only a bundle at or above the floor takes its place. That is the one that the broker
holds, unless somebody replays an older one.
"""

import logging
from datetime import datetime
from pathlib import Path

import msgspec

from agent.journal import JournalFile, Saved, TrustFloor
from shared.card import Card
from shared.errors import FleetError, RefusedError, UntrustedError
from shared.files import read_bounded, write_atomically
from shared.identity import Identity
from shared.limits import BUNDLE_BYTES
from shared.messages import ErrorText, time_text
from shared.trust import Bundle, identity_floor, judge_bundle, judge_identity, open_journal

logger = logging.getLogger(__name__)


class Trust:
    """What this device believes, and the files that say so."""

    def __init__(self, card: Card, state: Path, journal: JournalFile) -> None:
        """Open what was accepted once."""
        self._card = card
        self._root = card.root.encode()
        self._path = state / "trust.json"
        self._journal = journal
        self.refused_trust: ErrorText | None = None
        self.refused_identity: ErrorText | None = None
        self.bundle = self._opened()

    @property
    def identity(self) -> Identity | None:
        """Return the last good identity."""
        return self._journal.saved.identity

    def accept(self, data: bytes, now: datetime | None) -> bool:
        """Judge a bundle; keep and believe it, or say why not. True: there is something new."""
        if self.bundle is not None and data == self.bundle.data:
            self.refused_trust = None
            return False
        try:
            bundle = self._judged(data, now)
            write_atomically(self._path, bundle.data)
        except RefusedError as error:
            self.refused_trust = _refused("bundle", error)
            return False
        self._journal.change(lambda saved: _with_floor(saved, bundle))
        self.bundle, self.refused_trust = bundle, None  # Not before: who asks again must get True.
        logger.info("plan %d accepted: %d entries", bundle.version, len(bundle.plan))
        return True

    def accept_identity(self, data: bytes) -> bool:
        """Judge an identity; keep it, or say why not. True: there is something new."""
        saved = self._journal.saved
        if saved.identity_envelope is not None and data == saved.identity_envelope.encode():
            self.refused_identity = None
            return False
        try:
            identity = self._judged_identity(data)
        except RefusedError as error:
            self.refused_identity = _refused("identity", error)
            return False
        self.refused_identity = None
        self._journal.change(
            lambda saved: msgspec.structs.replace(
                saved,
                identity=identity,
                identity_envelope=data.decode(),
                identity_floor=identity.version,
            )
        )
        logger.info("identity %d accepted", identity.version)
        return True

    def refuse_oversize(self, what: str, text: str) -> None:
        """Note what was too long to be read at all; ``what`` is trust or identity."""
        error = ErrorText("limit", text)
        if what == "trust":
            self.refused_trust = error
        else:
            self.refused_identity = error

    def _judged(self, data: bytes, now: datetime | None) -> Bundle:
        before = None if self.bundle is None else self.bundle.data
        bundle = judge_bundle(
            data, fleet=self._card.fleet, card_root=self._root, journal=before, now=now
        )
        if self.bundle is None:
            _check_floor(bundle, self._journal.saved.trust)
        return bundle

    def _judged_identity(self, data: bytes) -> Identity:
        root = self._root if self.bundle is None else self.bundle.root
        saved = self._journal.saved
        kept = None if saved.identity_envelope is None else saved.identity_envelope.encode()
        return judge_identity(
            data,
            trusted_root=root,
            fleet=self._card.fleet,
            device=self._card.device,
            floor=saved.identity_floor if kept is None else identity_floor(kept, trusted_root=root),
        )

    def _opened(self) -> Bundle | None:
        floor = self._journal.saved.trust
        try:
            data = read_bounded(self._path, BUNDLE_BYTES)
            if data is None:
                if floor.version:
                    raise UntrustedError("trust journal: it is not there", code="journal")
                return None
            bundle = open_journal(data, fleet=self._card.fleet, card_root=self._root)
            if bundle.root_version <= floor.root_version:
                _check_floor(bundle, floor)
            # else: a rotation was accepted, and the power failed before its floor was written.
        except FleetError as error:
            logger.error("the trust journal is not believed: %s", error)  # noqa: TRY400
            self.refused_trust = ErrorText("journal", str(error))
            return None
        return bundle


def _check_floor(bundle: Bundle, floor: TrustFloor) -> None:
    """Refuse what is older than what was accepted once, whatever became of the file."""
    is_older = bundle.version < floor.version or time_text(bundle.at) < floor.at
    if is_older or bundle.root_version < floor.root_version:
        raise UntrustedError(
            f"expected plan {floor.version} or a newer one, got {bundle.version}", code="replayed"
        )
    if bundle.version == floor.version and bundle.timestamp_sha256 != floor.timestamp_sha256:
        raise UntrustedError(f"plan {bundle.version} came with other bytes", code="equivocation")


def _with_floor(saved: Saved, bundle: Bundle) -> Saved:
    floor = TrustFloor(
        version=bundle.version,
        timestamp_sha256=bundle.timestamp_sha256,
        at=time_text(bundle.at),
        root_version=bundle.root_version,
    )
    return msgspec.structs.replace(saved, trust=floor)


def _refused(what: str, error: RefusedError) -> ErrorText:
    logger.warning("%s refused (%s): %s", what, error.code, error.text)
    return ErrorText(error.code, error.text)
