"""The plain values of the publisher: what is desired, what it does, what it says. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.errors import FleetError


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
class Beginning:
    """The broker holds nothing of this fleet, and never has: all goes out for the first time."""


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


News = Published | Beginning | Repairing | Alerted | Failed
Effect = Subscribe | Unsubscribe | Send | News
