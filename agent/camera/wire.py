"""What parent and child say to each other about one camera: types and framing.

The job goes to the child once, before it starts. Then the child talks and the parent listens:
length-prefixed JSON, every message bounded, an unknown one an error. The parent has two words: a
line on the child's standard input asks for an image, and its end means "stop"; the parent's own
death says the same.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from shared.detections import Class, Object
from shared.errors import LimitError, MalformedError
from shared.limits import MANIFEST_BYTES

# 300 objects are 110 KB with the longest names; keypoints and masks may double a message's 64 KiB.
# An image of 256 KiB takes 342 KiB here.
MESSAGE_BYTES_MAX = 512 * 1024
JOB_BYTES_MAX = 2 * MANIFEST_BYTES + 65_536  # The manifest as base64, paths and faults.
_LENGTH = struct.Struct(">I")

Kind = Literal["simulated", "modlib", "picamera2"]
FaultKind = Literal[
    "slow_upload",  # `value` seconds before the stream starts.
    "failed_start",
    "busy",  # EBUSY: somebody else holds the camera.
    "dead_bridge",  # Starts fail once `value` starts have been made since boot.
    "hang",  # The driver never returns and the child does not even stop when asked.
    "crash",  # The child dies.
    "no_valid_output",  # Frames come, inferences do not.
    "low_rate",  # Only `value` permille of the frames carry an inference.
    "stall",  # No frame any more.
    "wrong_name",
    "wrong_shapes",
    "not_finite",
    "class_out_of_range",
    "too_many",  # More objects than there are rows.
    "slow_dnn",  # The network takes `value` times its frame's time.
    "stale_output",  # Frames repeat one inference.
    "hang_in_stop",  # A polite stop never returns.
    "no_injection",  # The kernel knows no injection of images.
    "injection_busy",  # The first `value` images are refused.
    "closed_debugfs",  # The progress of an upload may not be read, as by a service.
]


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that a simulated camera or a twin does wrong.

    Attributes:
        release: Only with this release (``name@version``); None: with any.
        after_seconds: Only that long after the start of the stream.
        value: What it means stands at the kind.
    """

    kind: FaultKind
    release: str | None = None
    after_seconds: float = 0.0
    value: float = 0.0


class Simulation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a simulated camera looks at, and what goes wrong with it.

    Attributes:
        scene: ``shapes``, ``folder:<path>`` of images, or ``video:<path>``.
        seed: Which of the drawn scenes.
        twin: A camera of kind modlib or picamera2 gets a sensor of software (agent/camera/twin)
            below the real library.
    """

    scene: str = "shapes"
    seed: int = 0
    twin: bool = False
    faults: tuple[Fault, ...] = ()


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One release on one camera, from start to stop: all that the child needs to know.

    Attributes:
        folder: Where the release is staged, each file under its name in the manifest.
        manifest: The bytes that the parent verified.
        frame_rate: Frames a second that the sensor is asked for.
        threshold_permille: The lowest score that the child passes on.
        starts: Camera starts since boot before this one; the child cannot count them itself.
        rpk: The network as packaged on this device (agent/camera/packer.py), or as it came in the
            release; a simulated camera needs none.
        injects: The golden set goes through the sensor first, in a stream and a start of its own.
        track_permille: Follow objects from one frame to the next; what scores less begins no track.
    """

    camera: int
    kind: Kind
    folder: str
    manifest: bytes
    frame_rate: float
    threshold_permille: int
    simulation: Simulation = Simulation()
    starts: int = 0
    rpk: str | None = None
    injects: bool = False
    track_permille: int | None = None


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """A message of the child."""


class Uploading(_Message, frozen=True, kw_only=True):
    """The network is on its way into the sensor."""

    done_permille: int


class Streaming(_Message, frozen=True, kw_only=True):
    """The camera's start returned: the upload is complete and frames will come."""


class GoldenCompared(_Message, frozen=True, kw_only=True):
    """The golden set ran: so many of its objects were found again; None: it cannot run here."""

    found_permille: int | None


