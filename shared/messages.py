"""Wire documents: types, and strict, bounded encoding and decoding (docs/protocol.md).

Unsigned documents ignore unknown fields; signed ones (``Signed...``) refuse them, because an old
agent that ignored ``hold`` or ``deny`` would do harm. Length is checked before anything is parsed.
"""

import re
from datetime import UTC, datetime
from threading import Lock
from typing import Any, Literal, TypeVar

import msgspec

from shared.errors import LimitError, MalformedError, RefusedError, UnsupportedError
from shared.limits import TEXT_CHARACTERS_MAX

_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
)


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """An unsigned document: unknown fields are ignored."""

    v: Literal[1] = 1


class SignedDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signed document: an unknown field refuses the whole."""


class Progress(msgspec.Struct, frozen=True):
    """How far a phase is. ``unit``: blocks (fetching), permille (upload), seconds (probing)."""

    done: int
    total: int
    unit: Literal["blocks", "permille", "seconds"]


class ErrorText(msgspec.Struct, frozen=True):
    """A short word for machines and a sentence for people."""

    code: str
    text: str


class EntryRefused(msgspec.Struct, frozen=True):
    """An entry of the plan that this device does not follow, and why."""

    rollout: str
    code: str
    text: str


class Quantiles(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p95: float


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What one release did on one camera, counted since its first valid output.

    Attributes:
        score_histogram: Objects by score in ten steps of 0.1.
        golden_permille: Golden objects found again, or None where no golden set ran.
    """

    release: str
    seconds: int
    frames: int
    valid: int
    objects: int
    score_histogram: tuple[int, ...]
    dnn_ms: Quantiles | None = None
    golden_permille: int | None = None
    restarts: int = 0


class EvidencePair(msgspec.Struct, frozen=True, kw_only=True):
    """Of the release that runs, of its last hour, and of the last hour of the one before it."""

    running: Evidence | None = None
    hour: Evidence | None = None
    before: Evidence | None = None


Phase = Literal[
    "idle", "fetching", "verifying", "staging", "waiting", "activating", "probing", "committed",
    "rolling_back", "rolled_back", "rejected", "broken",
]  # fmt: skip
Cause = Literal[
    "release", "camera", "transport", "disk", "trust", "interrupted", "operator", "unknown"
]
WaitingFor = Literal["clock", "requires", "blocks", "disk", "hold", "window", "turn", "reboot"]
CameraState = Literal["off", "starting", "streaming", "stalled", "missing", "needs_reboot"]


class DeploymentReported(msgspec.Struct, frozen=True, kw_only=True):
    """The deployment that is under way on a camera, or the last one."""

    rollout: str
    attempt: int
    manifest_sha256: str
    phase: Phase
    since: str
    waiting_for: WaitingFor | None = None
    progress: Progress | None = None
    missing_blocks: tuple[str, ...] = ()
    cause: Cause | None = None
    error: ErrorText | None = None


class EndReported(msgspec.Struct, frozen=True, kw_only=True):
    """How one (rollout, attempt) of the plan ended on a camera."""

    rollout: str
    attempt: int
    phase: Literal["committed", "rolled_back", "rejected", "broken"]
    cause: Cause | None = None


class CameraReported(msgspec.Struct, frozen=True, kw_only=True):
    """One camera, as its device reports it. Releases are written ``name@version``."""

    kind: str
    state: CameraState
    kind_reason: str | None = None  # Why this kind, where the identity says `auto`.
    release: str | None = None
    manifest_sha256: str | None = None
    previous: str | None = None
    starts: int = 0
    deployment: DeploymentReported | None = None
    ended: tuple[EndReported, ...] = ()
    owners: tuple[tuple[str, int], ...] = ()  # Tries that what runs belongs to: `keep` needs them.
    is_settled: bool = False  # Nothing under way, and nothing more to do for plan_version.
    evidence: EvidencePair = EvidencePair()


class TrustReported(msgspec.Struct, frozen=True):
    """When the accepted bundle expires."""

    expires: str


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """What the device refused last, by what it was."""

    trust: ErrorText | None = None
    identity: ErrorText | None = None
    message: ErrorText | None = None  # Anything else that came malformed: a request, a block.
    entries: tuple[EntryRefused, ...] = ()


class Reported(Document, frozen=True, kw_only=True):
    """All that the controller decides on. Order is (n of ``run``, ``seq``) within one install."""

    at: str
    clock: Literal["synced", "unsynced"]
    boot: str
    run: str
    seq: int
    agent_version: str
    plan_version: int
    plan_sha256: str | None
    identity_version: int
    serial: str | None = None
    trust: TrustReported | None = None
    refused: Refused = Refused()
    settings: dict[str, str | int | float | None] = {}
    overrides: tuple[dict[str, str | int | None], ...] = ()
    cameras: dict[str, CameraReported] = {}


class Counts(Document, frozen=True, kw_only=True):
    """Objects per class, zeros included; for classify ``top`` instead of counts."""

    at: str
    release: str
    total: int
    counts: dict[str, int]
    top: dict[str, str | float] | None = None


