"""The health gate: from what a camera's child says, is the new release healthy? Pure.

In this order (numbers as in the design): 1 ``refusal`` judges the manifest before the old release
is stopped. Then a ``Gate`` watches the start:

    starting --Streaming--> waiting --first valid output--> probing --probe time--> healthy
        | 2 upload in time      | 3 in time, 4 right network   | 5 rate, dnn_ms, stalls
        +-----------------------+------------------------------+--> unhealthy

6 is checked on every valid frame (values), 7 (golden set) at the end of the probe. Whether the
surroundings are to blame is not asked here: the control experiment with the previous release
decides that (agent/deployment.py).

``now`` is the parent's monotonic clock when it handled a message: a parent that is late does not
make a camera late by more than that, and no limit here is shorter than seconds. The rate of valid
outputs is a share of the frames that arrived, not of the frames that a wall clock would expect, so
that a busy machine which skips frames fails nobody; a sensor that really gives too few is seen by
``dnn_ms``, by frames without inference, and by the stall limit. A simulated camera reports as
``dnn_ms`` what its sensor would need, not what the host's processor took, for the same reason.
"""

from dataclasses import dataclass, replace
from enum import Enum

from agent.camera.wire import (
    CameraExited,
    CameraFailed,
    FrameSeen,
    GoldenCompared,
    ImageTaken,
    Message,
    Streaming,
    Uploading,
)
from shared.release import (
    INPUT_PIXELS_MAX,
    INPUT_PIXELS_MIN,
    SENSOR_MEMORY_BYTES,
    Manifest,
)

UPLOAD_SECONDS = 600.0  # Minutes are normal over I2C when the bridge's flash misses the network.
UPLOAD_STALL_SECONDS = 120.0  # Progress that was seen moving and then stands still.
FIRST_VALID_SECONDS = 120.0
STALL_SECONDS = 20.0  # No sensor is slower than 1 frame a second; the rest is a loaded host.
WRONG_NETWORK_FRAMES = 8  # Frames of the old network may be in flight when the new one starts.
SLOW_PERMILLE_MAX = 50  # One late inference is no slow network.
VALID_FRAMES_MIN = 3  # One lucky frame is no proof.


class State(Enum):
    """What is known of a release's health."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate knows; code and text only where it is unhealthy."""

    state: State
    code: str = ""
    text: str = ""


UNKNOWN = Verdict(State.UNKNOWN)
HEALTHY = Verdict(State.HEALTHY)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a healthy release must show.

    Attributes:
        golden_permille_min: Golden objects that must be found again; None: no golden set runs.
    """

    network_name: str
    shapes: tuple[tuple[int, ...], ...]
    frame_rate: float
    probe_seconds: float
    valid_rate_permille: int
    golden_permille_min: int | None = None

    def is_slow(self, dnn_ms: float | None) -> bool:
        """Say whether an inference took no time at all, or longer than one frame."""
        return dnn_ms is not None and not 0 < dnn_ms <= 1000.0 / self.frame_rate


def expected_of(
    manifest: Manifest,
    *,
    kind: str,
    frame_rate: float,
    probe_seconds: float,
    valid_rate: int,
    injects: bool = False,
) -> Expected:
    """Return what a camera of that kind must show for this release.

    Args:
        manifest: The verified manifest.
        kind: A simulated camera always runs the golden set.
        frame_rate: What the sensor is asked for.
        probe_seconds: How long it must run well.
        valid_rate: Permille of frames that must carry an inference.
        injects: A sensor runs it, too, through modlib.
    """
    runs_golden = kind == "simulated" or (kind == "modlib" and injects)
    has_golden = runs_golden and manifest.file("golden") is not None
    tolerance = manifest.golden.tolerance_permille if manifest.golden else 0
    return Expected(
        network_name=manifest.network_name,
        shapes=tuple(proper_shape(output.shape) for output in manifest.outputs),
        frame_rate=frame_rate,
        probe_seconds=probe_seconds,
        valid_rate_permille=valid_rate,
        golden_permille_min=1000 - tolerance if has_golden else None,
    )


def proper_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without sides of one: the sensor leaves out the batch, graphs keep it."""
    return tuple(side for side in shape if side != 1)