class _Frame(_Message, frozen=True, kw_only=True):
    """One frame.

    Attributes:
        frame: Frames since the camera's start, never wrapping; the sensor's count, so that frames
            which nobody fetched leave a gap.
        at: Capture time, seconds since 1970.
        is_valid: It carries a fresh inference; otherwise nothing below is set.
        network_name: What the sensor says runs; empty where it does not say.
        shapes: Of the output tensors.
        problems: What is wrong with the values: words of shared/decode.
        classes: For classify, best first.
        tracks: The number of each object's track, 0 for none; None: nobody asked for them.
        decode_us: Microseconds from output tensors to this message.
    """

    frame: int
    at: float
    is_valid: bool
    network_name: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()
    dnn_ms: float | None = None
    dsp_ms: float | None = None
    problems: tuple[str, ...] = ()
    classes: tuple[Class, ...] | None = None
    tracks: tuple[int, ...] | None = None
    decode_us: int = 0


class FrameSeen(_Frame, frozen=True, kw_only=True):
    """A frame as the parent reads it.

    Attributes:
        objects: For detect, pose and segment, best first; None for classify.
    """

    objects: tuple[Object, ...] | None = None


class FrameText(_Frame, frozen=True, kw_only=True, tag="FrameSeen"):
    """A frame as the child writes it: its decoder makes text, because objects take it too long."""

    objects: msgspec.Raw | None = None


class ImageTaken(_Message, frozen=True, kw_only=True):
    """What a frame showed, with what was found drawn into it; no bytes: it cannot be had."""

    jpeg: bytes
    text: str = ""


class CameraFailed(_Message, frozen=True, kw_only=True):
    """The camera cannot go on; the child ends after this.

    Codes: ``missing``, ``busy``, ``start_failed``, ``release`` (a file of the release is no good),
    ``unavailable`` (a library is not installed), ``crashed``, ``protocol``.
    """

    code: str
    text: str


Message = Uploading | Streaming | GoldenCompared | FrameSeen | ImageTaken | CameraFailed


@dataclass(frozen=True, slots=True)
class FromCamera:
    """What a child said, as it lies in the inbox; ``token`` tells one child from the next."""

    camera: int
    token: int
    message: Message


@dataclass(frozen=True, slots=True)
class CameraExited:
    """A child is gone; the last that is heard of this token."""

    camera: int
    token: int
    returncode: int


def frame_message(message: Message | FrameText) -> bytes:
    """Return a message as it goes through the pipe."""
    data = msgspec.json.encode(message)
    if len(data) > MESSAGE_BYTES_MAX:
        raise LimitError(f"expected at most {MESSAGE_BYTES_MAX} bytes, got {len(data)}")
    return _LENGTH.pack(len(data)) + data


def read_message(read: Callable[[int], bytes]) -> Message | None:
    """Return the next message, or None at the end of the pipe.

    Args:
        read: Returns exactly that many bytes, fewer only at the end.

    Raises:
        MalformedError: It is not a message, or the pipe ends inside one.
        LimitError: It is too long; it was not read.
    """
    head = read(_LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise MalformedError("the pipe ends inside a length")
    (length,) = _LENGTH.unpack(head)
    if length > MESSAGE_BYTES_MAX:
        raise LimitError(f"expected at most {MESSAGE_BYTES_MAX} bytes, got {length}")
    data = read(length)
    if len(data) < length:
        raise MalformedError(f"expected {length} bytes, the pipe ends after {len(data)}")
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"not a message of a camera: {error}") from error


def image_word(threshold_permille: int) -> bytes:
    """Return the line that asks a child for an image with what scores so much or more."""
    return b"%d\n" % threshold_permille


def encode_job(job: Job) -> bytes:
    """Return a job as the child reads it."""
    data = msgspec.json.encode(job)
    if len(data) > JOB_BYTES_MAX:
        raise LimitError(f"expected a job of at most {JOB_BYTES_MAX} bytes, got {len(data)}")
    return data


def decode_job(data: bytes) -> Job:
    """Return the job in ``data``, which our own parent wrote.

    Raises:
        MalformedError: It is not one.
    """
    try:
        return msgspec.json.decode(data, type=Job)
    except msgspec.DecodeError as error:
        raise MalformedError(f"not a job: {error}") from error


_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
