"""Who ordered what, which plans were signed, what was judged on which evidence, how devices ended.

An append-only chain in the store: an entry holds its number and the digest of the one before it,
so that an edited, removed or reordered one breaks the chain. Whoever can write the file could
forge a whole new chain, or cut its end off: so the controller's key signs the newest digest (the
seal) with every plan, and `audit verify` holds the chain against it.

Entries are written in the same transaction as what they tell.
"""

import getpass
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Literal

import msgspec
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key, Signer

from controller.devices import Known
from controller.rollout import Judged, VerdictKind, count_states
from controller.store import Record, Store
from shared.assignment import Entry as PlanEntry
from shared.messages import time_text
from shared.plan import selector_text

SEAL = "audit_seal"  # The key of the store's document.
SEAL_TYPE = "application/vnd.imxfleet.audit+json"
What = Literal[
    "order", "release", "device", "keys", "plan", "verdict", "state", "outcome", "driver"
]
Note = tuple[What, str, dict[str, object]]  # What, about what, details.


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that happened. ``about``: a rollout, release, device or key."""

    number: int
    at: str
    who: str
    what: What
    about: str
    detail: dict[str, object]
    previous: str


class _Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: int
    digest: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What `audit verify` found.

    Attributes:
        sealed: The newest entry that the controller's key vouches for.
        head: The digest of the newest entry: whoever keeps it elsewhere can tell any change.
    """

    entries: int
    sealed: int
    head: str
    problems: tuple[str, ...]


def who() -> str:
    """Return who runs this process, and where."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # No such user on this machine, e.g. in a container.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def note(store: Store, what: What, about: str, **detail: object) -> None:
    """Append an entry; within a transaction."""
    last, previous = store.audit_last()
    entry = Entry(
        number=last + 1,
        at=time_text(datetime.now(UTC)),
        who=who(),
        what=what,
        about=about,
        detail=detail,
        previous=previous,
    )
    data = msgspec.json.encode(entry)
    store.add_audit(entry.number, data, _digest(data))


def note_all(store: Store, notes: Iterable[Note]) -> None:
    """Append entries; within a transaction."""
    for what, about, detail in notes:
        note(store, what, about, **detail)


def of_plan(plan: Sequence[PlanEntry], version: int, timestamp: str) -> Note:
    """Return what a signed plan says."""
    said = [
        f"{e.rollout}.{e.attempt} {e.action.value} {e.release} to {selector_text(e.selector)}"
        f" share {e.share}"
        for e in plan
    ]
    return "plan", str(version), {"sha256": _digest(timestamp.encode()), "entries": said}


def of_steering(
    before: Mapping[str, Record], after: Mapping[str, Record], looks: Mapping[str, Judged]
) -> Iterator[Note]:
    """Yield the verdicts that were followed, with their evidence, and the states they led to."""
    for name, record in after.items():
        old = before.get(name)
        is_new = old is None or old.course.verdicts != record.course.verdicts
        is_moved = old is None or (old.state, old.reason) != (record.state, record.reason)
        judged = looks.get(name)
        if judged is not None and (is_new or is_moved) and old is not None:
            kind = judged.verdict.kind
            if kind is not VerdictKind.UNDECIDED:
                wave = max(len(old.course.reaches), 1)
                evidence = msgspec.to_builtins(judged.verdict)
                evidence["gates"] = msgspec.to_builtins(judged.course.gathered.verdicts)
                counts = count_states(judged.standings.values())
                yield "verdict", name, {"wave": wave, "devices": counts, **evidence}
        if is_moved:
            said: dict[str, object] = {
                "state": record.state,
                "reason": record.reason,
                "text": record.text,
            }
            yield "state", name, said


def of_report(before: Known, after: Known) -> Iterator[Note]:
    """Yield the outcomes that a device has told for the first time."""
    if after.report is None or before.report is after.report:
        return
    for number, camera in after.report.cameras.items():
        old = before.report.cameras.get(number) if before.report else None
        for end in camera.ended:
            if old is None or end not in old.ended:
                about = f"{after.device}/{number}"
                yield "outcome", about, {**msgspec.to_builtins(end), "runs": camera.release}


def seal(store: Store, signer: Signer) -> None:
    """Let the controller's key vouch for all entries so far; within a transaction."""
    number, digest = store.audit_last()
    envelope = Envelope(msgspec.json.encode(_Seal(number, digest)), SEAL_TYPE, {})
    envelope.sign(signer)
    store.put(SEAL, envelope.to_dict())


def entries(store: Store, after: int = 0) -> Iterator[Entry]:
    """Yield the entries after a number, oldest first, as far as they can be read."""
    for _, data, _ in store.audit_rows(after):
        try:
            yield msgspec.json.decode(data, type=Entry)
        except msgspec.MsgspecError:
            continue  # `verify` tells of it.


def verify(store: Store, keys: Sequence[Key], *, is_sealed: bool = True) -> Checked:
    """Return what is wrong with the chain.

    Args:
        store: Where it is.
        keys: Those that may seal it: the controller's.
        is_sealed: A plan was signed, so that there must be a seal.
    """
    problems: list[str] = []
    digests = {0: ""}
    previous, expected = "", 1
    for number, data, digest in store.audit_rows():
        if number != expected:
            missing = f"{expected} to {number - 1}" if number - expected > 1 else str(expected)
            problems.append(f"entry {missing} is missing")
        problems += _wrong(number, data, digest, previous)
        digests[number] = previous = digest
        expected = number + 1
    sealed = _read_seal(store, keys, is_sealed=is_sealed)
    if isinstance(sealed, str):
        problems.append(sealed)
    elif digests.get(sealed.number) != sealed.digest:
        problems.append(
            f"entry {sealed.number} is not the one that the controller's key has sealed: the log"
            " was cut off or written anew"
        )
    number = sealed.number if isinstance(sealed, _Seal) else 0
    return Checked(len(digests) - 1, number, previous, tuple(problems))


def _wrong(number: int, data: bytes, digest: str, previous: str) -> Iterator[str]:
    if _digest(data) != digest:
        yield f"entry {number} was edited: its digest is another"
    try:
        entry = msgspec.json.decode(data, type=Entry)
    except msgspec.MsgspecError as error:
        yield f"entry {number} cannot be read: {error}"
        return
    if entry.number != number:
        yield f"entry {number} says that it is entry {entry.number}: the order was changed"
    if entry.previous != previous:
        yield f"entry {number} does not follow the one before it: that was edited or removed"


def _read_seal(store: Store, keys: Sequence[Key], *, is_sealed: bool) -> _Seal | str:
    """Return what is sealed, or what is wrong with it; a log before the first plan has none."""
    kept = store.get(SEAL, dict[str, object])
    if kept is None:
        return "the seal is missing" if is_sealed else _Seal(0, "")
    try:
        envelope = Envelope.from_dict(kept)
        envelope.verify(list(keys), 1)
        return msgspec.json.decode(envelope.payload, type=_Seal)
    except (VerificationError, ValueError, KeyError, msgspec.MsgspecError) as error:
        return f"the seal is not signed by the controller's key: {error}"


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()
