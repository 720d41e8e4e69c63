"""Walk a person through ``agent.hardware``'s steps, and write the report that is sent back.

The report is on the disk before a step begins: a power cut is one of the steps, and whoever starts
the command again goes on where it stopped.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from agent import doctor, hardware, probes, status
from agent.hardware import STEPS, Act, Look, Outcome, StepToWalk
from shared.errors import MalformedError, OperatorError, StorageError
from shared.files import read_bounded, write_atomically

LOOK_SECONDS = 0.5
TELL_SECONDS = 15.0
REPORT_BYTES = 4 * 1024 * 1024

Say = Callable[[str], None]


class Walked(msgspec.Struct, frozen=True, kw_only=True):
    """One step that has ended."""

    name: str
    outcome: str
    text: str
    seconds: float
    before: Look
    after: Look


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent back.

    Attributes:
        begun: The look with which the next step began, where it has.
    """

    v: int = 1
    device: str
    camera: int
    model: str | None
    kernel: str
    packages: dict[str, str | None]
    findings: tuple[doctor.Finding, ...]
    walked: tuple[Walked, ...] = ()
    begun: Look | None = None

    @property
    def is_passed(self) -> bool:
        """Say whether every step was walked and passed."""
        is_all = len(self.walked) == len(STEPS)
        return is_all and all(one.outcome == Outcome.PASSED.value for one in self.walked)


def walk(state: Path, camera: int, path: Path, say: Say) -> int:
    """Go through the steps that are left; return the exit code.

    Raises:
        OperatorError: This device is not enrolled, or the report is another device's.
        StorageError: The report cannot be written.
    """
    report = _opened(state, camera, path)
    while len(report.walked) < len(STEPS):
        step = STEPS[len(report.walked)]
        say(f"\nStep {len(report.walked) + 1} of {len(STEPS)}: {step.name}\n{step.says}")
        report = _begun(report, step, state, path)
        walked = _walk(step, report, state, say)
        say(f"{walked.outcome.upper()}: {walked.text}")
        report = msgspec.structs.replace(report, walked=(*report.walked, walked), begun=None)
        _save(path, report)
        if walked.outcome != Outcome.PASSED.value and not _may_go_on(walked):
            break
    say(f"\nThe report is in {path}: send it back, please. It holds no key and no password.")
    return 0 if report.is_passed else 1


def look(state: Path, camera: int) -> Look:
    """Look at the device."""
    note = status.read_note(state)
    now = time.time()
    if note is None:
        return Look(seconds=now)
    return Look(
        seconds=now,
        is_running=status.is_running(state),
        is_connected=note.broker.is_connected,
        boot=note.reported.boot,
        run=note.reported.run,
        pid=note.pid,
        child=note.children.get(str(camera)),
        camera=note.reported.cameras.get(str(camera)),
    )


def _opened(state: Path, camera: int, path: Path) -> Report:
    facts = probes.read_facts(state, is_service=probes.is_service(state))
    if facts.status is None:
        raise OperatorError(f"expected an enrolled device: {facts.card_error}")
    device = facts.status.device
    kept = _read(path)
    if kept is not None:
        if (kept.device, kept.camera) != (device, camera):
            raise OperatorError(
                f"{path} is the report of camera {kept.camera} of {kept.device}; expected one of"
                f" camera {camera} of {device}: use another --report"
            )
        return kept
    return Report(
        device=device,
        camera=camera,
        model=facts.model,
        kernel=facts.kernel,
        packages=facts.packages,
        findings=doctor.judge(facts),
    )


def _begun(report: Report, step: StepToWalk, state: Path, path: Path) -> Report:
    """Begin a step, or go on with one that a power cut interrupted."""
    if report.begun is not None and step.act is Act.NOTHING:
        return report
    begun = msgspec.structs.replace(report, begun=look(state, report.camera))
    _save(path, begun)
    return begun


def _walk(step: StepToWalk, report: Report, state: Path, say: Say) -> Walked:
    before = report.begun
    assert before is not None, "a step begins with a look"
    told_at = time.monotonic()
    trouble = _act(step.act, before)
    while True:
        now = look(state, report.camera)
        outcome, text = hardware.judged(step, before, now)
        if trouble:
            outcome, text = Outcome.FAILED, trouble
        if outcome is not Outcome.WAITING:
            return Walked(
                name=step.name,
                outcome=outcome.value,
                text=text,
                seconds=now.seconds - before.seconds,
                before=before,
                after=now,
            )
        if time.monotonic() - told_at >= TELL_SECONDS:
            told_at = time.monotonic()
            say(f"... {text}")
        time.sleep(LOOK_SECONDS)


def _act(act: Act, before: Look) -> str:
    """Do what a step asks of doctor; return why it could not be done."""
    if act is Act.NOTHING:
        return ""
    pid = before.child if act is Act.KILL_CHILD else before.pid
    if pid is None or not before.is_running:
        return "there is no such process to kill"
    if act is Act.KILL_CHILD and _parent(pid) != before.pid:
        return f"process {pid} is not the camera's any more"
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError as error:
        return f"could not kill process {pid} ({error.strerror}): run this with sudo"
    return ""


def _parent(pid: int) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[1])
    return None


def _may_go_on(walked: Walked) -> bool:
    """Say whether the next step makes sense after one that failed: something streams."""
    return walked.after.release is not None


def _read(path: Path) -> Report | None:
    data = read_bounded(path, REPORT_BYTES)
    try:
        return None if data is None else msgspec.json.decode(data, type=Report)
    except msgspec.DecodeError as error:
        raise MalformedError(f"{path} is no report of doctor: {error}") from error


def _save(path: Path, report: Report) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror}") from error
    write_atomically(path, msgspec.json.format(msgspec.json.encode(report), indent=1), mode=0o644)
