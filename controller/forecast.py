"""What a rollout would do, before it does anything: who, when, how many bytes, how risky. Pure.

Who would change is not guessed: the rollout is begun on a copy of the book, its waves are grown as
they would be, and the rule that devices follow (``shared/assignment.py``) says what each camera
would do. Times are estimates, so they come as a shortest and a longest.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from controller import planning
from controller.devices import Known
from controller.obeying import obey
from controller.planning import Book, Rollout, State
from controller.steering import Site, cameras_now
from controller.store import Intention, Record
from shared.assignment import Camera, Run, wanted
from shared.identity import Identity
from shared.release import Manifest, block_lengths

# A first upload to the sensor: about 5 Mbit/s on a Pi 5; 45 s to minutes for 3 MB on a Pi 4.
SENSOR_BYTES_PER_SECOND = (3_000_000 / 180, 5_000_000 / 8)
# What the bridge's flash knows, or a simulated camera: stop, start, first valid output.
START_SECONDS = (2.0, 15.0)
LINK_BYTES_PER_SECOND = (250_000.0, 5_000_000.0)  # Poor WLAN to a wired network that is busy.
ALL_AT_ONCE_PERMILLE = 500  # A first wave of more than half is no canary.
Level = Literal["low", "medium", "high"]
Span = tuple[float, float]  # Seconds, shortest and longest.
_LEVELS: tuple[Level, ...] = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Risk:
    """One thing that may go wrong, or that an operator should have thought of."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class DeviceForecast:
    """What one device would do.

    Attributes:
        wave: Counted from 0.
        state: online, offline, never seen.
        runs: Of each camera that would change, by number; None: nothing.
        bytes: What it would fetch, blocks that it has already left out.
        gap_seconds: How long its cameras, one after the other, see nothing.
        seconds: From the start of its wave until it is healthy.
    """

    device: str
    wave: int
    state: str
    runs: Mapping[int, str | None]
    bytes: int
    gap_seconds: Span
    seconds: Span


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a rollout would do.

    Attributes:
        unchanged: Cameras that it covers and that would go on with what they run.
        broker_bytes: What this machine would send, once, whatever the number of devices.
        seconds: Until everybody who is online is healthy, bakes and probes included.
    """

    name: str
    release: str
    selector: str
    strategy: str
    devices: tuple[DeviceForecast, ...]
    waves: tuple[int, ...]
    unchanged: int
    broker_bytes: int
    seconds: Span
    risks: tuple[Risk, ...]

    @property
    def risk(self) -> Level:
        """Return the highest risk."""
        found = {risk.level for risk in self.risks}
        for level in reversed(_LEVELS):
            if level in found:
                return level
        return _LEVELS[0]

    @property
    def offline(self) -> tuple[str, ...]:
        """Return the devices that would change once they are back."""
        return tuple(one.device for one in self.devices if one.state != "online")


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a forecast needs beside the site.

    Attributes:
        manifests: Of the release, and of those that devices run; what the store lacks is absent.
        held: Blocks that the broker has.
        is_frozen: Nothing would happen before `unfreeze`.
    """

    identities: Mapping[str, Identity]
    manifests: Mapping[str, Manifest]
    held: frozenset[str]
    is_frozen: bool


