"""What the publisher decides, with values and a clock that is given."""

from dataclasses import replace
from hashlib import sha256

import pytest

from controller.publisher import PAYLOAD_LIMITS_MAX, Publisher, Stage
from controller.publishing import (
    Beginning,
    Desired,
    Effect,
    Failed,
    Held,
    Repairing,
    Send,
    Subscribe,
)
from controller.sending import (
    IN_FLIGHT_MAX,
    RESEND_SECONDS,
    STALLED_SECONDS,
    BlockParcel,
    Line,
    StateParcel,
)
from shared.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    MalformedError,
    StorageError,
)
from shared.inbox import (
    Acknowledged,
    Connected,
    ConnectionFailed,
    Disconnected,
    Oversized,
    Received,
    Subscribed,
    SubscriptionRefused,
)
from shared.topics import Topics

TOPICS = Topics("demo")
STORE = {sha256(data).hexdigest(): data for data in (b"one", b"two", b"three")}
BLOCKS = tuple(STORE)
DESIRED = Desired(b"5", 5, blocks=BLOCKS, states={"a": b"old"})
LIMIT = Disconnected("it hung up", is_payload_limit=True, topic="a")


def judge_version(data: bytes) -> int:
    if not data.isdigit():
        raise MalformedError("no bundle")
    return int(data)


def read_block(digest: str) -> bytes:
    if digest not in STORE:
        raise StorageError("our store has lost it")
    return STORE[digest]


def serving(desired: Desired = DESIRED, now: float = 0.0) -> Publisher:
    """Return a publisher whose bundle is at the broker, with nothing on its way."""
    publisher = Publisher(TOPICS, judge_version=judge_version, read_block=read_block)
    publisher.want(desired, now)
    publisher.handle(Connected(), now)
    publisher.handle(Received(TOPICS.trust, desired.bundle, is_retained=True), now)
    first = desired.needed[desired.version % len(desired.needed)]
    effects = publisher.handle(Received(TOPICS.block(first), STORE[first], is_retained=True), now)
    assert publisher.stage is Stage.SERVING
    acknowledge(publisher, effects, now)
    return publisher


def acknowledge(publisher: Publisher, effects: tuple[Effect, ...], now: float) -> None:
    for effect in effects:
        if isinstance(effect, Send):
            publisher.handle(Acknowledged(effect.token), now)


def sent(effects: tuple[Effect, ...]) -> list[tuple[str, bytes]]:
    return [(effect.topic, effect.payload) for effect in effects if isinstance(effect, Send)]


def error_of(effects: tuple[Effect, ...]) -> object:
    return next((effect.error for effect in effects if isinstance(effect, Failed)), None)


def line(desired: Desired = DESIRED) -> Line:
    return Line(TOPICS, read_block, desired)


def test_a_document_that_waited_never_overwrites_a_newer_one() -> None:
    made = line()
    made.resend([StateParcel("a")], 0.0)

    made.desired = replace(DESIRED, states={"a": b"new"})

    assert [send.payload for send in made.take(0.0)] == [b"new"]


def test_what_has_come_to_be_wanted_again_is_not_cleared() -> None:
    made = line(replace(DESIRED, states={}, blocks=()))
    made.clear(["a", TOPICS.block(BLOCKS[0]), "gone"])

    made.desired = DESIRED

    assert [send.topic for send in made.take(0.0)] == ["gone"]


def test_no_more_than_twenty_are_on_their_way() -> None:
    made = line()
    made.clear(str(number) for number in range(50))

    first = made.take(0.0)

    assert len(first) == IN_FLIGHT_MAX
    assert made.take(0.0) == ()
    made.acknowledged(first[0].token, 1.0)
    assert [send.topic for send in made.take(1.0)] == ["20"]


def test_what_is_to_be_cleared_outlives_its_connection_and_uploads_do_not() -> None:
    made = line()
    made.clear(["gone"])
    made.upload([StateParcel("a")], 0.0)
    made.take(0.0)

    made.lose()

    assert [send.topic for send in made.take(1.0)] == ["gone"]
    assert made.is_uploaded


def test_a_line_that_acknowledges_nothing_is_stalled_however_long_it_was_idle_before() -> None:
    made = line()
    made.clear(["gone"])
    made.take(1_000.0)

    assert not made.is_stalled(1_000.0 + STALLED_SECONDS - 1)
    assert made.is_stalled(1_000.0 + STALLED_SECONDS)


