"""The blocks machine, with values alone."""

import random
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from shared import blocks
from shared.blocks import Done, Fetching, ReportWrong, Store, Subscribe, Unsubscribe
from shared.limits import BLOCK_BYTES, BLOCKS_IN_FLIGHT

DATA = [f"block {number}".encode() for number in range(20)]
NAMES = [sha256(data).hexdigest() for data in DATA]


def begin(count: int, now: float = 0.0) -> Fetching:
    return blocks.start(NAMES[:count], now)[0]


def test_a_file_is_cut_into_blocks_of_the_full_length_and_a_rest() -> None:
    data = random.Random(1).randbytes(2 * BLOCK_BYTES + 5)

    pieces = blocks.split_file(data)

    assert [len(piece.data) for piece in pieces] == [BLOCK_BYTES, BLOCK_BYTES, 5]
    assert b"".join(piece.data for piece in pieces) == data
    assert all(sha256(piece.data).hexdigest() == piece.sha256 for piece in pieces)


def test_with_nothing_missing_it_is_done_at_once() -> None:
    assert blocks.start((), 0.0) == (Fetching(), (Done(),))


def test_eight_are_asked_for_and_each_that_arrives_makes_room_for_one() -> None:
    fetching, effects = blocks.start(NAMES[:10], 0.0)
    assert effects == tuple(map(Subscribe, NAMES[:8]))

    fetching, effects = blocks.received(fetching, NAMES[3], DATA[3], 1.0)

    assert effects == (Store(NAMES[3], DATA[3]), Unsubscribe(NAMES[3]), Subscribe(NAMES[8]))


def test_a_block_that_two_files_share_is_asked_for_once() -> None:
    assert blocks.start([NAMES[0], NAMES[0]], 0.0)[1] == (Subscribe(NAMES[0]),)


def test_the_last_block_ends_it_and_a_repeated_one_changes_nothing() -> None:
    fetching = begin(1)

    fetching, effects = blocks.received(fetching, NAMES[0], DATA[0], 1.0)

    assert effects == (Store(NAMES[0], DATA[0]), Unsubscribe(NAMES[0]), Done())
    assert blocks.received(fetching, NAMES[0], DATA[0], 2.0) == (fetching, ())


def test_what_nobody_asked_for_changes_nothing() -> None:
    fetching = begin(1)

    assert blocks.received(fetching, NAMES[5], DATA[5], 1.0) == (fetching, ())


def test_an_empty_payload_means_none() -> None:
    fetching = begin(1)

    assert blocks.received(fetching, NAMES[0], b"", 1.0) == (fetching, ())


def test_wrong_bytes_are_ignored_and_reported_once() -> None:
    fetching, first = blocks.received(begin(1), NAMES[0], b"other", 1.0)
    fetching, second = blocks.received(fetching, NAMES[0], b"other", 2.0)

    assert (first, second) == ((ReportWrong(NAMES[0]),), ())
    assert fetching.missing_count == 1
    assert Store(NAMES[0], DATA[0]) in blocks.received(fetching, NAMES[0], DATA[0], 3.0)[1]


def test_what_does_not_come_is_asked_for_again_after_5_s_doubling_to_5_min() -> None:
    fetching, now, asked_at = begin(1), 0.0, []

    while len(asked_at) < 8:
        due = blocks.next_at(fetching)
        assert due is not None
        assert blocks.ticked(fetching, due - 0.1) == (fetching, ())
        fetching, effects = blocks.ticked(fetching, due)
        assert effects == (Subscribe(NAMES[0]),)
        asked_at.append(due - now)
        now = due

    assert asked_at == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


def test_a_slow_line_is_not_asked_again_while_blocks_keep_coming() -> None:
    """Eight blocks on 200 kbit/s take 40 s: asking again after five would send them twice."""
    fetching = begin(8)

    for number in range(7):
        now = 4.9 * (number + 1)
        fetching, _ = blocks.received(fetching, NAMES[number], DATA[number], now)
        fetching, effects = blocks.ticked(fetching, now)
        assert effects == ()


def test_blocks_that_no_broker_holds_do_not_keep_the_others_waiting() -> None:
    """Eight are missing at the broker; the other twelve come all the same."""
    held = dict(zip(NAMES[8:], DATA[8:], strict=True))
    fetching, effects = blocks.start(NAMES, 0.0)
    stored: set[str] = set()
    now = 0.0

    for _ in range(40):
        asked = [effect.sha256 for effect in effects if isinstance(effect, Subscribe)]
        effects = ()
        for digest in asked:
            if digest in held:
                fetching, more = blocks.received(fetching, digest, held[digest], now)
                effects += more
        stored |= {effect.sha256 for effect in effects if isinstance(effect, Store)}
        now += 1.0
        fetching, more = blocks.ticked(fetching, now)
        effects += more
        assert len(fetching.asked) <= BLOCKS_IN_FLIGHT

    assert stored == set(held)


def test_a_block_is_overdue_when_it_was_waited_for_over_a_minute() -> None:
    fetching = begin(10)

    assert blocks.overdue(fetching, 60.0) == ()
    assert set(blocks.overdue(fetching, 60.1)) == set(NAMES[:8])


def test_nothing_is_overdue_while_blocks_arrive() -> None:
    fetching = begin(10)

    fetching, _ = blocks.received(fetching, NAMES[0], DATA[0], 59.0)

    assert blocks.overdue(fetching, 100.0) == ()
    assert set(blocks.overdue(fetching, 119.1)) == set(NAMES[1:9])


def test_to_stop_is_to_ask_for_nothing_more() -> None:
    fetching, effects = blocks.stop(begin(10))

    assert fetching == Fetching()
    assert effects == tuple(map(Unsubscribe, NAMES[:8]))


@given(seed=st.integers(0, 2**32), loss=st.floats(0.0, 0.9))
def test_whatever_is_lost_it_ends_with_every_block_once(seed: int, loss: float) -> None:
    """A broker that loses questions at random; the subscriptions balance in the end."""
    chance = random.Random(seed)
    fetching, effects = blocks.start(NAMES, 0.0)
    stored: list[str] = []
    subscribed: set[str] = set()
    now = 0.0

    for _ in range(3_000):
        pending, effects = effects, ()
        for effect in pending:
            match effect:
                case Subscribe(digest):
                    subscribed.add(digest)
                    if chance.random() >= loss:
                        data = DATA[NAMES.index(digest)]
                        fetching, more = blocks.received(fetching, digest, data, now)
                        effects += more
                case Unsubscribe(digest):
                    subscribed.remove(digest)
                case Store(digest, _):
                    stored.append(digest)
                case Done():
                    assert sorted(stored) == sorted(NAMES)
                    assert not subscribed
                    return
        assert len(fetching.asked) <= BLOCKS_IN_FLIGHT
        now = max(now, blocks.next_at(fetching) or now)
        fetching, more = blocks.ticked(fetching, now)
        effects += more
    raise AssertionError("it never ended")
