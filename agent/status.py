"""What an agent last said of itself, kept in its state for `fleet-agent status` and `doctor`.

The file is a note, not a fact to recover from: it is written whole but not flushed to the SD card,
never in the way of the loop, and says nothing about whether the agent still runs. Its lock does.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

import msgspec

from shared.card import Card
from shared.errors import FleetError
from shared.files import read_bounded
from shared.limits import REPORTED_BYTES
from shared.messages import CameraReported, ErrorText, Reported

NOTE_BYTES = 2 * REPORTED_BYTES  # A report and a few words.
_NAME = "status.json"
_LOCK = "lock"


class BrokerNote(msgspec.Struct, frozen=True, kw_only=True):
    """How the connection is; ``text`` says why there is none."""

    is_connected: bool = False
    since: str = ""
    text: str = ""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent last said.

    Attributes:
        pid: Of the parent.
        children: Processes that run a camera, by its number.
    """

    pid: int
    broker: BrokerNote
    children: dict[str, int]
    reported: Reported


class Exit(IntEnum):
    """How `fleet-agent status` ends; 3 is what other services' `status` say, too."""

    WELL = 0
    ERROR = 1
    NOT_RUNNING = 3
    NOT_WELL = 4


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one agent, as ``-o json`` shows it."""

    v: int = 1
    device: str
    fleet: str
    broker_url: str
    is_running: bool
    is_well: bool
    problems: tuple[str, ...]
    note: Note | None


def write_note(state: Path, note: Note) -> None:
    """Replace the note; a disk that is full or read-only leaves the old one."""
    part = state / f"{_NAME}.part"
    with suppress(OSError):
        part.write_bytes(msgspec.json.encode(note))
        part.replace(state / _NAME)


def read_note(state: Path) -> Note | None:
    """Return the last note; None where there is none that can be read."""
    try:
        data = read_bounded(state / _NAME, NOTE_BYTES)
        return None if data is None else msgspec.json.decode(data, type=Note)
    except (FleetError, msgspec.DecodeError):
        return None


def is_running(state: Path) -> bool:
    """Say whether an agent holds this state."""
    try:
        descriptor = os.open(state / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def judge(card: Card, note: Note | None, *, is_running: bool) -> Status:
    """Return what is known, and what of it is not as it should be."""
    problems = () if note is None or not is_running else tuple(_problems(note))
    return Status(
        device=card.device,
        fleet=card.fleet,
        broker_url=card.broker.url,
        is_running=is_running,
        is_well=is_running and note is not None and not problems,
        problems=problems,
        note=note,
    )


def exit_of(status: Status) -> Exit:
    """Return the exit code that says it."""
    if not status.is_running:
        return Exit.NOT_RUNNING
    return Exit.WELL if status.is_well else Exit.NOT_WELL


def lines(status: Status) -> Iterator[str]:
    """Say it in plain words."""
    state = "running" if status.is_running else "not running"
    yield f"{status.device} of {status.fleet}: {state}"
    note = status.note
    if note is None:
        yield "  it has said nothing yet"
        return
    reported = note.reported
    when = "" if status.is_running else f"; this is what it said at {reported.at}"
    yield f"  run       {reported.run}, agent {reported.agent_version}{when}"
    yield f"  broker    {status.broker_url}: {_broker(note.broker)}"
    yield f"  clock     {reported.clock}"
    yield f"  plan      {_plan(reported)}"
    yield f"  identity  version {reported.identity_version}"
    for number, camera in reported.cameras.items():
        yield f"  camera {number}  {_camera(camera)}"
    for error in _errors(reported):
        yield f"  refused   {error.code}: {error.text}"
    for problem in status.problems:
        yield f"  NOT WELL  {problem}"


def _problems(note: Note) -> Iterator[str]:
    reported = note.reported
    if not note.broker.is_connected:
        yield f"no connection to the broker ({note.broker.text or 'not yet'})"
    if reported.clock != "synced":
        yield "the clock is not synchronised: nothing new is taken"
    if not reported.identity_version:
        yield "no identity yet: the controller has not published this device's"
    for number, camera in reported.cameras.items():
        yield from _camera_problems(number, camera)


def _camera_problems(number: str, camera: CameraReported) -> Iterator[str]:
    if camera.state == "needs_reboot":
        yield f"camera {number} needs a reboot: {camera.starts} starts in this boot"
    elif camera.state in {"missing", "stalled"}:
        yield f"camera {number} is {camera.state}"
    elif camera.state == "off" and camera.release is not None:
        yield f"camera {number} is off, although it was given {camera.release}"
    deployment = camera.deployment
    if deployment is not None and deployment.phase == "broken":
        yield f"camera {number} is broken: nothing runs on it"


def _broker(broker: BrokerNote) -> str:
    if broker.is_connected:
        return f"connected since {broker.since}"
    return f"not connected ({broker.text or 'not yet'})"


def _plan(reported: Reported) -> str:
    if not reported.plan_version:
        return "none yet"
    until = "" if reported.trust is None else f", trusted until {reported.trust.expires}"
    return f"version {reported.plan_version}{until}"


def _camera(camera: CameraReported) -> str:
    words = f"{camera.kind}, {camera.state}, {camera.release or 'no release'}"
    if camera.previous:
        words += f", before it {camera.previous}"
    words += f", {camera.starts} starts since boot"
    deployment = camera.deployment
    if deployment is None:
        return words
    words += f"; {deployment.rollout}/{deployment.attempt}: {deployment.phase}"
    if deployment.waiting_for:
        words += f", waiting for {deployment.waiting_for}"
    if deployment.cause:
        words += f", cause {deployment.cause}"
    if deployment.error:
        words += f" ({deployment.error.text})"
    return words


def _errors(reported: Reported) -> Iterator[ErrorText]:
    refused = reported.refused
    for error in (refused.trust, refused.identity, refused.message):
        if error is not None:
            yield error
