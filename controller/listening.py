"""Ask the broker what the devices last said, for a command that does not drive."""

from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING

from controller.devices import Known, fold
from shared.bus import Bus, BusEvent, Inbox
from shared.errors import BrokerUnreachableError, RefusedError
from shared.inbox import Connected, ConnectionFailed, Received
from shared.limits import REPORTED_BYTES, STATUS_BYTES
from shared.topics import DeviceTopic, Topics

if TYPE_CHECKING:
    from controller.driving import Address

CONNECT_SECONDS = 5.0
QUIET_SECONDS = 0.7  # Nothing for so long: what the broker wanted to say, it has said.
PASS_SECONDS = 2.0  # A fleet that never stops talking must not keep us.
PASSES = 2  # "Subscribed and got nothing" means nothing: two passes must add no device.
PASSES_MAX = 6


def listen(fleet: str, address: "Address", known: Mapping[str, Known]) -> dict[str, Known]:
    """Return what is known of each device after hearing what the broker holds.

    Raises:
        BrokerUnreachableError: No connection.
    """
    topics = Topics(fleet)
    inbox: Inbox[BusEvent] = Inbox()
    bus = Bus(address.url, f"fleetctl-look-{id(inbox):x}", inbox, ca=address.ca)
    bus.start()
    try:
        _wait_for_connection(inbox)
        devices = dict(known)
        idle = 0
        for _ in range(PASSES_MAX):
            bus.subscribe(topics.any_device("status"), bytes_max=STATUS_BYTES)
            bus.subscribe(topics.any_device("reported"), bytes_max=REPORTED_BYTES)
            before = set(devices)
            _hear(inbox, topics, devices)
            idle = idle + 1 if before == set(devices) else 0
            if idle == PASSES:
                break
    finally:
        bus.stop()
    return devices


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


def _hear(inbox: Inbox[BusEvent], topics: Topics, devices: dict[str, Known]) -> None:
    end = monotonic() + PASS_SECONDS
    while (event := inbox.get(timeout=QUIET_SECONDS)) is not None and monotonic() < end:
        if not isinstance(event, Received) or not event.payload:
            continue
        try:
            topic = topics.parse(event.topic)
            if isinstance(topic, DeviceTopic):
                known = devices.get(topic.device, Known(topic.device))
                devices[topic.device] = fold(
                    known, topic.rest, event.payload, is_retained=event.is_retained
                )
        except RefusedError:
            continue