def test_a_block_that_many_devices_miss_is_sent_once_a_minute() -> None:
    publisher = serving()

    first = publisher.republish(BLOCKS[:1], 10.0)
    acknowledge(publisher, first, 10.0)
    again = publisher.republish(BLOCKS[:1], 11.0)
    later = publisher.republish(BLOCKS[:1], 10.0 + RESEND_SECONDS)

    assert sent(first) == sent(later) == [(TOPICS.block(BLOCKS[0]), STORE[BLOCKS[0]])]
    assert again == ()


def test_a_device_cannot_make_us_send_what_the_plan_does_not_need() -> None:
    assert serving().republish(["0" * 64], 10.0) == ()


def test_an_identity_that_a_device_lacks_is_sent_again() -> None:
    assert sent(serving().republish_state("a", 10.0)) == [("a", b"old")]


def test_a_changed_document_alone_is_sent_alone() -> None:
    publisher = serving()

    effects = publisher.want(replace(DESIRED, states={"a": b"new", "b": b"other"}), 10.0)

    assert sent(effects) == [("a", b"new"), ("b", b"other")]


def test_one_payload_limit_may_be_a_broker_that_restarts() -> None:
    publisher = serving()

    for _ in range(PAYLOAD_LIMITS_MAX + 1):
        assert error_of(publisher.handle(LIMIT, 1.0)) is None
        publisher.handle(ConnectionFailed("refused"), 2.0)
        publisher.handle(Connected(), 3.0)


def test_three_payload_limits_in_a_row_are_one() -> None:
    publisher = serving()

    errors = []
    for _ in range(PAYLOAD_LIMITS_MAX):
        errors.append(error_of(publisher.handle(LIMIT, 1.0)))
        publisher.handle(Connected(), 2.0)

    assert errors[:-1] == [None] * (PAYLOAD_LIMITS_MAX - 1)
    assert isinstance(errors[-1], BrokerRefusedError)
    assert publisher.stage is Stage.FAILED


def test_a_stalled_upload_fails_and_is_tried_again_later() -> None:
    publisher = Publisher(TOPICS, judge_version=judge_version, read_block=read_block)
    publisher.want(DESIRED, 0.0)
    publisher.handle(Connected(), 0.0)
    publisher.handle(Received(TOPICS.trust, b"", is_retained=True), 0.0)
    assert publisher.stage is Stage.UPLOADING

    failed = publisher.tick(STALLED_SECONDS)

    assert isinstance(error_of(failed), BrokerUnreachableError)
    assert publisher.tick(500.0) == (Subscribe(TOPICS.trust, 256 * 1024),)


def test_a_store_of_ours_that_has_lost_a_block_is_said() -> None:
    publisher = serving()

    effects = publisher.want(
        replace(DESIRED, bundle=b"6", version=6, blocks=(*BLOCKS, "0" * 64)), 10.0
    )

    assert isinstance(error_of(effects), StorageError)


def test_a_subscription_that_is_refused_is_said() -> None:
    publisher = Publisher(TOPICS, judge_version=judge_version, read_block=read_block)
    publisher.want(DESIRED, 0.0)
    publisher.handle(Connected(), 0.0)

    effects = publisher.handle(SubscriptionRefused(TOPICS.trust), 1.0)

    assert isinstance(error_of(effects), BrokerRefusedError)


def test_a_bundle_that_is_too_long_to_be_one_is_overwritten_not_taken_for_none() -> None:
    publisher = serving()

    effects = publisher.handle(Oversized(TOPICS.trust, 300_000, 262_144), 10.0)

    assert sent(effects) == [(TOPICS.trust, b"5")]


def test_nothing_after_two_subscriptions_means_that_the_broker_has_none() -> None:
    publisher = Publisher(TOPICS, judge_version=judge_version, read_block=read_block)
    publisher.want(DESIRED, 0.0)
    publisher.handle(Connected(), 0.0)
    publisher.handle(Subscribed(TOPICS.trust), 0.0)

    assert publisher.tick(1.9) == ()
    assert publisher.tick(2.0) == (Subscribe(TOPICS.trust, 256 * 1024),)
    publisher.handle(Subscribed(TOPICS.trust), 2.0)
    assert publisher.tick(3.9) == ()
    found = publisher.tick(4.0)
    assert len(sent(found)) == len(BLOCKS)
    assert Beginning() in found  # No alarm: there never was anything.


