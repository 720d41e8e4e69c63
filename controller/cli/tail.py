"""``fleetctl tail``: what the cameras see, live, as any subscriber would get it.

Frames as JSON and packed ones look the same here; tracked objects come in between.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import click

from controller.cli.exits import Exit
from controller.cli.fleet import Duration, opened
from controller.cli.seen import event_line, frame_line
from controller.cli.terminal import Format, Terminal, output_option
from shared.bus import Bus
from shared.detections import Detections
from shared.errors import BrokerRefusedError, BrokerUnreachableError, RefusedError
from shared.inbox import BusEvent, ConnectionFailed, Inbox, Received, SubscriptionRefused
from shared.limits import CAMERAS_MAX, DETECTIONS_BYTES, EVENT_BYTES
from shared.messages import TrackEvent, decode
from shared.packed import decode_packed
from shared.topics import DeviceTopic, Topics

if TYPE_CHECKING:
    from controller.driving import Address

TOPICS = {"detections": DETECTIONS_BYTES, "packed": DETECTIONS_BYTES, "event": EVENT_BYTES}
CONNECT_SECONDS = 10.0
WAIT_SECONDS = 0.2
_CAMERAS = frozenset(map(str, range(CAMERAS_MAX)))


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, with where it came from."""

    device: str
    camera: int
    detections: Detections


@dataclass(frozen=True, slots=True)
class Happened:
    """What happened to a tracked object, with where it came from."""

    device: str
    camera: int
    event: TrackEvent


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

    With -o json or jsonl: a document a line, as the device sent it, with device and camera; frames
    that were sent packed are written as the others.
    """
    terminal = Terminal("jsonl" if output == "json" else output)
    with opened() as controller:
        topics, address = Topics(controller.fleet.name), controller.address
    where = "+" if camera is None else str(camera)
    root = f"camera/{where}"
    topic = topics.any_device(root) if device is None else topics.device(device, root)
    terminal.say(f"Listening on {topic}/{{{','.join(TOPICS)}}} at {address.url}. Ctrl-C ends.")
    shown = 0
    with _listening(address, topic) as (bus, inbox):
        for seen in _seen(bus, inbox, topics, url=address.url, timeout_seconds=timeout):
            _show(terminal, seen)
            shown += isinstance(seen, Frame)
            if shown == count:
                return Exit.OK
    return Exit.OK if count is None else Exit.TIMEOUT


@contextmanager
def _listening(address: "Address", topic: str) -> "Iterator[tuple[Bus, Inbox[BusEvent]]]":
    inbox: Inbox[BusEvent] = Inbox()
    bus = Bus(
        address.url,
        f"fleetctl-tail-{os.getpid()}",
        inbox,
        ca=address.ca,
        certificate=address.certificate,
    )
    for what, bytes_max in TOPICS.items():
        bus.subscribe(f"{topic}/{what}", bytes_max=bytes_max)
    bus.start()
    try:
        yield bus, inbox
    finally:
        bus.stop()


def _seen(
    bus: Bus, inbox: "Inbox[BusEvent]", topics: Topics, *, url: str, timeout_seconds: float | None
) -> Iterator[Frame | Happened]:
    """Yield what is seen until the time is up; a broker that cannot be had at all is an error."""
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
        if isinstance(event, Received):
            yield from _read(topics, event)


def _read(topics: Topics, event: Received) -> tuple[Frame | Happened, ...]:
    """Return what a message says; one that says nothing is not shown."""
    try:
        topic = topics.parse(event.topic)
        assert isinstance(topic, DeviceTopic), "we asked for nothing else"
        _, camera, what = topic.rest.split("/")
        if camera not in _CAMERAS:
            return ()
        device, number = topic.device, int(camera)
        if what == "event":
            happened = decode(event.payload, TrackEvent, bytes_max=EVENT_BYTES)
            return (Happened(device, number, happened),)
        if what == "packed":
            return tuple(Frame(device, number, one) for one in decode_packed(event.payload))
        detections = decode(event.payload, Detections, bytes_max=DETECTIONS_BYTES)
        return (Frame(device, number, detections),)
    except RefusedError:
        return ()


def _show(terminal: Terminal, seen: Frame | Happened) -> None:
    if terminal.is_table:
        line = (
            frame_line(seen.device, seen.camera, seen.detections)
            if isinstance(seen, Frame)
            else event_line(seen.device, seen.camera, seen.event)
        )
        terminal.say(line)
    terminal.document(seen)