def refusal(manifest: Manifest, *, kind: str, labels: int) -> Verdict | None:
    """Return why this release must not even be tried on a camera of that kind, or None.

    Args:
        manifest: The verified manifest.
        kind: The camera's kind.
        labels: How many the release's labels file has.
    """
    width, height = manifest.input.width, manifest.input.height
    if not all(INPUT_PIXELS_MIN <= side <= INPUT_PIXELS_MAX for side in (width, height)):
        return _unhealthy(
            "input_size",
            f"expected sides of {INPUT_PIXELS_MIN} to {INPUT_PIXELS_MAX} px, got {width}x{height}",
        )
    if manifest.memory_bytes > SENSOR_MEMORY_BYTES:
        return _unhealthy(
            "memory",
            f"expected at most {SENSOR_MEMORY_BYTES} bytes on the sensor,"
            f" got {manifest.memory_bytes}",
        )
    if kind == "simulated":
        missing = manifest.file("simulator") is None
    else:
        missing = manifest.file("network") is None and manifest.file("rpk") is None
    if missing:
        return _unhealthy("files", f"the release has no file for a camera of kind {kind}")
    if labels != manifest.labels:
        return _unhealthy("labels", f"expected {manifest.labels} labels, the file has {labels}")
    return None


@dataclass(frozen=True, slots=True)
class Gate:
    """The start of one release on one camera, as far as it has got.

    Attributes:
        started_at: When the child was started.
        uploaded_at: When the camera's start had returned.
        progressed_at: When the upload's progress last moved; None where it is not readable.
        first_valid_at: The first valid output: the probe counts from here.
        frames, valid, slow: Since the first valid output; slow ones are valid, too.
    """

    expected: Expected
    started_at: float
    uploaded_at: float | None = None
    upload_permille: int = 0
    progressed_at: float | None = None
    first_valid_at: float | None = None
    last_valid_at: float | None = None
    frames: int = 0
    valid: int = 0
    slow: int = 0
    wrong_network_frames: int = 0
    golden_permille: int | None = None
    failure: Verdict | None = None

    def observe(self, message: Message | CameraExited, now: float) -> "Gate":
        """Return the gate after a message of the child; the first failure stays."""
        if self.failure is not None or isinstance(message, ImageTaken):
            return self
        match message:
            case Uploading(done_permille=done):
                return self._progressed(done, now)
            case Streaming():
                return replace(self, uploaded_at=now)
            case GoldenCompared(found_permille=found):
                return self._compared(found)
            case CameraFailed(code=code, text=text):
                return self._failed(code, text)
            case CameraExited(returncode=returncode):
                return self._failed("crashed", f"the camera's process ended with {returncode}")
            case FrameSeen():
                return self._saw(message, now)

    def judge(self, now: float) -> Verdict:
        """Return what is known at this moment."""
        if self.failure is not None:
            return self.failure
        if self.uploaded_at is None:
            return self._judge_start(now)
        if self.first_valid_at is None:
            return self._judge_first(self.uploaded_at, now)
        return self._judge_probe(self.first_valid_at, now)

    def probed_seconds(self, now: float) -> float:
        """Return how much of the probe has passed, for the progress that people see."""
        return 0.0 if self.first_valid_at is None else now - self.first_valid_at

    def _compared(self, found: int | None) -> "Gate":
        """Take the golden set's result; where it cannot run, the release is judged without."""
        if found is None:
            return replace(self, expected=replace(self.expected, golden_permille_min=None))
        return replace(self, golden_permille=found)

    def _progressed(self, done: int, now: float) -> "Gate":
        if done <= self.upload_permille:
            return self
        return replace(self, upload_permille=done, progressed_at=now)

    def _saw(self, frame: FrameSeen, now: float) -> "Gate":
        gate = self if self.first_valid_at is None else replace(self, frames=self.frames + 1)
        if not frame.is_valid:
            return gate
        failure = _wrong(frame, self.expected)
        if failure is None:
            return replace(
                gate,
                first_valid_at=now if gate.first_valid_at is None else gate.first_valid_at,
                last_valid_at=now,
                frames=max(gate.frames, 1),
                valid=gate.valid + 1,
                slow=gate.slow + self.expected.is_slow(frame.dnn_ms),
            )
        wrong = gate.wrong_network_frames + (failure.code == "wrong_network")
        may_be_in_flight = gate.first_valid_at is None and wrong < WRONG_NETWORK_FRAMES
        if failure.code == "wrong_network" and may_be_in_flight:
            return replace(gate, wrong_network_frames=wrong)
        return replace(gate, failure=failure)

    def _failed(self, code: str, text: str) -> "Gate":
        return replace(self, failure=_unhealthy(code, text))

    def _judge_start(self, now: float) -> Verdict:
        seconds = now - self.started_at
        if seconds > UPLOAD_SECONDS:
            return _unhealthy(
                "upload_timeout",
                f"the start did not return in {UPLOAD_SECONDS:.0f} s ({self.upload_permille} ‰)",
            )
        if self.progressed_at is not None and now - self.progressed_at > UPLOAD_STALL_SECONDS:
            return _unhealthy(
                "upload_timeout",
                f"the upload stands at {self.upload_permille} ‰"
                f" for {now - self.progressed_at:.0f} s",
            )
        return UNKNOWN

    def _judge_first(self, uploaded_at: float, now: float) -> Verdict:
        if now - uploaded_at <= FIRST_VALID_SECONDS:
            return UNKNOWN
        text = f"no valid output in {FIRST_VALID_SECONDS:.0f} s after the upload"
        return _unhealthy("no_valid_output", text)

    def _judge_probe(self, first_valid_at: float, now: float) -> Verdict:
        assert self.last_valid_at is not None
        if is_stalled(self.last_valid_at, now):
            text = f"no valid output for {now - self.last_valid_at:.0f} s"
            return _unhealthy("stalled", text)
        is_over = now - first_valid_at >= self.expected.probe_seconds
        if not is_over or self.valid < VALID_FRAMES_MIN:
            return UNKNOWN
        rate = 1000 * self.valid // self.frames
        if rate < self.expected.valid_rate_permille:
            return _unhealthy(
                "low_valid_rate",
                f"expected {self.expected.valid_rate_permille} ‰ of the frames with a valid"
                f" output, got {rate} ‰ of {self.frames}",
            )
        if 1000 * self.slow > SLOW_PERMILLE_MAX * self.valid:
            return _unhealthy(
                "slow_dnn",
                f"expected inferences of at most {1000 / self.expected.frame_rate:.1f} ms,"
                f" {self.slow} of {self.valid} took longer",
            )
        return self._judge_golden(first_valid_at, now)

    def _judge_golden(self, first_valid_at: float, now: float) -> Verdict:
        least = self.expected.golden_permille_min
        if least is None:
            return HEALTHY
        if self.golden_permille is None:
            is_late = now - first_valid_at > self.expected.probe_seconds + FIRST_VALID_SECONDS
            return _unhealthy("golden", "the golden set gave no result") if is_late else UNKNOWN
        if self.golden_permille < least:
            text = f"expected {least} ‰ of the golden objects, found {self.golden_permille} ‰"
            return _unhealthy("golden", text)
        return HEALTHY


def is_proven(frame: FrameSeen, expected: Expected) -> bool:
    """Say whether a frame is a valid output: a fresh inference of the right network, sane."""
    return frame.is_valid and _wrong(frame, expected) is None


def is_stalled(last_valid_at: float, now: float, *, seconds: float = STALL_SECONDS) -> bool:
    """Say whether a stream that gave its last valid output then has stalled by now."""
    return now - last_valid_at > seconds


def _wrong(frame: FrameSeen, expected: Expected) -> Verdict | None:
    """Return what is wrong with a fresh inference: first whose it is, then what it says."""
    if frame.network_name != expected.network_name:
        return _unhealthy(
            "wrong_network",
            f"expected network {expected.network_name}, the camera runs"
            f" {frame.network_name[:80] or 'one without a name'}",
        )
    shapes = tuple(proper_shape(shape) for shape in frame.shapes)
    if shapes != expected.shapes:
        return _unhealthy("wrong_shapes", f"expected outputs {expected.shapes}, got {shapes}")
    if frame.problems:
        return _unhealthy("bad_values", f"frame {frame.frame}: {', '.join(frame.problems)}")
    return None


def _unhealthy(code: str, text: str) -> Verdict:
    return Verdict(State.UNHEALTHY, code, text)
