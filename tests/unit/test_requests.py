"""What an operator may ask: short-lived, once, inside the signed bounds."""

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from agent.requests import (
    VERBS,
    Answer,
    Asked,
    Identify,
    Override,
    RebootDevice,
    RestartAgent,
    RestartCamera,
    Snapshot,
    judge,
)
from shared.errors import RefusedError
from shared.identity import Bounds, PrivacySettings, Settings
from shared.messages import time_text

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
BOUNDED = Settings(bounds=Bounds(threshold_permille=(250, 700), rate_hz=(1, 10)))


def document(**more: object) -> dict[str, object]:
    at = {"at": time_text(NOW), "expires": time_text(NOW + timedelta(seconds=30))}
    return {"v": 1, "id": "q-1", **at, **more}


def ask(  # noqa: PLR0913 - a request has that many sides
    verb: str,
    content: object = None,
    *,
    now: datetime | None = NOW,
    settings: Settings = BOUNDED,
    answered: dict[str, str] | None = None,
    is_retained: bool = False,
    may_reboot: bool = True,
    streaming: frozenset[int] = frozenset({0}),
) -> Answer:
    body = document() if content is None else content
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge(
        Asked(
            verb=verb,
            data=data,
            is_retained=is_retained,
            now=now,
            settings=settings,
            cameras=frozenset({0, 1}),
            answered=answered or {},
            may_reboot=may_reboot,
            streaming=streaming,
        )
    )


OPEN = msgspec.structs.replace(BOUNDED, privacy=PrivacySettings(images="on-request"))
WISHES = {"set": document(threshold_permille=300)}


def error_of(answer: Answer) -> str:
    response = json.loads(answer.response)
    assert response["status"] == "error"
    assert answer.effect is None
    return str(response["error"]["code"])


@pytest.mark.parametrize(
    ("verb", "effect"),
    [
        ("restart-agent", RestartAgent()),
        ("restart-camera", RestartCamera(0)),
        ("reboot", RebootDevice()),
        ("identify", Identify()),
    ],
)
def test_a_request_in_time_is_answered_ok_and_has_its_effect(verb: str, effect: object) -> None:
    answer = ask(verb)

    assert json.loads(answer.response) == {
        "v": 1, "id": "q-1", "status": "ok", "data": None, "error": None,
    }  # fmt: skip
    assert answer.effect == effect


@pytest.mark.parametrize("verb", VERBS)
def test_a_duplicate_of_any_verb_is_answered_from_memory_and_has_no_effect(verb: str) -> None:
    first = ask(verb, WISHES.get(verb), settings=OPEN)

    late = NOW + timedelta(days=1)
    second = ask(
        verb,
        WISHES.get(verb),
        settings=OPEN,
        now=late,
        answered={"q-1": first.response.decode()},
    )

    assert first.effect is not None
    assert second.response == first.response
    assert second.effect is None
    assert second.is_repeated


@pytest.mark.parametrize("verb", VERBS)
def test_an_expired_request_of_any_verb_has_no_effect(verb: str) -> None:
    wish = WISHES.get(verb)

    assert ask(verb, wish, settings=OPEN, now=NOW + timedelta(seconds=30)).effect is not None
    late = ask(verb, wish, settings=OPEN, now=NOW + timedelta(seconds=31))
    assert error_of(late) == "expired"


def test_a_request_that_lives_longer_than_a_minute_is_refused() -> None:
    long = document(expires=time_text(NOW + timedelta(seconds=61)))

    assert error_of(ask("reboot", long)) == "malformed"


def test_a_request_from_the_future_is_refused() -> None:
    ahead = NOW + timedelta(minutes=10)
    later = document(at=time_text(ahead), expires=time_text(ahead + timedelta(seconds=30)))

    assert error_of(ask("reboot", later)) == "clock"


@pytest.mark.parametrize("verb", ["restart-agent", "restart-camera", "reboot", "snapshot", "set"])
def test_without_a_clock_only_identify_is_served(verb: str) -> None:
    assert error_of(ask(verb, now=None)) == "clock"
    assert ask("identify", now=None).effect == Identify()


def test_a_retained_request_is_refused_unanswered() -> None:
    with pytest.raises(RefusedError) as refused:
        ask("reboot", is_retained=True)

    assert refused.value.code == "retained"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"[]",
        b'{"v":1,"id":"q"}',
        b'{"v":2,"id":"q","at":"","expires":""}',
        b'{"v":1,"id":7,"at":"","expires":""}',
        b'{"v":1,"id":"","at":"","expires":""}',
        b"[" * 4000,
        b'"' + b"x" * 5000 + b'"',
        b"\xff\xfe",
    ],
)
def test_a_request_without_a_readable_id_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedError):
        ask("reboot", data)


def test_unknown_verbs_and_cameras_are_answered_with_an_error() -> None:
    assert error_of(ask("format-disk")) == "unsupported"
    assert error_of(ask("restart-camera", document(camera=7))) == "camera"


@pytest.mark.parametrize("threshold", [0, 249, 701, 1000])
def test_a_threshold_outside_the_signed_bounds_is_refused(threshold: int) -> None:
    assert error_of(ask("set", document(threshold_permille=threshold))) == "bounds"


def test_without_signed_bounds_nothing_can_be_set() -> None:
    request = document(threshold_permille=500)

    assert error_of(ask("set", request, settings=Settings())) == "bounds"


def test_a_setting_inside_the_bounds_lasts_a_day_at_most() -> None:
    answer = ask("set", document(threshold_permille=300, camera=1))
    too_long = document(rate_hz=2, until=time_text(NOW + timedelta(hours=25)))
    past = document(rate_hz=2, until=time_text(NOW - timedelta(seconds=1)))

    assert answer.effect == Override(1, 300, None, NOW + timedelta(hours=24))
    assert error_of(ask("set", too_long)) == "bounds"
    assert error_of(ask("set", past)) == "bounds"
    assert error_of(ask("set", document())) == "malformed"


@pytest.mark.parametrize("rate", [0, 11, 1000])
def test_a_rate_outside_the_signed_bounds_is_refused(rate: int) -> None:
    assert error_of(ask("set", document(rate_hz=rate))) == "bounds"
    assert error_of(ask("set", document(rate_hz=rate, threshold_permille=300))) == "bounds"


def test_a_snapshot_is_refused_for_privacy_first_and_then_where_nothing_is_seen() -> None:
    assert error_of(ask("snapshot")) == "privacy"
    assert error_of(ask("snapshot", streaming=frozenset())) == "privacy"
    assert error_of(ask("snapshot", settings=OPEN, streaming=frozenset())) == "camera"
    assert error_of(ask("snapshot", document(camera=1), settings=OPEN)) == "camera"
    assert ask("snapshot", settings=OPEN).effect == Snapshot(0)


@pytest.mark.parametrize("verb", ["restart-agent", "reboot", "identify"])
def test_what_is_asked_of_the_device_needs_no_camera(verb: str) -> None:
    assert ask(verb, document(camera=7)).effect is not None


def test_a_device_that_may_not_reboot_says_so() -> None:
    assert error_of(ask("reboot", may_reboot=False)) == "refused"
