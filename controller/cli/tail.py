"""``fleetctl tail``: what the cameras see, live, as any subscriber would get it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import click

from controller.cli.exits import Exit
from controller.cli.fleet import Duration, opened
from controller.cli.seen import frame_line
from controller.cli.terminal import Format, Terminal, output_option
from shared.bus import Bus
from shared.detections import Detections
from shared.errors import BrokerRefusedError, BrokerUnreachableError, RefusedError
from shared.inbox import BusEvent, ConnectionFailed, Inbox, Received, SubscriptionRefused
from shared.limits import CAMERAS_MAX, DETECTIONS_BYTES
from shared.messages import decode
from shared.topics import DeviceTopic, Topics

if TYPE_CHECKING:
    from controller.driving import Address

CONNECT_SECONDS = 10.0
WAIT_SECONDS = 0.2
_CAMERAS = frozenset(map(str, range(CAMERAS_MAX)))


@dataclass(frozen=True, slots=True)
class Frame:
    """One message, with where it came from."""

    device: str
    camera: int
    detections: Detections


@click.command()
@click.argument("device", metavar="[DEVICE]", required=False)
@click.option("--camera", type=click.IntRange(0, 3), help="Only this camera.")
@click.option("--count", type=click.IntRange(1), help="End after that many frames.")
@click.option(
    "--timeout", type=Duration(), help="End after, e.g., 30s; exit 5 if --count is unmet."
)
@output_option
def tail(
    *,
    device: str | None,
    camera: int | None,
    count: int | None,
    timeout: float | None,
    output: Format,
) -> int:
    """Print what the cameras see, live, until Ctrl-C.

    With -o json or jsonl: a document a line, as the device sent it, with device and camera.
    """
    terminal = Terminal("jsonl" if output == "json" else output)
    with opened() as controller:
        topics, address = Topics(controller.fleet.name), controller.address
    where = "+" if camera is None else str(camera)
    topic = (
        topics.any_device(f"camera/{where}/detections")
        if device is None
        else topics.device(device, f"camera/{where}/detections")
    )
    terminal.say(f"Listening on {topic} at {address.url}. Ctrl-C ends.")
    shown = 0
    with _listening(address, topic) as (bus, inbox):
        for frame in _frames(bus, inbox, topics, url=address.url, timeout_seconds=timeout):
            _show(terminal, frame)
            shown += 1
            if shown == count:
                return Exit.OK
    return Exit.OK if count is None else Exit.TIMEOUT


@contextmanager
def _listening(address: "Address", topic: str) -> "Iterator[tuple[Bus, Inbox[BusEvent]]]":
    inbox: Inbox[BusEvent] = Inbox()
    bus = Bus(address.url, f"fleetctl-tail-{os.getpid()}", inbox, ca=address.ca)
    bus.subscribe(topic, bytes_max=DETECTIONS_BYTES)
    bus.start()
    try:
        yield bus, inbox
    finally:
        bus.stop()


def _frames(
    bus: Bus, inbox: "Inbox[BusEvent]", topics: Topics, *, url: str, timeout_seconds: float | None
) -> Iterator[Frame]:
    """Yield frames until the time is up; a broker that cannot be had at all is an error."""
    begun = monotonic()
    was_connected = False
    while timeout_seconds is None or monotonic() - begun < timeout_seconds:
        event = inbox.get(WAIT_SECONDS)
        was_connected = was_connected or bus.is_connected
        if isinstance(event, SubscriptionRefused):
            raise BrokerRefusedError(f"{url} refuses the subscription {event.topic}")
        if isinstance(event, ConnectionFailed) and event.is_refused:
            raise BrokerRefusedError(f"{url}: {event.text}")
        if not was_connected and monotonic() - begun > CONNECT_SECONDS:
            raise BrokerUnreachableError(f"no broker answers at {url}; is it running?")
        if isinstance(event, Received) and (frame := _frame(topics, event)):
            yield frame


def _frame(topics: Topics, event: Received) -> Frame | None:
    """Return the message as a frame; what is none is not shown."""
    try:
        topic = topics.parse(event.topic)
        detections = decode(event.payload, Detections, bytes_max=DETECTIONS_BYTES)
    except RefusedError:
        return None
    assert isinstance(topic, DeviceTopic), "we asked for nothing else"
    _, camera, _ = topic.rest.split("/")
    return Frame(topic.device, int(camera), detections) if camera in _CAMERAS else None


def _show(terminal: Terminal, frame: Frame) -> None:
    if terminal.is_table:
        terminal.say(frame_line(frame.device, frame.camera, frame.detections))
    terminal.document(frame)