def forecast(site: Site, record: Record, knows: Knowledge, *, over: bool) -> Forecast:
    """Return what a rollout would do.

    Raises:
        OperatorError: It would be refused.
    """
    begun = obey(
        replace(site, records={**site.records, record.rollout: record}),
        Intention(0, "start", record.rollout, {"over": over}),
    )
    wave_of, whole = _grown(begun.book, record.rollout, site)
    cameras = cameras_now(site)
    covered = planning.members(whole, planning.find(whole, record.rollout), site.listed, cameras)
    plan = planning.entries(whole)
    changing: dict[str, list[Camera]] = {}
    for camera in covered:
        answer = wanted(plan, site.listed, camera)
        if isinstance(answer, Run) and answer.entry.rollout == record.rollout:
            changing.setdefault(camera.device, []).append(camera)
    devices = tuple(
        _device(site, record, knows, own, wave_of.get(device, len(record.waves) - 1))
        for device, own in changing.items()
    )
    manifest = knows.manifests[record.release]
    return Forecast(
        name=record.name,
        release=record.release,
        selector=record.selector,
        strategy=record.strategy,
        devices=tuple(sorted(devices, key=lambda one: (one.wave, one.device))),
        waves=tuple(sum(d.wave == n for d in devices) for n in range(len(record.waves))),
        unchanged=len(covered) - sum(map(len, changing.values())),
        broker_bytes=_missing_bytes(manifest, knows.held),
        seconds=_whole_seconds(record, devices),
        risks=tuple(_risks(site, record, knows, devices)),
    )


def _grown(book: Book, name: str, site: Site) -> tuple[dict[str, int], Book]:
    """Return the wave of each device, and the book in the last wave."""
    waves: dict[str, int] = {}
    rollout = planning.find(book, name)
    while True:
        for device in _covered(book, rollout, site):
            waves.setdefault(device, rollout.wave)
        after = planning.pass_wave(book, name, site.cameras)
        if planning.find(after, name).state is State.COMPLETED:
            return waves, book
        book, rollout = after, planning.find(after, name)


def _covered(book: Book, rollout: Rollout, site: Site) -> set[str]:
    members = planning.members(book, rollout, site.listed, site.cameras)
    return {camera.device for camera in members}


def _device(
    site: Site, record: Record, knows: Knowledge, cameras: Sequence[Camera], wave: int
) -> DeviceForecast:
    known = site.devices.get(cameras[0].device, Known(cameras[0].device))
    manifest, has = knows.manifests[record.release], _blocks_on(known, knows)
    runs: dict[int, str | None] = {}
    needed: set[str] = set()
    gap = (0.0, 0.0)
    for camera in cameras:
        reported = known.camera(camera.number)
        runs[camera.number] = None if reported is None else reported.release
        kind = _kind(knows.identities.get(camera.device), known, camera.number)
        files = manifest.files_for(kind)
        needed |= {block for file in files for block in file.blocks} - has
        knows_it = reported is not None and reported.previous == record.release
        gap = _added(gap, _gap(manifest, kind, record, is_known=knows_it))
    fetched = _missing_bytes(manifest, has.union(_all_blocks(manifest) - needed))
    low, high = (fetched / rate for rate in reversed(LINK_BYTES_PER_SECOND))
    probes = float(record.probe.seconds * len(cameras))
    return DeviceForecast(
        device=known.device,
        wave=wave,
        state=_state(known),
        runs=runs,
        bytes=fetched,
        gap_seconds=gap,
        seconds=_added(gap, (low + probes, high + probes)),
    )


def _state(known: Known) -> str:
    if known.report is None:
        return "never seen"
    return "online" if known.is_status_online else "offline"


def _kind(identity: Identity | None, known: Known, number: int) -> str:
    """Return what drives a camera: as signed, else as reported; most are read through modlib."""
    signed = None if identity is None else identity.cameras.get(str(number))
    reported = known.camera(number)
    kind = "auto" if signed is None else signed.kind
    if kind == "auto" and reported is not None:
        kind = "simulated" if reported.kind == "simulated" else "modlib"
    return "modlib" if kind == "auto" else kind


def _gap(manifest: Manifest, kind: str, record: Record, *, is_known: bool) -> Span:
    """Return how long a camera sees nothing; past the deadline it goes back by itself."""
    low, high = START_SECONDS
    network = manifest.file("rpk") or manifest.file("network")
    if kind != "simulated" and network is not None and not is_known:
        slow, fast = SENSOR_BYTES_PER_SECOND
        low, high = low + network.bytes / fast, high + network.bytes / slow
    longest = float(record.probe.activation_seconds)
    return min(low, longest), min(high, longest)