Happening = Literal["enter", "dwell", "leave"]


class TrackEvent(Document, frozen=True, kw_only=True):
    """What happened to a tracked object; ``dwell_ms``: how long it was seen until then."""

    at: str
    release: str
    event: Happening
    track: int
    label: str
    class_: int = msgspec.field(name="class")
    dwell_ms: int


class CameraHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Rates per second and milliseconds of one camera; dps = detections published a second."""

    fps: float
    dps: float
    dnn_ms: float | None
    dsp_ms: float | None
    dropped: int


class Health(Document, frozen=True, kw_only=True):
    """For people and graphs; the controller decides nothing on it."""

    at: str
    run: str
    temperature_c: float | None
    throttled: bool | None
    under_voltage: bool | None
    memory_bytes: int
    cameras: dict[str, CameraHealth]


class Request(Document, frozen=True, kw_only=True):
    """What an operator asks of a device; ``expires`` is at most 60 s after ``at``."""

    id: str
    at: str
    expires: str
    camera: int = 0
    threshold_permille: int | None = None
    rate_hz: int | None = None
    until: str | None = None


class Response(Document, frozen=True, kw_only=True):
    """The answer to a request; published before its effect."""

    id: str
    status: Literal["ok", "error"]
    data: dict[str, str | int | float | None] | None = None
    error: ErrorText | None = None


class WaveReported(msgspec.Struct, frozen=True, kw_only=True):
    """One wave: devices by state, and its verdict with the numbers in words."""

    devices: dict[str, int]
    verdict: str | None = None
    evidence: str | None = None


class FailedDevice(msgspec.Struct, frozen=True):
    """A device where the rollout ended badly."""

    device: str
    cause: str
    text: str


class RolloutReported(Document, frozen=True, kw_only=True):
    """State of one rollout, for dashboards."""

    at: str
    rollout: str
    release: str
    state: str
    reason: str | None
    wave: int
    waves: tuple[WaveReported, ...]
    failed: tuple[FailedDevice, ...] = ()


DocumentType = TypeVar("DocumentType")
_building = Lock()
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def encode(document: msgspec.Struct, *, bytes_max: int) -> bytes:
    """Return the document as JSON.

    Raises:
        LimitError: It does not fit.
    """
    data = msgspec.json.encode(document)
    if len(data) > bytes_max:
        raise LimitError(
            f"expected at most {bytes_max} bytes of {type(document).__name__}, got {len(data)}"
        )
    return data


def decoder_of(kind: type[DocumentType]) -> msgspec.json.Decoder[DocumentType]:
    """Return the one decoder of a kind of document, from any thread.

    msgspec (0.22.0) ends the process with a segmentation fault when two threads meet a kind for the
    first time at once: it shows the other thread what is half built.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        with _building:
            decoder = _decoders.setdefault(kind, msgspec.json.Decoder(kind, strict=True))
    return decoder


def decode(data: bytes, kind: type[DocumentType], *, bytes_max: int) -> DocumentType:
    """Return the document in ``data``.

    Raises:
        LimitError: It is longer than ``bytes_max``; nothing was parsed.
        UnsupportedError: A signed document has a field that this version does not know.
        MalformedError: It is not JSON of this kind.
    """
    if len(data) > bytes_max:
        raise LimitError(f"expected at most {bytes_max} bytes of {kind.__name__}, got {len(data)}")
    try:
        return decoder_of(kind).decode(data)
    except msgspec.ValidationError as error:
        raise _refusal(kind.__name__, error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"{kind.__name__}: {error}") from error


def convert(plain: object, kind: type[DocumentType], name: str) -> DocumentType:
    """Return the document in plain values that were parsed, and verified, elsewhere.

    Raises:
        UnsupportedError: It has a field that this version does not know.
        MalformedError: It is not of this kind.
    """
    decoder_of(kind)  # What msgspec knows of the kind is there from here on.
    try:
        return msgspec.convert(plain, type=kind, strict=True)
    except msgspec.ValidationError as error:
        raise _refusal(name, error) from error


def _refusal(name: str, error: msgspec.ValidationError) -> RefusedError:
    """Return what a mismatch means: only signed documents refuse a field for being unknown."""
    text = f"{name}: {error}"[:TEXT_CHARACTERS_MAX]
    return UnsupportedError(text) if "unknown field" in text else MalformedError(text)


def time_text(at: datetime) -> str:
    """Return an aware time as RFC 3339 UTC with milliseconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"


def parse_time(text: str) -> datetime:
    """Return the aware UTC time in ``text``.

    Raises:
        MalformedError: It is not RFC 3339 with a zone.
    """
    if _TIME.fullmatch(text) is None:  # fromisoformat takes much more: weeks, no seconds.
        raise MalformedError(f"expected an RFC 3339 time with a zone, got {text[:40]!r}")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:  # No such day, or a zone beyond year 1 or 9999.
        raise MalformedError(f"expected an RFC 3339 time, got {text[:40]!r}") from error
