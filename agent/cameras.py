"""One camera: carries out the effects of its deployment's machine, and watches what runs.

    start --> on trial (the gate) --passed--> steady --stall--> ladder: restart, restart, Failed
                 | failed                                (agent/watch.py)
                 +--> Failed: what follows is the machine's business

The machine (agent/deployment.py) decides; the gate (agent/health.py) judges; this shell starts and
stops children, counts starts before it makes them, and writes before it acts. A camera whose files
were damaged on disk is repaired from the broker before it starts, and one whose package for the
sensor is gone, or is another packer's, has it made again.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from agent import deployment, outcomes, steps, tracking, watch
from agent import journal as durable
from agent.camera.wire import (
    CameraExited,
    CameraFailed,
    FrameSeen,
    FromCamera,
    GoldenCompared,
    ImageTaken,
    Job,
    Kind,
    Simulation,
)
from agent.health import Expected, Gate, State, expected_of, is_proven, is_stalled
from agent.journal import JournalFile, LastStart
from agent.preparing import Aim, Packaged, Preparation, Surroundings
from agent.steps import (
    Event,
    Failed,
    Journal,
    Passed,
    Phase,
    Started,
    WaitingFor,
)
from agent.telemetry import NOTHING, Published, Stream, Telemetry, flush, lost, show
from agent.telemetry import started as stream_started
from agent.tracking import Tracks, encoded
from agent.watch import Rung, Watch
from shared import evidence, messages
from shared.assignment import Camera, Entry, Slot
from shared.errors import CameraError, FleetError, StorageError
from shared.evidence import Record
from shared.release import Manifest

logger = logging.getLogger(__name__)

PERSIST_AGAIN_SECONDS = 2.0
PROGRESS_UNIT_PERMILLE = 1000


class Inbox(Protocol):
    """Where children put what they say."""

    def put(self, event: FromCamera | CameraExited, /) -> None:
        """Add an event."""

    def __len__(self) -> int:
        """Return how many events wait."""
        ...


class Child(Protocol):
    """One child on one camera: a process (agent/camera/process.py), or what stands in for one."""

    @property
    def token(self) -> int:
        """Return what its events carry."""
        ...

    @property
    def pid(self) -> int | None:
        """Return its process id, where it is a process."""
        ...

    def start(self) -> None:
        """Start it; what becomes of it arrives in the inbox."""

    def look(self, threshold_permille: int) -> None:
        """Ask for an image with what scores so much; it arrives in the inbox."""

    def stop(self) -> None:
        """Stop it; returns when it is gone."""


MakeChild = Callable[[Job, Inbox, int], Child]


@dataclass(frozen=True, slots=True)
class Device:
    """What a camera needs of the device that it is part of.

    Attributes:
        reboot: Restart the device; False: it cannot be done.
        publish: Send what a frame publishes; False: it was lost.
        may_reboot: The reboot of this day is not spent.
        changed: Somebody should look at the plan again.
        child: Make the child of a job.
    """

    boot: str
    journal: JournalFile
    around: Surroundings
    inbox: Inbox
    reboot: Callable[[], bool]
    publish: Callable[[int, Published], bool]
    may_reboot: Callable[[], bool]
    changed: Callable[[], None]
    time_text: Callable[[], str]
    child: MakeChild


@dataclass(slots=True)
class Running:
    """A child, and what is known of the release that it runs."""

    slot: Slot
    process: Child
    expected: Expected
    gate: Gate
    is_started_told: bool = False
    is_steady: bool = False
    last_valid_at: float | None = None
    began_at: float = 0.0


class CameraShell:
    """One camera of this device."""

    def __init__(self, identity: Camera, kind: Kind, device: Device, telemetry: Telemetry) -> None:
        """Take up the journal where the last run left it; ``boot`` begins."""
        self.identity = identity
        self.kind: Kind = kind
        self.kind_reason: str | None = None
        self.telemetry = telemetry
        self.simulation = Simulation()
        self.injects = False
        self.frame_rate: int | None = None
        self.threshold_permille = 0
        self.is_tracked = False
        self.tracks = Tracks()
        self._device = device
        self._tokens = 0
        self.journal, self.watch = _kept(device.journal, identity.number)
        self.is_dirty = True
        self.state: messages.CameraState = "off"
        self.running: Running | None = None
        self._preparation: Preparation | None = None
        self._repair: tuple[Preparation, float] | None = None
        self._record: Record | None = None
        self._before: messages.Evidence | None = None
        self._waiting: deque[Event] = deque()
        self._is_feeding = False
        self._again_at: float | None = None
        self._start_again: tuple[Slot, bool, float] | None = None
        self.unsupported: frozenset[str] = frozenset()
        self._since = ("", device.time_text())

    @property
    def number(self) -> int:
        """Return the camera's number."""
        return self.identity.number

    @property
    def starts(self) -> int:
        """Return the starts in this boot."""
        return durable.starts_of(
            self._device.journal.saved, boot=self._device.boot, camera=self.number
        )

    @property
    def is_behind(self) -> bool:
        """Say whether its journal lacks what the plan says: not looked at, or not yet written."""
        return self.is_dirty or bool(self._waiting)

    @property
    def is_on_trial(self) -> bool:
        """Say whether no other camera may start now."""
        is_starting = self.running is not None and not self.running.is_steady
        return self.journal.phase in steps.ON_TRIAL or is_starting

    def boot(self, *, is_new_boot: bool, can_reboot: bool, is_clean: bool, now: float) -> None:
        """Begin a run of the agent."""
        last = self._device.journal.saved.last_starts.get(str(self.number))
        is_suspect = is_new_boot and not is_clean and last is not None
        manifest = last.manifest_sha256 if last is not None and is_suspect else ""
        kept = self.watch
        self.watch = watch.begun(kept, watch.LastRun(not is_suspect, manifest), now)
        if self.watch != kept:
            with suppress(StorageError):  # Hangs must be counted where the next boot finds them.
                self._persist(self.journal)
        active = self.journal.active
        is_loop = active is not None and watch.is_boot_loop(self.watch, active.manifest_sha256)
        event = steps.Booted(is_new_boot=is_new_boot, can_reboot=can_reboot, is_boot_loop=is_loop)
        self.feed(event, now)

    def feed(self, event: Event, now: float) -> None:
        """Give the machine an event and carry out what it says; what that causes comes after."""
        self._waiting.append(event)
        if self._is_feeding:
            return
        self._is_feeding = True
        try:
            while self._waiting:
                self._step(self._waiting[0], now)
                self._waiting.popleft()
        except StorageError as error:
            logger.warning("camera %d: %s; tried again", self.number, error)
            self._again_at = now + PERSIST_AGAIN_SECONDS
        finally:
            self._is_feeding = False

    def received(self, digest: str, data: bytes, now: float) -> None:
        """Take a block from the bus."""
        for preparation in self._preparations():
            self._answer(preparation, preparation.received(digest, data, now), now)

    def packaged(self, done: Packaged, now: float) -> None:
        """Take the packer's answer."""
        for preparation in self._preparations():
            self._answer(preparation, preparation.packaged(done, now), now)

    def heard(self, event: FromCamera | CameraExited, now: float) -> None:
        """Take what a child said; one that was stopped says nothing more."""
        running = self.running
        if running is None or running.process.token != event.token:
            return
        message = event.message if isinstance(event, FromCamera) else event
        running.gate = running.gate.observe(message, now)
        match message:
            case FrameSeen():
                self._saw(running, message, now)
            case CameraFailed() | CameraExited() if running.is_steady:
                self._stalled(_code(message), _text(message), now)
                return
            case CameraFailed(code="missing"):
                self.state = "missing"
            case ImageTaken(jpeg=jpeg):
                self._show_image(jpeg, message.text)
            case GoldenCompared(found_permille=found) if self._record is not None:
                self._record = replace(self._record, golden_permille=found)
            case _:
                pass
        self._judge(now)

    def ticked(self, now: float) -> None:
        """Judge what did not happen."""
        if self._again_at is not None and now >= self._again_at:
            self._again_at = None
            if self._waiting:
                self.feed(self._waiting.popleft(), now)
        if self._start_again is not None and now >= self._start_again[2]:
            slot, is_recovery, _ = self._start_again
            self._start(slot, now, is_recovery=is_recovery)
        for preparation in self._preparations():
            self._answer(preparation, preparation.ticked(now), now)
        self._send(*flush(self.telemetry, now))
        self._tick_repair(now)
        self._judge(now)
        self._survive(now)

    def look(self, looked: steps.Looked, now: float) -> None:
        """Look at the plan."""
        self.is_dirty = False
        self.feed(looked, now)

    def is_due(self, now: float) -> bool:
        """Say whether the back-off of a camera on which nothing runs is over."""
        journal = self.journal
        if journal.is_running or journal.active is None or journal.phase in steps.ON_TRIAL:
            return False
        if self.running is not None or self._repair is not None:
            return False
        return watch.is_due(self.watch, now)

    def restart(self, now: float) -> None:
        """Start what runs again, because a person asked."""
        if self.running is not None:
            self._start(self.running.slot, now, is_recovery=self.running.is_steady)

    def take_image(self) -> None:
        """Have an image published."""
        if self.running is not None:
            self.running.process.look(self.telemetry.threshold_permille)

    def stop(self) -> None:
        """Stop the child."""
        running, self.running = self.running, None
        self._start_again = None
        if self._repair is not None:
            self._repair[0].cancel()
            self._repair = None
        self.state = "off"
        if running is None:
            return
        try:
            running.process.stop()
        except CameraError as error:
            logger.error("camera %d: %s", self.number, error)  # noqa: TRY400
            self.state = "needs_reboot"

    def close(self) -> None:
        """Stop everything of this camera."""
        for preparation in self._preparations():
            preparation.cancel()
        self.stop()

    def needed(self) -> frozenset[str]:
        """Return the manifests that a slot refers to."""
        journal = self.journal
        slots = (
            journal.active,
            journal.previous,
            journal.making,
            journal.failing,
            journal.restoring,
        )
        return frozenset(slot.manifest_sha256 for slot in slots if slot is not None)

    def reported(
        self, plan: tuple[Entry, ...], listed: Mapping[str, str], now: float
    ) -> messages.CameraReported:
        """Return this camera as ``reported`` shows it."""
        journal = self.journal
        active = journal.active
        record = self._record
        running = None if record is None else evidence.running(record, now)
        hour = None if record is None else evidence.last_hour(record, now)
        return messages.CameraReported(
            kind=self.kind,
            kind_reason=self.kind_reason,
            state=self.state,
            release=None if active is None else active.release,
            manifest_sha256=None if active is None else active.manifest_sha256,
            previous=None if journal.previous is None else journal.previous.release,
            starts=self.starts,
            deployment=outcomes.deployment_reported(
                journal,
                since=self._since_text(),
                progress=self._progress(now),
                missing_blocks=() if self._preparation is None else self._preparation.missing(now),
            ),
            ended=outcomes.ends_reported(journal, plan),
            owners=outcomes.owners(journal),
            is_settled=outcomes.is_settled(journal, self.identity, plan, dict(listed)),
            evidence=messages.EvidencePair(running=running, hour=hour, before=self._before),
        )

    # The machine.
    def _step(self, event: Event, now: float) -> None:
        before = self.journal
        after, effects = deployment.step(before, self.identity, event)
        # Written first: were it not, a full disk would leave us believing what no file says.
        for effect in effects:
            if isinstance(effect, steps.Persist):
                self._persist(effect.journal)
        self.journal = after
        if after.phase is not before.phase or after.ended != before.ended:
            _log_transition(self.number, before, after, event)
        self._remember(event, before, after, now)
        if not _is_same_work(before, after) and self._preparation is not None:
            self._preparation.cancel()
            self._preparation = None
        for effect in effects:
            self._carry_out(effect, now)
        if effects or after != before:
            self._device.changed()

    def _remember(self, event: Event, before: Journal, after: Journal, now: float) -> None:
        """Keep the watch in step with the machine."""
        kept = self.watch
        if isinstance(event, Passed):
            self.watch = watch.runs(kept)
        elif isinstance(event, Failed) and after.phase is Phase.BROKEN:
            is_new = before.phase is not Phase.BROKEN
            self.watch = watch.broke(kept, now) if is_new else watch.start_failed(kept, now)
        elif isinstance(event, Failed) and not after.is_running:
            self.watch = watch.start_failed(kept, now)
        if self.watch != kept:
            with suppress(StorageError):  # It only makes the next run less patient.
                self._persist(after)

    def _carry_out(  # noqa: C901 - one line an effect
        self, effect: steps.Effect, now: float
    ) -> None:
        match effect:
            case steps.Persist():
                pass
            case steps.Fetch(slot):
                self._prepare(slot, Aim.FETCH, now)
            case steps.Verify(slot):
                self._prepare(slot, Aim.VERIFY, now)
            case steps.Stage(slot):
                self._prepare(slot, Aim.STAGE, now)
            case steps.Stop():
                self.stop()
            case steps.Start(slot):
                self._start(slot, now, is_recovery=False)
            case steps.Reboot():
                if not self._device.reboot():
                    event = steps.Booted(is_new_boot=False, can_reboot=False)
                    self.feed(event, now)

    def _persist(self, journal: Journal) -> None:
        document = msgspec.Raw(msgspec.json.encode(outcomes.to_document(journal)))
        watched = msgspec.Raw(msgspec.json.encode(self.watch))
        key = str(self.number)
        self._device.journal.change(
            lambda saved: msgspec.structs.replace(
                saved,
                cameras={**saved.cameras, key: document},
                watches={**saved.watches, key: watched},
            )
        )

    # Preparing.
    def _prepare(self, slot: Slot, aim: Aim, now: float) -> None:
        preparation = self._preparation
        if preparation is None or preparation.slot.manifest_sha256 != slot.manifest_sha256:
            if preparation is not None:
                preparation.cancel()
            preparation = Preparation(self.number, slot, self.kind, self._device.around)
            self._preparation = preparation
        self._answer(preparation, preparation.begin(aim, now), now)

    def _answer(self, preparation: Preparation, events: tuple[Event, ...], now: float) -> None:
        if self._repair is not None and preparation is self._repair[0]:
            self._repaired(events, now)
            return
        for event in events:
            match event:
                case steps.Obstructed(digest, what=WaitingFor.REQUIRES, code=""):
                    self.unsupported |= {digest}
                case _:
                    pass
            self.feed(event, now)

    def _preparations(self) -> tuple[Preparation, ...]:
        repair = () if self._repair is None else (self._repair[0],)
        return (*repair, *(() if self._preparation is None else (self._preparation,)))

    # Starting.
    def _start(self, slot: Slot, now: float, *, is_recovery: bool) -> None:
        self.stop()
        if not watch.may_start_at_all(self.starts):
            self.state = "needs_reboot"
            text = f"{self.starts} camera starts in this boot"
            self._start_failed("needs_reboot", text, now)
            return
        try:
            self._start_child(slot, now, is_recovery=is_recovery)
        except StorageError as error:
            # A start that is not counted on disk is not made.
            logger.warning("camera %d: %s; started later", self.number, error)
            self._start_again = (slot, is_recovery, now + PERSIST_AGAIN_SECONDS)
        except FleetError as error:
            logger.warning("camera %d: %s: %s", self.number, slot.release, error)
            self._begin_repair(slot, now)

    def _start_child(self, slot: Slot, now: float, *, is_recovery: bool) -> None:
        slots, digest = self._device.around.slots, slot.manifest_sha256
        manifest = slots.manifest(sha256_expected=digest, release=slot.release)
        if not slots.is_whole(manifest, manifest_sha256=digest, kind=self.kind):
            slots.discard(digest)
            raise CameraError("its files were changed on disk")
        if not slots.is_staged(manifest, kind=self.kind):
            raise CameraError("it is not packaged for the sensor, or by another packer")
        starts = self.starts
        # A start of its own, so only where it may decide whether the release is kept.
        injects = self._injects(manifest)
        self._count_starts(digest, 2 if injects else 1)
        rate = float(self.frame_rate or manifest.frame_rate)
        expected = expected_of(
            manifest,
            kind=self.kind,
            frame_rate=rate,
            probe_seconds=float(slot.probe.seconds),
            valid_rate=slot.probe.valid_rate_permille,
            injects=injects,
        )
        labels = slots.labels(manifest, manifest_sha256=digest)
        self._tokens += 1
        job = self._job(manifest, digest, rate, starts)
        job = msgspec.structs.replace(job, injects=injects)
        process = self._device.child(job, self._device.inbox, self._tokens)
        self.running = Running(slot, process, expected, Gate(expected, now), began_at=now)
        self.state = "starting"
        self._begin_record(slot, is_recovery=is_recovery, now=now)
        self.telemetry = stream_started(
            self.telemetry, Stream(manifest.release, manifest.task, labels)
        )
        self._tell(*tracking.begun(self.tracks, manifest.release))
        logger.info("camera %d: starting %s (start %d)", self.number, slot.release, starts + 1)
        try:
            process.start()
        except CameraError as error:
            self._start_failed("start_failed", str(error), now)

    def _injects(self, manifest: Manifest) -> bool:
        """Say whether the golden set goes through the sensor before the stream."""
        is_asked = self.injects and self.kind == "modlib" and manifest.file("golden") is not None
        return is_asked and self.journal.phase is Phase.ACTIVATING

    def _count_starts(self, digest: str, starts: int) -> None:
        """Count starts on disk before they are made."""
        start = LastStart(manifest_sha256=digest, at=self._device.time_text())

        def counted(saved: durable.Saved) -> durable.Saved:
            for _ in range(starts):
                saved = durable.started(
                    saved, boot=self._device.boot, camera=self.number, start=start
                )
            return saved

        self._device.journal.change(counted)

    def _job(self, manifest: Manifest, digest: str, rate: float, starts: int) -> Job:
        slots = self._device.around.slots
        files = slots.files_of(digest)
        ready = manifest.file("rpk")
        rpk = files / ready.name if ready else slots.staged_rpk(manifest)
        return Job(
            camera=self.number,
            kind=self.kind,
            folder=str(files),
            manifest=slots.manifest_bytes(digest),
            frame_rate=rate,
            threshold_permille=min(self.threshold_permille, manifest.decode.threshold_permille),
            simulation=self.simulation,
            starts=starts,
            track_permille=self.threshold_permille if self.is_tracked else None,
            rpk=str(rpk) if self.kind != "simulated" and rpk.exists() else None,
        )

    def _begin_record(self, slot: Slot, *, is_recovery: bool, now: float) -> None:
        record = self._record
        if is_recovery and record is not None and record.release == slot.release:
            self._record = evidence.count_restart(record)
            return
        if record is not None and record.release != slot.release:
            self._before = evidence.last_hour(record, now)
        self._record = Record(slot.release)

    def _begin_repair(self, slot: Slot, now: float) -> None:
        """Fetch and package what the disk lost, while an activation may take; then start."""
        preparation = Preparation(self.number, slot, self.kind, self._device.around)
        self._repair = (preparation, now + slot.probe.activation_seconds)
        self._repaired(preparation.begin(Aim.VERIFY, now), now)

    def _repaired(self, events: tuple[Event, ...], now: float) -> None:
        for event in events:
            if self._repair is None:
                return
            preparation = self._repair[0]
            match event:
                case steps.Verified():
                    self._repaired(preparation.begin(Aim.STAGE, now), now)
                case steps.Staged():
                    self._repair = None
                    self._start(preparation.slot, now, is_recovery=False)
                case steps.Rejected():
                    self._repair = None
                    self._start_failed(event.code, event.text, now)
                case steps.Obstructed(code="packer") if self.journal.phase not in steps.ON_TRIAL:
                    # No other release would do better: what was committed waits for a packer.
                    self._repair = (preparation, math.inf)
                case _:
                    pass

    def _tick_repair(self, now: float) -> None:
        if self._repair is not None and now >= self._repair[1]:
            self._repair[0].cancel()
            self._repair = None
            self._start_failed("damaged", "its files are not on disk and not to be had", now)

    # Watching.
    def _saw(self, running: Running, frame: FrameSeen, now: float) -> None:
        proven = is_proven(frame, running.expected)
        if self._record is not None:
            scores = [o.score for o in frame.objects or ()] or [
                c.score for c in (frame.classes or ())[:1]
            ]
            self._record = evidence.count_frame(
                self._record, now=now, is_valid=proven, scores=scores, dnn_ms=frame.dnn_ms
            )
        if not proven:
            return
        running.last_valid_at = now
        self.state = "streaming"
        self._publish(frame, now)

    def _publish(self, frame: FrameSeen, now: float) -> None:
        self._send(*show(self.telemetry, frame, now))
        if frame.tracks is not None:
            self._tell(*tracking.followed(self.tracks, frame))

    def _tell(self, tracks: Tracks, events: tuple[messages.TrackEvent, ...]) -> None:
        self.tracks = tracks
        if events:
            self._device.publish(self.number, Published(events=tuple(map(encoded, events))))

    def _show_image(self, jpeg: bytes, text: str) -> None:
        if not jpeg:
            logger.warning("camera %d: there is no image: %s", self.number, text)
        self._device.publish(self.number, Published(image=jpeg))

    def _send(self, telemetry: Telemetry, published: Published) -> None:
        is_lost = published != NOTHING and not self._device.publish(self.number, published)
        self.telemetry = lost(telemetry, published) if is_lost else telemetry

    def _judge(self, now: float) -> None:
        running = self.running
        if running is None:
            return
        if running.is_steady:
            last = running.last_valid_at or running.began_at
            if is_stalled(last, now):
                self._stalled("stalled", f"no valid output for {now - last:.0f} s", now)
            return
        verdict = running.gate.judge(now)
        limit = running.slot.probe.activation_seconds
        is_first = running.gate.first_valid_at is not None
        if verdict.state is State.UNHEALTHY:
            self._start_failed(verdict.code, verdict.text, now)
        elif not is_first and now - running.began_at > limit:
            self._start_failed("activation_timeout", f"no valid output in {limit} s", now)
        else:
            self._progress_trial(running, verdict.state, now)

    def _progress_trial(self, running: Running, state: State, now: float) -> None:
        if running.gate.first_valid_at is not None and not running.is_started_told:
            running.is_started_told = True
            self.feed(Started(), now)
        if state is State.HEALTHY:
            running.is_steady = True
            self.feed(Passed(), now)
            self._device.changed()

    def _start_failed(self, code: str, text: str, now: float) -> None:
        """A start or a probe failed; of what was committed, the ladder comes first."""
        journal = self.journal
        if journal.is_running and journal.phase not in steps.ON_TRIAL:
            self._stalled(code, text, now)
            return
        state = self.state
        self.stop()
        if state in {"missing", "needs_reboot"}:
            self.state = state
        logger.warning("camera %d: %s: %s", self.number, code, text)
        self.feed(Failed(code, text), now)

    def _stalled(self, code: str, text: str, now: float) -> None:
        running, active = self.running, self.journal.active
        slot = running.slot if running is not None else active
        self.stop()
        self.state = "stalled"
        self.watch, rung = watch.stalled(self.watch, now, starts=self.starts)
        logger.warning("camera %d: %s (%s): %s", self.number, text, code, rung.value)
        if rung is Rung.EXHAUSTED or slot is None:
            self.feed(Failed(code, text, may_reboot=self._device.may_reboot()), now)
        else:
            self._start(slot, now, is_recovery=True)
        self._device.changed()

    def _survive(self, now: float) -> None:
        """A release that ran this long is not what hangs the device."""
        running = self.running
        last = self._device.journal.saved.last_starts.get(str(self.number))
        if running is None or last is None or now - running.began_at < watch.BOOT_LOOP_SECONDS:
            return
        if self._again_at is not None:  # The disk was in the way just now.
            return
        self.watch = watch.forgiven(self.watch, last.manifest_sha256)
        try:
            self._persist(self.journal)
            self._device.journal.change(lambda saved: durable.survived(saved, camera=self.number))
        except StorageError:
            self._again_at = now + PERSIST_AGAIN_SECONDS

    # Telling.
    def _since_text(self) -> str:
        latest = self.journal.latest
        shown = "" if latest is None else outcomes.shown(self.journal, latest).phase.value
        key = f"{latest} {shown}"
        if key != self._since[0]:
            self._since = (key, self._device.time_text())
        return self._since[1]

    def _progress(self, now: float) -> messages.Progress | None:
        running = self.running
        match self.journal.phase:
            case Phase.FETCHING if self._preparation is not None:
                return self._preparation.progress()
            case Phase.ACTIVATING if running is not None:
                done = running.gate.upload_permille
                return messages.Progress(done, PROGRESS_UNIT_PERMILLE, "permille")
            case Phase.PROBING | Phase.ROLLING_BACK if running is not None:
                total = running.slot.probe.seconds
                done = min(int(running.gate.probed_seconds(now)), total)
                return messages.Progress(done, total, "seconds")
            case _:
                return None