def test_a_broker_that_lost_what_it_had_is_an_alarm_to_the_next_controller_too() -> None:
    held = Held("mqtt://b", version=4)
    publisher = Publisher(TOPICS, judge_version=judge_version, read_block=read_block, held=held)
    publisher.want(DESIRED, 0.0)
    publisher.handle(Connected(), 0.0)
    publisher.handle(Subscribed(TOPICS.trust), 0.0)
    publisher.tick(2.0)
    publisher.handle(Subscribed(TOPICS.trust), 2.0)

    assert Repairing("the broker holds no bundle") in publisher.tick(4.0)


def test_a_suback_that_is_lost_does_not_leave_us_waiting_for_ever() -> None:
    publisher = Publisher(TOPICS, judge_version=judge_version, read_block=read_block)
    publisher.want(DESIRED, 0.0)
    publisher.handle(Connected(), 0.0)

    assert publisher.tick(10.0) == (Subscribe(TOPICS.trust, 256 * 1024),)


def test_after_adopt_it_goes_on_above_the_other_controllers_version() -> None:
    publisher = serving()
    publisher.handle(Received(TOPICS.trust, b"9", is_retained=False), 1.0)
    assert publisher.stage is Stage.STOPPED
    assert publisher.want(replace(DESIRED, bundle=b"10", version=10), 2.0) == ()

    effects = publisher.resume(3.0)

    assert effects == (Subscribe(TOPICS.trust, 256 * 1024),)
    publisher.handle(Received(TOPICS.trust, b"9", is_retained=True), 4.0)
    assert publisher.stage is Stage.CHECKING


def test_the_line_reads_a_block_only_when_its_turn_comes() -> None:
    made = line()
    made.upload([BlockParcel("0" * 64)], 0.0)

    with pytest.raises(StorageError):
        made.take(0.0)


def test_a_stall_is_an_unreachable_broker() -> None:
    publisher = serving()
    publisher.clear_topics(["gone"], 10.0)

    assert isinstance(error_of(publisher.tick(10.0 + STALLED_SECONDS)), BrokerUnreachableError)


def second(held: Held, desired: Desired, found: bytes) -> tuple[Publisher, tuple[Effect, ...]]:
    """Return the next controller's publisher, once it has looked at the broker's bundle."""
    publisher = Publisher(TOPICS, judge_version=judge_version, read_block=read_block, held=held)
    publisher.want(desired, 0.0)
    publisher.handle(Connected(), 0.0)
    return publisher, publisher.handle(Received(TOPICS.trust, found, is_retained=True), 0.0)


def test_the_next_controller_sends_only_what_is_new() -> None:
    before = replace(DESIRED, blocks=BLOCKS[:2])
    held = serving(before).holding
    news = replace(DESIRED, bundle=b"6", version=6, states={"a": b"old", "b": b"new"})

    publisher, effects = second(held, news, found=b"5")
    assert sent(effects) == []  # It reads a block back that the broker should have.
    (topic,) = [effect.topic for effect in effects if isinstance(effect, Subscribe)]
    data = next(data for name, data in STORE.items() if TOPICS.block(name) == topic)
    effects = publisher.handle(Received(topic, data, is_retained=True), 0.0)

    assert sent(effects) == [(TOPICS.block(BLOCKS[2]), STORE[BLOCKS[2]])]
    publisher.handle(Acknowledged("line-1"), 0.0)
    publisher.handle(Received(TOPICS.block(BLOCKS[2]), STORE[BLOCKS[2]], is_retained=True), 0.0)
    publisher.handle(Acknowledged("line-2"), 0.0)
    effects = publisher.handle(Received(TOPICS.trust, b"6", is_retained=True), 0.0)
    assert sent(effects) == [("b", b"new")]


def test_a_broker_that_went_back_is_believed_in_nothing() -> None:
    held = serving().holding
    assert held.version == 5

    _, effects = second(held, replace(DESIRED, bundle=b"6", version=6), found=b"4")

    assert [topic for topic, _ in sent(effects)] == [TOPICS.block(block) for block in BLOCKS]


def test_of_what_is_not_desired_nothing_is_kept() -> None:
    publisher = serving()

    publisher.want(replace(DESIRED, bundle=b"6", version=6, blocks=BLOCKS[:1], states={}), 1.0)

    assert publisher.holding.blocks == {BLOCKS[0]}
    assert publisher.holding.states == {}
