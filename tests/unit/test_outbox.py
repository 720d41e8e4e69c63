"""The last-value outbox and the schedules, with values alone."""

import random

import pytest

from shared import outbox as outboxes
from shared.errors import LimitError
from shared.outbox import IN_FLIGHT_MAX, TOPICS_MAX, Outbox, Publish
from shared.subscriptions import (
    PASS_SECONDS,
    PASSES_MAX,
    Schedule,
    Sweep,
    heard,
    start_sweep,
    ticked,
)


def test_state_waits_for_a_connection() -> None:
    outbox, effects = outboxes.put(Outbox(), "a", b"1")
    assert effects == ()

    outbox, effects = outboxes.connected(outbox)

    assert effects == (Publish("a", b"1"),)
    assert not outbox.is_settled


def test_the_next_value_of_a_topic_waits_for_the_acknowledgement_of_the_one_before() -> None:
    outbox, _ = outboxes.connected(Outbox())
    outbox, _ = outboxes.put(outbox, "a", b"1")
    outbox, first = outboxes.put(outbox, "a", b"2")
    outbox, second = outboxes.put(outbox, "a", b"3")
    assert (first, second) == ((), ())

    outbox, effects = outboxes.acknowledged(outbox, "a")

    assert effects == (Publish("a", b"3"),)  # 2 is never sent.
    outbox, effects = outboxes.acknowledged(outbox, "a")
    assert effects == ()
    assert outbox.is_settled


def test_a_value_that_was_in_flight_when_the_line_broke_is_replaced_by_the_last_one() -> None:
    outbox, _ = outboxes.connected(Outbox())
    outbox, _ = outboxes.put(outbox, "a", b"old")
    outbox, _ = outboxes.put(outbox, "a", b"new")

    outbox, effects = outboxes.connected(outboxes.disconnected(outbox))

    assert effects == (Publish("a", b"new"),)


def test_the_birth_goes_out_last_and_the_rest_in_the_order_in_which_they_came() -> None:
    outbox = Outbox(birth="status")
    for topic in ("status", "reported", "counts", "reported"):
        outbox, _ = outboxes.put(outbox, topic, topic.encode())

    _, effects = outboxes.connected(outbox)

    assert [effect.topic for effect in effects] == ["reported", "counts", "status"]


def test_cleared_state_is_sent_once_and_forgotten() -> None:
    outbox, _ = outboxes.connected(Outbox())
    outbox, effects = outboxes.put(outbox, "a", b"")
    assert effects == (Publish("a", b""),)

    outbox, _ = outboxes.acknowledged(outbox, "a")

    assert not outbox.values
    assert outboxes.connected(outboxes.disconnected(outbox))[1] == ()


def test_a_late_acknowledgement_changes_nothing() -> None:
    outbox, _ = outboxes.connected(Outbox())

    assert outboxes.acknowledged(outbox, "a") == (outbox, ())


def test_more_topics_than_the_limit_are_refused_and_known_ones_are_not() -> None:
    outbox = Outbox(values={str(number): b"" for number in range(TOPICS_MAX)})

    outboxes.put(outbox, "0", b"new")
    with pytest.raises(LimitError):
        outboxes.put(outbox, "one more", b"")


class History:
    """Puts, cuts and acknowledgements at random, against a broker that keeps what it takes."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.outbox = Outbox(birth="0")
        self.broker: dict[str, bytes] = {}
        self.wanted: dict[str, bytes] = {}
        self.sent: list[Publish] = []

    def do(self, step: outboxes.Step) -> None:
        self.outbox, effects = step
        self.sent.extend(effects)
        assert len(self.outbox.in_flight) <= IN_FLIGHT_MAX

    def put(self, value: bytes) -> None:
        topic = str(self.chance.randrange(4))
        self.wanted[topic] = value
        self.do(outboxes.put(self.outbox, topic, value))

    def deliver(self) -> None:
        first = self.sent.pop(0)
        self.broker[first.topic] = first.payload
        self.do(outboxes.acknowledged(self.outbox, first.topic))

    def cut(self) -> None:
        """The broker may have taken the first; nobody hears of it."""
        for first in self.sent[: self.chance.randrange(3)]:
            self.broker[first.topic] = first.payload
        self.sent.clear()
        self.do(outboxes.connected(outboxes.disconnected(self.outbox)))

    def turn(self, number: int) -> None:
        match self.chance.choice(["put", "put", "deliver", "deliver", "cut"]):
            case "put":
                self.put(str(number).encode())
            case "deliver" if self.sent:
                self.deliver()
            case _:
                self.cut()


@pytest.mark.parametrize("seed", range(200))
def test_whatever_happens_the_broker_ends_with_the_last_value_of_each_topic(seed: int) -> None:
    history = History(seed)
    for number in range(60):
        history.turn(number)

    history.cut()
    while history.sent:
        history.deliver()

    assert history.broker == history.wanted
    assert history.outbox.is_settled


def test_a_repeated_subscription_is_made_again_after_2_10_and_60_seconds_and_then_hourly() -> None:
    schedule = Schedule()

    times = [schedule.repeat_at(100.0, count) for count in range(5)]

    assert times == [102.0, 110.0, 160.0, 3_760.0, 7_360.0]


def test_a_schedule_without_early_repeats_is_hourly() -> None:
    assert Schedule(after=()).repeat_at(0.0, 0) == 3_600.0


def test_a_sweep_ends_after_two_passes_without_anybody_new() -> None:
    sweep, now = start_sweep(0.0), 0.0
    sweep = heard(sweep, 1.0, is_new=True)
    repeats = 0

    while not sweep.is_done:
        now += PASS_SECONDS + 1.0
        sweep, is_again = ticked(sweep, now)
        repeats += is_again
        if repeats == 1 and is_again:
            sweep = heard(sweep, now, is_new=True)  # The first pass had missed somebody.

    assert repeats == 3
    assert sweep.passes == 4


def test_a_pass_goes_on_while_messages_arrive() -> None:
    sweep = heard(start_sweep(0.0), 0.8 * PASS_SECONDS, is_new=False)

    assert ticked(sweep, 1.2 * PASS_SECONDS) == (sweep, False)


def test_a_sweep_that_always_hears_somebody_new_ends_all_the_same() -> None:
    sweep: Sweep = start_sweep(0.0)

    for turn in range(PASSES_MAX):
        sweep = heard(sweep, turn * 10.0, is_new=True)
        sweep, _ = ticked(sweep, turn * 10.0 + 9.0)

    assert sweep.is_done
