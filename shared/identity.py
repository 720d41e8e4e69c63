"""What the controller signs about one device: labels, cameras, settings and their bounds. Pure."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from shared.assignment import Camera
from shared.messages import SignedDocument

PAYLOAD_TYPE = "application/vnd.imxfleet.identity+json"


class CameraIdentity(SignedDocument, frozen=True, kw_only=True):
    """One camera of the device; ``kind``: auto, modlib, picamera2 or simulated."""

    kind: Literal["auto", "modlib", "picamera2", "simulated"]
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class TelemetrySettings(SignedDocument, frozen=True, kw_only=True):
    """How much the device sends: messages a second a camera, lowest score in permille."""

    encoding: Literal["json", "packed"] = "json"
    rate_hz: int = 5
    threshold_permille: int = 500
    home_assistant: bool = False


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
