"""Every MQTT topic: build it, and parse it. One owner a topic (docs/protocol.md).

Levels are ``[a-z0-9][a-z0-9-]{0,63}``: no wildcard, no separator and no '.' (NATS maps it) can
get into a topic through a name.
"""

import re
from dataclasses import dataclass

from shared.errors import MalformedError
from shared.limits import TOPIC_LEVELS_MAX

_LEVEL = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def is_name(text: str) -> bool:
    """Say whether the text may stand for a fleet, device, release or rollout in a topic."""
    return _LEVEL.fullmatch(text) is not None


def checked_name(text: str) -> str:
    """Return the name.

    Raises:
        MalformedError: It is not 1 to 64 characters of ``[a-z0-9-]``, or starts with '-'.
    """
    if not is_name(text):
        raise MalformedError(
            f"expected 1 to 64 of a-z, 0-9 and '-', not starting with '-', got {text[:80]!r}"
        )
    return text


@dataclass(frozen=True, slots=True)
class DeviceTopic:
    """A topic below ``device/<id>/``: ``rest`` is what follows, e.g. ``camera/0/detections``."""

    device: str
    rest: str


@dataclass(frozen=True, slots=True)
class BlockTopic:
    """A topic that carries one block."""

    sha256: str


@dataclass(frozen=True, slots=True)
class TrustTopic:
    """The topic of the bundle."""


@dataclass(frozen=True, slots=True)
class RolloutTopic:
    """The topic with the state of one rollout."""

    rollout: str


Topic = DeviceTopic | BlockTopic | TrustTopic | RolloutTopic


class Topics:
    """The topics of one fleet."""

    def __init__(self, fleet: str) -> None:
        """Check the fleet's name; raises MalformedError."""
        self.fleet = checked_name(fleet)
        self._root = f"fleet/v1/{fleet}"
        self._blocks = f"fleet-blocks/v1/{fleet}"

    @property
    def everything(self) -> str:
        """Return the filter for all but the blocks."""
        return f"{self._root}/#"

    @property
    def trust(self) -> str:
        """Return the topic of the bundle."""
        return f"{self._root}/trust"

    def block(self, sha256: str) -> str:
        """Return the topic of one block."""
        return f"{self._blocks}/{checked_name(sha256)}"

    def rollout(self, rollout: str) -> str:
        """Return the topic with the state of one rollout."""
        return f"{self._root}/rollout/{checked_name(rollout)}"

    def device(self, device: str, rest: str) -> str:
        """Return a topic of one device; ``rest`` is a constant of ours, e.g. ``reported``."""
        return f"{self._root}/device/{checked_name(device)}/{rest}"

    def camera(self, device: str, number: int, what: str) -> str:
        """Return a topic of one camera, e.g. ``detections``."""
        return self.device(device, f"camera/{number}/{what}")

    def any_device(self, rest: str) -> str:
        """Return the filter for a topic of every device, e.g. ``reported``."""
        return f"{self._root}/device/+/{rest}"

    def parse(self, topic: str) -> Topic:
        """Return what a topic of this fleet means.

        Raises:
            MalformedError: It is no topic of this fleet.
        """
        if topic == self.trust:
            return TrustTopic()
        root, _, rest = topic.partition(f"{self._blocks}/")
        if not root and is_name(rest):
            return BlockTopic(rest)
        levels = topic.removeprefix(f"{self._root}/").split("/")
        is_short = topic.count("/") < TOPIC_LEVELS_MAX
        is_ours = topic.startswith(f"{self._root}/") and is_short and all(map(is_name, levels))
        match levels:
            case ["device", device, *what] if is_ours and what:
                return DeviceTopic(device, "/".join(what))
            case ["rollout", rollout] if is_ours:
                return RolloutTopic(rollout)
            case _:
                raise MalformedError(f"expected a topic of fleet {self.fleet}, got {topic[:120]!r}")
