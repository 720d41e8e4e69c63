"""Turn the controller's rollouts into the entries of the plan.

The book lists every rollout whose entry is in the plan, newest first. Each operation takes a book
and returns the next one, or raises because the operator asked for what would do harm. This module
signs nothing, sends nothing and knows no time: ``rollout.py`` judges a wave, this file obeys.

Rule 1: salt is fixed; share, pins and deny only grow within a rollout.
Rule 2: a wave that gains nobody is skipped; the last one always takes everyone, those to come too.
Rule 3: an entry leaves the plan only when no camera can still need to read it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from shared.assignment import (
    SHARE_ALL,
    Action,
    Camera,
    Entry,
    admits,
    counts,
    covers,
    share_hash,
)

ENTRIES_MAX = 64  # The timestamp with its plan is at most 64 KiB.
PERMILLE_ALL = 1000


class RefusedError(Exception):
    """The operation would do harm, or the rollout is not in a state for it."""


class State(Enum):
    """How a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    REVERTING = "reverting"
    COMPLETED = "completed"
    ABORTED = "aborted"


LIVE = frozenset({State.RUNNING, State.PAUSED})
_FROZEN = {Action.RUN: Action.HOLD, Action.REVERT: Action.KEEP}


@dataclass(frozen=True, slots=True)
class Wave:
    """One step of a rollout: named canaries and a part of all that its selector matches."""

    permille: int
    pins: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rollout:
    """One release to many devices, as the plan has to state it."""

    entry: Entry
    waves: tuple[Wave, ...]
    wave: int = 0
    state: State = State.RUNNING
    reverted_in: int = 0  # The plan version that first said ``revert``.
    admitted: frozenset[str] = frozenset()  # ``gate-01/0``: let in once, whatever its labels now.


@dataclass(frozen=True, slots=True)
class Report:
    """What the controller last heard from one camera."""

    camera: Camera
    plan_version: int
    is_settled: bool  # It has nothing under way, and nothing more to do for this plan.
    has_labels: bool = True  # Those of ``camera``; else it still obeys older ones.


Book = tuple[Rollout, ...]
Inventory = Sequence[Camera]
Change = Callable[[Rollout], Rollout]


def entries(book: Book) -> tuple[Entry, ...]:
    """Return the plan."""
    return tuple(rollout.entry for rollout in book)


