"""Content-addressed blocks: cut a file, receive what is missing, resume.

The receiver pulls, so it sets the pace: it subscribes to the blocks it misses, at most
``BLOCKS_IN_FLIGHT`` at a time, and drops each subscription when the bytes are there.

    not asked --Subscribe--> asked --right bytes--> stored
                               |  ^
               nothing came    |  | again, after 5 s doubling to 5 min
                               +--+ (or the next block takes its place)

"Subscribed and got nothing" means nothing (docs/protocol.md, delivery rule 2): such a block is
asked for again. A block that no broker holds must not keep others waiting, so it gives its place
to one that has waited longer. What arrives pushes the deadline of the rest back: on a slow line
eight blocks take longer than five seconds, and asking again would only send them twice.

What is on disk is the only state worth keeping: after a power cut, ``start`` with what is still
missing resumes. Bytes with another hash than their name are ignored and reported once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

from shared.limits import BLOCK_BYTES, BLOCKS_IN_FLIGHT

ASK_AGAIN_SECONDS = 5.0  # A broker answers from memory; more means that it lost the question.
ASK_AGAIN_SECONDS_MAX = 300.0
OVERDUE_SECONDS = 60.0  # Of silence; then the device lists the block in `reported`, as missing.


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a file and its name."""

    sha256: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """When a block was first and last asked for, and how long to wait for it now."""

    first_at: float
    last_at: float
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class Fetching:
    """What is still missing.

    Attributes:
        waiting: Missing and not subscribed to, in the order in which they will be.
        asked: Subscribed to.
        past: Of the waiting ones, those that were asked for before.
        wrong: Whose bytes were wrong once, and reported.
        heard_at: When a block last arrived.
    """

    waiting: tuple[str, ...] = ()
    asked: Mapping[str, Asked] = field(default_factory=dict)
    past: Mapping[str, Asked] = field(default_factory=dict)
    wrong: frozenset[str] = frozenset()
    heard_at: float = 0.0

    @property
    def missing_count(self) -> int:
        """Return how many blocks are not there yet."""
        return len(self.waiting) + len(self.asked)


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Ask the broker for a block; again, where it was asked before."""

    sha256: str


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Stop asking for a block."""

    sha256: str


@dataclass(frozen=True, slots=True)
class Store:
    """Put a block on the disk, durably."""

    sha256: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ReportWrong:
    """Tell the controller that a block's topic carries other bytes."""

    sha256: str


@dataclass(frozen=True, slots=True)
class Done:
    """Every block has been handed to ``Store``."""


Effect = Subscribe | Unsubscribe | Store | ReportWrong | Done
Step = tuple[Fetching, tuple[Effect, ...]]


def split_file(data: bytes) -> tuple[Block, ...]:
    """Return the blocks of a file, in order."""
    pieces = (data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES))
    return tuple(Block(sha256(piece).hexdigest(), piece) for piece in pieces)


def start(missing: Iterable[str], now: float) -> Step:
    """Begin with the blocks that are not on disk; each once, whatever the number of files."""
    waiting = tuple(dict.fromkeys(missing))
    if not waiting:
        return Fetching(), (Done(),)
    return _ask(Fetching(waiting, heard_at=now), now)


def received(fetching: Fetching, digest: str, data: bytes, now: float) -> Step:
    """Take what came on a block's topic; repeated, unasked and empty ones change nothing."""
    is_missing = digest in fetching.asked or digest in fetching.waiting
    if not is_missing or not data:  # Empty means that the controller has cleared it.
        return fetching, ()
    if sha256(data).hexdigest() != digest:
        is_news = digest not in fetching.wrong
        after = replace(fetching, wrong=fetching.wrong | {digest})
        return after, ((ReportWrong(digest),) if is_news else ())
    return _stored(fetching, digest, data, now)


def ticked(fetching: Fetching, now: float) -> Step:
    """Ask again for what did not come in its time."""
    effects: tuple[Effect, ...] = ()
    for digest in tuple(fetching.asked):
        asked = fetching.asked[digest]
        if now >= max(asked.last_at, fetching.heard_at) + asked.wait_seconds:
            fetching, more = _ask_again(fetching, digest, now)
            effects += more
    return fetching, effects


def stop(fetching: Fetching) -> Step:
    """Give up: nothing is missing any more, because nothing is wanted."""
    return Fetching(), tuple(Unsubscribe(digest) for digest in fetching.asked)


def next_at(fetching: Fetching) -> float | None:
    """Return when ``ticked`` will have something to do, or None when nothing is asked."""
    due = (max(a.last_at, fetching.heard_at) + a.wait_seconds for a in fetching.asked.values())
    return min(due, default=None)


def overdue(fetching: Fetching, now: float) -> tuple[str, ...]:
    """Return the blocks that were asked for over ``OVERDUE_SECONDS`` ago, longest first.

    None while others arrive: a line or a machine that is slow misses nothing, and what a device
    lists as missing is sent again to all.
    """
    everything = {**fetching.past, **fetching.asked}
    since = {digest: asked.first_at for digest, asked in everything.items()}
    if now - fetching.heard_at <= OVERDUE_SECONDS:
        return ()
    late = [digest for digest, first_at in since.items() if now - first_at > OVERDUE_SECONDS]
    return tuple(sorted(late, key=lambda digest: (since[digest], digest)))


def _stored(fetching: Fetching, digest: str, data: bytes, now: float) -> Step:
    effects: tuple[Effect, ...] = (Store(digest, data),)
    if digest in fetching.asked:
        effects += (Unsubscribe(digest),)
    after = replace(
        fetching,
        waiting=tuple(other for other in fetching.waiting if other != digest),
        asked=_without(fetching.asked, digest),
        past=_without(fetching.past, digest),
        heard_at=now,
    )
    if not after.missing_count:
        return after, (*effects, Done())
    after, more = _ask(after, now)
    return after, effects + more


def _ask(fetching: Fetching, now: float) -> Step:
    """Fill the free places from the front of the queue."""
    free = BLOCKS_IN_FLIGHT - len(fetching.asked)
    chosen = fetching.waiting[:free]
    asked = {digest: _asked(fetching.past.get(digest), now) for digest in chosen}
    after = replace(
        fetching,
        waiting=fetching.waiting[free:],
        asked={**fetching.asked, **asked},
        past={digest: past for digest, past in fetching.past.items() if digest not in asked},
    )
    return after, tuple(Subscribe(digest) for digest in chosen)


def _ask_again(fetching: Fetching, digest: str, now: float) -> Step:
    """Re-subscribe, or let the next block have the place where one is waiting."""
    asked = fetching.asked[digest]
    if not fetching.waiting:
        again = {**fetching.asked, digest: _asked(asked, now)}
        return replace(fetching, asked=again), (Subscribe(digest),)
    after = replace(
        fetching,
        waiting=(*fetching.waiting, digest),
        asked=_without(fetching.asked, digest),
        past={**fetching.past, digest: asked},
    )
    after, effects = _ask(after, now)
    return after, (Unsubscribe(digest), *effects)


def _asked(before: Asked | None, now: float) -> Asked:
    if before is None:
        return Asked(first_at=now, last_at=now, wait_seconds=ASK_AGAIN_SECONDS)
    doubled = min(before.wait_seconds * 2, ASK_AGAIN_SECONDS_MAX)
    return replace(before, last_at=now, wait_seconds=doubled)


def _without(asked: Mapping[str, Asked], digest: str) -> dict[str, Asked]:
    return {other: value for other, value in asked.items() if other != digest}
