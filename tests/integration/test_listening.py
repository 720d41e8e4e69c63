"""What a command that does not drive hears of the devices, on real brokers."""

import threading
from contextlib import ExitStack

import msgspec

from controller.broker import RunningBroker
from controller.devices import Known
from controller.driving import Address
from controller.listening import listen
from shared.messages import Reported
from shared.topics import Topics
from tests.integration.conftest import MakeClient

TOPICS = Topics("site-a")
REPORT = Reported(
    at="2026-11-24T03:00:00.000Z", clock="synced", boot="b", run="k3v9q2-1", seq=1,
    agent_version="0.1.0", plan_version=0, plan_sha256=None, identity_version=0,
)  # fmt: skip
MESSAGES_MAX = 400  # 20 seconds of a fleet that never stops talking.


def test_devices_that_the_broker_remembers_join_those_that_the_store_knows(
    broker: RunningBroker, make_client: MakeClient
) -> None:
    fleet = make_client(broker.url, "fleet")
    fleet.connected()
    for number in range(50):
        fleet.bus.state(TOPICS.device(f"cam-{number}", "status"), b"online")
        report = msgspec.json.encode(REPORT)
        fleet.bus.state(TOPICS.device(f"cam-{number}", "reported"), report)
    while not fleet.bus.is_settled:
        fleet.inbox.get(0.05)

    heard = listen("site-a", Address(broker.url), {"old-1": Known("old-1")})

    assert set(heard) == {"old-1", *(f"cam-{number}" for number in range(50))}
    assert all(heard[f"cam-{number}"].report == REPORT for number in range(50))
    assert not any(known.is_live for known in heard.values())


def test_a_fleet_that_never_stops_talking_does_not_keep_us(
    broker: RunningBroker, make_client: MakeClient
) -> None:
    fleet = make_client(broker.url, "fleet")
    fleet.connected()
    is_over = threading.Event()
    sent: list[int] = []

    def talk() -> None:
        for seq in range(MESSAGES_MAX):
            report = msgspec.structs.replace(REPORT, seq=seq)
            fleet.bus.publish(TOPICS.device("cam-1", "reported"), msgspec.json.encode(report))
            sent.append(seq)
            if is_over.wait(0.05):
                return

    with ExitStack() as stack:
        talking = threading.Thread(target=talk)
        stack.callback(talking.join)
        stack.callback(is_over.set)
        talking.start()
        heard = listen("site-a", Address(broker.url), {})

    assert heard["cam-1"].is_live
    assert len(sent) < MESSAGES_MAX
