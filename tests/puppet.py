"""An agent without a camera: it obeys the real rules and says what a real one says.

It judges the bundle as agents do, works out what it wants with ``shared.assignment``, and reports
over a real broker. What it has instead of a sensor is a list of releases that are bad here.
"""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256

from shared.assignment import (
    Action,
    Camera,
    CommitAtOnce,
    Entry,
    RestorePrevious,
    Run,
    Slot,
    Try,
    Wait,
    covers,
    owners_left,
    wanted,
)
from shared.bus import Bus, BusEvent, Connected, Inbox, Received, Timing
from shared.card import Card
from shared.errors import RefusedError
from shared.identity import Identity, camera_of
from shared.messages import (
    CameraReported,
    Cause,
    DeploymentReported,
    EndReported,
    Phase,
    Reported,
    encode,
    time_text,
)
from shared.release import Decode, File, Input, Manifest, Output, Requires
from shared.subscriptions import Schedule
from shared.topics import Topics
from shared.trust import Bundle, judge_bundle, judge_identity

BEAT_SECONDS = 0.2
QUICK = Timing(reconnect_seconds=(0.05, 0.5), repeats=Schedule(after=(0.5, 2.0), every=10.0))


@dataclass
class Faults:
    """What goes wrong on this device."""

    bad: frozenset[str] = frozenset()  # Releases that fail the probe.
    cause: Cause = "release"  # What such an end is put down to.
    times: int = 1_000_000  # How often they fail before they do not any more.
    rejected: frozenset[str] = frozenset()  # Releases that are refused before activation.
    hangs: frozenset[str] = frozenset()  # Releases during whose activation the Pi is gone.
    seconds: float = 0.0  # How long a probe takes.


@dataclass
class State:
    """What a real agent keeps in its journal."""

    active: Slot | None = None
    previous: Slot | None = None
    ended: dict[Try, tuple[Phase, Cause | None]] = field(default_factory=dict)
    phase: tuple[Entry, Phase] | None = None
    is_settled: bool = False

    def camera(self, identity: Identity) -> Camera:
        bad = {t for t, (phase, _) in self.ended.items() if phase != "committed"}
        return replace(
            camera_of(identity, 0),
            active=self.active,
            previous=self.previous,
            is_running=self.active is not None,
            ended_badly=frozenset(bad),
        )


