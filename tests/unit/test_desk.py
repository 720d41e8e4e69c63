"""What waits for the network thread on a slow line: telemetry makes room, state does not."""

from shared.desk import QUEUED_BYTES_MAX, TELEMETRY_BYTES_MAX, Desk, Outgoing

KILOBYTE = b"x" * 1024


def desk() -> Desk:
    made = Desk(birth=None)
    made.entered()
    return made


def telemetry(number: int, payload: bytes = KILOBYTE) -> Outgoing:
    return Outgoing(f"t/{number}", payload, qos=0, is_retained=False)


def taken(from_desk: Desk) -> list[str]:
    found = []
    while (message := from_desk.next_outgoing()) is not None:
        found.append(message.topic)
    return found


def test_the_oldest_telemetry_makes_room_and_each_loss_is_told_once() -> None:
    stalled, room = desk(), TELEMETRY_BYTES_MAX // 1024

    told = [stalled.publish(telemetry(number)) for number in range(10 * room)]

    assert told.count(False) == 9 * room
    assert taken(stalled) == [f"t/{number}" for number in range(9 * room, 10 * room)]
    assert not stalled.has_outgoing


def test_telemetry_takes_no_room_of_what_must_arrive_and_goes_after_it() -> None:
    stalled = desk()
    for number in range(2 * TELEMETRY_BYTES_MAX // 1024):
        stalled.publish(telemetry(number))
    block = Outgoing("block", b"x" * (QUEUED_BYTES_MAX - 10), qos=1, is_retained=True)

    assert stalled.publish(block)
    assert not stalled.publish(Outgoing("answer", KILOBYTE, qos=1, is_retained=False))
    assert taken(stalled)[0] == "block"


def test_one_message_longer_than_the_room_goes_out() -> None:
    stalled = desk()
    stalled.publish(telemetry(0))

    assert not stalled.publish(telemetry(1, b"x" * (TELEMETRY_BYTES_MAX + 1)))
    assert taken(stalled) == ["t/1"]


def test_nothing_is_left_for_a_connection_that_is_not_there() -> None:
    gone = desk()
    gone.publish(telemetry(0))
    gone.left()

    assert not gone.publish(telemetry(1))
    assert not gone.has_outgoing
    assert taken(gone) == []
