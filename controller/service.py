"""The controller: one fleet's store, keys, plan and broker behind one class. The CLI only renders.

Commands write intentions to the store; whoever holds the lease acts on them (``driving.py``). So
two ``fleetctl`` at once are one driver and one watcher.

    controller = Controller.open(Path("."))
    rollout = controller.start_rollout("helmet@8", selector="role=door", strategy="careful")
    status = controller.drive(rollout, on_change=show)      # foreground; Ctrl-C detaches
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Self

import msgspec
from securesystemslib.signer import Signer

from controller import audit, strategies
from controller.authority import Authorities, Authority, AuthorityName, Issued, issue_device
from controller.devices import Known, disconnected, notes_of, revoked_on
from controller.driving import (
    Address,
    Driver,
    OnChange,
    Timing,
    Until,
    driver_status,
    fleet_status,
    keep_identity,
    read_identities,
    read_repository,
    read_site,
    stored_status,
)
from controller.inventory import (
    Device,
    Fleet,
    identity_of,
    load_fleet,
    pins_outside,
    selector_of,
)
from controller.keys import (
    KeyRole,
    create_keys,
    has_next,
    load_signer,
    needs_passphrase,
    settle_next,
)
from controller.listening import listen
from controller.obeying import obey
from controller.repository import Repository, add_release, create, repository_from_dict
from controller.rollout import Rules
from controller.status import (
    DeviceStatus,
    DriverStatus,
    FleetStatus,
    ReleaseStatus,
    RolloutStatus,
)
from controller.steering import Site
from controller.store import Intention, Record, ReleaseRow, Store
from controller.strategies import Strategy
from shared.card import Broker as CardBroker
from shared.card import Card
from shared.errors import BrokerError, OperatorError, StorageError, UnsignedError
from shared.identity import Identity
from shared.messages import parse_time
from shared.release import Manifest, Role, open_manifest, parse_release
from shared.topics import is_name
from shared.trust import open_root

__all__ = ["DEMO_TIMING", "Controller", "OnChange", "Passphrase", "Timing"]

FLEET_YAML = "fleet.yaml"
EMBEDDED_URL = "mqtt://127.0.0.1:1883"
DEMO_TIMING = Timing(heartbeat_seconds=2.0, silence_seconds_min=30.0, persist_seconds=5.0)
AT_REST = frozenset({"completed", "aborted", "paused"})

Passphrase = Callable[[str], str | None]  # role -> passphrase; None: the key is plain (demo).


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a fleet lives: what is declared, what is kept, where its broker is."""

    file: Path
    folder: Path
    fleet: Fleet
    broker_url: str | None

    @property
    def address(self) -> Address:
        """Return where fleetctl connects; a relative ``ca`` is beside fleet.yaml."""
        broker = self.fleet.broker
        ca = None if broker.ca is None else str(self.file.parent / broker.ca)
        url = self.broker_url or broker.controller_url or broker.url or EMBEDDED_URL
        path = self.authorities.controller_path
        is_ours = url.startswith("mqtts:") and path.is_file()
        return Address(url, ca, _read_text(path) if is_ours else None)

    @property
    def devices_url(self) -> str:
        """Return where devices connect."""
        return self.broker_url or self.fleet.broker.url or EMBEDDED_URL

    @property
    def authorities(self) -> Authorities:
        """Return the authorities of the broker."""
        return Authorities(self.keys, self.folder / "tls")

    @property
    def keys(self) -> Path:
        """Return the folder of the keys, outside the project."""
        return self.folder / "keys"


