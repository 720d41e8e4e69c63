"""The publisher on real brokers that drop, lose, go back and hang up.

Its clock is given to it, so here it runs ten times as fast as ours.
"""

import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from controller.broker import BrokerOptions, RunningBroker
from controller.publisher import Publisher, Stage, carry_out
from controller.publishing import Alerted, Desired, Effect, Failed, News, Published, Repairing
from shared.blocks import Block, split_file
from shared.errors import (
    AnotherControllerError,
    BrokerRefusedError,
    MalformedError,
    NotEchoedError,
)
from shared.inbox import Acknowledged, Connected
from shared.topics import Topics

if TYPE_CHECKING:
    from tests.integration.conftest import BrokerHouse, Client, MakeClient

TOPICS = Topics("demo")
PIECES = split_file(random.Random(1).randbytes(3 * 122_880))
SPEED = 10.0
DEADLINE_SECONDS = 30.0
IDENTITY = TOPICS.device("pi-01", "identity")
DENIES_TRUST = """
authorization { users: [
  { user: all, password: secret, permissions: { publish: { deny: ["fleet.v1.demo.trust"] } } }
] }
"""


def signed(version: int, text: str = "plan") -> bytes:
    """Stand in for a bundle: what counts here is who vouches for it, not how."""
    return f"signed {version} {text}".encode()


def judge_version(data: bytes) -> int:
    match data.split(b" "):
        case [b"signed", version, *_]:
            return int(version)
        case _:
            raise MalformedError("expected a signed bundle")


def desired(version: int = 5, pieces: Iterable[Block] = PIECES, text: str = "plan") -> Desired:
    return Desired(
        signed(version, text),
        version,
        blocks=tuple(piece.sha256 for piece in pieces),
        states={IDENTITY: b"identity", TOPICS.rollout("r-1"): b"running"},
    )


class Rig:
    """A publisher on a bus."""

    def __init__(self, client: "Client") -> None:
        self.client = client
        store = {piece.sha256: piece.data for piece in PIECES}
        self.publisher = Publisher(
            TOPICS, judge_version=judge_version, read_block=store.__getitem__
        )
        self.news: list[News] = []

    def do(self, call: Callable[[float], tuple[Effect, ...]]) -> None:
        effects = call(time.monotonic() * SPEED)
        self.news += carry_out(effects, self.client.bus)

    def want(self, wanted: Desired) -> None:
        self.do(lambda now: self.publisher.want(wanted, now))

    def turn(self) -> None:
        event = self.client.inbox.get(0.01)
        if event is not None:
            self.do(lambda now: self.publisher.handle(event, now))
        self.do(self.publisher.tick)

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not is_so():
            assert time.monotonic() < deadline, (self.publisher.stage, self.news)
            self.turn()

    def until_news(self, kind: type[News]) -> News:
        self.news.clear()
        self.until(lambda: any(isinstance(news, kind) for news in self.news))
        return next(news for news in self.news if isinstance(news, kind))

    def until_done(self) -> None:
        """Serving, with all documents acknowledged."""
        self.until(
            lambda: self.publisher.stage is Stage.SERVING and self.publisher._line.is_uploaded
        )


def rig_on(
    broker: RunningBroker, make_client: "MakeClient", name: str = "controller", **login: str
) -> Rig:
    return Rig(make_client(broker.url, name, **login))


def published_on(broker: RunningBroker, make_client: "MakeClient") -> Rig:
    """Return a publisher whose broker holds all that is desired."""
    rig = rig_on(broker, make_client)
    rig.want(desired())
    rig.until_news(Published)
    rig.until_done()
    return rig


def held_by(broker: RunningBroker, make_client: "MakeClient", count: int) -> dict[str, bytes]:
    """Return what a newcomer is given."""
    late = make_client(broker.url, f"late-{time.monotonic_ns()}")
    late.bus.subscribe(TOPICS.everything)
    late.bus.subscribe("fleet-blocks/v1/demo/#")
    return {event.topic: event.payload for event in (late.message() for _ in range(count))}


def all_of(wanted: Desired) -> dict[str, bytes]:
    blocks = {TOPICS.block(piece.sha256): piece.data for piece in PIECES}
    return {TOPICS.trust: wanted.bundle, **wanted.states, **blocks}


def wipe(house: "BrokerHouse", broker: RunningBroker) -> RunningBroker:
    broker.kill()
    for path in sorted(house.folder.rglob("*"), reverse=True):
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()
    return house.start_again(broker)


