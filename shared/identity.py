"""What the controller signs about one device: labels, cameras, settings and their bounds. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from shared.assignment import Camera
from shared.errors import MalformedError
from shared.limits import CAMERAS_MAX, RATE_HZ_MAX
from shared.messages import SignedDocument, parse_time
from shared.topics import checked_name

PAYLOAD_TYPE = "application/vnd.imxfleet.identity+json"
FRAME_RATE_MAX = 120  # Frames a second; no mode of the sensor is faster.
LABELS_PER_OBJECT_MAX = 64  # Of a device or a camera; an identity is at most 8 KiB.
VERSION_MAX = 2**53  # What every JSON reader can hold.
_WORD = re.compile(r"[a-z0-9-]{1,64}")  # As in a selector: what it cannot name is no label.
_CAMERA = re.compile(r"0|[1-9][0-9]?")
_TIMEZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")


class CameraIdentity(SignedDocument, frozen=True, kw_only=True):
    """One camera of the device; ``kind``: auto, modlib, picamera2 or simulated."""

    kind: Literal["auto", "modlib", "picamera2", "simulated"]
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class TelemetrySettings(SignedDocument, frozen=True, kw_only=True):
    """How much the device sends: messages a second a camera, lowest score in permille.

    Attributes:
        events: Follow objects and tell when they enter, dwell and leave; from the camera's next
            start on.
    """

    encoding: Literal["json", "packed"] = "json"
    rate_hz: int = 5
    threshold_permille: int = 500
    home_assistant: bool = False
    events: bool = False


class PrivacySettings(SignedDocument, frozen=True, kw_only=True):
    """Whether an image may leave the device."""

    images: Literal["off", "on-request"] = "off"


class Bounds(SignedDocument, frozen=True, kw_only=True):
    """How far a request may move a setting at run time; None: not at all."""

    threshold_permille: tuple[int, int] | None = None
    rate_hz: tuple[int, int] | None = None


class Settings(SignedDocument, frozen=True, kw_only=True):
    """Signed settings; ``frame_rate`` None means what the manifest says."""

    telemetry: TelemetrySettings = TelemetrySettings()
    privacy: PrivacySettings = PrivacySettings()
    frame_rate: int | None = None
    bounds: Bounds = Bounds()


class Identity(SignedDocument, frozen=True, kw_only=True):
    """The signed labels, cameras and settings of one device; higher versions replace lower ones."""

    v: Literal[1] = 1
    fleet: str
    device: str
    version: int
    at: str
    timezone: str
    labels: dict[str, str]
    cameras: dict[str, CameraIdentity]
    settings: Settings = Settings()


def labels_of(labels: Mapping[str, str], own: Mapping[str, str], number: int) -> dict[str, str]:
    """Return what a selector sees: device labels, camera labels, then ``camera``; later wins."""
    return {**labels, **own, "camera": str(number)}


def camera_of(identity: Identity, number: int) -> Camera:
    """Return a camera as the rules of assignment see it, before anything runs on it."""
    own = identity.cameras[str(number)]
    return Camera(identity.device, number, labels_of(identity.labels, own.labels, number))


def check_identity(identity: Identity) -> None:
    """See that an identity is one that an agent can act on; both sides ask this.

    Raises:
        MalformedError: A name, label or setting is out of its bounds.
    """
    checked_name(identity.fleet)
    checked_name(identity.device)
    parse_time(identity.at)
    _expect(1 <= identity.version <= VERSION_MAX, "a positive version")
    _expect(_TIMEZONE.fullmatch(identity.timezone) is not None, "a time zone like Europe/Berlin")
    _expect(1 <= len(identity.cameras) <= CAMERAS_MAX, f"1 to {CAMERAS_MAX} cameras")
    _expect(all(map(_CAMERA.fullmatch, identity.cameras)), "cameras by number")
    for labels in (identity.labels, *(camera.labels for camera in identity.cameras.values())):
        _check_labels(labels)
    _check_settings(identity.settings)


def _check_labels(labels: Mapping[str, str]) -> None:
    words: Iterable[str] = (word for pair in labels.items() for word in pair)
    _expect(len(labels) <= LABELS_PER_OBJECT_MAX, f"at most {LABELS_PER_OBJECT_MAX} labels")
    _expect(all(map(_WORD.fullmatch, words)), "labels of a-z, 0-9 and '-'")


def _check_settings(settings: Settings) -> None:
    telemetry, bounds, frame_rate = settings.telemetry, settings.bounds, settings.frame_rate
    _check_range((telemetry.rate_hz, telemetry.rate_hz), 1, RATE_HZ_MAX, "rate_hz")
    threshold = (telemetry.threshold_permille, telemetry.threshold_permille)
    _check_range(threshold, 0, 1000, "threshold_permille")
    _check_range(bounds.rate_hz, 1, RATE_HZ_MAX, "bounds.rate_hz")
    _check_range(bounds.threshold_permille, 0, 1000, "bounds.threshold_permille")
    _expect(frame_rate is None or 1 <= frame_rate <= FRAME_RATE_MAX, "a frame rate of 1 to 120")


def _check_range(span: tuple[int, int] | None, low: int, high: int, what: str) -> None:
    is_inside = span is None or low <= span[0] <= span[1] <= high
    _expect(is_inside, f"{what} between {low} and {high}, the lower one first")


def _expect(is_so: bool, what: str) -> None:  # noqa: FBT001
    if not is_so:
        raise MalformedError(f"identity: expected {what}")
