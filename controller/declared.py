"""Devices in fleet.yaml: defaults, each device's own block on top of them, ranges of names."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Literal
from zoneinfo import available_timezones

from yaml.nodes import Node, ScalarNode

from controller.document import (
    Fields,
    Key,
    Problems,
    Reader,
    Section,
    boolean,
    choice,
    entries,
    integer,
    mapping_of,
    matching,
    pair_of,
    permille,
    text,
)
from shared.identity import Bounds, PrivacySettings, TelemetrySettings
from shared.identity import Settings as SignedSettings
from shared.limits import CAMERAS_MAX

CameraKind = Literal["auto", "modlib", "picamera2", "simulated"]
RATE_HZ_MAX = 30  # No network on the sensor is read faster.
FRAME_RATE_MAX = 120
RANGE_MAX = 100_000
RANGE_PARTS_MAX = 3
_RANGE = re.compile(r"\[([0-9]{1,6}|[a-z]):([0-9]{1,6}|[a-z])(?::([1-9][0-9]{0,5}))?\]")
_WORD = r"[a-z0-9-]{1,64}"

_SETTINGS = (
    Key("camera", "auto, modlib, picamera2, simulated", "what drives the camera", "auto"),
    Key("timezone", "name", "IANA time zone in which windows are meant", "UTC"),
    Key("frame_rate", "number", "frames a second; `auto`: what the manifest says", "auto"),
    Key("telemetry", "mapping", "how much the device sends"),
    Key("bounds", "mapping", "how far a request may move a setting at run time", "not at all"),
    Key("privacy", "mapping", "what may leave the device"),
    Key("labels", "mapping", "what selectors match: key and value of `a-z`, `0-9`, `-`", "{}"),
)
DEFAULTS = Section("defaults", _SETTINGS)
DEVICE = Section(
    "a device",
    (*_SETTINGS, Key("cameras", "mapping", "by number; a device without it has camera 0")),
)
CAMERA = Section(
    "a camera",
    (
        Key("camera", "auto, modlib, picamera2, simulated", "what drives it", "the device's"),
        Key("labels", "mapping", "on top of the device's", "{}"),
    ),
)
TELEMETRY = Section(
    "telemetry",
    (
        Key("encoding", "json, packed", "how detections are written", "json"),
        Key("rate_hz", "number", f"messages a second, 1 to {RATE_HZ_MAX}", "5"),
        Key("threshold", "0 to 1", "the lowest score that is sent", "0.5"),
        Key("home_assistant", "true, false", "announce the device to Home Assistant", "false"),
        Key("events", "true, false", "tell when tracked objects enter, dwell and leave", "false"),
    ),
)
BOUNDS = Section(
    "bounds",
    (
        Key("threshold", "[lowest, highest]", "of 0 to 1", "not at all"),
        Key("rate_hz", "[lowest, highest]", "messages a second", "not at all"),
    ),
)
PRIVACY = Section(
    "privacy",
    (Key("images", '"off", on-request', "whether an image may be asked for", '"off"'),),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a device is told, its defaults worked in."""

    kind: CameraKind = "auto"
    timezone: str = "UTC"
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    signed: SignedSettings = field(default_factory=SignedSettings)


@dataclass(frozen=True, slots=True)
class CameraDeclared:
    """One camera of a device."""

    kind: CameraKind
    labels: Mapping[str, str]


def read_settings(fields: Fields, base: Settings, problems: Problems) -> Settings:
    """Return the settings in a block on top of others, key by key."""
    signed = base.signed
    is_auto = "frame_rate" in fields and _is_auto(fields.at("frame_rate"))
    rate = integer(1, FRAME_RATE_MAX)
    return Settings(
        kind=fields.take("camera", camera_kind, base.kind),
        timezone=fields.take("timezone", timezone, base.timezone),
        labels={**base.labels, **fields.take("labels", labels, {})},
        signed=SignedSettings(
            telemetry=_telemetry(fields, signed.telemetry, problems),
            privacy=_privacy(fields, signed.privacy, problems),
            bounds=_bounds(fields, signed.bounds, problems),
            frame_rate=None if is_auto else fields.take("frame_rate", rate, signed.frame_rate),
        ),
    )


