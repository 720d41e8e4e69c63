"""The agent: one loop that takes events, and carries out what the machines decide.

    bus, children, packer --> inbox --> Agent.handle --> cameras, trust, requests --> bus, disk

Nothing here decides about releases: agent/deployment.py does, for each camera. The loop pets the
watchdog; children, uploads and frames are watched by the machines, so that a dead camera never
restarts the Pi for ever. A simulated device "reboots" by starting its agent anew, in a boot of its
own count, and never touches the machine that it runs on.
"""

import logging
import os
import random
from datetime import datetime, timedelta
from enum import Enum
from functools import cached_property
from importlib.metadata import version
from time import monotonic
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from agent import host, reporting, status, systemd, telemetry, watch
from agent import journal as durable
from agent import requests as asking
from agent.camera.choice import Choice, choose, why_not
from agent.camera.process import CameraProcess
from agent.camera.wire import CameraExited, FromCamera, Kind, Simulation
from agent.cameras import CameraShell, Device, MakeChild
from agent.config import Options
from agent.journal import Answered, JournalFile
from agent.preparing import Packaged, Surroundings
from agent.slots import Slots
from agent.steps import Looked
from agent.telemetry import Published
from agent.trusting import Trust
from shared.assignment import Window
from shared.bus import Bus
from shared.card import Card
from shared.errors import MalformedError, RefusedError, StorageError
from shared.identity import Identity, Settings, camera_of
from shared.inbox import (
    Acknowledged,
    BusEvent,
    Connected,
    ConnectionFailed,
    Disconnected,
    Inbox,
    Oversized,
    Received,
    SubscriptionRefused,
)
from shared.limits import (
    BUNDLE_BYTES,
    HEALTH_BYTES,
    IDENTITY_BYTES,
    REQUEST_BYTES,
    TEXT_CHARACTERS_MAX,
)
from shared.messages import (
    CameraHealth,
    ErrorText,
    Health,
    Refused,
    Reported,
    TrustReported,
    encode,
    parse_time,
    time_text,
)
from shared.plan import refused_entries
from shared.release import Manifest
from shared.topics import BlockTopic, DeviceTopic, Topics, TrustTopic

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
WATCHDOG_SECONDS = 5.0
HEALTH_SECONDS = 5.0
CLOCK_SECONDS = 10.0  # How often the kernel is asked whether the clock is synchronised.
REPORT_SECONDS = 1.0  # `reported` goes out at most this often.
PROGRESS_SECONDS = 5.0
DISK_SECONDS = 2.0  # How often what the disk had no room for is taken again.
EFFECT_SECONDS = 2.0  # An answer that is not acknowledged by then does not hold its effect back.
AGENT_VERSION = version("imxfleet")

OwnEvent = FromCamera | CameraExited | Packaged


class Leaving(Enum):
    """Why the loop ends."""

    STOP = "stop"
    RESTART = "restart"
    SIMULATED_REBOOT = "simulated_reboot"
    REBOOT = "reboot"