def _kept(file: JournalFile, number: int) -> tuple[Journal, Watch]:
    """Return what the last run wrote of this camera."""
    raw = file.saved.cameras.get(str(number))
    watched = file.saved.watches.get(str(number))
    try:
        journal = Journal()
        if raw is not None:
            document = messages.decoder_of(outcomes.JournalDocument).decode(raw)
            journal = outcomes.from_document(document)
        watching = Watch() if watched is None else messages.decoder_of(Watch).decode(watched)
    except msgspec.DecodeError:
        # Whole, as its checksum says, but of another version of this program.
        logger.exception("camera %d: its journal cannot be read; it starts from the plan", number)
        return Journal(), Watch()
    return journal, watching


def _is_same_work(before: Journal, after: Journal) -> bool:
    making, was = after.making, before.making
    if making is None or was is None:
        return making is was
    return making.manifest_sha256 == was.manifest_sha256


def _code(message: CameraFailed | CameraExited) -> str:
    return message.code if isinstance(message, CameraFailed) else "crashed"


def _text(message: CameraFailed | CameraExited) -> str:
    if isinstance(message, CameraFailed):
        return message.text
    return f"the camera's process ended with {message.returncode}"


def _log_transition(number: int, before: Journal, after: Journal, event: Event) -> None:
    """One line per transition: who, from, to, why."""
    latest = after.latest or before.latest
    what = "" if latest is None else f"{latest.release} for {latest.tried[0]}/{latest.tried[1]}: "
    shown = after.phase.value
    if after.ended != before.ended and latest is not None and latest.tried in after.ended:
        end = after.ended[latest.tried]
        cause = "" if end.cause is None else f" (cause {end.cause.value})"
        shown = f"{shown}, {end.phase.value}{cause}"
    why = type(event).__name__
    if isinstance(event, Failed | steps.Rejected):
        why = f"{why}: {event.code}: {event.text}"
    logger.info("camera %d: %s%s -> %s: %s", number, what, before.phase.value, shown, why)
