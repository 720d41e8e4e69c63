"""What a driver says of its broker, and takes from it, with agents that have no camera."""

from hashlib import sha256

from controller.clearing import CLEAR_SECONDS
from controller.status import FleetStatus
from shared.inbox import Received
from shared.release import encode_manifest
from shared.topics import Topics
from tests.integration.conftest import BrokerHouse, MakeClient
from tests.integration.test_controller import (
    DEVICES,
    PATIENCE_SECONDS,
    Bed,
    bed,  # noqa: F401 - a fixture
    on_nats,
)
from tests.puppet import make_release

TOPICS = Topics("testbed")


def remarks(bed: Bed, version: int) -> tuple[set[str], set[str]]:  # noqa: F811
    """Roll a release out; return all that was said: notes, and alerts."""
    notes: set[str] = set()
    alerts: set[str] = set()

    def listen(fleet: FleetStatus) -> None:
        notes.update({fleet.note} if fleet.note else ())
        alerts.update(fleet.alerts)

    name = bed.controller.start_rollout(bed.release(version), selector="role=door", strategy="all")
    bed.controller.drive(name, on_change=listen, timeout_seconds=PATIENCE_SECONDS)
    return notes, alerts


@on_nats
def test_the_first_plan_at_a_broker_is_no_alarm_and_a_lost_one_is(
    bed: Bed,  # noqa: F811
    make_client: MakeClient,
) -> None:
    bed.join(*DEVICES)
    notes, alerts = remarks(bed, 1)
    assert notes == {"this broker has nothing of the fleet yet: all of it goes out"}
    assert alerts == set()
    vandal = make_client(bed.broker.url, "vandal")
    vandal.connected()
    vandal.bus.state(TOPICS.trust, b"")
    while not vandal.bus.is_settled:
        vandal.inbox.get(0.05)

    bed.controller = bed.again()
    notes, alerts = remarks(bed, 2)

    assert notes == set()
    assert alerts == {"the broker holds no bundle"}


@on_nats
def test_what_nothing_has_needed_for_a_day_leaves_the_broker(
    bed: Bed,  # noqa: F811
    make_client: MakeClient,
) -> None:
    bed.join(*DEVICES)
    for version in (1, 2, 3):
        bed.roll_out(version, "all")
    a_day_later(bed)
    witness = make_client(bed.broker.url, "witness")
    witness.connected()
    witness.subscribed("fleet-blocks/v1/testbed/+")

    bed.controller = bed.again()
    bed.roll_out(4, "all")
    bed.controller.drive(
        until=lambda _: (
            bed.controller._store.get("at_broker", dict[str, object]).keys()
            == {"shapes@2", "shapes@3", "shapes@4"}
        ),
        timeout_seconds=PATIENCE_SECONDS,
    )

    late = make_client(bed.broker.url, "late")
    late.connected()
    late.subscribed("fleet-blocks/v1/testbed/+")
    kept = {e.topic for e in late.drain(2.0) if isinstance(e, Received) and e.payload}
    kept |= {e.topic for e in late.heard if isinstance(e, Received) and e.payload}
    assert kept == blocks(2) | blocks(3) | blocks(4)
    assert blocks(1) - kept


def a_day_later(bed: Bed) -> None:  # noqa: F811
    """Let the day of what nothing needs be over: all that it waited for was time."""
    store = bed.controller._store
    since = store.get("at_broker", dict[str, float | None])
    assert since is not None
    assert since["shapes@1"] is not None
    assert since["shapes@2"] is since["shapes@3"] is None
    store.put("at_broker", {**since, "shapes@1": since["shapes@1"] - CLEAR_SECONDS})


def blocks(version: int) -> set[str]:
    manifest, _ = make_release("shapes", version)
    names = {block for file in manifest.files for block in file.blocks}
    return set(map(TOPICS.block, {sha256(encode_manifest(manifest)).hexdigest(), *names}))


@on_nats
def test_who_is_online_by_store_and_broker_alone_is_offline_until_heard(
    bed: Bed,  # noqa: F811
    house: BrokerHouse,
) -> None:
    """A site's power fails: nobody tells that the devices have gone, and they do not come back."""
    bed.join(*DEVICES)
    bed.roll_out(1, "all")
    bed.broker.kill()
    for puppet in bed.puppets.values():
        puppet.stop()
    house.start_again(bed.broker)

    status = bed.roll_out(2, "all")

    assert (status.state, status.reason) == ("paused", "inconclusive")
    assert status.counts == {"offline": len(DEVICES)}
