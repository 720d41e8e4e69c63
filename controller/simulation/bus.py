"""The bus of a history: what devices say comes late, twice, or only as what the broker kept."""

from dataclasses import dataclass

from controller.devices import Known, disconnected, fold
from controller.simulation.state import History

LATE_ROUNDS_MAX = 3


@dataclass(frozen=True, slots=True)
class Message:
    """One message of one device."""

    device: str
    what: str  # The last part of its topic.
    payload: bytes


class Bus:
    """The broker, and the controller's connection to it."""

    def __init__(self, history: History) -> None:
        """Carry the messages of this history."""
        self.history = history
        self.is_connected = True
        self._retained: dict[tuple[str, str], Message] = {}
        self._late: list[tuple[int, Message]] = []

    def publish(self, message: Message) -> None:
        """Keep a message, and bring it to the controller where it listens."""
        self._retained[message.device, message.what] = message
        if not self.is_connected:
            return
        is_late, is_twice = self.history.chance(0.05), self.history.chance(0.05)
        if is_late or is_twice:
            due = self.history.round + self.history.random.randint(1, LATE_ROUNDS_MAX)
            self._late.append((due, message))
        if not is_late:
            self._hear(message, is_retained=False)

    def deliver(self) -> None:
        """Bring what was held back."""
        due = [message for at, message in self._late if at <= self.history.round]
        self._late = [(at, message) for at, message in self._late if at > self.history.round]
        for message in due:
            self._hear(message, is_retained=False)

    def forget(self, device: str) -> None:
        """Lose what is under way from a device: days pass before another card speaks for it."""
        self._late = [(at, message) for at, message in self._late if message.device != device]

    def disconnect(self) -> None:
        """Lose the controller's connection, and what is under way on it."""
        self.is_connected = False
        self._late.clear()
        self.history.known.update(disconnected(self.history.known))

    def connect(self) -> None:
        """Connect again: the broker sends what it kept."""
        self.is_connected = True
        for message in self._retained.values():
            self._hear(message, is_retained=True)

    def _hear(self, message: Message, *, is_retained: bool) -> None:
        if message.what == "status" and not is_retained:
            message = self._retained[message.device, "status"]  # The broker keeps their order.
        known = self.history.known.get(message.device, Known(message.device))
        heard = fold(known, message.what, message.payload, is_retained=is_retained)
        self.history.known[message.device] = heard
