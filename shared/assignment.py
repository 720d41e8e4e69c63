"""Say what one camera should do next, from the plan and from what the camera remembers.

Agent and controller run this same function. It reads no clock, no file and no network, and it
never says how a release is installed: ``agent/deployment.py`` does.

Rule 1: the plan is a list, newest rollout first; the first entry that counts is wanted.
Rule 2: a bad end here is final for its (rollout, attempt).
Rule 3: a camera keeps what runs unless it must leave it (its rollout was reverted, or its release
        is no longer listed) or nothing runs. Only then may the search go past an entry that cannot
        be had here (it ended badly, or is on hold), and only then is the previous slot restored.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from hashlib import sha256

SHARE_ALL = 2**32
SELECTOR_CHARACTERS_MAX = 256  # A selector is read by people; a longer one is a mistake.

_WORD = re.compile(r"[a-z0-9-]{1,64}")

Try = tuple[str, int]  # (rollout, attempt): what an outcome is final for.


class SelectorError(ValueError):
    """The text is not a selector."""


class Action(Enum):
    """What an entry asks of the cameras that it covers."""

    RUN = "run"
    HOLD = "hold"
    KEEP = "keep"
    REVERT = "revert"


@dataclass(frozen=True, slots=True)
class Term:
    """One condition of a selector: ``key=value`` or ``key!=value``."""

    key: str
    value: str
    is_negated: bool

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Say whether the labels meet this condition; an absent key meets ``!=``."""
        return (labels.get(self.key) == self.value) != self.is_negated


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that must all hold; none at all is ``*``. Equal when the conditions are."""

    terms: frozenset[Term]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Say whether the labels meet every condition."""
        return all(term.matches(labels) for term in self.terms)


@dataclass(frozen=True, slots=True)
class Window:
    """When activations may begin, in the device's time zone; past midnight when end < begin."""

    days: frozenset[str]  # mon, tue, wed, thu, fri, sat, sun
    begin_minute: int  # Of the day, 0 to 1439.
    end_minute: int


@dataclass(frozen=True, slots=True)
class Probe:
    """How long and how well a release must run before it is committed."""

    seconds: int = 60
    valid_rate_permille: int = 900
    activation_seconds: int = 720  # From `activating` to the first valid output.


@dataclass(frozen=True, slots=True)
class Entry:
    """One rollout as the plan states it."""

    rollout: str
    attempt: int
    action: Action
    release: str
    manifest_sha256: str
    selector: Selector
    pins: frozenset[str]
    salt: str
    share: int
    deny: frozenset[str] = frozenset()
    window: Window | None = None
    probe: Probe = field(default_factory=Probe)

    @property
    def tried(self) -> Try:
        """Return what an outcome of this entry is filed under."""
        return self.rollout, self.attempt


@dataclass(frozen=True, slots=True)
class Slot:
    """A release on a camera's disk, and its owners: every try that named it here.

    A revert takes its rollout's tries away for good, so that it outlives its entry in the plan.
    What has no owner left must be left.
    """

    release: str
    manifest_sha256: str
    owners: frozenset[Try]
    rivals: frozenset[Try] = frozenset()  # All that named the release when it was activated.
    probe: Probe = Probe()  # The gate of every start of this slot.


@dataclass(frozen=True, slots=True)
class Camera:
    """What the rules need to know about one camera."""

    device: str
    number: int
    labels: Mapping[str, str]  # Device labels, then camera labels, then ``camera``: later wins.
    active: Slot | None = None
    previous: Slot | None = None
    is_running: bool = False
    ended_badly: frozenset[Try] = frozenset()
    failed: frozenset[str] = frozenset()  # Manifests that failed their gate here since committed.

    @property
    def owners(self) -> frozenset[Try]:
        """Return the tries that what runs belongs to."""
        return frozenset() if self.active is None else self.active.owners


class Reason(Enum):
    """Why a camera keeps what it has."""

    SETTLED = "settled"
    NOT_COVERED = "not_covered"
    ENDED_BADLY = "ended_badly"
    NOTHING_TO_REVERT_TO = "nothing_to_revert_to"


@dataclass(frozen=True, slots=True)
class Keep:
    """Change nothing."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Run:
    """Fetch, activate and prove this entry's release."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class CommitAtOnce:
    """The entry's release runs already; say so, without a camera start."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Wait:
    """This entry would be run, were it not on hold."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class RestorePrevious:
    """Leave what runs for the release in the previous slot."""

    slot: Slot


Wanted = Keep | Run | CommitAtOnce | Wait | RestorePrevious


def wanted(plan: Sequence[Entry], listed: Mapping[str, str], camera: Camera) -> Wanted:
    """Return what the camera should do next.

    Args:
        plan: The entries, newest rollout first.
        listed: The signed releases: name to SHA-256 of the manifest.
        camera: What runs, what ran before, and how earlier tries ended.
    """
    may_go_on = not camera.is_running or must_leave(plan, listed, camera)
    on_hold: Wait | None = None
    for entry in plan:
        if not counts(entry, listed, camera):
            continue
        answer = _answer(entry, camera)
        if not (may_go_on and _is_refusal(answer)):
            return answer
        if on_hold is None and isinstance(answer, Wait):
            on_hold = answer
    return _with_nothing_named(plan, listed, camera, on_hold)