class Agent:
    """One device."""

    def __init__(
        self,
        options: Options,
        card: Card,
        inbox: Inbox[OwnEvent],
        *,
        child: MakeChild = CameraProcess,
    ) -> None:
        """Open what survived, and count this run; ``child`` makes what runs a camera."""
        self._options = options
        self._child = child
        self._inbox = inbox
        self._topics = Topics(card.fleet)
        self._card = card
        self._journal = JournalFile(options.state)
        self.leaving: Leaving | None = None
        self._begin_run()
        self._trust = Trust(card, options.state, self._journal)
        self._slots = Slots(options.state, budget_bytes=options.budget_bytes)
        self._bus = Bus(
            card.broker.url,
            card.device,
            inbox,
            will=(self._topic("status"), b"offline"),
            username=card.broker.username,
            password=card.broker.password,
            ca=card.broker.ca,
            certificate=card.broker.credentials,
        )
        self._cameras: dict[int, CameraShell] = {}
        self._overrides: dict[int, asking.Override] = {}
        self._unkept: dict[str, Received] = {}  # Bundle and identity, while the disk is in the way.
        self._unkept_at = 0.0
        self._after_answer: dict[str, tuple[asking.RequestEffect, float]] = {}
        self._trouble = (
            None
            if self._journal.trouble is None
            else ErrorText("journal", self._journal.trouble[:TEXT_CHARACTERS_MAX])
        )
        self._seq = 0
        self._shown: tuple[object, ...] = ()
        self._reported_at = self._progress_at = self._health_at = float("-inf")
        self._heartbeat_at = 0.0
        self._ticked_at = self._pet_at = self._clock_at = self._next_look = float("-inf")
        self._plan_read = 0  # The plan whose reverts are in the journal.
        self._serial = host.serial()
        self._power = host.PowerMeter()
        self._broker = status.BrokerNote()
        self._noted: tuple[object, ...] = ()
        self._is_clock_right = False

    @property
    def run_name(self) -> str:
        """Return the name of this run: install and count."""
        return f"{self._journal.saved.install}-{self._journal.saved.runs}"

    def run(self) -> Leaving:
        """Serve until something ends it; everything of ours is stopped then."""
        self._bus.subscribe(self._topics.trust, bytes_max=BUNDLE_BYTES, is_repeated=True)
        self._bus.subscribe(self._topic("identity"), bytes_max=IDENTITY_BYTES, is_repeated=True)
        self._bus.subscribe(self._topic("request/+"), bytes_max=REQUEST_BYTES)
        self._collect()
        self._match_cameras(monotonic())
        self._report(monotonic())
        self._bus.state(self._topic("status"), b"online")
        self._bus.start()
        systemd.notify("READY=1")
        logger.info("%s of %s: run %s", self._card.device, self._card.fleet, self.run_name)
        while self.leaving is None:
            self._turn()
        return self._leave(self.leaving)

    def stop(self) -> None:
        """End the loop after the event in hand."""
        self.leaving = self.leaving or Leaving.STOP

    def _turn(self) -> None:
        event = self._inbox.get(TICK_SECONDS)
        now = monotonic()
        try:
            if event is not None:
                self._handle(event, now)
            if now - self._ticked_at >= TICK_SECONDS:
                self._ticked_at = now
                self._tick(now)
        except StorageError as error:
            logger.warning("the disk is in the way: %s", error)
            self._trouble = ErrorText("disk", str(error)[:TEXT_CHARACTERS_MAX])

    def _leave(self, why: Leaving) -> Leaving:
        systemd.notify("STOPPING=1")
        logger.info("leaving: %s", why.value)
        for shell in self._cameras.values():
            shell.close()
        self._bus.stop(b"offline")
        self._journal.change(
            lambda saved: msgspec.structs.replace(
                saved,
                is_clean=True,
                boots=saved.boots + (why is Leaving.SIMULATED_REBOOT),
            )
        )
        if why is Leaving.REBOOT:
            host.reboot()
        return why

    def _begin_run(self) -> None:
        """Count this run durably before anything is said under its name."""
        saved = self._journal.saved
        self._boot = host.boot_id(saved.boots)
        self._is_new_boot = saved.boot != self._boot
        self._was_clean = saved.is_clean
        boot = self._boot
        self._journal.change(
            lambda saved: msgspec.structs.replace(
                saved, runs=saved.runs + 1, boot=boot, is_clean=False
            )
        )

    # Events.
    def _handle(  # noqa: C901, PLR0912 - one line an event
        self, event: BusEvent | OwnEvent, now: float
    ) -> None:
        match event:
            case Received():
                self._received(event, now)
            case FromCamera() | CameraExited():
                if event.camera in self._cameras:
                    self._cameras[event.camera].heard(event, now)
            case Packaged():
                if event.camera in self._cameras:
                    self._cameras[event.camera].packaged(event, now)
            case Oversized():
                self._oversized(event)
            case Connected():
                logger.info("connected to the broker")
                self._broker_is(is_connected=True)
                self._republish_counts()
            case Acknowledged(token):
                self._act(token)
            case _:
                self._log_line(event)

    def _log_line(self, event: BusEvent) -> None:
        match event:
            case Disconnected(text=text) | ConnectionFailed(text=text):
                logger.warning("no connection to the broker: %s", text)
                self._broker_is(is_connected=False, text=text)
            case SubscriptionRefused(topic=topic):
                logger.error("the broker refuses the subscription to %s", topic)
            case _:
                pass

    def _received(self, message: Received, now: float) -> None:
        self._unkept.pop(message.topic, None)
        try:
            self._obey(message, now)
        except RefusedError as error:
            logger.warning("a message is refused (%s): %s", error.code, error.text)
            self._trouble = ErrorText(error.code, error.text[:TEXT_CHARACTERS_MAX])
        except StorageError:
            if message.topic in (self._topics.trust, self._topic("identity")):
                self._unkept[message.topic] = message  # The broker sends it once an hour only.
                self._unkept_at = now + DISK_SECONDS
            raise

    def _obey(self, message: Received, now: float) -> None:
        match self._topics.parse(message.topic):
            case TrustTopic():
                self._trust_came(message.payload, now)
            case BlockTopic(digest):
                for shell in self._cameras.values():
                    shell.received(digest, message.payload, now)
            case DeviceTopic(rest="identity"):
                self._identity_came(message.payload, now)
            case DeviceTopic(rest=rest) if rest.startswith("request/"):
                self._asked(rest.removeprefix("request/"), message)
            case _:
                raise MalformedError(f"nobody asked for {message.topic[:120]}")

    def _take_again(self, now: float) -> None:
        if self._unkept and now >= self._unkept_at:
            self._received(next(iter(self._unkept.values())), now)

    def _trust_came(self, payload: bytes, now: float) -> None:
        if payload and self._trust.accept(payload, self._utc_now(now)):
            self._look_again()

    def _identity_came(self, payload: bytes, now: float) -> None:
        if payload and self._trust.accept_identity(payload):
            self._match_cameras(now)
            self._look_again()

    def _oversized(self, event: Oversized) -> None:
        text = (
            f"expected at most {event.bytes_max} bytes on {event.topic}, got {event.payload_bytes}"
        )
        logger.warning("a message is refused (limit): %s", text)
        if event.topic == self._topics.trust:
            self._trust.refuse_oversize("trust", text)
        elif event.topic == self._topic("identity"):
            self._trust.refuse_oversize("identity", text)
        else:
            self._trouble = ErrorText("limit", text[:TEXT_CHARACTERS_MAX])

    # Requests.
    def _asked(self, verb: str, message: Received) -> None:
        saved = self._journal.saved
        asked = asking.Asked(
            verb=verb,
            data=message.payload,
            is_retained=message.is_retained,
            now=self._utc_now(monotonic()),
            settings=self._settings,
            cameras=frozenset(self._cameras),
            answered={answer.id: answer.response for answer in saved.answered},
            may_reboot=self._can_reboot,
            streaming=frozenset(n for n, s in self._cameras.items() if s.state == "streaming"),
        )
        answer = asking.judge(asked)
        if not answer.is_repeated:
            kept = Answered(id=answer.id, verb=verb, response=answer.response.decode())
            self._journal.change(lambda saved: durable.remembered(saved, kept))
        logger.info("request %s: %s", verb, "repeated" if answer.is_repeated else "answered")
        topic = self._topic(f"response/{verb}") if verb in asking.VERBS else None
        if answer.effect is not None:
            self._after_answer[answer.id] = (answer.effect, monotonic() + EFFECT_SECONDS)
        if topic is not None:
            self._bus.publish(topic, answer.response, qos=1, token=answer.id)

    def _act(self, token: str) -> None:
        """Do what was asked, now that the answer has gone out."""
        effect, _ = self._after_answer.pop(token, (None, 0.0))
        match effect:
            case asking.RestartAgent():
                self.leaving = self.leaving or Leaving.RESTART
            case asking.RebootDevice():
                self._reboot()
            case asking.RestartCamera() | asking.Snapshot() | asking.Override():
                self._act_on_camera(effect)
            case asking.Identify():
                logger.warning("IDENTIFY: this is %s", self._card.device)
            case None:
                pass

    def _act_on_camera(
        self, effect: asking.RestartCamera | asking.Snapshot | asking.Override
    ) -> None:
        shell = self._cameras.get(effect.camera)
        match effect:
            case _ if shell is None:
                pass  # It is gone by now.
            case asking.RestartCamera():
                shell.restart(monotonic())
            case asking.Snapshot():
                shell.take_image()
            case asking.Override():
                self._overrides[effect.camera] = effect
                self._set_limits()

    # Time.
    def _tick(self, now: float) -> None:
        if now - self._pet_at >= WATCHDOG_SECONDS:
            self._pet_at = now
            systemd.notify("WATCHDOG=1")
        for token, (_, due_at) in list(self._after_answer.items()):
            if now >= due_at:
                self._act(token)
        self._expire_overrides()
        for shell in self._cameras.values():
            shell.ticked(now)
        self._look(now)
        self._report(now)
        self._tell_health(now)
        self._take_again(now)

    def _look(self, now: float) -> None:
        """Let every camera that has news, or whose back-off is over, look at the plan."""
        bundle = self._trust.bundle
        if bundle is None or self._trust.identity is None:
            return
        is_time = now >= self._next_look
        if not (is_time or any(s.is_dirty or s.is_due(now) for s in self._cameras.values())):
            return
        closed = self._closed(now)
        for number, shell in self._cameras.items():
            is_due = shell.is_due(now)
            if not (shell.is_dirty or is_due or is_time):
                continue
            others = (s for n, s in self._cameras.items() if n != number)
            has_starts = watch.has_starts_left(shell.starts)
            looked = Looked(
                bundle.plan,
                bundle.listed,
                may_start=not any(other.is_on_trial for other in others),
                is_due=is_due and watch.may_start_at_all(shell.starts),
                may_reboot=not has_starts and self._may_reboot(),
                has_starts_left=has_starts,
                is_trust_expired=bundle.is_expired(self._utc_now(now)),
                has_clock=self._utc_now(now) is not None,
                closed=closed,
                unsupported=shell.unsupported,
            )
            shell.look(looked, now)
        if is_time:
            self._next_look = now + CLOCK_SECONDS
            self._collect()

    def _look_again(self) -> None:
        for shell in self._cameras.values():
            shell.is_dirty = True

    def _closed(self, now: float) -> frozenset[str]:
        """Return the rollouts whose window is closed now."""
        bundle, identity, at = self._trust.bundle, self._trust.identity, self._utc_now(now)
        if bundle is None or identity is None:
            return frozenset()
        zone = _zone(identity)
        return frozenset(
            entry.rollout
            for entry in bundle.plan
            if entry.window is not None
            and (at is None or not is_open(entry.window, at.astimezone(zone)))
        )

    def _collect(self) -> None:
        """Remove what no slot refers to: also those of cameras that are not there now."""
        needed: set[str] = set()
        for shell in self._cameras.values():
            needed |= shell.needed()
        kept = set(self._journal.saved.cameras) - {str(number) for number in self._cameras}
        if not kept:
            self._slots.collect(needed=needed)

    # Cameras.
    @property
    def _settings(self) -> Settings:
        identity = self._trust.identity
        return Settings() if identity is None else identity.settings

    def _match_cameras(self, now: float) -> None:
        """Have one shell for each camera that the identity names."""
        identity = self._trust.identity
        numbers = set() if identity is None else {int(number) for number in identity.cameras}
        for number in set(self._cameras) - numbers:
            self._cameras.pop(number).close()
        if identity is None:
            return
        for number in sorted(numbers):
            kind = self._kind(identity.cameras[str(number)].kind)
            self._adopt(camera_number=number, identity=identity, kind=kind, now=now)
        self._set_limits()

    def _adopt(self, *, camera_number: int, identity: Identity, kind: Kind, now: float) -> None:
        camera = camera_of(identity, camera_number)
        shell = self._cameras.get(camera_number)
        if shell is not None:
            shell.identity, shell.kind = camera, kind
            shell.kind_reason = self._reason(identity, camera_number)
            shell.frame_rate = identity.settings.frame_rate
            shell.is_tracked = identity.settings.telemetry.events
            return
        settings = identity.settings.telemetry
        stream = telemetry.telemetry(
            self.run_name,
            rate_hz=settings.rate_hz,
            threshold_permille=settings.threshold_permille,
            now=now,
        )
        shell = CameraShell(camera, kind, self._device(), stream)
        shell.simulation = self._options.simulations.get(camera_number, Simulation())
        shell.injects = self._options.injects_golden
        shell.kind_reason = self._reason(identity, camera_number)
        shell.frame_rate = identity.settings.frame_rate
        shell.threshold_permille = settings.threshold_permille
        shell.is_tracked = settings.events
        self._cameras[camera_number] = shell
        shell.boot(
            is_new_boot=self._is_new_boot,
            can_reboot=self._can_reboot,
            is_clean=self._was_clean,
            now=now,
        )

    def _device(self) -> Device:
        around = Surroundings(
            bus=self._bus,
            topics=self._topics,
            slots=self._slots,
            supports=_supports,
            put=self._inbox.put,
        )
        return Device(
            boot=self._boot,
            journal=self._journal,
            around=around,
            inbox=self._inbox,
            reboot=self._reboot,
            publish=self._publish,
            may_reboot=self._may_reboot,
            changed=self._look_again,
            time_text=lambda: time_text(host.utc_now()),
            child=self._child,
        )

    def _kind(self, kind: str) -> Kind:
        match kind:
            case "modlib" | "picamera2" | "simulated":
                return kind
            case _ if self._options.is_demo and not self._has_twin:
                return "simulated"
            case _:
                return self._auto.kind

    @cached_property
    def _auto(self) -> Choice:
        """Look once a run which library loads: what is installed later is found by the next."""
        chosen = choose(lambda kind: why_not(kind, is_twin=self._has_twin))
        logger.info("cameras declared auto are driven by %s: %s", chosen.kind, chosen.why)
        return chosen

    def _reason(self, identity: Identity, camera: int) -> str | None:
        """Return why a camera is driven by what drives it, where that was our choice."""
        is_auto = identity.cameras[str(camera)].kind == "auto"
        if not is_auto or (self._options.is_demo and not self._has_twin):
            return None
        return self._auto.why[:TEXT_CHARACTERS_MAX]

    @property
    def _has_twin(self) -> bool:
        return any(one.twin for one in self._options.simulations.values())

    # Reboots.
    @property
    def _is_simulated(self) -> bool:
        """Say whether every camera is one, or a twin: then a start of the agent is a boot."""
        identity = self._trust.identity
        cameras = {} if identity is None else identity.cameras
        twins = {str(n) for n, one in self._options.simulations.items() if one.twin}
        return bool(cameras) and all(
            number in twins or self._kind(camera.kind) == "simulated"
            for number, camera in cameras.items()
        )

    @property
    def _can_reboot(self) -> bool:
        return self._is_simulated or self._options.may_reboot

    def _may_reboot(self) -> bool:
        """Say whether the reboot of this day is not spent."""
        at = self._journal.saved.rebooted_at
        if not self._can_reboot:
            return False
        seconds = None if at is None else (host.utc_now() - parse_time(at)).total_seconds()
        return watch.may_reboot(seconds)

    def _reboot(self) -> bool:
        if not self._can_reboot:
            return False
        self._journal.change(
            lambda saved: msgspec.structs.replace(saved, rebooted_at=time_text(host.utc_now()))
        )
        why = Leaving.SIMULATED_REBOOT if self._is_simulated else Leaving.REBOOT
        self.leaving = self.leaving or why
        return True

    # Settings.
    def _set_limits(self) -> None:
        settings = self._settings.telemetry
        for number, shell in self._cameras.items():
            override = self._overrides.get(number)
            rate, threshold = settings.rate_hz, settings.threshold_permille
            if override is not None:
                rate = rate if override.rate_hz is None else override.rate_hz
                wanted = override.threshold_permille
                threshold = threshold if wanted is None else wanted
            shell.telemetry = telemetry.set_limits(
                shell.telemetry,
                rate_hz=rate,
                threshold_permille=threshold,
                encoding=settings.encoding,
            )

    def _expire_overrides(self) -> None:
        at = host.utc_now()
        late = [number for number, override in self._overrides.items() if override.until <= at]
        for number in late:
            del self._overrides[number]
        if late:
            self._set_limits()

    # Telling.
    def _report(self, now: float) -> None:
        """Publish ``reported`` on change, for progress, and as the heartbeat; once a second."""
        if now - self._reported_at < REPORT_SECONDS:
            return
        document = self._reported(now)
        self._note(document)
        shown = reporting.essence(document)
        is_progress = now - self._progress_at >= PROGRESS_SECONDS and any(
            camera.deployment is not None and camera.deployment.progress is not None
            for camera in document.cameras.values()
        )
        if shown == self._shown and not is_progress and now < self._heartbeat_at:
            return
        self._shown, self._reported_at, self._progress_at = shown, now, now
        self._heartbeat_at = now + self._options.heartbeat_seconds * random.uniform(0.8, 1.0)  # noqa: S311
        self._seq += 1
        self._bus.state(self._topic("reported"), reporting.encoded(document))

    def _broker_is(self, *, is_connected: bool, text: str = "") -> None:
        if is_connected is not self._broker.is_connected or text != self._broker.text:
            since = time_text(host.utc_now())
            self._broker = status.BrokerNote(is_connected=is_connected, since=since, text=text)

    def _note(self, document: Reported) -> None:
        """Leave word for `fleet-agent status`, whenever there is news."""
        children = {
            str(number): shell.running.process.pid
            for number, shell in self._cameras.items()
            if shell.running is not None and shell.running.process.pid is not None
        }
        news = (reporting.essence(document), self._broker, children)
        if news != self._noted:
            self._noted = news
            note = status.Note(
                pid=os.getpid(), broker=self._broker, children=children, reported=document
            )
            status.write_note(self._options.state, note)

    def _reported(self, now: float) -> Reported:
        bundle, identity = self._trust.bundle, self._trust.identity
        plan = () if bundle is None else bundle.plan
        listed = {} if bundle is None else bundle.listed
        is_read = not any(shell.is_behind for shell in self._cameras.values())
        return Reported(
            at=time_text(host.utc_now()),
            clock="synced" if self._utc_now(now) is not None else "unsynced",
            boot=self._boot,
            run=self.run_name,
            seq=self._seq,
            agent_version=AGENT_VERSION,
            serial=self._serial,
            plan_version=self._plan_version(is_read=is_read),
            plan_sha256=None if bundle is None else bundle.timestamp_sha256,
            identity_version=0 if identity is None else identity.version,
            trust=None if bundle is None else TrustReported(time_text(bundle.expires)),
            refused=Refused(
                trust=_cut(self._trust.refused_trust),
                identity=_cut(self._trust.refused_identity),
                message=self._trouble,
                entries=refused_entries(plan, listed),
            ),
            settings=self._settings_reported(),
            overrides=tuple(map(asking.described, self._overrides.values())),
            cameras={
                str(number): shell.reported(plan, listed, now)
                for number, shell in self._cameras.items()
            },
        )

    def _plan_version(self, *, is_read: bool) -> int:
        """Return the plan whose reverts are in the journal: every camera has looked at it."""
        bundle = self._trust.bundle
        if bundle is not None and (is_read or not self._cameras):
            self._plan_read = bundle.version
        return self._plan_read

    def _settings_reported(self) -> dict[str, str | int | float | None]:
        settings = self._settings
        return {
            "images": settings.privacy.images,
            "encoding": settings.telemetry.encoding,
            "events": "on" if settings.telemetry.events else "off",
            "rate_hz": settings.telemetry.rate_hz,
            "threshold_permille": settings.telemetry.threshold_permille,
            "frame_rate": settings.frame_rate,
        }

    def _publish(self, number: int, published: Published) -> bool:
        is_sent = True
        once = {
            "detections": published.detections,
            "packed": published.packed,
            # Asked for while it was allowed; it may not be any more.
            "image": published.image if self._settings.privacy.images == "on-request" else None,
        }
        for what, payload in once.items():
            if payload is not None:
                topic = self._topics.camera(self._card.device, number, what)
                is_sent = self._bus.publish(topic, payload)
        for event in published.events:
            self._bus.publish(self._topics.camera(self._card.device, number, "event"), event, qos=1)
        if published.counts is not None:
            topic = self._topics.camera(self._card.device, number, "counts")
            self._bus.publish(topic, published.counts, retain=True)
        return is_sent

    def _republish_counts(self) -> None:
        for number, shell in self._cameras.items():
            self._publish(number, Published(counts=shell.telemetry.counts))

    def _tell_health(self, now: float) -> None:
        if now - self._health_at < HEALTH_SECONDS:
            return
        self._health_at = now
        cameras: dict[str, CameraHealth] = {}
        pids: list[int] = []
        for number, shell in self._cameras.items():
            shell.telemetry, cameras[str(number)] = telemetry.measure(shell.telemetry, now)
            if shell.running is not None and shell.running.process.pid is not None:
                pids.append(shell.running.process.pid)
        power = self._power.read(now)
        document = Health(
            at=time_text(host.utc_now()),
            run=self.run_name,
            temperature_c=host.temperature_c(),
            throttled=power.is_throttled,
            under_voltage=power.is_under_voltage,
            memory_bytes=host.memory_bytes(*pids),
            cameras=cameras,
        )
        self._bus.publish(self._topic("health"), encode(document, bytes_max=HEALTH_BYTES))

    def _topic(self, rest: str) -> str:
        return self._topics.device(self._card.device, rest)

    def _utc_now(self, now: float) -> datetime | None:
        """Return the wall clock where it is to be believed."""
        if now - self._clock_at >= CLOCK_SECONDS:
            self._clock_at = now
            is_assumed = self._options.is_clock_assumed
            self._is_clock_right = is_assumed or host.is_clock_synchronised()
        return host.utc_now() if self._is_clock_right else None


def is_open(window: Window, local: datetime) -> bool:
    """Say whether a window is open at a local time; one past midnight belongs to its first day."""
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    minute = local.hour * 60 + local.minute
    today, yesterday = days[local.weekday()], days[(local - timedelta(days=1)).weekday()]
    if window.begin_minute < window.end_minute:
        return today in window.days and window.begin_minute <= minute < window.end_minute
    is_evening = today in window.days and minute >= window.begin_minute
    return is_evening or (yesterday in window.days and minute < window.end_minute)


def _zone(identity: Identity) -> ZoneInfo:
    try:
        return ZoneInfo(identity.timezone)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def _supports(manifest: Manifest) -> bool:
    """Say whether this agent is new enough for a release."""
    return _numbers(AGENT_VERSION) >= _numbers(manifest.requires.agent)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.partition("+")[0].split(".") if part.isdigit())


def _cut(error: ErrorText | None) -> ErrorText | None:
    return None if error is None else ErrorText(error.code, error.text[:TEXT_CHARACTERS_MAX])
