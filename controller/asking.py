"""Ask devices for something over the broker, and hear their answers (docs/protocol.md, Requests).

A request lives for at most a minute and is never retained: a device that is away is not asked, and
does not restart a week later. The answer goes out before the effect.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from time import monotonic, sleep
from typing import TYPE_CHECKING, Self

from shared.bus import Bus, BusEvent, Inbox
from shared.errors import BrokerRefusedError, BrokerUnreachableError, RefusedError
from shared.inbox import Acknowledged, ConnectionFailed, Received, Subscribed, SubscriptionRefused
from shared.limits import (
    BUNDLE_BYTES,
    CAMERAS_MAX,
    IMAGE_BYTES,
    REQUEST_BYTES,
    REQUEST_SECONDS_MAX,
    RESPONSE_BYTES,
)
from shared.messages import Request, Response, decode, encode, time_text
from shared.topics import DeviceTopic, Topics

if TYPE_CHECKING:
    from controller.driving import Address

CONNECT_SECONDS = 10.0
CLEAR_SECONDS = 10.0
WAIT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device said.

    Attributes:
        status: ok, error, or ``no answer`` within the time.
        code: Of an error: privacy, clock, expired, unsupported, ...
    """

    device: str
    status: str
    code: str = ""
    text: str = ""
    data: Mapping[str, str | int | float | None] | None = None
    image: bytes | None = None


class Line:
    """A connection to the broker for a few questions; use it as a context manager."""

    def __init__(self, fleet: str, address: "Address") -> None:
        """Prepare; nothing is connected yet."""
        self.topics = Topics(fleet)
        self.url = address.url
        self._inbox: Inbox[BusEvent] = Inbox()
        self._bus = Bus(
            address.url,
            f"fleetctl-ask-{token_hex(4)}",
            self._inbox,
            ca=address.ca,
            certificate=address.certificate,
        )

    def __enter__(self) -> Self:
        self._bus.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bus.stop()

    def subscribe(self, topics: Mapping[str, int]) -> None:
        """Ask for topics, each with its longest message, and wait until they are granted."""
        for topic, bytes_max in topics.items():
            self._bus.subscribe(topic, bytes_max=bytes_max)
        waiting, end = set(topics), monotonic() + CONNECT_SECONDS
        text = "nobody answers"
        while waiting and monotonic() < end:
            match self.take():
                case Subscribed(topic):
                    waiting.discard(topic)
                case SubscriptionRefused(topic):
                    raise BrokerRefusedError(f"{self.url} refuses the subscription {topic}")
                case ConnectionFailed(reason):
                    text = reason
                case _:
                    pass
        if waiting:
            raise BrokerUnreachableError(f"no connection to the broker {self.url}: {text}")

    def take(self) -> BusEvent | None:
        """Return what comes next, or None after a moment."""
        return self._inbox.get(WAIT_SECONDS)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> str:
        """Send a message; its token comes back once the broker has acknowledged it."""
        token, end = token_hex(4), monotonic() + CONNECT_SECONDS
        while not self._bus.publish(topic, payload, 1, retain, token):  # No room: some must go out.
            if monotonic() > end:
                raise BrokerUnreachableError(f"the broker {self.url} takes nothing more")
            sleep(WAIT_SECONDS)
        return token


def ask(
    line: Line, devices: Sequence[str], verb: str, *, seconds: float, camera: int = 0
) -> tuple[Answer, ...]:
    """Ask devices, all at once, and return their answers in order.

    Args:
        line: An open connection.
        devices: Whom to ask.
        verb: As in docs/protocol.md: restart-agent, reboot, snapshot, ...
        seconds: How long to wait for the last answer.
        camera: Which one, where the verb is about a camera.
    """
    wants_image = verb == "snapshot"
    images = {
        line.topics.camera(device, camera, "image"): IMAGE_BYTES
        for device in devices
        if wants_image
    }
    responses = {line.topics.device(d, f"response/{verb}"): RESPONSE_BYTES for d in devices}
    line.subscribe({**responses, **images})
    ids = {device: token_hex(8) for device in devices}
    for device in devices:
        line.publish(line.topics.device(device, f"request/{verb}"), _request(ids[device], camera))
    return _answers(line, ids, seconds=seconds, wants_image=wants_image)


def _request(request_id: str, camera: int) -> bytes:
    now = datetime.now(UTC)
    expires = now + timedelta(seconds=REQUEST_SECONDS_MAX)
    request = Request(id=request_id, at=time_text(now), expires=time_text(expires), camera=camera)
    return encode(request, bytes_max=REQUEST_BYTES)


def _answers(
    line: Line, ids: Mapping[str, str], *, seconds: float, wants_image: bool
) -> tuple[Answer, ...]:
    answers: dict[str, Response] = {}
    images: dict[str, bytes] = {}
    end = monotonic() + seconds
    while monotonic() < end and not _is_done(ids, answers, images, wants_image=wants_image):
        event = line.take()
        if not isinstance(event, Received) or not event.payload:
            continue
        try:
            topic = line.topics.parse(event.topic)
            if not isinstance(topic, DeviceTopic) or topic.device not in ids:
                continue
            if topic.rest.endswith("/image"):
                images[topic.device] = event.payload
                continue
            response = decode(event.payload, Response, bytes_max=RESPONSE_BYTES)
        except RefusedError:
            continue
        if response.id == ids[topic.device]:
            answers[topic.device] = response
    return tuple(_answer(device, answers.get(device), images.get(device)) for device in ids)


def _is_done(
    ids: Mapping[str, str],
    answers: Mapping[str, Response],
    images: Mapping[str, bytes],
    *,
    wants_image: bool,
) -> bool:
    if len(answers) < len(ids):
        return False
    seen = (device for device, response in answers.items() if response.status == "ok")
    return not wants_image or all(device in images for device in seen)


def _answer(device: str, response: Response | None, image: bytes | None) -> Answer:
    if response is None:
        return Answer(device, "no answer", text="is it online, and its agent running?")
    if response.error is not None:
        return Answer(device, "error", response.error.code, response.error.text, response.data)
    return Answer(device, response.status, data=response.data, image=image)


def retained_of(topics: Topics, device: str) -> tuple[str, ...]:
    """Return the topics at which the broker keeps something of a device."""
    own = [topics.device(device, rest) for rest in ("identity", "status", "reported")]
    cameras = [
        topics.camera(device, number, what)
        for number in range(CAMERAS_MAX)
        for what in ("counts", "update")
    ]
    return (*own, *cameras, f"homeassistant/device/{topics.fleet}-{device}/config")


def clear(line: Line, topics: Iterable[str]) -> tuple[str, ...]:
    """Clear what the broker keeps; return the topics that it has not acknowledged."""
    line.subscribe({line.topics.trust: BUNDLE_BYTES})  # Once it is granted, we are connected.
    tokens = {line.publish(topic, b"", retain=True): topic for topic in topics}
    end = monotonic() + CLEAR_SECONDS
    while tokens and monotonic() < end:
        event = line.take()
        if isinstance(event, Acknowledged):
            tokens.pop(event.token, None)
    return tuple(tokens.values())