class Puppet:
    """One device with camera 0, on a thread of its own."""

    def __init__(self, card: Card, faults: Faults | None = None, install: str = "puppet") -> None:
        self.card, self.faults, self.state = card, faults or Faults(), State()
        self.activated: list[str] = []
        self._run_name, self._seq = f"{install}-1", 0
        self._topics = Topics(card.fleet)
        self._inbox: Inbox[BusEvent] = Inbox()
        status = self._topics.device(card.device, "status")
        self._bus = Bus(
            card.broker.url,
            card.device,
            self._inbox,
            will=(status, b"offline"),
            ca=card.broker.ca,
            certificate=card.broker.credentials,
            timing=QUICK,
        )
        self._status = status
        self._bundle: Bundle | None = None
        self._identity: Identity | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def start(self) -> "Puppet":
        self._bus.subscribe(self._topics.trust, is_repeated=True)
        self._bus.subscribe(self._topics.device(self.card.device, "identity"), is_repeated=True)
        self._bus.start()
        self._thread.start()
        return self

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(10)
        self._bus.stop(b"offline")

    @property
    def runs(self) -> str | None:
        return None if self.state.active is None else self.state.active.release

    def _loop(self) -> None:
        beat_at = 0.0
        while not self._is_over.is_set():
            event = self._inbox.get(timeout=0.05)
            if isinstance(event, Connected):
                self._say()
                self._bus.state(self._status, b"online")
            if isinstance(event, Received) and event.payload:
                with suppress(RefusedError):
                    self._received(event)
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + BEAT_SECONDS
                self._say()

    def _received(self, event: Received) -> None:
        root = self.card.root.encode()
        if event.topic == self._topics.trust:
            self._bundle = judge_bundle(
                event.payload,
                fleet=self.card.fleet,
                card_root=root,
                journal=None if self._bundle is None else self._bundle.data,
                now=datetime.now(UTC),
            )
        else:
            floor = 0 if self._identity is None else self._identity.version
            self._identity = judge_identity(
                event.payload,
                trusted_root=root if self._bundle is None else self._bundle.root,
                fleet=self.card.fleet,
                device=self.card.device,
                floor=floor,
            )
        self._look()

    def _look(self) -> None:
        if self._bundle is None or self._identity is None:
            return
        plan, state = self._bundle.plan, self.state
        for slot in (state.active, state.previous):
            self._forget_reverted(plan, slot)
        self.state.phase = None
        camera = state.camera(self._identity)
        match wanted(plan, self._bundle.listed, camera):
            case Run(entry):
                self._try(entry, camera)
            case CommitAtOnce(entry):
                assert state.active is not None
                owners = state.active.owners | {entry.tried}
                state.active = replace(state.active, owners=owners)
                state.ended[entry.tried] = ("committed", None)
            case RestorePrevious(slot):
                self._say_phase(None, "rolling_back")
                state.active, state.previous = slot, None
                self.activated.append(slot.release)
            case Wait(entry):
                state.phase = (entry, "waiting")
            case _:
                pass
        state.is_settled = True
        self._say()

    def _forget_reverted(self, plan: tuple[Entry, ...], slot: Slot | None) -> None:
        if slot is None:
            return
        for tried in slot.owners - owners_left(plan, slot):
            self.state.ended[tried] = ("rolled_back", "operator")
        left = replace(slot, owners=owners_left(plan, slot))
        if self.state.active == slot:
            self.state.active = left
        else:
            self.state.previous = left

    def _try(self, entry: Entry, camera: Camera) -> None:
        state, release = self.state, entry.release
        state.is_settled = False
        if release in self.faults.rejected:
            state.ended[entry.tried] = ("rejected", "release")
            return
        self._say_phase(entry, "activating")
        self.activated.append(release)
        if release in self.faults.hangs:
            self._bus.stop(b"offline")  # The last will says the same.
            self._is_over.set()
            return
        self._is_over.wait(self.faults.seconds)
        if release in self.faults.bad and self.faults.times > 0:
            self.faults.times -= 1
            state.ended[entry.tried] = ("rolled_back", self.faults.cause)
            return
        assert self._bundle is not None
        owners = frozenset(
            e.tried
            for e in self._bundle.plan
            if e.release == release and covers(e, camera) and e.action in {Action.RUN, Action.HOLD}
        )
        if state.active is not None and owners_left(self._bundle.plan, state.active):
            state.previous = state.active
        state.active = Slot(release, entry.manifest_sha256, owners)
        for tried in owners:
            state.ended[tried] = ("committed", None)

    def _say_phase(self, entry: Entry | None, phase: Phase) -> None:
        self.state.phase = None if entry is None else (entry, phase)
        self._say()
        self.state.phase = None

    def _say(self) -> None:
        state, bundle = self.state, self._bundle
        active = state.active
        named = {e.rollout for e in bundle.plan} if bundle else set()
        camera = CameraReported(
            kind="simulated",
            state="off" if active is None else "streaming",
            release=None if active is None else active.release,
            manifest_sha256=None if active is None else active.manifest_sha256,
            previous=None if state.previous is None else state.previous.release,
            deployment=self._deployment(),
            ended=tuple(
                EndReported(rollout=r, attempt=a, phase=phase, cause=cause)  # type: ignore[arg-type]
                for (r, a), (phase, cause) in state.ended.items()
                if r in named
            ),
            owners=() if active is None else tuple(sorted(active.owners)),
            is_settled=state.is_settled,
        )
        report = Reported(
            at=time_text(datetime.now(UTC)),
            clock="synced",
            boot="boot",
            run=self._run_name,
            seq=self._seq,
            agent_version="0.1.0",
            plan_version=0 if bundle is None else bundle.version,
            plan_sha256=None,
            identity_version=0 if self._identity is None else self._identity.version,
            cameras={"0": camera},
        )
        self._seq += 1
        topic = self._topics.device(self.card.device, "reported")
        self._bus.state(topic, encode(report, bytes_max=16_384))

    def _deployment(self) -> DeploymentReported | None:
        if self.state.phase is None:
            return None
        entry, phase = self.state.phase
        return DeploymentReported(
            rollout=entry.rollout,
            attempt=entry.attempt,
            manifest_sha256=entry.manifest_sha256,
            phase=phase,
            since=time_text(datetime.now(UTC)),
            waiting_for="hold" if phase == "waiting" else None,
        )


def make_release(name: str, version: int) -> tuple[Manifest, dict[str, bytes]]:
    """Return a release whose one file takes two blocks."""
    data = f"{name}@{version}".encode() * 20_000  # More than one block.
    blocks = [data[i : i + 122_880] for i in range(0, len(data), 122_880)]
    file = File(
        role="simulator",
        name="simulator.onnx",
        bytes=len(data),
        sha256=sha256(data).hexdigest(),
        blocks=tuple(sha256(block).hexdigest() for block in blocks),
    )
    manifest = Manifest(
        name=name,
        version=version,
        task="detect",
        frame_rate=16,
        network_name="n0123456789ab",
        input=Input(width=320, height=320, color="RGB"),
        outputs=(Output(name="boxes", shape=(1, 4), dtype="float32"),),
        decode=Decode(threshold_permille=250),
        labels=1,
        requires=Requires(agent="0.1.0"),
        memory_bytes=1,
        golden=None,
        receipt=None,
        provenance={},
        files=(file,),
    )
    return manifest, {"simulator.onnx": data}
