"""The loop that drives rollouts: the same in the foreground and in ``serve``.

    take the lease -> hear devices -> obey intentions -> steer -> sign, commit, publish, read back

Whoever holds the lease drives; another process watches what the holder writes to the store, and
takes over when the holder is gone. Killed at any point, the next driver goes on from the store and
from the devices' retained reports: nothing here is remembered anywhere else.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from time import monotonic, time

import msgspec
from securesystemslib.signer import Signer

from controller import audit, clearing, planning
from controller.devices import Known, RevokedRun, disconnected, fold
from controller.inventory import Fleet, identity_of
from controller.obeying import PUBLISHING, obey
from controller.picture import after_the_book, record_status, rollout_message, rollout_status
from controller.publisher import Publisher, carry_out
from controller.publishing import (
    Alerted,
    Beginning,
    Desired,
    Failed,
    Held,
    News,
    Published,
    Repairing,
)
from controller.repository import (
    Repository,
    bundle_bytes,
    repository_from_dict,
    sign_identity,
    sign_plan,
)
from controller.rollout import Judged, begin
from controller.status import DriverStatus, FleetStatus, RolloutStatus
from controller.steering import Site, plan_of, steer
from controller.store import Frozen, Intention, LeaseLostError, Record, Store
from shared.assignment import Entry
from shared.bus import Bus, BusEvent, Inbox
from shared.bus import Timing as BusTiming
from shared.errors import (
    AnotherControllerError,
    BrokerUnreachableError,
    FleetError,
    OperatorError,
    RefusedError,
)
from shared.identity import Identity, camera_of
from shared.inbox import (
    Connected,
    ConnectionFailed,
    Disconnected,
    Oversized,
    Received,
    SubscriptionRefused,
)
from shared.limits import HEARTBEAT_SECONDS, INBOX_MESSAGES, REPORTED_BYTES, STATUS_BYTES
from shared.release import Manifest
from shared.topics import DeviceTopic, Topics
from shared.trust import open_bundle

ALERTS_MAX = 20
ROLLOUTS_PUBLISHED_MAX = 16  # `rollout/*` topics that are kept at the broker.
RESIGN_DAYS = 45  # Half of the 90 days that the controller's signature lasts.
EVENTS_PER_TICK = 4_096
TOPICS_A_DEVICE = 2  # `status` and `reported`, which the broker keeps.
UNDECLARED_MAX = 1_000  # Names that anybody with access could make up.

logger = logging.getLogger(__name__)
OnChange = Callable[[FleetStatus], None]
Until = Callable[[FleetStatus], bool]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take; shorter in the demo and in tests.

    Attributes:
        heartbeat_seconds: How often devices report at least; no verdict before two of them.
        silence_seconds_min: How long an online device may say nothing.
        tick_seconds: How often the machines look.
        persist_seconds: How often driven seconds are written down.
        connect_seconds: How long the first connection may take.
    """

    heartbeat_seconds: float = HEARTBEAT_SECONDS
    silence_seconds_min: float = 2 * HEARTBEAT_SECONDS
    tick_seconds: float = 0.25
    persist_seconds: float = 60.0
    connect_seconds: float = 15.0
    bus: BusTiming | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """Where the broker is, who vouches for it, and our own certificate with its key, in PEM."""

    url: str
    ca: str | None = None
    certificate: str | None = None


def read_site(store: Store, fleet: Fleet, repository: Repository) -> Site:
    """Return all that decisions are made from, as the store has it."""
    identities = read_identities(store)
    return Site(
        book=store.book(),
        records={record.rollout: record for record in store.records()},
        cameras=tuple(
            camera_of(identity, int(number))
            for identity in identities.values()
            if identity.device in fleet.devices
            for number in identity.cameras
        ),
        devices=store.known(Known),
        listed=repository.listed,
        next_version=repository.version + 1,
        now=datetime.now(UTC),
        identity_versions={device: one.version for device, one in identities.items()},
        frozen=store.frozen(),
    )