def test_everything_desired_is_at_the_broker_once_it_is_published(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    rig = rig_on(broker, make_client)
    rig.want(desired())

    assert rig.until_news(Published) == Published(5)

    rig.until_done()
    assert held_by(broker, make_client, 6) == all_of(desired())
    assert rig.publisher.progress.bytes_sent == sum(map(len, all_of(desired()).values()))


def test_the_bundle_goes_out_only_after_its_blocks(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    watcher = make_client(broker.url, "watcher")
    watcher.connected()
    watcher.subscribed(TOPICS.everything)
    watcher.subscribed("fleet-blocks/v1/demo/#")
    rig = rig_on(broker, make_client)

    rig.want(desired())
    rig.until_news(Published)

    order = [watcher.message().topic for _ in range(4)]
    assert order == [*(TOPICS.block(piece.sha256) for piece in PIECES), TOPICS.trust]


def test_a_new_plan_for_the_same_release_costs_one_bundle(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    rig = published_on(broker, make_client)
    before = rig.publisher.progress.bytes_sent

    rig.want(desired(6))
    assert rig.until_news(Published) == Published(6)

    assert rig.publisher.progress.bytes_sent - before == len(signed(6))


def test_a_restarted_controller_sends_no_block_again(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    """It remembers nothing, but its own bundle is there, and one block that it reads back."""
    first = rig_on(broker, make_client)
    first.want(desired())
    first.until_news(Published)
    first.client.bus.stop()

    again = rig_on(broker, make_client, "again")
    again.want(desired())
    again.until_done()
    again.want(desired(6))
    again.until_news(Published)

    assert again.publisher.progress.bytes_sent < 1_000


def test_a_broker_that_acknowledges_and_drops_a_block_is_found_out(
    house: "BrokerHouse", make_client: "MakeClient"
) -> None:
    if house.kind != "mosquitto":
        pytest.skip("NATS hangs up instead: another test")
    broker = house.start(BrokerOptions(payload_bytes_max=20_000))
    rig = rig_on(broker, make_client)
    rig.want(desired())

    failed = rig.until_news(Failed)

    assert isinstance(failed, Failed)
    assert isinstance(failed.error, NotEchoedError)
    assert "hand it back" in str(failed.error)
    assert not rig.publisher.held


def test_a_broker_that_acknowledges_and_denies_the_bundle_is_found_out(
    house: "BrokerHouse", make_client: "MakeClient"
) -> None:
    if house.kind == "nats":
        options = BrokerOptions(extra=DENIES_TRUST, is_open_to_all=False)
    else:
        house.folder.mkdir()
        rules = house.folder / "acl"
        rules.write_text(
            "topic read fleet/#\ntopic readwrite fleet-blocks/#\ntopic write fleet/v1/demo/device/#"
        )
        rules.chmod(0o600)
        options = BrokerOptions(extra=f"acl_file {rules}")
    broker = house.start(options)
    login = {"username": "all", "password": "secret"} if house.kind == "nats" else {}
    rig = rig_on(broker, make_client, **login)
    rig.want(desired())

    failed = rig.until_news(Failed)

    assert isinstance(failed, Failed)
    assert isinstance(failed.error, NotEchoedError)
    assert rig.publisher.version_echoed is None


def test_a_broker_that_hangs_up_on_blocks_is_not_tried_for_ever(
    house: "BrokerHouse", make_client: "MakeClient"
) -> None:
    house.skip_where_payloads_are_not_limited()
    if house.kind == "nats":
        broker = house.start(BrokerOptions(payload_bytes_max=20_000))
    else:
        broker = house.start(BrokerOptions(extra="max_packet_size 20000"))
    rig = rig_on(broker, make_client)
    rig.want(desired())

    failed = rig.until_news(Failed)

    assert isinstance(failed, Failed)
    assert isinstance(failed.error, BrokerRefusedError)
    assert "payload limit" in str(failed.error)


def test_a_broker_that_lost_its_store_gets_everything_again(
    house: "BrokerHouse", make_client: "MakeClient"
) -> None:
    broker = house.start()
    rig = published_on(broker, make_client)

    wiped = wipe(house, broker)
    rig.until_news(Repairing)
    rig.until_done()

    assert held_by(wiped, make_client, 6) == all_of(desired())


def test_a_broker_whose_bundle_was_cleared_gets_it_again_without_a_reconnect(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    rig = published_on(broker, make_client)
    vandal = make_client(broker.url, "vandal")
    vandal.connected()

    vandal.bus.state(TOPICS.trust, b"")

    rig.until_news(Repairing)
    rig.until_news(Published)


def test_a_lost_block_is_noticed_on_the_next_connection(
    house: "BrokerHouse", make_client: "MakeClient"
) -> None:
    broker = house.start()
    rig = rig_on(broker, make_client)
    rig.want(desired(3, PIECES[:1]))  # One block, so that this is the one that is read back.
    rig.until_news(Published)
    vandal = make_client(broker.url, "vandal")
    vandal.connected()
    vandal.bus.publish(TOPICS.block(PIECES[0].sha256), b"", 1, retain=True, token="cleared")
    vandal.wait_for(lambda event: event == Acknowledged("cleared"))
    rig.client.bus.stop()

    again = rig_on(broker, make_client, "again")
    again.want(desired(3, PIECES[:1]))
    again.until_news(Repairing)
    again.until_news(Published)

    assert again.publisher.progress.bytes_sent > len(PIECES[0].data)


def test_an_older_bundle_of_ours_on_the_broker_is_replaced(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    rig = published_on(broker, make_client)

    replayer = make_client(broker.url, "replayer")
    replayer.connected()
    replayer.bus.state(TOPICS.trust, signed(4))

    rig.until_news(Alerted)
    rig.until_news(Published)


def test_bytes_that_nobody_signed_are_overwritten_ever_more_slowly(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    rig = published_on(broker, make_client)
    vandal = make_client(broker.url, "vandal")
    vandal.connected()
    waits: list[float] = []

    for turn in range(4):
        vandal.bus.state(TOPICS.trust, f"rubbish {turn}".encode())
        began = time.monotonic() * SPEED
        rig.until_news(Published)
        waits.append(time.monotonic() * SPEED - began)

    assert waits[3] > 3.0  # 2 + 4 + 8 seconds of its clock, less what the turns took.
    assert rig.publisher.version_echoed == 5


def test_another_controller_with_our_keys_stops_us(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    other = make_client(broker.url, "other")
    other.connected()
    other.bus.publish(TOPICS.trust, signed(5, "theirs"), 1, retain=True, token="sent")
    other.wait_for(lambda event: event == Acknowledged("sent"))
    rig = rig_on(broker, make_client)

    rig.want(desired(5, text="ours"))

    failed = rig.until_news(Failed)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, AnotherControllerError)
    assert rig.publisher.stage is Stage.STOPPED
    assert held_by(broker, make_client, 1) == {TOPICS.trust: signed(5, "theirs")}


def test_another_controller_that_appears_while_we_serve_stops_us(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    rig = rig_on(broker, make_client)
    rig.want(desired())
    rig.until_news(Published)
    other = make_client(broker.url, "other")
    other.connected()

    other.bus.state(TOPICS.trust, signed(9, "theirs"))

    failed = rig.until_news(Failed)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, AnotherControllerError)


def test_what_is_cleared_is_gone_and_what_is_wanted_again_is_not_cleared(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    rig = published_on(broker, make_client)

    rig.want(desired(6, PIECES[:2]))
    rig.until_news(Published)
    rig.do(lambda now: rig.publisher.clear_blocks([piece.sha256 for piece in PIECES], now))
    rig.until(lambda: not rig.publisher._line.parcels_in_flight)

    left = held_by(broker, make_client, 5)
    assert TOPICS.block(PIECES[2].sha256) not in left
    assert TOPICS.block(PIECES[1].sha256) in left


def test_the_echo_is_asked_for_every_minute_and_missed_when_the_broker_is_gone(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    rig = rig_on(broker, make_client)
    rig.want(desired())
    rig.until_news(Published)
    echoed_at = rig.publisher._echoed_at
    assert echoed_at is not None

    rig.until(lambda: (rig.publisher._echoed_at or 0.0) > echoed_at + 50.0)
    assert rig.publisher.is_echoing(time.monotonic() * SPEED)
    broker.kill()
    rig.until(lambda: not rig.publisher.is_echoing(time.monotonic() * SPEED))


def test_nothing_is_sent_before_something_is_desired(
    broker: RunningBroker, make_client: "MakeClient"
) -> None:
    rig = rig_on(broker, make_client)
    connected = rig.client.wait_for(lambda event: event == Connected())

    rig.do(lambda now: rig.publisher.handle(connected, now))
    rig.do(rig.publisher.tick)

    assert rig.publisher.progress.messages_sent == 0
