"""Ask the broker what the devices last said, for a command that does not drive."""

from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING

from controller.devices import Known, fold
from shared.bus import Bus, BusEvent, Inbox
from shared.errors import BrokerUnreachableError, RefusedError
from shared.inbox import Connected, ConnectionFailed, Received
from shared.limits import REPORTED_BYTES, STATUS_BYTES
from shared.subscriptions import heard, start_sweep, ticked
from shared.topics import DeviceTopic, Topics

if TYPE_CHECKING:
    from controller.driving import Address

CONNECT_SECONDS = 5.0
LISTEN_SECONDS_MAX = 60.0  # A broker that never stops sending must not keep us.
KNOWN_MAX = 100_000  # As many as fleet.yaml may declare; anybody with access makes up names.


def listen(fleet: str, address: "Address", known: Mapping[str, Known]) -> dict[str, Known]:
    """Return what is known of each device after hearing what the broker holds.

    Raises:
        BrokerUnreachableError: No connection.
    """
    topics = Topics(fleet)
    inbox: Inbox[BusEvent] = Inbox()
    bus = Bus(
        address.url,
        f"fleetctl-look-{id(inbox):x}",
        inbox,
        ca=address.ca,
        certificate=address.certificate,
    )
    bus.start()
    try:
        _wait_for_connection(inbox)
        return _swept(bus, inbox, topics, known)
    finally:
        bus.stop()


def _wait_for_connection(inbox: Inbox[BusEvent]) -> None:
    end = monotonic() + CONNECT_SECONDS
    text = "nobody answers"
    while monotonic() < end:
        match inbox.get(timeout=max(end - monotonic(), 0.0)):
            case Connected():
                return
            case ConnectionFailed(reason):
                text = reason
            case _:
                pass
    raise BrokerUnreachableError(f"no connection to the broker: {text}")


def _swept(
    bus: Bus, inbox: Inbox[BusEvent], topics: Topics, known: Mapping[str, Known]
) -> dict[str, Known]:
    """Subscribe again and again, until the broker has named nobody new twice."""
    devices = dict(known)
    sweep, end, is_due = start_sweep(monotonic()), monotonic() + LISTEN_SECONDS_MAX, True
    while not sweep.is_done and monotonic() < end:
        if is_due:
            bus.subscribe(topics.any_device("status"), bytes_max=STATUS_BYTES)
            bus.subscribe(topics.any_device("reported"), bytes_max=REPORTED_BYTES)
        event = inbox.get(timeout=max(sweep.pass_ends_at - monotonic(), 0.0))
        if isinstance(event, Received) and event.payload:
            before = len(devices)
            _fold(event, topics, devices)
            if event.is_retained:  # A fleet that is busy must not make the pass longer.
                sweep = heard(sweep, monotonic(), is_new=len(devices) > before)
        sweep, is_due = ticked(sweep, monotonic())
    return devices


def _fold(event: Received, topics: Topics, devices: dict[str, Known]) -> None:
    try:
        topic = topics.parse(event.topic)
        if isinstance(topic, DeviceTopic) and (topic.device in devices or len(devices) < KNOWN_MAX):
            known = devices.get(topic.device, Known(topic.device))
            devices[topic.device] = fold(
                known, topic.rest, event.payload, is_retained=event.is_retained
            )
    except RefusedError:
        return