class Controller:
    """One fleet. Every method may raise OperatorError, StorageError and BrokerError."""

    def __init__(
        self, place: _Place, store: Store, passphrase: Passphrase | None, timing: Timing | None
    ) -> None:
        """Take over an open store; use ``open`` or ``init_fleet``."""
        self._place, self._store = place, store
        self._passphrase = passphrase
        self.fleet = place.fleet
        self.folder = place.folder
        self.is_demo = open_root(read_repository(store).root, fleet=place.fleet.name).is_demo
        self._timing = timing or (DEMO_TIMING if self.is_demo else Timing())

    @classmethod
    def init_fleet(
        cls,
        project: Path,
        *,
        passphrase: str | None,
        home: Path | None = None,
        timing: Timing | None = None,
        broker_url: str | None = None,
    ) -> Self:
        """Make keys, root and store for the fleet of ``project/fleet.yaml``; never overwrites.

        Args:
            project: The folder with fleet.yaml, or such a file.
            passphrase: For all keys; None writes plain keys and a root marked demo.
            home: Instead of ``$XDG_DATA_HOME/imxfleet``.
            timing: How long things take.
            broker_url: Instead of fleet.yaml's.
        """
        place = _place(project, home, broker_url)
        keys = create_keys(place.keys, fleet=place.fleet.name, passphrase=passphrase)
        repository = create(keys, now=datetime.now(UTC))
        place.authorities.create(place.fleet.name, passphrase)
        store = Store(place.folder)
        with store.transaction():
            store.put("repository", repository.to_dict())
        return cls(place, store, lambda _: passphrase, timing)

    @classmethod
    def open(
        cls,
        project: Path,
        *,
        home: Path | None = None,
        passphrase: Passphrase | None = None,
        timing: Timing | None = None,
        broker_url: str | None = None,
    ) -> Self:
        """Open a fleet that ``init_fleet`` made; the arguments are its."""
        place = _place(project, home, broker_url)
        if not place.keys.is_dir():
            raise OperatorError(
                f"fleet {place.fleet.name} has no keys in {place.keys}: run `fleetctl init`"
            )
        return cls(place, Store(place.folder), passphrase, timing)

    @property
    def store(self) -> Store:
        """Return the store, for the verbs that live in modules of their own."""
        return self._store

    @property
    def keys(self) -> Path:
        """Return the folder of the keys."""
        return self._place.keys

    @property
    def file(self) -> Path:
        """Return where fleet.yaml is."""
        return self._place.file

    @property
    def address(self) -> Address:
        """Return where the broker is, and who vouches for it."""
        return self._place.address

    @property
    def broker_url(self) -> str:
        """Return where the broker is."""
        return self.address.url

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    # Devices.

    def add_device(self, device: str) -> Card:
        """Sign a device's identity and return its card; again: the same, with a new certificate."""
        declared = self._declared(device)
        if device not in self._store.identities():
            signer = self.signer("controller")
            now = datetime.now(UTC)
            identity = identity_of(self.fleet.name, declared, version=1, at=now)
            with self._store.transaction():
                keep_identity(self._store, identity, signer)
                audit.note(self._store, "device", device, verb="add", identity_version=1)
        address = self._place.address
        ca = None if address.ca is None else _read_text(Path(address.ca))
        root = read_repository(self._store).root.decode()
        issued = self._issue(device)
        broker = CardBroker(
            url=self._place.devices_url,
            ca=ca,
            certificate=None if issued is None else issued.certificate,
            key=None if issued is None else issued.key,
        )
        return Card(fleet=self.fleet.name, device=device, broker=broker, root=root)

    def list_devices(self) -> tuple[DeviceStatus, ...]:
        """Return every device, declared or heard; asks the broker where nobody drives."""
        devices, is_live = self.heard()
        identities = read_identities(self._store)
        names = [*self.fleet.devices, *(name for name in devices if name not in self.fleet.devices)]
        return tuple(
            self._device(
                name, devices.get(name, Known(name)), identities.get(name), is_live=is_live
            )
            for name in names
        )

    def show_device(self, device: str) -> DeviceStatus:
        """Return one device."""
        for status in self.list_devices():
            if status.device == device:
                return status
        self._declared(device)
        raise AssertionError("unreachable: what is declared is listed")

    # Releases.

    def import_release(self, manifest: Manifest, files: Mapping[str, bytes]) -> ReleaseStatus:
        """Take a release into the store, unsigned; again: nothing changes."""
        parse_release(manifest.release)
        self._store.add_release(manifest, files, time())
        return self._release(manifest.release)

    def sign_release(self, release: str, passphrase: str | None) -> ReleaseStatus:
        """Sign a release: the next plan tells the devices that it exists."""
        digest = self._manifest_sha256(release)
        data = self._store.blob(digest)
        signer = load_signer(self._place.keys, "release", passphrase)
        with self._store.transaction():  # A driver in another process waits for it.
            kept = self._store.get("repository", dict[str, object])
            repository = add_release(
                repository_from_dict(kept), release, digest, len(data), signer, datetime.now(UTC)
            )
            self._store.put("repository", repository.to_dict())
            self._store.sign(release)
            audit.note(self._store, "release", release, verb="sign", manifest_sha256=digest)
        return self._release(release)

    def verify_release(self, release: str) -> ReleaseStatus:
        """Hash every byte of a release, and compare it with what is signed.

        Raises:
            UnsignedError: It is not signed.
            StorageError: A byte is missing or changed.
        """
        digest = self._manifest_sha256(release)
        data = self._store.blob(digest)
        manifest = open_manifest(data, sha256_expected=digest, release=release)
        for file in manifest.files:
            self._store.blob(file.sha256)
        if read_repository(self._store).listed.get(release) != digest:
            raise UnsignedError(f"{release} is not signed: `fleetctl release sign {release}`")
        return self._release(release)

    def list_releases(self) -> tuple[ReleaseStatus, ...]:
        """Return all releases of the store, oldest first."""
        return self._statuses(self._store.releases())

    def show_release(self, release: str) -> tuple[ReleaseStatus, Manifest]:
        """Return one release with its manifest."""
        data = self._store.blob(self._manifest_sha256(release))
        return self._release(release), msgspec.json.decode(data, type=Manifest)

    def read_release(self, release: str, role: Role) -> bytes | None:
        """Return a release's file of that role, or None where it has none.

        Raises:
            OperatorError: The store has no such release.
            StorageError: A byte is missing or changed.
        """
        _, manifest = self.show_release(release)
        file = manifest.file(role)
        return None if file is None else self._store.blob(file.sha256)

    # Rollouts. ``rollout`` is an id (r-7) or a name (its newest). They write intentions.

    def start_rollout(
        self,
        release: str,
        *,
        selector: str,
        strategy: str | None = None,
        over: bool = False,
        name: str | None = None,
        deny: tuple[str, ...] = (),
    ) -> str:
        """Begin to bring a release to devices; return the rollout's id."""
        record = self.new_record(release, selector, self.strategy(strategy), name, deny)
        return self._begin(record, over=over)

    def pause(self, rollout: str) -> None:
        """Let nobody new activate."""
        self._intend("pause", rollout)

    def resume(self, rollout: str) -> None:
        """End an operator's pause."""
        self._intend("resume", rollout)

    def promote(self, rollout: str) -> None:
        """Go on to the next wave after one that was inconclusive."""
        self._intend("promote", rollout)

    def retry(self, rollout: str) -> None:
        """Name a rollout anew for all devices where it ended badly."""
        self._intend("retry", rollout)

    def abort(self, rollout: str, *, no_revert: bool = False) -> None:
        """End a rollout; its treated devices go back, or keep what they run."""
        self._intend("abort", rollout, no_revert=no_revert)

    def undo(self, rollout: str, *, strategy: str | None = None, over: bool = False) -> str:
        """Bring back what a rollout's devices ran before, in one wave; return the new id."""
        return self._begin(self.undo_record(rollout, strategy), over=over)

    def undo_record(self, rollout: str, strategy: str | None = None) -> Record:
        """Return the record of a rollout that would undo another one.

        Raises:
            OperatorError: There is nothing to bring back, or more than one release.
        """
        undone = self._store.record(rollout)
        if not undone.ran_before:
            raise OperatorError(f"{undone.rollout}: its devices ran nothing before it")
        if len(undone.ran_before) > 1:
            many = ", ".join(f"{name} ({count})" for name, count in undone.ran_before.items())
            raise OperatorError(
                f"{undone.rollout}: its devices ran several releases before: {many}; "
                "start a rollout of the one you want"
            )
        (release,) = undone.ran_before
        one_wave = Strategy("undo", waves=(strategies.Wave(1000),), probe=undone.probe)
        chosen = one_wave if strategy is None else self.strategy(strategy)
        return self.new_record(release, undone.selector, chosen, f"undo-{undone.rollout}", ())

    def status(self, rollout: str | None = None) -> RolloutStatus:
        """Return how a rollout looks, from the store alone; None: the newest."""
        records = self._store.records()
        if rollout is None and not records:
            raise OperatorError("there is no rollout yet: `fleetctl rollout start`")
        record = records[0] if rollout is None else self._store.record(rollout)
        return stored_status(self._store, record, self.driver())

    def fleet_status(self) -> FleetStatus:
        """Return how the fleet looks, from the store alone."""
        return fleet_status(self._store, self.fleet.name)

    def history(self) -> tuple[RolloutStatus, ...]:
        """Return all rollouts, newest first."""
        return self.fleet_status().rollouts

    def driver(self) -> DriverStatus:
        """Return who drives."""
        return driver_status(self._store)

    def drive(
        self,
        rollout: str | None = None,
        *,
        until: Until | None = None,
        on_change: OnChange | None = None,
        timeout_seconds: float | None = None,
    ) -> RolloutStatus | None:
        """Drive all rollouts, or watch while another process holds the lease, until done.

        Without ``until``: till the rollout is completed, aborted or paused and every intention is
        obeyed; without a rollout: for ever. KeyboardInterrupt detaches: the lease is given back.

        Raises:
            TimeoutError: It took longer than ``timeout_seconds``.
            BrokerUnreachableError: No connection.
            NotEchoedError: The broker does not hand the plan back.
            AnotherControllerError: Somebody else signs for this fleet with our keys.
        """
        name = None if rollout is None else self._store.record(rollout).rollout
        self.new_driver().run(
            until=self._until(name, until), on_change=on_change, timeout_seconds=timeout_seconds
        )
        return None if name is None else self.status(name)

    def declare(self, fleet: Fleet) -> None:
        """Take over what fleet.yaml says now."""
        self._place = replace(self._place, fleet=fleet)
        self.fleet = fleet

    def new_driver(self) -> Driver:
        """Return what drives all rollouts, for one connection after the other."""
        return Driver(
            self._store,
            self.fleet,
            self._place.address,
            signer=lambda: self.signer("controller"),
            timing=self._timing,
        )

    # The broker of a site.

    @property
    def authorities(self) -> Authorities:
        """Return the authorities of the broker."""
        return self._place.authorities

    def open_authority(self, name: AuthorityName) -> Authority:
        """Open one of the broker's authorities; a fleet of an earlier version gets them now."""
        authorities = self._place.authorities
        if not authorities.is_there:
            secret = self._secret("broker") if needs_passphrase(self._place.keys, "root") else None
            authorities.create(self.fleet.name, secret)
        secret = self._secret("broker") if authorities.needs_passphrase(name) else None
        return authorities.open(name, secret)

    # How it is done.

    def _issue(self, device: str) -> Issued | None:
        """Return a device's certificate, where the broker is asked for one."""
        if not self._place.devices_url.startswith("mqtts:"):
            return None
        return issue_device(self.open_authority("devices"), device, datetime.now(UTC))

    def _secret(self, role: str) -> str | None:
        return None if self._passphrase is None else self._passphrase(role)

    def _until(self, name: str | None, until: Until | None) -> Until:
        def is_done(status: FleetStatus) -> bool:
            if self._store.intentions():
                return False
            if until is not None:
                return until(status)
            return any(one.rollout == name and one.state in AT_REST for one in status.rollouts)

        return is_done

    def _declared(self, device: str) -> Device:
        declared = self.fleet.devices.get(device)
        if declared is None:
            path = self._place.file
            line = f"  {device}: {{}}" if is_name(device) else "  a name of a-z, 0-9 and '-'"
            raise OperatorError(
                f"expected a device that {path.name} declares, got {device!r}; "
                f"add this line under `devices:`\n{line}"
            )
        return declared

    def signer(self, role: KeyRole) -> Signer:
        """Open a key; its passphrase is asked for only where it has one."""
        if has_next(self._place.keys):  # A rotation under way holds the transaction till its end.
            with self._store.transaction():
                settle_next(self._place.keys, self._store.get("controller_key", str))
        if not needs_passphrase(self._place.keys, role):
            return load_signer(self._place.keys, role, None)
        return load_signer(self._place.keys, role, self._secret(role))

    def _manifest_sha256(self, release: str) -> str:
        parse_release(release)
        digest = self._store.manifest_sha256(release)
        if digest is None:
            raise OperatorError(f"{release} is not in the store: see `fleetctl release ls`")
        return digest

    def _release(self, release: str) -> ReleaseStatus:
        (status,) = self._statuses(row for row in self._store.releases() if row[0] == release)
        return status

    def _statuses(self, rows: Iterable[ReleaseRow]) -> tuple[ReleaseStatus, ...]:
        """Return how releases look; what the whole fleet runs is read once for all of them."""
        repository, revoked = read_repository(self._store), self._store.revoked()
        reports = (known.report for known in self._store.known(Known).values())
        cameras = (c for report in reports if report is not None for c in report.cameras.values())
        running = Counter(camera.release for camera in cameras)
        return tuple(self._release_status(row, repository, revoked, running) for row in rows)

    def _release_status(
        self,
        row: ReleaseRow,
        repository: Repository,
        revoked: frozenset[str],
        running: Mapping[str | None, int],
    ) -> ReleaseStatus:
        release, digest, _, imported_at = row
        manifest = msgspec.json.decode(self._store.blob(digest), type=Manifest)
        return ReleaseStatus(
            release=release,
            task=manifest.task,
            is_signed=repository.listed.get(release) == digest,
            manifest_sha256=digest,
            files=len(manifest.files),
            bytes=sum(file.bytes for file in manifest.files),
            imported_at=imported_at,
            running_on=running.get(release, 0),
            state=_release_state(release, digest, repository, revoked),
        )

    def strategy(self, name: str | None) -> Strategy:
        """Return a strategy of fleet.yaml by name; None: the only one, or the default."""
        declared = self.fleet.strategies
        if name is not None and name in declared:
            return declared[name]
        if name is not None or len(declared) > 1:
            known = ", ".join(declared) or "none"
            raise OperatorError(f"expected a strategy of {FLEET_YAML} ({known}), got {name}")
        return next(iter(declared.values()), strategies.DEFAULT)

    def new_record(
        self,
        release: str,
        selector: str,
        strategy: Strategy,
        name: str | None,
        deny: tuple[str, ...],
    ) -> Record:
        """Return the record of a rollout that has yet to get its number.

        Raises:
            UnsignedError: The release is not signed.
            OperatorError: A name, the selector or the strategy is not right.
        """
        digest = self._manifest_sha256(release)
        site = self.site()
        if release in read_repository(self._store).retired:
            raise UnsignedError(
                f"{release} was revoked or pruned, and is never signed again: build the same model"
                " under a higher version"
            )
        if site.listed.get(release) != digest:
            raise UnsignedError(f"{release} is not signed: `fleetctl release sign {release}`")
        self._check_selector(site, selector, strategy)
        if name is not None and not is_name(name):
            raise OperatorError(f"expected a name of a-z, 0-9 and '-', got {name!r}")
        for device in deny:
            self._declared(device)
        return Record(
            rollout="r-0",
            name=name or parse_release(release)[0],
            release=release,
            selector=selector,
            strategy=strategy.name,
            waves=tuple((wave.pins, wave.permille) for wave in strategy.waves),
            rules=self.rules(strategy),
            probe=strategy.probe,
            deny=deny,
            window=strategy.window,
            started_at=datetime.now(UTC),
        )

    def _check_selector(self, site: Site, selector: str, strategy: Strategy) -> None:
        wanted = selector_of(selector)
        cameras = tuple(c for c in site.cameras if wanted.matches(c.labels))
        if not cameras:
            raise OperatorError(
                f"selector {selector!r} matches no device that was added; see `fleetctl device ls`"
            )
        if outside := pins_outside(strategy.pins, cameras):
            raise OperatorError(
                f"strategy {strategy.name} pins {', '.join(outside)}: not added, or outside of "
                f"selector {selector!r}"
            )

    def _begin(self, record: Record, *, over: bool) -> str:
        """Keep a new rollout and the wish to start it, after trying it on what is known now."""
        with self._store.transaction():
            record = replace(record, rollout=self._store.next_rollout())
            site = self.site()
            site = replace(site, records={**site.records, record.rollout: record})
            obey(site, Intention(0, "start", record.rollout, {"over": over}))
            self._store.save(record)
            self._store.intend("start", record.rollout, over=over)
            asked = {"release": record.release, "selector": record.selector, "over": over}
            audit.note(self._store, "order", record.rollout, verb="start", **asked)
        return record.rollout

    def _intend(self, verb: str, rollout: str, **arguments: object) -> None:
        record = self._store.record(rollout)
        with self._store.transaction():
            obey(self.site(), Intention(0, verb, record.rollout, arguments))
            self._store.intend(verb, record.rollout, **arguments)
            audit.note(self._store, "order", record.rollout, verb=verb, **arguments)

    def rules(self, strategy: Strategy) -> Rules:
        """Return a strategy's rules with this fleet's heartbeats."""
        return strategy.rules(
            heartbeat_seconds=self._timing.heartbeat_seconds,
            silence_seconds_min=self._timing.silence_seconds_min,
        )

    def adopt(self) -> tuple[int, tuple[str, ...]]:
        """Take over the newer plan that the broker holds (controller/backup.py)."""
        from controller.backup import adopt  # noqa: PLC0415 - it needs this module.

        return adopt(self, self._store)

    def site(self) -> Site:
        """Return what the store has, with the intentions that still wait."""
        site = read_site(self._store, self.fleet, read_repository(self._store))
        for intention in self._store.intentions():
            try:
                site = obey(site, intention)
            except OperatorError:
                continue
        return site

    def heard(self) -> tuple[Mapping[str, Known], bool]:
        """Return what is known of the devices; without a driver the broker is asked."""
        known = self._store.known(Known)
        if self.driver().holder is not None:
            return known, True
        try:
            return listen(self.fleet.name, self._place.address, disconnected(known)), True
        except BrokerError:
            return known, False

    def _device(
        self, name: str, known: Known, identity: Identity | None, *, is_live: bool
    ) -> DeviceStatus:
        report = known.report
        declared = self.fleet.devices.get(name)
        numbers = sorted(declared.cameras) if declared else sorted(map(int, known_numbers(known)))
        version = 0 if identity is None else identity.version
        notes = (*notes_of(known, version), *revoked_on(known, self._store.revoked()))
        return DeviceStatus(
            device=name,
            state=_state(known, declared, identity),
            labels=dict(declared.settings.labels) if declared else {},
            cameras={number: known.camera(number) for number in numbers},
            identity_version=version,
            identity_reported=0 if report is None else report.identity_version,
            plan_version=0 if report is None else report.plan_version,
            last_heard=None if report is None else parse_time(report.at),
            agent_version=None if report is None else report.agent_version,
            notes=notes if is_live else (*notes, "the broker cannot be reached; this is old"),
            reported=report,
        )


def _release_state(
    release: str, digest: str, repository: Repository, revoked: frozenset[str]
) -> str:
    if release in revoked:
        return "revoked"
    if release in repository.retired:
        return "pruned"
    return "signed" if repository.listed.get(release) == digest else "unsigned"


def folder_of(project: Path, home: Path | None = None) -> Path:
    """Return the folder of a project's fleet, whether there is one yet or not."""
    return _place(project, home, None).folder


def known_numbers(known: Known) -> tuple[str, ...]:
    """Return the numbers of the cameras that a device reports."""
    return () if known.report is None else tuple(known.report.cameras)


def _state(known: Known, declared: Device | None, identity: Identity | None) -> str:
    if declared is None:
        return "undeclared"
    if identity is None:
        return "not added"
    if known.report is None and not known.is_status_online:
        return "never seen"
    return "online" if known.is_status_online else "offline"


def _place(project: Path, home: Path | None, broker_url: str | None) -> _Place:
    file = project if project.is_file() else project / FLEET_YAML
    fleet = load_fleet(file)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return _Place(file, (home or Path(data) / "imxfleet") / fleet.name, fleet, broker_url)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error
