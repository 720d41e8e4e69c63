"""The plan as it is signed: entries to plain values and back. Pure.

What is signed holds no floats, and its lists are sorted, so that the same plan is always the same
text. What comes in is refused whole when one field is unknown or out of bounds: an agent that
ignored half of an entry would do harm.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from shared.assignment import (
    SHARE_ALL,
    Action,
    Entry,
    Probe,
    Selector,
    SelectorError,
    Term,
    Window,
    parse_selector,
)
from shared.errors import LimitError, MalformedError
from shared.limits import ENTRIES_MAX, REFUSED_ENTRIES_REPORTED_MAX
from shared.messages import EntryRefused, SignedDocument, convert
from shared.release import is_sha256, parse_release
from shared.topics import checked_name, is_name

Plain = list[dict[str, object]]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Clock = Annotated[str, msgspec.Meta(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$", max_length=5)]
DAY_SECONDS = 86_400  # No probe and no activation may take longer.
NAMES_MAX = 10_000  # Pins or denied devices of one entry; the timestamp's 64 KiB bind earlier.
ATTEMPTS_MAX = 1_000_000
_CAMERA = re.compile(r"0|[1-9][0-9]?")


class WindowDocument(SignedDocument, frozen=True, kw_only=True, rename={"begin": "from"}):
    """When activations may begin, in the device's time zone."""

    days: Annotated[tuple[Day, ...], msgspec.Meta(min_length=1, max_length=7)]
    begin: Clock
    to: Clock


class ProbeDocument(SignedDocument, frozen=True, kw_only=True):
    """How long and how well a release must run before it is committed."""

    seconds: Annotated[int, msgspec.Meta(ge=1, le=DAY_SECONDS)]
    valid_rate_permille: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    activation_seconds: Annotated[int, msgspec.Meta(ge=1, le=DAY_SECONDS)]


class EntryDocument(SignedDocument, frozen=True, kw_only=True):
    """One rollout, exactly as it is signed."""

    rollout: str
    attempt: Annotated[int, msgspec.Meta(ge=1, le=ATTEMPTS_MAX)]
    action: Literal["run", "hold", "keep", "revert"]
    release: str
    manifest_sha256: str
    selector: str
    pins: Annotated[tuple[str, ...], msgspec.Meta(max_length=NAMES_MAX)]
    salt: str
    share: Annotated[int, msgspec.Meta(ge=0, le=SHARE_ALL)]
    deny: Annotated[tuple[str, ...], msgspec.Meta(max_length=NAMES_MAX)]
    window: WindowDocument | None
    probe: ProbeDocument


def plan_to_plain(plan: Sequence[Entry]) -> Plain:
    """Return the plan as plain values, ready to be signed.

    Raises:
        RefusedError: An agent would refuse it; the controller must not sign it.
    """
    plain: Plain = [msgspec.to_builtins(_document(entry)) for entry in plan]
    plan_from_plain(plain)
    return plain


def plan_from_plain(plain: object) -> tuple[Entry, ...]:
    """Return the entries of a plan whose signature has been verified.

    Raises:
        LimitError: It has too many entries.
        UnsupportedError: It says something that this version does not know.
        MalformedError: It contradicts itself or its schema.
    """
    if isinstance(plain, list) and len(plain) > ENTRIES_MAX:
        raise LimitError(f"plan: expected at most {ENTRIES_MAX} entries, got {len(plain)}")
    plan = tuple(_entry(document) for document in convert(plain, tuple[EntryDocument, ...], "plan"))
    if len({entry.rollout for entry in plan}) != len(plan):
        raise MalformedError("plan: expected each rollout once")
    return plan


def refused_entries(plan: Iterable[Entry], listed: Mapping[str, str]) -> tuple[EntryRefused, ...]:
    """Return what `reported` says of entries whose release is not signed; the rest counts.

    A `revert` works whether its release is listed or not.
    """
    return tuple(
        EntryRefused(entry.rollout, "unlisted", f"{entry.release} is not listed under that hash")
        for entry in plan
        if entry.action is not Action.REVERT and listed.get(entry.release) != entry.manifest_sha256
    )[:REFUSED_ENTRIES_REPORTED_MAX]


def selector_text(selector: Selector) -> str:
    """Return the one text of a selector; ``*`` where it has no condition."""
    return ",".join(sorted(map(_term_text, selector.terms))) or "*"


def _term_text(term: Term) -> str:
    return f"{term.key}{'!=' if term.is_negated else '='}{term.value}"


def _document(entry: Entry) -> EntryDocument:
    window = entry.window
    return EntryDocument(
        rollout=entry.rollout,
        attempt=entry.attempt,
        action=entry.action.value,
        release=entry.release,
        manifest_sha256=entry.manifest_sha256,
        selector=selector_text(entry.selector),
        pins=tuple(sorted(entry.pins)),
        salt=entry.salt,
        share=entry.share,
        deny=tuple(sorted(entry.deny)),
        window=None if window is None else _window_document(window),
        probe=ProbeDocument(
            seconds=entry.probe.seconds,
            valid_rate_permille=entry.probe.valid_rate_permille,
            activation_seconds=entry.probe.activation_seconds,
        ),
    )


def _window_document(window: Window) -> WindowDocument:
    return WindowDocument(
        days=tuple(day for day in DAYS if day in window.days),
        begin=_clock(window.begin_minute),
        to=_clock(window.end_minute),
    )


def _entry(document: EntryDocument) -> Entry:
    parse_release(document.release)
    if not is_sha256(document.manifest_sha256):
        raise MalformedError("plan: expected manifest_sha256 in lower-case hex")
    for pin in document.pins:
        _check_pin(pin)
    return Entry(
        rollout=checked_name(document.rollout),
        attempt=document.attempt,
        action=Action(document.action),
        release=document.release,
        manifest_sha256=document.manifest_sha256,
        selector=_selector(document.selector),
        pins=frozenset(document.pins),
        salt=checked_name(document.salt),
        share=document.share,
        deny=frozenset(map(checked_name, document.deny)),
        window=None if document.window is None else _window(document.window),
        probe=Probe(
            document.probe.seconds,
            document.probe.valid_rate_permille,
            document.probe.activation_seconds,
        ),
    )


def _selector(text: str) -> Selector:
    try:
        return parse_selector(text)
    except SelectorError as error:
        raise MalformedError(f"plan: selector: {error}") from error


def _check_pin(pin: str) -> None:
    device, slash, camera = pin.partition("/")
    if not is_name(device) or bool(slash) != bool(_CAMERA.fullmatch(camera)):
        raise MalformedError(f"plan: expected a pin like gate-01 or gate-01/1, got {pin[:80]!r}")


def _window(document: WindowDocument) -> Window:
    if document.begin == document.to:
        raise MalformedError(f"plan: expected a window of some length, got {document.begin} twice")
    return Window(frozenset(document.days), _minute(document.begin), _minute(document.to))


def _minute(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
