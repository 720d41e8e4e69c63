"""The plain values of the publisher: what is desired, what it does, what it says. Pure.

Also here: which blocks may be cleared from the broker.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shared.errors import FleetError

CLEAR_SECONDS = 24 * 3600.0  # An operator may undo what was finished yesterday evening.


@dataclass(frozen=True, slots=True)
class Desired:
    """All that the broker is to hold for a fleet.

    Attributes:
        bundle: The bundle's bytes.
        version: Its version (the timestamp's).
        blocks: Names of the files' blocks that the plan needs.
        manifests: Names of the manifests that it needs; they are blocks, and go out after those.
        states: Retained documents by topic: identities, then ``rollout/*``.
    """

    bundle: bytes
    version: int
    blocks: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    states: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def needed(self) -> tuple[str, ...]:
        """Return blocks and manifests in the order of their upload, each once."""
        return tuple(dict.fromkeys((*self.blocks, *self.manifests)))


@dataclass(frozen=True, slots=True)
class Held:
    """What the broker holds, as far as we know. Kept, so that the next controller sends only news.

    Believed only as far as it can be checked: one block is read back, and what devices lack they
    say themselves.

    Attributes:
        broker: Whose store this is about.
        version: Of the bundle that it handed back last: one that shows an older one has lost more.
        blocks: By their names.
        states: SHA-256 of the retained documents, by topic.
    """

    broker: str = ""
    version: int = 0
    blocks: frozenset[str] = frozenset()
    states: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Ask for a topic's retained message, again where it was asked for."""

    topic: str
    bytes_max: int


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Stop asking."""

    topic: str


@dataclass(frozen=True, slots=True)
class Send:
    """Publish, QoS 1, retained; ``Acknowledged(token)`` answers."""

    topic: str
    payload: bytes
    token: str


@dataclass(frozen=True, slots=True)
class Published:
    """The broker has handed the bundle of this version back."""

    version: int


@dataclass(frozen=True, slots=True)
class Repairing:
    """The broker does not hold what it should: all goes out again. ``text`` says why."""

    text: str


@dataclass(frozen=True, slots=True)
class Alerted:
    """Something that an operator must hear of, e.g. bytes on ``trust`` that nobody signed."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot be published now; ``error`` says why, and is raised where somebody waits."""

    error: FleetError


News = Published | Repairing | Alerted | Failed
Effect = Subscribe | Unsubscribe | Send | News


def blocks_to_clear(
    unneeded_since: Mapping[str, float],
    *,
    held: Iterable[str],
    needed: Iterable[str],
    now: float,
) -> tuple[dict[str, float], frozenset[str]]:
    """Return since when each block has not been needed, and those that may go now.

    Args:
        unneeded_since: What the last call returned; durable, with times of the wall clock.
        held: The blocks that the broker holds, as far as we know.
        needed: By an entry of the plan, by a device's release or previous one, or by an undo of
            the last completed rollout.
        now: The wall clock. One that was set back starts the 24 hours anew.
    """
    wanted = frozenset(needed)
    since = {
        block: min(unneeded_since.get(block, now), now) for block in held if block not in wanted
    }
    gone = frozenset(block for block, at in since.items() if now - at >= CLEAR_SECONDS)
    return {block: at for block, at in since.items() if block not in gone}, gone
