"""Watch over one camera that runs: recovery ladder, start budget, back-off, boot loops. Pure.

    steady --stall--> restart the stream --stall--> restart the child --stall--> exhausted
       ^                                                                            |
       +---------- ``STEADY_SECONDS`` of valid outputs ---------------+      deployment.Failed

The last rung, a reboot once a day, belongs to ``agent/deployment.py``: what it may do has to
survive the reboot. Times are seconds of the parent's monotonic clock, and are forgotten with it:
``begun`` says what of a watch a new run of the agent may believe.
"""

from dataclasses import dataclass, replace
from enum import Enum

STEADY_SECONDS = 600.0  # Streams stall after minutes (libcamera #355): less is no recovery.
STARTS_PER_BOOT_MAX = 15  # The bridge is reported to die after 20 to 25 starts (linux #7613).
STARTS_RESERVED = 5  # For roll-backs: a new release must not eat the way back.
BACK_OFF_SECONDS_MIN = 60.0
BACK_OFF_SECONDS_MAX = 3600.0
BOOT_LOOP_SECONDS = 600.0  # A hang later than that is not blamed on the start.
BOOT_LOOP_RUNS = 3
REBOOT_SECONDS_MIN = 86_400.0  # One reboot of our own a day; control experiments need theirs.


class Rung(Enum):
    """What to do about a stall."""

    RESTART_STREAM = "restart_stream"
    RESTART_CHILD = "restart_child"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of a camera's troubles; written with the journal.

    Attributes:
        rung: How many rungs of the ladder have been climbed.
        climbed_at: When the last one was.
        failures: Starts in a row that failed while nothing ran.
        due_at: When the next one may be made; None: at once.
        hung: Manifest of the release that was started shortly before the last unclean end.
        hangs: Runs in a row that ended so.
        survived: Manifest of the release that was last above suspicion.
    """

    rung: int = 0
    climbed_at: float = 0.0
    failures: int = 0
    due_at: float | None = None
    hung: str = ""
    hangs: int = 0
    survived: str = ""


@dataclass(frozen=True, slots=True)
class LastRun:
    """How the agent's last run ended.

    Attributes:
        is_clean: It was stopped on purpose, or asked for the reboot itself.
        manifest_sha256: The release that this camera started last in it, or "".
        seconds: How long after that start the run's last sign of life was.
    """

    is_clean: bool
    manifest_sha256: str = ""
    seconds: float = 0.0


def begun(watch: Watch, last: LastRun, now: float) -> Watch:
    """Return the watch of a new run: hangs counted, the back-off waited for anew."""
    due_at = now + back_off_seconds(watch.failures) if watch.failures else None
    fresh = replace(watch, rung=0, climbed_at=0.0, due_at=due_at)
    is_suspect = bool(last.manifest_sha256) and last.seconds <= BOOT_LOOP_SECONDS
    if last.is_clean or not is_suspect:
        return replace(fresh, hung="", hangs=0)
    hangs = watch.hangs + 1 if watch.hung == last.manifest_sha256 else 1
    return replace(fresh, hung=last.manifest_sha256, hangs=hangs)


def is_boot_loop(watch: Watch, manifest_sha256: str) -> bool:
    """Say whether this release hung the device too often, each time soon after its start.

    A hang takes all cameras of a device down. A release that has run here for long before has one
    run more, so that a newer one, on another camera, is left first; that ends the hangs, or not.
    """
    runs = BOOT_LOOP_RUNS + (watch.survived == manifest_sha256)
    return watch.hung == manifest_sha256 and watch.hangs >= runs


def forgiven(watch: Watch, manifest_sha256: str) -> Watch:
    """Return the watch of a camera whose release has survived its start."""
    return replace(watch, hung="", hangs=0, survived=manifest_sha256)


def stalled(watch: Watch, now: float, *, starts: int) -> tuple[Watch, Rung]:
    """Return the next rung; without starts left in this boot, there is none."""
    rung = 0 if is_steady(watch, now) else watch.rung
    if rung >= _RESTARTS or not may_start_at_all(starts):
        return replace(watch, rung=0, climbed_at=now), Rung.EXHAUSTED
    climbed = replace(watch, rung=rung + 1, climbed_at=now)
    return climbed, (Rung.RESTART_STREAM, Rung.RESTART_CHILD)[rung]


def is_steady(watch: Watch, now: float) -> bool:
    """Say whether the last stall was so long ago that the ladder starts at the bottom."""
    return watch.rung > 0 and now - watch.climbed_at >= STEADY_SECONDS


def start_failed(watch: Watch, now: float) -> Watch:
    """Return the watch after a start failed while nothing ran: the next one waits longer."""
    failures = watch.failures + 1
    return replace(watch, failures=failures, due_at=now + back_off_seconds(failures))


def broke(watch: Watch, now: float) -> Watch:
    """Return the watch of a camera on which nothing runs any more."""
    return replace(watch, failures=0, due_at=now + BACK_OFF_SECONDS_MIN)


def runs(watch: Watch) -> Watch:
    """Return the watch after a gate was passed."""
    return replace(watch, failures=0, due_at=None)


def is_due(watch: Watch, now: float) -> bool:
    """Say whether the committed release may be tried again on a broken camera."""
    return watch.due_at is None or now >= watch.due_at


def back_off_seconds(failures: int) -> float:
    """Return the wait after so many failed starts in a row: 1 min, doubling to 1 h."""
    doublings = min(failures, _DOUBLINGS_MAX)
    return min(BACK_OFF_SECONDS_MIN * 2.0**doublings, BACK_OFF_SECONDS_MAX)


def has_starts_left(starts: int) -> bool:
    """Say whether a new deployment may still start the camera in this boot."""
    return starts < STARTS_PER_BOOT_MAX


def may_start_at_all(starts: int) -> bool:
    """Say whether recovery and roll-back may still start it."""
    return starts < STARTS_PER_BOOT_MAX + STARTS_RESERVED


def may_reboot(seconds_since_reboot: float | None) -> bool:
    """Say whether the reboot of this day is not spent; None: there was none, ever."""
    return seconds_since_reboot is None or seconds_since_reboot >= REBOOT_SECONDS_MIN


_RESTARTS = 2
_DOUBLINGS_MAX = 6  # 64 minutes are more than the hour.