def frozen(plan: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return the plan under which nobody changes anything: `run` is held, `revert` kept."""
    return tuple(replace(entry, action=_FROZEN.get(entry.action, entry.action)) for entry in plan)


def thawed(book: Book, version: int) -> Book:
    """Return the book for the version that says it for the first time since it was frozen.

    What a device reported under ``keep`` says nothing about a revert.
    """
    return tuple(
        replace(rollout, reverted_in=version) if rollout.entry.action is Action.REVERT else rollout
        for rollout in book
    )


def start(
    book: Book, entry: Entry, waves: tuple[Wave, ...], inventory: Inventory, *, over: bool
) -> Book:
    """Put a new rollout on top, with its first wave.

    Raises:
        RefusedError: It overlaps a live rollout, its name was used, or the plan is full.
    """
    assert waves
    assert waves[-1].permille == PERMILLE_ALL
    if any(rollout.entry.rollout == entry.rollout for rollout in book):
        raise RefusedError(f"expected a new rollout name, got {entry.rollout}")
    if len(book) >= ENTRIES_MAX:
        raise RefusedError(f"expected fewer than {ENTRIES_MAX} entries")
    if not over and (others := _overlapping(book, entry, inventory)):
        raise RefusedError(f"{entry.rollout} overlaps {', '.join(others)}; expected --over")
    fresh = replace(entry, action=Action.RUN, share=0, pins=frozenset())
    started = _grown(Rollout(fresh, waves, wave=-1), inventory)
    return (started, *book)


def undo(
    book: Book, name: str, new: Entry, waves: tuple[Wave, ...], inventory: Inventory, *, over: bool
) -> Book:
    """Start a rollout of the earlier release in ``new`` for the devices of rollout ``name``."""
    return start(
        book,
        replace(new, selector=find(book, name).entry.selector),
        waves,
        inventory,
        over=over,
    )


def pass_wave(book: Book, name: str, inventory: Inventory) -> Book:
    """Go on to the next wave that gains somebody; after the last one, complete."""
    rollout = _expect(book, name, State.RUNNING)
    if rollout.wave + 1 == len(rollout.waves):
        return _complete(book, rollout)
    return _changed(book, name, lambda r: _grown(r, inventory))


def pause(book: Book, name: str) -> Book:
    """Let nobody new activate."""
    _expect(book, name, State.RUNNING)
    return _changed(book, name, lambda r: _acting(r, Action.HOLD, State.PAUSED))


def wait(book: Book, name: str) -> Book:
    """Wait for a person before the next wave; whoever was let in goes on."""
    _expect(book, name, State.RUNNING)
    return _changed(book, name, lambda r: replace(r, state=State.PAUSED))


def deny(book: Book, name: str, devices: frozenset[str]) -> Book:
    """Leave devices out from here on: they keep what they run."""

    def without(rollout: Rollout) -> Rollout:
        entry = replace(rollout.entry, deny=rollout.entry.deny | devices)
        return replace(rollout, entry=entry)

    return _changed(book, name, without)


def resume(book: Book, name: str) -> Book:
    """Go on where ``pause`` stopped."""
    _expect(book, name, State.PAUSED)
    return _changed(book, name, lambda r: _acting(r, Action.RUN, State.RUNNING))


def abort(book: Book, name: str, version: int, *, revert: bool) -> Book:
    """End a rollout badly: its devices go back, or those that run it keep it.

    Args:
        book: The rollouts.
        name: The rollout to abort.
        version: The version of the plan that will say so first.
        revert: Whether devices go back.
    """
    _expect(book, name, *LIVE)
    if revert:
        return _changed(book, name, lambda r: _reverting(r, version))
    return _changed(book, name, lambda r: _acting(r, Action.KEEP, State.ABORTED))


def retry(book: Book, name: str) -> Book:
    """Name a rollout anew, so that devices where it ended badly try it again.

    Raises:
        RefusedError: It was aborted: only a new rollout may bring its release back.
    """
    _expect(book, name, *LIVE, State.COMPLETED)

    def again(rollout: Rollout) -> Rollout:
        entry = replace(rollout.entry, attempt=rollout.entry.attempt + 1)
        return _acting(replace(rollout, entry=entry), Action.RUN, State.RUNNING)

    return _changed(book, name, again)


def revoke(book: Book, release: str, version: int) -> Book:
    """Turn every entry that would still spread or keep a release to ``revert``."""
    for rollout in book:
        is_reverted = rollout.entry.action is Action.REVERT
        if rollout.entry.release == release and not is_reverted:
            book = _changed(book, rollout.entry.rollout, lambda r: _reverting(r, version))
    return book


def settle(book: Book, listed: Mapping[str, str], reports: Sequence[Report]) -> Book:
    """Draw the conclusions that need no verdict: superseded, reverted, no longer needed."""
    cameras = [report.camera for report in reports]
    book = tuple(_admitting(rollout, reports) for rollout in book)
    for rollout in book:
        name = rollout.entry.rollout
        if rollout.state in LIVE and _is_superseded_everywhere(book, rollout, listed, cameras):
            book = _changed(book, name, lambda r: _acting(r, Action.KEEP, State.ABORTED))
        elif rollout.entry.action is Action.REVERT and _is_reverted(rollout, reports):
            book = tuple(r for r in book if r.entry.rollout != name)
    return book


def members(
    book: Book, rollout: Rollout, listed: Mapping[str, str], cameras: Inventory
) -> tuple[Camera, ...]:
    """Return the cameras that the rollout covers and that no newer entry has taken over."""
    above = _above(book, rollout)
    return tuple(
        camera
        for camera in cameras
        if covers(rollout.entry, camera) and not _is_taken(above, listed, camera)
    )


def find(book: Book, name: str) -> Rollout:
    """Return the rollout of that name.

    Raises:
        RefusedError: There is none in the plan.
    """
    for rollout in book:
        if rollout.entry.rollout == name:
            return rollout
    raise RefusedError(f"expected a rollout of the plan, got {name}")


def share_for(salt: str, devices: Sequence[str], count: int) -> int:
    """Return the smallest share that lets in ``count`` of the devices, all of them if need be."""
    hashes = sorted(share_hash(salt, device) for device in devices)
    if count <= 0:
        return 0
    return SHARE_ALL if count >= len(hashes) else hashes[count - 1] + 1


def _grown(rollout: Rollout, inventory: Inventory) -> Rollout:
    """Return the rollout in its next wave that gains a device, else in its last."""
    gained = rollout
    for index in range(rollout.wave + 1, len(rollout.waves)):
        gained = replace(_widened(gained, rollout.waves[index], inventory), wave=index)
        if _devices(gained.entry, inventory) != _devices(rollout.entry, inventory):
            return gained
    return gained


def _widened(rollout: Rollout, wave: Wave, inventory: Inventory) -> Rollout:
    """Return the rollout with the wave's pins, and a share that brings it to the intended size."""
    entry = replace(rollout.entry, pins=rollout.entry.pins | wave.pins)
    if wave.permille == PERMILLE_ALL:
        return replace(rollout, entry=replace(entry, share=SHARE_ALL))
    everyone = _devices(replace(entry, share=SHARE_ALL), inventory)
    intended = -(-len(everyone) * wave.permille // PERMILLE_ALL)
    missing = intended - len(_devices(entry, inventory))
    if missing <= 0:
        return replace(rollout, entry=entry)
    outside = sorted(everyone - _devices(entry, inventory))
    share = share_for(entry.salt, outside, missing)
    return replace(rollout, entry=replace(entry, share=max(share, entry.share)))


def _devices(entry: Entry, inventory: Inventory) -> set[str]:
    return {camera.device for camera in inventory if covers(entry, camera)}


def _complete(book: Book, rollout: Rollout) -> Book:
    """End a rollout well, and drop what it makes unreadable: finished, lower, same selector."""
    done = replace(rollout, state=State.COMPLETED)
    index = book.index(rollout)
    below = book[index + 1 :]
    if not done.entry.deny:
        below = tuple(lower for lower in below if not _is_hidden(lower, done))
    return (*book[:index], done, *below)


def _is_hidden(lower: Rollout, done: Rollout) -> bool:
    is_finished = lower.state in {State.COMPLETED, State.ABORTED}
    is_reverted = lower.entry.action is Action.REVERT
    return is_finished and not is_reverted and lower.entry.selector == done.entry.selector


def _overlapping(book: Book, entry: Entry, inventory: Inventory) -> list[str]:
    mine = _devices(replace(entry, share=SHARE_ALL), inventory)
    return [
        other.entry.rollout
        for other in book
        if other.state in LIVE
        and not mine.isdisjoint(_devices(replace(other.entry, share=SHARE_ALL), inventory))
    ]


def _is_superseded_everywhere(
    book: Book, rollout: Rollout, listed: Mapping[str, str], cameras: Inventory
) -> bool:
    above = _above(book, rollout)
    mine = [c for c in cameras if covers(replace(rollout.entry, share=SHARE_ALL), c)]
    return bool(above and mine) and all(_is_taken(above, listed, camera) for camera in mine)


def _is_taken(above: Sequence[Entry], listed: Mapping[str, str], camera: Camera) -> bool:
    return any(counts(entry, listed, camera) for entry in above)


def _above(book: Book, rollout: Rollout) -> tuple[Entry, ...]:
    return entries(book[: book.index(rollout)])


def _is_reverted(rollout: Rollout, reports: Sequence[Report]) -> bool:
    """Say whether every camera it ever admitted has read the revert and come to rest since.

    Who reported an activation does not matter: reports get lost, and a device that is offline may
    activate after the abort, under the plan that it has.
    """
    return all(
        report.plan_version >= rollout.reverted_in and report.is_settled
        for report in reports
        if _name(report.camera) in rollout.admitted
    )


def _admitting(rollout: Rollout, reports: Sequence[Report]) -> Rollout:
    """Note whom the entry lets in: a new label must not make it forget who may run its release.

    Whoever still obeys older labels, which nobody remembers here, may be let in by them.
    """
    may_gain = rollout.entry.action in {Action.RUN, Action.HOLD}
    let_in = {
        _name(report.camera)
        for report in reports
        if admits(rollout.entry, report.camera) or (may_gain and not report.has_labels)
    }
    return replace(rollout, admitted=rollout.admitted | let_in)


def _name(camera: Camera) -> str:
    return f"{camera.device}/{camera.number}"


def _reverting(rollout: Rollout, version: int) -> Rollout:
    return replace(_acting(rollout, Action.REVERT, State.REVERTING), reverted_in=version)


def _acting(rollout: Rollout, action: Action, state: State) -> Rollout:
    return replace(rollout, state=state, entry=replace(rollout.entry, action=action))


def _changed(book: Book, name: str, change: Change) -> Book:
    return tuple(change(r) if r.entry.rollout == name else r for r in book)


def _expect(book: Book, name: str, *states: State) -> Rollout:
    rollout = find(book, name)
    if rollout.state not in states:
        expected = " or ".join(state.value for state in states)
        raise RefusedError(f"expected {name} to be {expected}, it is {rollout.state.value}")
    return rollout
