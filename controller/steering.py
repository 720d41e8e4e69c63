"""Turn verdicts and intentions into the next book of rollouts. Pure: no store, no broker, no clock.

    steer(site, seconds)      looks at every live rollout, obeys its verdict, settles what is over

``obeying.py`` does what operators ask for; ``rollout.py`` judges, ``planning.py`` keeps the plan
harmless; this file joins them with what is remembered of each rollout (``store.Record``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from controller import planning, retrying
from controller.devices import Known
from controller.gates.gathering import Sighting, gather, is_due
from controller.planning import Book, Report, Rollout, State
from controller.rollout import (
    CameraSeen,
    Course,
    Decision,
    DeviceSeen,
    Judged,
    Reach,
    Verdict,
    VerdictKind,
    advance,
    camera_seen,
    closed,
    decide,
    next_wave,
    retried,
)
from controller.store import Frozen, Record
from shared.assignment import (
    Camera,
    Entry,
    Slot,
    share_hash,
)
from shared.messages import CameraReported

EVIDENCE_CAMERAS = 2_000  # Of one rollout whose evidence is kept: more make nothing surer.
CLOCK_SECONDS = 60.0  # What runs for longer than its rollout was there before: it enters no gate.


@dataclass(frozen=True, slots=True)
class Site:
    """All that decisions are made from.

    Attributes:
        records: What is remembered of each rollout, by id.
        cameras: Those of added devices, with the labels of their signed identities.
        listed: Signed releases: name to SHA-256 of the manifest.
        next_version: Of the plan that will be signed next.
        identity_versions: Of the signed identities, by device.
        frozen: None while devices may change.
    """

    book: Book
    records: Mapping[str, Record]
    cameras: tuple[Camera, ...]
    devices: Mapping[str, Known]
    listed: Mapping[str, str]
    next_version: int
    now: datetime
    identity_versions: Mapping[str, int] = field(default_factory=dict[str, int])
    frozen: Frozen | None = None


def plan_of(site: Site) -> tuple[Entry, ...]:
    """Return the plan, as it has to be signed."""
    plan = planning.entries(site.book)
    return plan if site.frozen is None else planning.frozen(plan)


def steer(site: Site, seconds: float) -> tuple[Site, dict[str, Judged]]:
    """Let driven seconds pass, and draw every conclusion that they allow.

    In a frozen fleet time stands still, and nothing is concluded: nobody could obey.
    """
    looks: dict[str, Judged] = {}
    cameras = cameras_now(site)
    if site.frozen is not None:
        return site, {r.entry.rollout: look(site, r, cameras, 0.0) for r in site.book}
    for name in [rollout.entry.rollout for rollout in site.book]:
        rollout = _find(site.book, name)
        if rollout is None:  # One above has completed, and made it unreadable.
            continue
        looks[name] = judged = look(site, rollout, cameras, seconds)
        if rollout.state not in planning.LIVE:
            continue
        site = with_record(site, replace(site.records[name], course=judged.course))
        chance = _chance(site, rollout, cameras, judged.verdict)
        if chance is not None:
            looks[name] = replace(judged, verdict=retrying.waiting(judged.verdict, chance))
            site = _tried_again(site, name, chance)
            continue
        if rollout.state is State.RUNNING or judged.verdict.kind is VerdictKind.FAIL:
            site = _follow(site, name, judged.verdict)
    return _settled(site), looks


def _chance(
    site: Site, rollout: Rollout, cameras: Sequence[Camera], verdict: Verdict
) -> retrying.Again | None:
    """Return who tries again by itself before the verdict is followed."""
    record, entry = site.records[rollout.entry.rollout], rollout.entry
    if record.rules.retry.attempts <= 1 or rollout.state is not State.RUNNING:
        return None
    seen: dict[str, tuple[CameraSeen, ...]] = {}
    for camera in planning.members(site.book, rollout, site.listed, cameras):
        told = camera_seen(reported_by(site, camera), *entry.tried)
        seen[camera.device] = (*seen.get(camera.device, ()), told)
    is_last = rollout.wave + 1 == len(rollout.waves)
    return retrying.again(verdict, record.course, record.rules, seen, is_last=is_last)


def _tried_again(site: Site, name: str, chance: retrying.Again) -> Site:
    if not chance.is_due:
        return site
    book = planning.retry(planning.deny(site.book, name, chance.denied), name)
    record = site.records[name]
    course = retried(record.course, planning.find(book, name).entry.attempt)
    return with_record(replace(site, book=book), replace(record, course=course))


def _find(book: Book, name: str) -> Rollout | None:
    return next((rollout for rollout in book if rollout.entry.rollout == name), None)


def look(site: Site, rollout: Rollout, cameras: Sequence[Camera], seconds: float) -> Judged:
    """Return where the devices of a rollout stand."""
    entry, record = rollout.entry, site.records[rollout.entry.rollout]
    mine = planning.members(site.book, rollout, site.listed, cameras)
    seen = _seen(site, entry, mine)
    wave = frozenset(
        camera.device for camera in mine if wave_of(record, entry, camera) == rollout.wave
    )
    course = _gathered(site, rollout, mine, seconds)
    return advance(course, seen, wave, record.rules, seconds=seconds)


def _gathered(site: Site, rollout: Rollout, mine: Sequence[Camera], seconds: float) -> Course:
    """Return the course with what cameras have reported as evidence, where gates want it."""
    record = site.records[rollout.entry.rollout]
    course = record.course
    if record.rules.gates is None or rollout.state not in planning.LIVE:
        return course
    now = course.driven_seconds + seconds
    if not is_due(course.gathered, now):
        return course
    treated = {(camera.device, camera.number) for camera in mine}
    cameras = [camera for camera in site.cameras if rollout.entry.selector.matches(camera.labels)]
    sightings = (
        _sighting(site, record, rollout.entry, camera, is_mine=_place(camera) in treated)
        for camera in _sampled(cameras, rollout.entry)
    )
    seen = (one for one in sightings if one is not None)
    return replace(course, gathered=gather(course.gathered, seen, now))


def _place(camera: Camera) -> tuple[str, int]:
    return camera.device, camera.number


def _sampled(cameras: Sequence[Camera], entry: Entry) -> Iterator[Camera]:
    """Yield pinned cameras and every so many-th of the others: thousands make nothing surer."""
    every = max(len(cameras) // EVIDENCE_CAMERAS, 1)
    for camera in cameras:
        is_pinned = not entry.pins.isdisjoint((camera.device, f"{camera.device}/{camera.number}"))
        if every == 1 or is_pinned or share_hash(entry.salt, camera.device) % every == 0:
            yield camera


def _sighting(
    site: Site, record: Record, entry: Entry, camera: Camera, *, is_mine: bool
) -> Sighting | None:
    """Return what a camera reports; treated only where this try has changed what it runs."""
    reported = reported_by(site, camera)
    if reported is None:
        return None
    running, is_treated = reported.evidence.running, False
    if is_mine and running is not None and running.release == entry.release:
        phase = camera_seen(reported, *entry.tried).phase
        since_start = (site.now - record.started_at).total_seconds()
        is_new = running.seconds <= since_start + CLOCK_SECONDS
        is_treated = phase in {"probing", "committed"} and is_new
    is_online = site.devices[camera.device].is_online
    name = f"{camera.device}/{camera.number}"
    return Sighting(name, reported.evidence, is_treated, is_online)


def cameras_now(site: Site) -> tuple[Camera, ...]:
    """Return the cameras with what they last reported to run."""
    return tuple(_with_slots(site, camera) for camera in site.cameras)


def _seen(site: Site, entry: Entry, cameras: Sequence[Camera]) -> tuple[DeviceSeen, ...]:
    numbers: dict[str, list[int]] = {}
    for camera in cameras:
        numbers.setdefault(camera.device, []).append(camera.number)
    return tuple(_seen_device(site, entry, device, own) for device, own in numbers.items())


def _seen_device(site: Site, entry: Entry, device: str, numbers: Sequence[int]) -> DeviceSeen:
    known = site.devices.get(device, Known(device))
    cameras = tuple(camera_seen(known.camera(n), entry.rollout, entry.attempt) for n in numbers)
    return DeviceSeen(device, known.is_online, known.heard, cameras)


def wave_of(record: Record, entry: Entry, camera: Camera) -> int:
    """Return the wave that let a camera in; the one after the last where none has."""
    for index, reach in enumerate(record.course.reaches):
        if reach.admits(entry, camera):
            return index
    return len(record.course.reaches)


def reported_by(site: Site, camera: Camera) -> CameraReported | None:
    """Return what a camera last reported."""
    known = site.devices.get(camera.device)
    return None if known is None else known.camera(camera.number)


def _with_slots(site: Site, camera: Camera) -> Camera:
    reported = reported_by(site, camera)
    if reported is None or reported.release is None or reported.manifest_sha256 is None:
        return camera
    owners = frozenset((rollout, attempt) for rollout, attempt in reported.owners)
    slot = Slot(reported.release, reported.manifest_sha256, owners)
    return replace(camera, active=slot, is_running=reported.state == "streaming")


def _follow(site: Site, name: str, verdict: Verdict) -> Site:
    """Do what a verdict asks of the plan."""
    rules, wave = site.records[name].rules, planning.find(site.book, name).wave
    match decide(verdict, rules):
        case Decision.NOTHING:
            return site
        case Decision.NEXT_WAVE if rules.needs_approval(wave):
            book = planning.wait(site.book, name)
            return _judged(replace(site, book=book), name, "approval", verdict)
        case Decision.NEXT_WAVE:
            return start_next_wave(site, name, verdict)
        case Decision.PAUSE:
            book = planning.pause(site.book, name)
            return _judged(replace(site, book=book), name, "inconclusive", verdict)
        case Decision.REVERT | Decision.STOP as decision:
            is_revert = decision is Decision.REVERT
            book = planning.abort(site.book, name, site.next_version, revert=is_revert)
            return _judged(replace(site, book=book), name, "gate", verdict)


def _judged(site: Site, name: str, reason: str, verdict: Verdict) -> Site:
    return with_record(site, replace(site.records[name], reason=reason, text=verdict.text))


def start_next_wave(site: Site, name: str, verdict: Verdict) -> Site:
    """Go on to the next wave, or complete; the verdict is that of the wave before."""
    book = planning.pass_wave(site.book, name, site.cameras)
    after, record = planning.find(book, name), site.records[name]
    course = record.course
    if after.state is State.COMPLETED:
        course = closed(replace(course, verdicts=course.verdicts[: after.wave]), verdict)
    else:
        reach = Reach(after.entry.pins, after.entry.share)
        course = next_wave(course, reach, verdict, wave=after.wave)
    cleared = replace(record, course=course, reason=None, text=None)
    return with_record(replace(site, book=book), cleared)


def _settled(site: Site) -> Site:
    """Draw the conclusions that need no verdict, and let the records say what the book says."""
    reports = [_report(site, camera) for camera in cameras_now(site)]
    site = replace(site, book=planning.settle(site.book, site.listed, reports))
    states = {rollout.entry.rollout: rollout.state for rollout in site.book}
    for name, record in site.records.items():
        if record.is_over and states.get(name) not in planning.LIVE:
            continue
        if name in states or record.state == "reverting":
            site = with_record(site, following(record, states.get(name, State.ABORTED), site.now))
    return site


def following(record: Record, state: State, now: datetime) -> Record:
    """Return the record of a rollout that is in this state of the book."""
    is_over = state in {State.COMPLETED, State.ABORTED}
    reason, text = record.reason, record.text
    if state is State.ABORTED and reason in {None, "inconclusive", "approval"}:
        reason, text = "superseded", "newer rollouts cover all its devices"
    ended_at = (record.ended_at or now) if is_over else None
    return replace(record, state=state.value, reason=reason, text=text, ended_at=ended_at)


def _report(site: Site, camera: Camera) -> Report:
    known, reported = site.devices.get(camera.device), reported_by(site, camera)
    if known is None or known.report is None or reported is None:
        return Report(camera, plan_version=-1, is_settled=False)
    is_old = 0 < known.report.identity_version < site.identity_versions.get(camera.device, 0)
    return Report(camera, known.report.plan_version, reported.is_settled, has_labels=not is_old)


def with_record(site: Site, record: Record) -> Site:
    """Return the site with what is remembered of a rollout now."""
    return replace(site, records={**site.records, record.rollout: record})