def _answer(entry: Entry, camera: Camera) -> Wanted:
    """Return what an entry that counts means for the camera."""
    if entry.tried in camera.ended_badly:
        return Keep(Reason.ENDED_BADLY)
    if entry.action is Action.KEEP or entry.tried in camera.owners:
        return Keep(Reason.SETTLED)
    if runs_already(entry, camera):
        return CommitAtOnce(entry)
    return Wait(entry) if entry.action is Action.HOLD else Run(entry)


def _is_refusal(answer: Wanted) -> bool:
    """Say whether the entry cannot be had here, now or ever."""
    return isinstance(answer, Wait) or answer == Keep(Reason.ENDED_BADLY)


def _with_nothing_named(
    plan: Sequence[Entry], listed: Mapping[str, str], camera: Camera, on_hold: Wait | None
) -> Wanted:
    """Return what to do when no entry can be had: go back, wait for a held one, or stay."""
    is_left = must_leave(plan, listed, camera)
    if is_left and camera.previous is not None:
        has_failed = camera.previous.manifest_sha256 in camera.failed
        if not has_failed and not is_unwanted(plan, listed, camera.previous):
            return RestorePrevious(camera.previous)
    if on_hold is not None:
        return on_hold
    return Keep(Reason.NOTHING_TO_REVERT_TO if is_left else Reason.NOT_COVERED)


def counts(entry: Entry, listed: Mapping[str, str], camera: Camera) -> bool:
    """Say whether the search for a release may stop at this entry."""
    if entry.action is Action.REVERT or listed.get(entry.release) != entry.manifest_sha256:
        return False
    if entry.action is Action.KEEP and not is_owner(entry, camera):
        return False
    return covers(entry, camera)


def covers(entry: Entry, camera: Camera) -> bool:
    """Say whether selector, pins, share and deny list let this camera in."""
    return camera.device not in entry.deny and admits(entry, camera)


def admits(entry: Entry, camera: Camera) -> bool:
    """Say whether selector, pins and share let this camera in, whoever was denied since."""
    if not entry.selector.matches(camera.labels):
        return False
    pins = {camera.device, f"{camera.device}/{camera.number}"}
    return share_hash(entry.salt, camera.device) < entry.share or not pins.isdisjoint(entry.pins)


def must_leave(plan: Sequence[Entry], listed: Mapping[str, str], camera: Camera) -> bool:
    """Say whether the camera has a release that it must leave for any other."""
    return camera.active is not None and is_unwanted(plan, listed, camera.active)


def is_unwanted(plan: Sequence[Entry], listed: Mapping[str, str], slot: Slot) -> bool:
    """Say whether a camera must leave this slot: all its owners reverted, or it is not listed."""
    if listed.get(slot.release) != slot.manifest_sha256:
        return True
    return not owners_left(plan, slot)


def owners_left(plan: Sequence[Entry], slot: Slot) -> frozenset[Try]:
    """Return the owners whose rollouts the plan does not revert, whatever the attempt."""
    reverted = {entry.rollout for entry in plan if entry.action is Action.REVERT}
    return frozenset(tried for tried in slot.owners if tried[0] not in reverted)


def namings(plan: Sequence[Entry], manifest_sha256: str) -> tuple[Entry, ...]:
    """Return the entries that let cameras run a release; ``keep`` lets nobody new run it."""
    return tuple(
        entry
        for entry in plan
        if entry.manifest_sha256 == manifest_sha256 and entry.action in {Action.RUN, Action.HOLD}
    )


def is_owner(entry: Entry, camera: Camera) -> bool:
    """Say whether this rollout, in any attempt, owns what the camera runs."""
    return any(rollout == entry.rollout for rollout, _ in camera.owners)


def runs_already(entry: Entry, camera: Camera) -> bool:
    """Say whether the entry's release runs and somebody's commit of it still stands."""
    is_proven = camera.is_running and not camera.owners <= camera.ended_badly
    active = camera.active if is_proven else None
    return active is not None and active.manifest_sha256 == entry.manifest_sha256


@lru_cache(maxsize=1 << 16)
def share_hash(salt: str, device: str) -> int:
    """Return the number, below ``SHARE_ALL``, that decides in which wave a device is."""
    return int.from_bytes(sha256(f"{salt}\n{device}".encode()).digest()[:4], "big")


def parse_selector(text: str) -> Selector:
    """Return the selector in ``text``.

    Raises:
        SelectorError: The text is empty, too long, or not ``*`` or ``k=v,k!=v``.
    """
    if not 0 < len(text) <= SELECTOR_CHARACTERS_MAX:
        raise SelectorError(f"expected 1 to {SELECTOR_CHARACTERS_MAX} characters, got {len(text)}")
    if text == "*":
        return Selector(frozenset())
    return Selector(frozenset(_parse_term(part) for part in text.split(",")))


def _parse_term(text: str) -> Term:
    key, operator, value = text.partition("!=" if "!=" in text else "=")
    if not (operator and _WORD.fullmatch(key) and _WORD.fullmatch(value)):
        raise SelectorError(f"expected key=value or key!=value, got {text!r}")
    return Term(key, value, is_negated=operator == "!=")
