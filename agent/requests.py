"""What an operator may ask of a device: expiry, duplicates, bounds; verb -> answer and effect.

A request is unsigned: whoever may write to the topic may ask. So nothing here installs anything or
leaves the signed bounds, a request is short-lived, and a duplicate is answered from memory. The
answer goes out before the effect: a device that restarts cannot answer any more. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.errors import MalformedError, RefusedError
from shared.identity import Settings
from shared.limits import REQUEST_BYTES, REQUEST_SECONDS_MAX, RESPONSE_BYTES
from shared.messages import ErrorText, Request, Response, decode, encode, parse_time, time_text

AHEAD_SECONDS_MAX = 60  # Clocks of an operator's machine and of a device may differ that much.
OVERRIDE_HOURS_MAX = 24  # A forgotten `set` must not outlive a day.
ID_CHARACTERS_MAX = 64

VERBS = ("restart-agent", "restart-camera", "reboot", "snapshot", "identify", "set")


@dataclass(frozen=True, slots=True)
class RestartAgent:
    """Stop cleanly and start again."""


@dataclass(frozen=True, slots=True)
class RestartCamera:
    """Stop the camera's child and start it again with the release that runs."""

    camera: int


@dataclass(frozen=True, slots=True)
class RebootDevice:
    """Restart the machine."""


@dataclass(frozen=True, slots=True)
class Override:
    """Settings of one camera that differ from the signed ones until a time, or a restart."""

    camera: int
    threshold_permille: int | None
    rate_hz: int | None
    until: datetime


@dataclass(frozen=True, slots=True)
class Identify:
    """Make the device seen: a line in its log."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Publish an image of what a camera sees."""

    camera: int


RequestEffect = RestartAgent | RestartCamera | RebootDevice | Override | Identify | Snapshot


@dataclass(frozen=True, slots=True)
class Asked:
    """A request and what is known about the device that got it.

    Attributes:
        now: The wall clock, or None while it is not synchronised.
        answered: Earlier answers by id.
        cameras: The numbers of this device's cameras.
        streaming: Those that see something now.
    """

    verb: str
    data: bytes
    is_retained: bool
    now: datetime | None
    settings: Settings
    cameras: frozenset[int]
    answered: Mapping[str, str]
    may_reboot: bool
    streaming: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes out, and what is done afterwards."""

    id: str
    response: bytes
    effect: RequestEffect | None
    is_repeated: bool = False


def judge(asked: Asked) -> Answer:
    """Return the answer to a request.

    Raises:
        RefusedError: It cannot be answered, because it has no readable id, or is retained.
    """
    if asked.is_retained:
        raise RefusedError(f"request {asked.verb}: it is retained", code="retained")
    request = decode(asked.data, Request, bytes_max=REQUEST_BYTES)
    if not 0 < len(request.id) <= ID_CHARACTERS_MAX:
        raise MalformedError(f"request {asked.verb}: expected an id of 1 to {ID_CHARACTERS_MAX}")
    before = asked.answered.get(request.id)
    if before is not None:
        return Answer(request.id, before.encode(), None, is_repeated=True)
    try:
        effect = _effect(asked, request)
    except RefusedError as error:
        return Answer(request.id, _failed(request.id, error), None)
    return Answer(request.id, _response(Response(id=request.id, status="ok")), effect)


def _effect(asked: Asked, request: Request) -> RequestEffect:
    if asked.verb == "identify" and asked.now is None:
        return Identify()  # Who looks for a device without a clock must find it.
    _check_time(asked, request)
    match asked.verb:
        case "identify":
            return Identify()
        case "restart-agent":
            return RestartAgent()
        case "reboot":
            return _reboot(asked)
        case "restart-camera" | "set" | "snapshot":
            return _of_camera(asked, request)
        case _:
            raise RefusedError(f"unknown verb {asked.verb[:40]!r}", code="unsupported")


def _of_camera(asked: Asked, request: Request) -> RequestEffect:
    if request.camera not in asked.cameras:
        raise RefusedError(f"this device has no camera {request.camera}", code="camera")
    match asked.verb:
        case "set":
            return _override(asked, request)
        case "snapshot":
            return _snapshot(asked, request.camera)
        case _:
            return RestartCamera(request.camera)


def _check_time(asked: Asked, request: Request) -> None:
    if asked.now is None:
        raise RefusedError("this device's clock is not synchronised", code="clock")
    at, expires = parse_time(request.at), parse_time(request.expires)
    if expires - at > timedelta(seconds=REQUEST_SECONDS_MAX):
        raise RefusedError(
            f"expected `expires` at most {REQUEST_SECONDS_MAX} s after `at`", code="malformed"
        )
    if at - asked.now > timedelta(seconds=AHEAD_SECONDS_MAX):
        raise RefusedError("`at` is ahead of this device's clock", code="clock")
    if asked.now > expires:
        raise RefusedError(f"expired at {request.expires}", code="expired")


def _reboot(asked: Asked) -> RebootDevice:
    if not asked.may_reboot:
        raise RefusedError("this agent may not reboot its machine (--allow-reboot)", code="refused")
    return RebootDevice()


def _snapshot(asked: Asked, camera: int) -> Snapshot:
    if asked.settings.privacy.images != "on-request":
        raise RefusedError("this device's signed settings allow no images", code="privacy")
    if camera not in asked.streaming:
        raise RefusedError(f"camera {camera} sees nothing now", code="camera")
    return Snapshot(camera)


def _override(asked: Asked, request: Request) -> Override:
    bounds = asked.settings.bounds
    _check_bounds("threshold_permille", request.threshold_permille, bounds.threshold_permille)
    _check_bounds("rate_hz", request.rate_hz, bounds.rate_hz)
    if request.threshold_permille is None and request.rate_hz is None:
        raise MalformedError("expected threshold_permille or rate_hz")
    assert asked.now is not None
    latest = asked.now + timedelta(hours=OVERRIDE_HOURS_MAX)
    until = latest if request.until is None else parse_time(request.until)
    if until > latest or until <= asked.now:
        raise RefusedError(
            f"expected `until` within the next {OVERRIDE_HOURS_MAX} h", code="bounds"
        )
    return Override(request.camera, request.threshold_permille, request.rate_hz, until)


def _check_bounds(name: str, value: int | None, bounds: tuple[int, int] | None) -> None:
    if value is None:
        return
    if bounds is None:
        raise RefusedError(f"the signed settings have no bounds for {name}", code="bounds")
    if not bounds[0] <= value <= bounds[1]:
        raise RefusedError(
            f"expected {name} of {bounds[0]} to {bounds[1]}, got {value}", code="bounds"
        )


def described(override: Override) -> dict[str, str | int | None]:
    """Return an override as `reported.overrides` shows it."""
    return {
        "camera": override.camera,
        "threshold_permille": override.threshold_permille,
        "rate_hz": override.rate_hz,
        "until": time_text(override.until),
    }


def _failed(identifier: str, error: RefusedError) -> bytes:
    text = ErrorText(error.code, error.text)
    return _response(Response(id=identifier, status="error", error=text))


def _response(response: Response) -> bytes:
    return encode(response, bytes_max=RESPONSE_BYTES)