def read_cameras(
    node: Node | None, settings: Settings, problems: Problems
) -> Mapping[int, CameraDeclared]:
    """Return the cameras of a device; without the key it has camera 0."""
    if node is None:
        return {0: CameraDeclared(settings.kind, {})}
    cameras: dict[int, CameraDeclared] = {}
    for key, value in entries(node, problems):
        number = camera_number(key, problems)
        fields = Fields(value, problems, CAMERA)
        if number is not None:
            kind: CameraKind = fields.take("camera", camera_kind, settings.kind)
            cameras[number] = CameraDeclared(kind, fields.take("labels", labels, {}))
    if not cameras and not problems.found:
        problems.expected(node, "at least one camera")
    return cameras


def camera_kind(node: Node, problems: Problems) -> CameraKind | None:
    """Read what drives a camera."""
    read: Reader[CameraKind] = choice("auto", "modlib", "picamera2", "simulated")
    return read(node, problems)


def camera_number(node: Node, problems: Problems) -> int | None:
    """Read the number of a camera."""
    return integer(0, CAMERAS_MAX - 1)(node, problems)


def timezone(node: Node, problems: Problems) -> str | None:
    """Read the name of a time zone that this machine knows."""
    value = text(node, problems)
    if value is None or value in available_timezones():
        return value
    names = tuple(sorted(available_timezones()))
    problems.expected(node, "an IANA time zone, e.g. Europe/Berlin", names=names)
    return None


labels = mapping_of(
    matching(_WORD, "a label's name of a-z, 0-9 and '-'"),
    matching(_WORD, "a label's value of a-z, 0-9 and '-'"),
)


def expand(node: ScalarNode, problems: Problems) -> tuple[str, ...]:
    """Return the names in ``dock-[01:20]``, as in Ansible inventories: both ends belong to it."""
    pieces = _RANGE.split(node.value)
    fixed, ranges = pieces[0::4], [tuple(pieces[i : i + 3]) for i in range(1, len(pieces), 4)]
    if len(ranges) > RANGE_PARTS_MAX:
        problems.expected(node, f"at most {RANGE_PARTS_MAX} ranges in one name")
        return ()
    spans: list[tuple[str, ...]] = []
    size = 1
    for first, last, step in ranges:
        span = _span(first, last, int(step or 1))
        size *= len(span)
        if not span or size > RANGE_MAX:
            problems.expected(node, f"a range that goes up, of 1 to {RANGE_MAX} names")
            return ()
        spans.append(span)
    return tuple(_joined(fixed, chosen) for chosen in product(*spans))


def _span(first: str, last: str, step: int) -> tuple[str, ...]:
    if first.isdigit() != last.isdigit():
        return ()
    if not first.isdigit():
        return tuple(chr(letter) for letter in range(ord(first), ord(last) + 1, step))
    width = len(first) if first.startswith("0") else 0
    if width and len(last) != width:
        return ()
    return tuple(f"{number:0{width}}" for number in range(int(first), int(last) + 1, step))


def _joined(fixed: list[str], chosen: tuple[str, ...]) -> str:
    return "".join(_alternating(fixed, chosen))


def _alternating(fixed: list[str], chosen: tuple[str, ...]) -> Iterator[str]:
    for piece, word in zip(fixed, (*chosen, ""), strict=True):
        yield piece
        yield word


def _is_auto(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.value == "auto"


def _telemetry(fields: Fields, base: TelemetrySettings, problems: Problems) -> TelemetrySettings:
    if "telemetry" not in fields:
        return base
    own = Fields(fields.at("telemetry"), problems, TELEMETRY)
    encodings: tuple[Literal["json", "packed"], ...] = ("json", "packed")
    return TelemetrySettings(
        encoding=own.take("encoding", choice(*encodings), base.encoding),
        rate_hz=own.take("rate_hz", integer(1, RATE_HZ_MAX), base.rate_hz),
        threshold_permille=own.take("threshold", permille, base.threshold_permille),
        home_assistant=own.take("home_assistant", boolean, base.home_assistant),
        events=own.take("events", boolean, base.events),
    )


def _privacy(fields: Fields, base: PrivacySettings, problems: Problems) -> PrivacySettings:
    if "privacy" not in fields:
        return base
    own = Fields(fields.at("privacy"), problems, PRIVACY)
    words: tuple[Literal["off", "on-request"], ...] = ("off", "on-request")
    return PrivacySettings(images=own.take("images", choice(*words), base.images))


def _bounds(fields: Fields, base: Bounds, problems: Problems) -> Bounds:
    if "bounds" not in fields:
        return base
    own = Fields(fields.at("bounds"), problems, BOUNDS)
    return Bounds(
        threshold_permille=own.take("threshold", pair_of(permille), base.threshold_permille),
        rate_hz=own.take("rate_hz", pair_of(integer(1, RATE_HZ_MAX)), base.rate_hz),
    )