def read_repository(store: Store) -> Repository:
    """Return all that was signed for this fleet.

    Raises:
        OperatorError: Nothing was: the fleet was never initialised.
    """
    kept = store.get("repository", dict[str, object])
    if kept is None:
        raise OperatorError("this fleet has no keys yet: run `fleetctl init`")
    return repository_from_dict(kept)


def read_identities(store: Store) -> dict[str, Identity]:
    """Return what is signed about each added device."""
    return {
        device: msgspec.json.decode(payload, type=Identity)
        for device, (_, payload, _) in store.identities().items()
    }


class Driver:
    """One process at the wheel, or waiting for it."""

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        address: Address,
        *,
        signer: Callable[[], Signer],
        timing: Timing,
    ) -> None:
        """Prepare; nothing is connected before ``run``. ``signer`` is asked once, at the wheel."""
        self.holder = token_hex(8)
        self._store, self._fleet, self._timing = store, fleet, timing
        self._broker = address.url
        self._load_signer = signer
        self._signer: Signer | None = None  # While we hold the lease.
        self._topics = Topics(fleet.name)
        self._repository = read_repository(store)
        self._site = read_site(store, fleet, self._repository)
        # Changed in place: a whole fleet reports at once. Whom others heard we have not heard yet.
        self._devices = disconnected(self._site.devices)
        self._versions: dict[str, int] = {}  # Of the signed identities.
        self._store_seen = -1
        # The broker hands over a whole fleet's reports and states at once.
        self._inbox: Inbox[BusEvent] = Inbox(
            messages_max=INBOX_MESSAGES + TOPICS_A_DEVICE * len(fleet.devices)
        )
        self._bus = Bus(
            address.url,
            f"fleetctl-{self.holder}",
            self._inbox,
            ca=address.ca,
            certificate=address.certificate,
            timing=timing.bus,
        )
        self._held, self._clearing = Held(), clearing.Clearing()
        self._publisher = self._new_publisher()
        self._dropped = 0  # Messages that found no room in the inbox.
        self._alerts: list[str] = []
        self._note: str | None = None
        self._error: FleetError | None = None
        self._dirty: set[str] = set()  # Devices whose reports are not in the store yet.
        self._revoked_run = RevokedRun(frozenset())
        self._outcomes: list[audit.Note] = []  # Told by these reports for the first time.
        self._statuses: dict[str, RolloutStatus] = {}
        self._messages: dict[str, tuple[bytes, bytes]] = {}  # Without and with their times.
        self._wanted: Desired | None = None
        self._was_connected = self._was_published = False
        self._looked_at = self._persisted_at = self._cleared_at = monotonic()
        self._connected_at = 0.0
        self._look_seconds = 0.0  # What the last look cost: a large fleet is looked at less often.

    def run(
        self, *, until: Until, on_change: OnChange | None, timeout_seconds: float | None
    ) -> FleetStatus:
        """Drive, or watch, until the status says that it is enough.

        Raises:
            TimeoutError: It took longer than ``timeout_seconds``.
            BrokerError: The broker cannot be had, or does not do its part.
            AnotherControllerError: Somebody else signs for this fleet with our keys.
        """
        started = monotonic()
        shown: FleetStatus | None = None
        for kind in ("status", "reported"):
            bytes_max = STATUS_BYTES if kind == "status" else REPORTED_BYTES
            topic = self._topics.any_device(kind)
            self._bus.subscribe(topic, bytes_max=bytes_max, is_repeated=True)
        self._bus.start()
        try:
            while True:
                self._hear()
                status = self._tick()
                if on_change is not None and status != shown:
                    on_change(status)
                shown = status
                if self._is_out() and until(status):
                    return status
                self._raise_if_over(started, timeout_seconds)
        finally:
            self._leave()

    @property
    def sent(self) -> tuple[int, int]:
        """Return the bytes and messages published since we took the wheel; from any thread."""
        progress = self._publisher.progress
        return progress.bytes_sent, progress.messages_sent

    @property
    def online(self) -> int:
        """Return how many devices are online now."""
        return sum(known.is_online for known in self._devices.values())

    def _is_out(self) -> bool:
        """Say whether what we know is what the broker has; a watcher has nothing to bring out."""
        if self._signer is None:
            lease = self._store.lease()
            return lease is not None and lease.is_alive(time())
        return self._publisher.version_echoed == self._repository.version

    def _raise_if_over(self, started: float, timeout_seconds: float | None) -> None:
        now = monotonic()
        if self._error is not None:
            raise self._error
        if not self._was_connected and now - started > self._timing.connect_seconds:
            last = self._alerts[-1] if self._alerts else "nobody answers"
            raise BrokerUnreachableError(f"no connection to the broker: {last}")
        if timeout_seconds is not None and now - started > timeout_seconds:
            raise TimeoutError(f"not done after {timeout_seconds:.0f} s")

    def _leave(self) -> None:
        if self._signer is not None:
            self._persist(is_forced=True)
        self._store.give_lease(self.holder)
        self._bus.stop()

    # What is heard.

    def _hear(self) -> None:
        """Take events for one tick."""
        self._say_dropped()
        end = monotonic() + max(self._timing.tick_seconds, self._look_seconds)
        for _ in range(EVENTS_PER_TICK):
            event = self._inbox.get(timeout=max(end - monotonic(), 0.0))
            if event is None:
                return
            self._handle(event)

    def _say_dropped(self) -> None:
        if self._inbox.dropped > self._dropped:
            self._dropped = self._inbox.dropped
            self._alert("more messages came than can be read; devices may seem late")

    def _handle(self, event: BusEvent) -> None:
        if self._signer is not None:
            self._obey_news(carry_out(self._publisher.handle(event, monotonic()), self._bus))
        match event:
            case Connected():
                self._was_connected, self._connected_at = True, monotonic()
                self._begin_again()
            case Disconnected(text) | ConnectionFailed(text):
                self._alert(f"broker: {text}")
                self._devices.update(disconnected(self._devices))
            case SubscriptionRefused(topic):
                self._alert(f"the broker refuses us {topic}")
            case Received():
                self._received(event)
            case Oversized(topic):
                self._alert(f"what came on {topic} is too long, and was not read")
            case _:
                pass

    def _begin_again(self) -> None:
        """Let no verdict fall before two heartbeats: we do not know yet who is really there."""
        records = {
            name: record if record.is_over else replace(record, course=begin(record.course))
            for name, record in self._site.records.items()
        }
        self._site = replace(self._site, records=records)

    def _received(self, event: Received) -> None:
        try:
            topic = self._topics.parse(event.topic)
        except RefusedError:
            return
        if isinstance(topic, DeviceTopic) and event.payload and self._has_room(topic.device):
            self._heard(topic, event)

    def _has_room(self, device: str) -> bool:
        """Say whether to listen to a device: of those that nobody declared, only to so many."""
        if device in self._devices or device in self._fleet.devices:
            return True
        return len(self._devices) < len(self._fleet.devices) + UNDECLARED_MAX

    def _heard(self, topic: DeviceTopic, event: Received) -> None:
        known = self._devices.get(topic.device, Known(topic.device))
        try:
            after = fold(known, topic.rest, event.payload, is_retained=event.is_retained)
        except RefusedError as error:
            self._alert(f"{topic.device}: malformed {topic.rest}: {error.text}")
            return
        if after != known:
            self._devices[topic.device] = after
            self._revoked_run.note(after)
            self._outcomes += audit.of_report(known, after)
            self._dirty.add(topic.device)
            self._help(after)

    def _help(self, known: Known) -> None:
        """Send a device what it says it lacks."""
        report = known.report
        if self._signer is None or report is None:
            return
        now = monotonic()
        if report.identity_version < self._versions.get(known.device, 0):
            topic = self._topics.device(known.device, "identity")
            self._obey_news(carry_out(self._publisher.republish_state(topic, now), self._bus))
        deployments = (camera.deployment for camera in report.cameras.values())
        missing = [block for d in deployments if d is not None for block in d.missing_blocks]
        if missing:
            self._obey_news(carry_out(self._publisher.republish(missing, now), self._bus))

    # The wheel.

    def _tick(self) -> FleetStatus:
        now = monotonic()
        seconds, self._looked_at = now - self._looked_at, now
        try:
            self._take_or_leave_the_wheel()
            if self._signer is not None:
                self._drive(seconds, self._signer)
        except LeaseLostError:
            self._signer = None
        self._look_seconds = monotonic() - now
        return self._status()

    def _take_or_leave_the_wheel(self) -> None:
        is_held = self._store.take_lease(self.holder, time())
        if is_held and self._signer is None:
            self._signer = self._load_signer()
            self._note_wheel()
            self._outcomes = self._outcomes_untold()
            self._sign_identities(self._signer)
            self._store_seen = -1
            self._read_again()
            self._begin_again()
            self._publisher = self._new_publisher()
            self._wanted = None
            if self._bus.is_connected:
                news = carry_out(self._publisher.handle(Connected(), monotonic()), self._bus)
                self._obey_news(news)
        elif not is_held:
            self._signer = None

    def _outcomes_untold(self) -> list[audit.Note]:
        """Return what devices told us and nobody wrote down: its holder may have died first."""
        told = self._store.known(Known)
        return [
            note
            for device, known in self._devices.items()
            for note in audit.of_report(told.get(device, Known(device)), known)
        ]

    def _note_wheel(self) -> None:
        with self._store.transaction(self.holder):
            audit.note(self._store, "driver", self.holder, text="took the wheel")

    def _read_again(self) -> None:
        """Take over what other processes wrote: added devices, signed releases, new rollouts."""
        version = self._store.version_seen()
        if version == self._store_seen:
            return
        ours = {} if self._store_seen == -1 else self._site.records
        self._store_seen = version
        self._repository = read_repository(self._store)
        site = read_site(self._store, self._fleet, self._repository)
        self._devices = {**disconnected(site.devices), **self._devices}
        self._revoked_run = RevokedRun(self._store.revoked(), self._devices.values())
        records = {**site.records, **ours}  # Ours are newer: their clocks are not written yet.
        self._site = replace(site, devices=self._devices, records=records)

    def _drive(self, seconds: float, signer: Signer) -> None:
        now = monotonic()
        self._read_again()
        before = self._site
        is_driven = self._publisher.is_echoing(now)
        site = replace(before, next_version=self._repository.version + 1, now=datetime.now(UTC))
        intentions = self._store.intentions()
        for intention in intentions:
            site = self._obeyed(site, intention)
        site, looks = steer(site, seconds if is_driven else 0.0)
        self._commit(before, site, intentions, looks, signer)
        self._picture(looks)
        self._publish(now)
        self._clear(now)

    def _obeyed(self, site: Site, intention: Intention) -> Site:
        name = intention.rollout
        if name and name not in site.records:
            record = self._store.record(name)
            site = replace(site, records={**site.records, name: record})
        try:
            after = obey(site, intention)
        except OperatorError as error:
            self._alert(f"{intention.verb} {name}: {error}")
            if intention.verb != "start":
                return site
            record = replace(
                site.records[name],
                state="aborted",
                reason="refused",
                text=str(error),
                ended_at=site.now,
            )
            return replace(site, records={**site.records, name: record})
        logger.info("%s %s, as an operator asked", intention.verb, name)
        return after

    def _commit(
        self,
        before: Site,
        after: Site,
        intentions: Iterable[Intention],
        looks: Mapping[str, Judged],
        signer: Signer,
    ) -> None:
        """Sign what changed, and make it durable before anybody hears of it."""
        asked = tuple(intentions)
        changed = [r for n, r in after.records.items() if _matters(before.records.get(n), r)]
        is_old = self._repository.plan_expires - after.now < timedelta(days=RESIGN_DAYS)
        is_wanted = is_old or any(one.verb in PUBLISHING for one in asked)
        is_new_plan = is_wanted or plan_of(after) != plan_of(before)
        if is_new_plan or after.book != before.book or asked or changed:
            with self._store.transaction(self.holder):
                if any(one.verb == "revoke" for one in self._store.intentions()[len(asked) :]):
                    return  # It must be in the same plan as its list: at the next look.
                # Read within the transaction: another process may just have signed a release.
                repository = read_repository(self._store)
                if is_new_plan:
                    repository = self._sign(repository, after, signer)
                self._keep(after, after.records.values() if is_new_plan else changed, asked)
                said = audit.of_steering(before.records, after.records, looks)
                audit.note_all(self._store, said)
                if is_new_plan:
                    self._note_plan(repository, plan_of(after), signer)
            self._repository = repository
            self._forget_devices(asked)
            for record in changed:
                logger.info("%s is %s: %s", record.rollout, record.state, record.text or "")
        self._site = after
        self._persist(is_forced=False)

    def _sign(self, repository: Repository, site: Site, signer: Signer) -> Repository:
        """Sign the plan, and keep it; within a transaction."""
        signed = sign_plan(repository, plan_of(site), signer, site.now)
        self._store.put("repository", signed.to_dict())
        self._clearing = clearing.noted(self._clearing, site, time())
        self._store.put("at_broker", self._clearing.since)
        return signed

    def _keep(self, site: Site, records: Iterable[Record], asked: Iterable[Intention]) -> None:
        """Keep what was decided, and take off the list what was asked for; in a transaction."""
        self._store.put("book", site.book)
        self._store.keep_frozen(site.frozen)
        for record in records:
            self._store.save(record)
        for intention in asked:
            self._store.forget(intention)
            if intention.verb == "remove":
                self._store.forget_device(str(intention.arguments["device"]))

    def _forget_devices(self, asked: Iterable[Intention]) -> None:
        """Forget those that were removed; what the broker keeps of them, the command clears."""
        for intention in asked:
            if intention.verb == "remove":
                device = str(intention.arguments["device"])
                self._devices.pop(device, None)
                self._dirty.discard(device)

    def _note_plan(self, repository: Repository, plan: Sequence[Entry], signer: Signer) -> None:
        """Write a plan into the audit log, and let the key that signed it vouch for the log."""
        text = repository.files["timestamp.json"]
        audit.note_all(self._store, [audit.of_plan(plan, repository.version, text)])
        audit.seal(self._store, signer)

    def _persist(self, *, is_forced: bool) -> None:
        """Write down what may be a minute old: driven seconds, and what devices said."""
        now = monotonic()
        is_due = is_forced or now - self._persisted_at >= self._timing.persist_seconds
        if not (is_due or self._dirty):
            return
        try:
            with self._store.transaction(self.holder):
                for device in self._dirty:
                    self._store.save_known(device, self._devices[device])
                audit.note_all(self._store, self._outcomes)
                for record in self._site.records.values():
                    if is_due and not record.is_over:
                        self._store.save(record)
                if is_due:
                    self._keep_held()
        except LeaseLostError:
            self._signer = None
            return
        self._dirty.clear()
        self._outcomes.clear()
        if is_due:
            self._persisted_at = now

    def _keep_held(self) -> None:
        """Write down what the broker holds: the next driver does not send it again."""
        held = self._publisher.holding
        if held != self._held:
            self._store.put("held", held)
            self._held = held

    def _sign_identities(self, signer: Signer) -> None:
        """Sign anew what fleet.yaml says otherwise about an added device."""
        for device, (version, payload, _) in self._store.identities().items():
            declared = self._fleet.devices.get(device)
            if declared is None:
                continue
            signed = msgspec.json.decode(payload, type=Identity)
            now = datetime.now(UTC)
            wanted = identity_of(self._fleet.name, declared, version=version + 1, at=now)
            if msgspec.structs.replace(wanted, version=version, at=signed.at) != signed:
                with self._store.transaction(self.holder):
                    keep_identity(self._store, wanted, signer)
                    audit.note(self._store, "device", device, verb="sign", version=version + 1)

    # What goes out.

    def _picture(self, looks: Mapping[str, Judged]) -> None:
        """Draw every rollout that moves, and keep the pictures that changed for other processes."""
        in_book = {rollout.entry.rollout: rollout for rollout in self._site.book}
        for name, record in self._site.records.items():
            old = self._statuses.get(name) or self._store.status(name)
            rollout, judged = in_book.get(name), looks.get(name)
            if rollout is not None and judged is not None and not self._is_too_early(record, old):
                new = rollout_status(self._site, rollout, judged)
            elif old is not None:
                new = after_the_book(old, record)
            else:
                new = record_status(record)
            self._statuses[name] = new
            if new != old:
                self._store.save_status(new)

    def _is_too_early(self, record: Record, old: RolloutStatus | None) -> bool:
        """Say whether a finished rollout's picture would only show that we have just come."""
        heard_for = monotonic() - self._connected_at
        is_finished = record.is_over and old is not None and old.state == record.state
        return is_finished and heard_for < record.rules.quiet_seconds

    def _publish(self, now: float) -> None:
        identities = self._store.identities()
        self._versions = {device: version for device, (version, _, _) in identities.items()}
        states = {
            self._topics.device(device, "identity"): envelope
            for device, (_, _, envelope) in identities.items()
        }
        newest = sorted(self._statuses, key=_number, reverse=True)[:ROLLOUTS_PUBLISHED_MAX]
        for name in newest:
            status = self._statuses[name]
            states[self._topics.rollout(name)] = self._message(status)
        blocks, manifests = self._blocks()
        desired = Desired(
            bundle_bytes(self._repository), self._repository.version, blocks, manifests, states
        )
        news: tuple[News, ...] = ()
        if desired != self._wanted:
            self._wanted = desired
            news = carry_out(self._publisher.want(desired, now), self._bus)
        news += carry_out(self._publisher.tick(now), self._bus)
        self._obey_news(news)

    def _message(self, status: RolloutStatus) -> bytes:
        """Return a rollout's document, with the time at which it came to say so."""
        plain = rollout_message(status, datetime.fromtimestamp(0, UTC))
        before = self._messages.get(status.rollout)
        if before is not None and before[0] == plain:
            return before[1]
        stamped = rollout_message(status, datetime.now(UTC))
        self._messages[status.rollout] = (plain, stamped)
        return stamped

    def _blocks(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the blocks and manifests that the plan's releases consist of."""
        digests = dict.fromkeys(
            entry.manifest_sha256 for entry in planning.entries(self._site.book)
        )
        blocks: list[str] = []
        for digest in digests:
            blocks.extend(self._blocks_of(digest))
        return tuple(blocks), tuple(digests)

    def _blocks_of(self, digest: str) -> tuple[str, ...]:
        if digest not in self._known_blocks:
            manifest = msgspec.json.decode(self._store.blob(digest), type=Manifest)
            self._known_blocks[digest] = tuple(b for file in manifest.files for b in file.blocks)
        return self._known_blocks[digest]

    def _clear(self, now: float) -> None:
        """Take from the broker what nothing has needed for a day."""
        is_due = now - self._cleared_at >= self._timing.persist_seconds
        if not is_due or not self._publisher.is_idle:
            return
        self._cleared_at, before = now, self._clearing
        self._clearing = after = clearing.look(before, self._site, time())
        if after.since != before.since:
            with self._store.transaction(self.holder):
                self._store.put("at_broker", after.since)
        gone = self._blocks_named(after.leaving)
        gone -= self._blocks_named(after.since.keys() - after.leaving)
        self._obey_news(carry_out(self._publisher.clear_blocks(gone, now), self._bus))

    def _blocks_named(self, releases: Iterable[str]) -> set[str]:
        digests = {digest for name in releases if (digest := self._store.manifest_sha256(name))}
        return digests.union(*map(self._blocks_of, digests))

    def _new_publisher(self) -> Publisher:
        self._known_blocks: dict[str, tuple[str, ...]] = {}
        kept_since = self._store.get("at_broker", dict[str, float | None])
        self._clearing = clearing.Clearing(kept_since or {})
        root = self._repository.root

        def judge_version(data: bytes) -> int:
            return open_bundle(data, fleet=self._fleet.name, root=root).version

        kept = self._store.get("held", Held)
        is_ours = kept is not None and kept.broker == self._broker
        self._held = kept if kept is not None and is_ours else Held(self._broker)
        return Publisher(
            self._topics,
            judge_version=judge_version,
            read_block=self._store.block,
            held=self._held,
        )

    def _obey_news(self, news: Iterable[News]) -> None:
        for one in news:
            match one:
                case Published(version):
                    self._was_published, self._note = True, None
                    logger.info("plan %d is at the broker", version)
                case Beginning():
                    self._note = "this broker has nothing of the fleet yet: all of it goes out"
                case Repairing(text) | Alerted(text):
                    self._alert(text)
                case Failed(error):
                    self._failed(error)

    def _failed(self, error: FleetError) -> None:
        """End where it matters: a first plan that nobody got, or somebody else with our keys."""
        if isinstance(error, AnotherControllerError) or not self._was_published:
            self._error = error
        self._alert(str(error))

    def _alert(self, text: str) -> None:
        if text not in self._alerts:
            logger.warning("%s", text)
            self._alerts = [*self._alerts, text][-ALERTS_MAX:]

    # What is said.

    def _status(self) -> FleetStatus:
        if self._signer is None:
            return fleet_status(
                self._store,
                self._fleet.name,
                alerts=tuple(self._alerts),
                is_connected=self._bus.is_connected,
            )
        newest = sorted(self._statuses.values(), key=lambda s: _number(s.rollout), reverse=True)
        return FleetStatus(
            fleet=self._fleet.name,
            plan_version=self._repository.version,
            is_broker_connected=self._bus.is_connected,
            is_plan_echoed=self._publisher.version_echoed == self._repository.version,
            driver=DriverStatus(self.holder, is_us=True, not_driven_since=None),
            rollouts=tuple(newest),
            alerts=(*self._alerts, *self._revoked_run.alerts),
            note=self._note,
            frozen=_frozen_words(self._site.frozen),
        )


def _frozen_words(frozen: Frozen | None) -> str | None:
    return None if frozen is None else f"{frozen}: `fleetctl unfreeze` ends it"


def fleet_status(
    store: Store, fleet: str, *, alerts: tuple[str, ...] = (), is_connected: bool = False
) -> FleetStatus:
    """Return how the fleet looks from the store alone."""
    driver = driver_status(store)
    return FleetStatus(
        fleet=fleet,
        plan_version=read_repository(store).version,
        is_broker_connected=is_connected,
        is_plan_echoed=False,
        driver=driver,
        rollouts=tuple(stored_status(store, record, driver) for record in store.records()),
        alerts=alerts,
        frozen=_frozen_words(store.frozen()),
    )


def stored_status(store: Store, record: Record, driver: DriverStatus) -> RolloutStatus:
    """Return how a rollout looked last; ``not driven since`` where nobody drives."""
    kept = store.status(record.rollout)
    status = record_status(record) if kept is None else after_the_book(kept, record)
    since = None if record.is_over else driver.not_driven_since
    return replace(status, not_driven_since=since)


def driver_status(store: Store) -> DriverStatus:
    """Return who drives, or since when nobody does."""
    lease = store.lease()
    if lease is None:
        return DriverStatus(None, is_us=False, not_driven_since=None)
    if lease.is_alive(time()):
        return DriverStatus(
            f"{lease.host}, process {lease.pid}", is_us=False, not_driven_since=None
        )
    since = datetime.fromtimestamp(lease.renewed, UTC)
    return DriverStatus(None, is_us=False, not_driven_since=since)


def keep_identity(store: Store, identity: Identity, signer: Signer) -> None:
    """Sign an identity and keep it; within a transaction."""
    payload = msgspec.json.encode(identity)
    store.save_identity(identity.device, identity.version, payload, sign_identity(identity, signer))


def _matters(before: Record | None, after: Record) -> bool:
    """Say whether a record has changed in more than its clocks."""
    if before is None:
        return True
    old, new = before.course, after.course
    looked = old.gathered.verdicts == new.gathered.verdicts  # A look is made once.
    same = looked and (old.attempt, old.reaches, old.verdicts, old.treated) == (
        new.attempt, new.reaches, new.verdicts, new.treated,
    )  # fmt: skip
    return not same or replace(before, course=new) != after


def _number(rollout: str) -> int:
    return int(rollout.removeprefix("r-"))