def _blocks_on(known: Known, knows: Knowledge) -> set[str]:
    """Return the blocks that a device has of what it runs and could go back to."""
    cameras = known.report.cameras.values() if known.report else ()
    names = {name for c in cameras for name in (c.release, c.previous) if name is not None}
    manifests = [knows.manifests[name] for name in names if name in knows.manifests]
    return set().union(*map(_all_blocks, manifests))


def _all_blocks(manifest: Manifest) -> set[str]:
    return {block for file in manifest.files for block in file.blocks}


def _missing_bytes(manifest: Manifest, has: Iterable[str]) -> int:
    """Return the bytes of the blocks that are not there yet, each counted once."""
    there = set(has)
    lengths = {
        block: length
        for file in manifest.files
        for block, length in zip(file.blocks, block_lengths(file.bytes), strict=True)
    }
    return sum(length for block, length in lengths.items() if block not in there)


def _whole_seconds(record: Record, devices: Sequence[DeviceForecast]) -> Span:
    """Return how long all waves take: in each the slowest who is online, then its bake."""
    total = (0.0, 0.0)
    for wave in range(len(record.waves)):
        mine = [one.seconds for one in devices if one.wave == wave and one.state == "online"]
        bake = record.rules.bake_of(wave)
        slowest = (max((s[0] for s in mine), default=0.0), max((s[1] for s in mine), default=0.0))
        total = _added(total, _added(slowest, (bake, bake)))
    return total


def _added(one: Span, other: Span) -> Span:
    return one[0] + other[0], one[1] + other[1]


def _risks(
    site: Site, record: Record, knows: Knowledge, devices: Sequence[DeviceForecast]
) -> Iterator[Risk]:
    yield from _risks_of_release(site, record, knows.manifests[record.release])
    if knows.is_frozen:
        yield Risk("medium", "the fleet is frozen: nothing happens before `fleetctl unfreeze`")
    first = sum(one.wave == min(d.wave for d in devices) for one in devices)
    if len(devices) > 1 and first * 1000 > ALL_AT_ONCE_PERMILLE * len(devices):
        yield Risk("medium", f"the first wave takes {first} of {len(devices)} devices at once")
    if bare := [one.device for one in devices if None in one.runs.values()]:
        yield Risk("low", f"{_names(bare)}: nothing runs there, so there is nothing to go back to")
    if away := [one.device for one in devices if one.state != "online"]:
        yield Risk("low", f"{_names(away)}: cannot be heard now; they change when they are back")
    if old := sorted(_too_old(site, knows.manifests[record.release], devices)):
        needs = knows.manifests[record.release].requires.agent
        yield Risk("medium", f"{_names(old)}: the agent is older than {needs} and will wait")


def _risks_of_release(site: Site, record: Record, manifest: Manifest) -> Iterator[Risk]:
    failed = [
        one.rollout
        for one in site.records.values()
        if one.release == record.release and one.state == "aborted" and one.reason == "gate"
    ]
    if failed:
        yield Risk("high", f"{record.release} was stopped by a gate before: {', '.join(failed)}")
    reports = (known.report for known in site.devices.values() if known.report)
    running = sum(
        c.release == record.release for report in reports for c in report.cameras.values()
    )
    if not running:
        yield Risk("medium", f"no camera of this fleet runs {record.release} yet")
    if manifest.golden is None:
        yield Risk("low", "it has no golden set: its probe cannot compare outputs")
    if manifest.receipt is None:
        yield Risk("low", "it has no receipt: its accuracy was not measured")


def _too_old(site: Site, manifest: Manifest, devices: Sequence[DeviceForecast]) -> Iterator[str]:
    for one in devices:
        known = site.devices.get(one.device)
        report = None if known is None else known.report
        if report is not None and _version(report.agent_version) < _version(
            manifest.requires.agent
        ):
            yield one.device


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in text.split("."))


def _names(devices: Sequence[str]) -> str:
    shown = ", ".join(devices[:3])
    return shown if len(devices) <= 3 else f"{shown} and {len(devices) - 3} more"  # noqa: PLR2004
