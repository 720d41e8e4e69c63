"""Keep what cameras report of what they run, so that windows of the same time can be compared.

    treated camera     the hour before its switch ──> since its switch
    control camera     the hour before that time  ──> since that time, with the same release

Counters of a release only grow, but for a restart of the agent, where they begin again: a track
adds up what was counted in between, so a jump back loses nothing and never counts as a change.
The first treated camera of a quarter of an hour opens an *epoch*: all others are marked as they
are then. At the end of a wave its epochs are closed: what they showed is kept as numbers, and
their cameras may stand as controls in the next wave.

Numbers that no camera can have make their camera say nothing; it is counted as nonsense.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite, log

import msgspec

from shared.limits import OBJECTS_PER_FRAME_MAX, RATE_HZ_MAX
from shared.messages import Evidence, EvidencePair

GATHER_SECONDS = 5.0  # Cameras report once in five minutes: looking at each tick is heat.
EPOCH_SECONDS = 900.0  # Cameras of a wave switch within minutes; an hour is what is compared.
EPOCHS_MAX = 16  # In one wave; whoever comes later joins the last one.
CONTROLS_MAX = 200  # In one epoch: more make nothing surer.
FRAMES_MIN = 100.0  # Fewer say nothing about a rate.
FRAMES_SPARE = 1000.0  # Seconds are reported in whole numbers.
SECONDS_MAX = 10 * 366 * 86_400
DNN_MS_MAX = 1_300.0  # The device's histogram ends at 1.2 s.
OBJECTS_MIN = 50.0  # Expected in a window: a camera that sees less says nothing about change.
MINUTES_A_CAMERA_MAX = 60.0  # More of one camera tells nothing new.
PERMILLE = 1000
MEASURES = ("detections", "scores")


class Counts(msgspec.Struct, frozen=True, array_like=True):
    """What a camera counted; ``scores`` is the sum of its objects' scores. A list in the store."""

    seconds: float = 0.0
    frames: float = 0.0
    valid: float = 0.0
    objects: float = 0.0
    scores: float = 0.0
    restarts: float = 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(_numbers(self), _numbers(other), strict=True)))

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(*(a - b for a, b in zip(_numbers(self), _numbers(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Track:
    """One camera.

    Attributes:
        release: What the counters are of.
        last: As last reported; ``total`` adds it up over restarts of the agent.
        hour: The last hour of this release, as last reported.
        before: The last hour of the release before, on this camera.
        is_treated: It runs the rollout's release because of the rollout.
        epoch: In which it switched; None once the wave is over.
    """

    release: str
    total: Counts
    last: Counts
    hour: Counts | None = None
    before: Counts | None = None
    dnn_ms: float | None = None
    golden_permille: int | None = None
    is_treated: bool = False
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A camera that did not switch, when an epoch began."""

    release: str
    hour: Counts
    total: Counts


@dataclass(frozen=True, slots=True)
class Epoch:
    """A quarter of an hour in which cameras switched."""

    opened_at: float  # Driven seconds.
    marks: Mapping[str, Mark] = field(default_factory=dict[str, Mark])


@dataclass(frozen=True, slots=True)
class Stratum:
    """What cameras showed in one epoch: changes as logarithms of new over old."""

    treated: tuple[float, ...] = ()
    controls: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What one gate says, with its numbers in plain words.

    Attributes:
        kind: pass, fail, undecided, or not_measured (there is nothing that it could measure).
        cameras: Whose numbers count.
        controls: Cameras that changed nothing, to compare with.
        value: The estimate: a share that keeps the bound, or a change (-0.5: half as many).
        low: With ``high``: where it lies, as surely as a pass needs.
    """

    name: str
    kind: str
    text: str
    cameras: int = 0
    controls: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that is kept of a rollout's evidence, by camera (``gate-01/0``).

    Attributes:
        at: When cameras were looked at last, in driven seconds.
        closed: By measure, the epochs of waves that are over.
        nonsense: Cameras whose last numbers no camera can have.
        offline: Cameras that cannot be heard now.
        looks: Made in this wave before its end.
        minutes: Of evidence, at the last look.
        is_final: The wave's last look was made.
        verdicts: Of the last look.
    """

    at: float | None = None
    tracks: Mapping[str, Track] = field(default_factory=dict[str, Track])
    epochs: tuple[Epoch, ...] = ()
    closed: Mapping[str, tuple[Stratum, ...]] = field(
        default_factory=dict[str, tuple[Stratum, ...]]
    )
    nonsense: frozenset[str] = frozenset()
    offline: frozenset[str] = frozenset()
    looks: int = 0
    minutes: float = 0.0
    is_final: bool = False
    verdicts: tuple[GateVerdict, ...] = ()


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was heard last of a camera.

    Attributes:
        is_treated: This rollout has brought it to the release that it reports.
        is_online: It can be heard now.
    """

    camera: str
    evidence: EvidencePair
    is_treated: bool = False
    is_online: bool = True


def is_due(gathered: Gathered, now: float) -> bool:
    """Say whether it is time to look at the cameras again."""
    return gathered.at is None or now - gathered.at >= GATHER_SECONDS


def gather(gathered: Gathered, sightings: Iterable[Sighting], now: float) -> Gathered:
    """Return what is kept after a look at all cameras; ``now`` in driven seconds."""
    tracks = dict(gathered.tracks)
    nonsense, offline = set(gathered.nonsense), set(gathered.offline)
    switched: list[str] = []
    for one in sightings:
        (offline.discard if one.is_online else offline.add)(one.camera)
        running = one.evidence.running
        if running is None:
            continue
        if not is_sensible(running):
            nonsense.add(one.camera)
            continue
        nonsense.discard(one.camera)
        old = tracks.get(one.camera)
        tracks[one.camera] = track = followed(old, one.evidence, running)
        if one.is_treated and not track.is_treated:
            switched.append(one.camera)
    after = replace(
        gathered,
        at=now,
        tracks=tracks,
        nonsense=frozenset(nonsense),
        offline=frozenset(offline),
    )
    return _switched(after, switched, now) if switched else after


def followed(old: Track | None, pair: EvidencePair, running: Evidence) -> Track:
    """Return a camera's track after a report."""
    counts = counted(running)
    dnn_ms = None if running.dnn_ms is None else running.dnn_ms.p50
    hour = _hour(pair, running.release)
    if old is None or old.release != running.release:
        before = _before(old, pair)
        track = Track(running.release, counts, counts, hour=hour, before=before)
    else:
        since = counts - old.last
        if min(_numbers(since)) < 0:  # The agent began again, and so did its counters.
            since = counts
        track = replace(old, total=old.total + since, last=counts, hour=hour or old.hour)
    golden = running.golden_permille
    return replace(
        track,
        dnn_ms=track.dnn_ms if dnn_ms is None else dnn_ms,
        golden_permille=track.golden_permille if golden is None else golden,
    )


def _before(old: Track | None, pair: EvidencePair) -> Counts | None:
    """Return the release before, as its camera froze it, else as it was last heard of."""
    if pair.before is not None and is_sensible(pair.before):
        return counted(pair.before)
    return None if old is None else old.hour


def _hour(pair: EvidencePair, release: str) -> Counts | None:
    hour = pair.hour
    is_usable = hour is not None and hour.release == release and is_sensible(hour)
    return counted(hour) if hour is not None and is_usable else None


def counted(evidence: Evidence) -> Counts:
    """Return the counters of a report."""
    steps = len(evidence.score_histogram)
    scores = sum(n * (step + 0.5) / steps for step, n in enumerate(evidence.score_histogram))
    return Counts(
        float(evidence.seconds),
        float(evidence.frames),
        float(evidence.valid),
        float(evidence.objects),
        scores,
        float(evidence.restarts),
    )


def is_sensible(evidence: Evidence) -> bool:
    """Say whether a camera can have these numbers: reports are not signed, and devices break."""
    histogram, dnn = evidence.score_histogram, evidence.dnn_ms
    numbers = (evidence.seconds, evidence.restarts, evidence.valid, *histogram)
    if min(numbers) < 0 or evidence.seconds > SECONDS_MAX or sum(histogram) != evidence.objects:
        return False
    if dnn is not None and not (isfinite(dnn.p50) and 0 < dnn.p50 <= DNN_MS_MAX):
        return False
    if not 0 <= (evidence.golden_permille or 0) <= PERMILLE:
        return False
    return (
        evidence.valid <= evidence.frames <= RATE_HZ_MAX * evidence.seconds + FRAMES_SPARE
        and evidence.objects <= OBJECTS_PER_FRAME_MAX * evidence.valid
    )


def treated_tracks(gathered: Gathered, left_out: frozenset[str]) -> dict[str, Track]:
    """Return the treated cameras but those of these devices, and but nonsense."""
    return {
        camera: track
        for camera, track in gathered.tracks.items()
        if track.is_treated
        and camera not in gathered.nonsense
        and camera.partition("/")[0] not in left_out
    }


def minutes_of(tracks: Iterable[Track]) -> float:
    """Return how much evidence there is: camera minutes, at most an hour of each."""
    return sum(min(track.total.seconds / 60, MINUTES_A_CAMERA_MAX) for track in tracks)


def strata(gathered: Gathered, measure: str, left_out: frozenset[str]) -> tuple[Stratum, ...]:
    """Return what cameras showed of a measure, epoch by epoch, those of earlier waves first."""
    treated = treated_tracks(gathered, left_out)
    live = []
    for number, epoch in enumerate(gathered.epochs):
        mine = (t for t in treated.values() if t.epoch == number and t.before is not None)
        changes = (change(measure, t.before or Counts(), t.total) for t in mine)
        others = (_control(gathered, measure, camera, mark) for camera, mark in epoch.marks.items())
        live.append(Stratum(_known(changes), _known(others)))
    return (*gathered.closed.get(measure, ()), *live)


def close_wave(gathered: Gathered, left_out: frozenset[str] = frozenset()) -> Gathered:
    """Return what is kept once a wave is over: its numbers, and nobody waits for a look."""
    closed = {measure: strata(gathered, measure, left_out) for measure in MEASURES}
    tracks = {camera: replace(track, epoch=None) for camera, track in gathered.tracks.items()}
    return replace(
        gathered, tracks=tracks, epochs=(), closed=closed, looks=0, is_final=False, verdicts=()
    )


def change(measure: str, before: Counts, after: Counts) -> float | None:
    """Return how a camera changed, as log(new / old); None where it saw too little to tell."""
    if before.valid <= 0 or after.valid <= 0:
        return None
    expected = before.objects / before.valid * after.valid
    if min(expected, before.objects) < OBJECTS_MIN:
        return None
    if measure == "detections":
        return log((after.objects + 0.5) / after.valid) - log((before.objects + 0.5) / before.valid)
    if after.objects < OBJECTS_MIN:
        return None
    return log(after.scores / after.objects) - log(before.scores / before.objects)


def is_heard(gathered: Gathered) -> bool:
    """Say whether all that a wave is judged by have reported since it began, and enough."""
    new = [track for track in gathered.tracks.values() if track.epoch is not None]
    if not new or min(track.total.frames for track in new) < FRAMES_MIN:
        return False
    return all(
        track.total.seconds > mark.total.seconds
        for epoch in gathered.epochs
        for camera, mark in epoch.marks.items()
        if (track := gathered.tracks[camera]).release == mark.release
        and camera not in gathered.offline
    )


def _switched(gathered: Gathered, cameras: list[str], now: float) -> Gathered:
    """Let cameras join an epoch: the newest, or one that they open."""
    epochs, last = gathered.epochs, gathered.epochs[-1] if gathered.epochs else None
    is_old = last is None or now - last.opened_at > EPOCH_SECONDS
    if is_old and len(epochs) < EPOCHS_MAX:
        epochs = (*epochs, Epoch(now, _marks(gathered, frozenset(cameras))))
    tracks = dict(gathered.tracks)
    for camera in cameras:
        tracks[camera] = replace(tracks[camera], is_treated=True, epoch=len(epochs) - 1)
    return replace(gathered, tracks=tracks, epochs=epochs)


def _marks(gathered: Gathered, switching: frozenset[str]) -> dict[str, Mark]:
    marks: dict[str, Mark] = {}
    for camera, track in gathered.tracks.items():
        is_still = track.epoch is None and camera not in switching
        is_mute = camera in gathered.nonsense or camera in gathered.offline
        if is_still and track.hour is not None and not is_mute:
            marks[camera] = Mark(track.release, track.hour, track.total)
        if len(marks) == CONTROLS_MAX:
            break
    return marks


def _control(gathered: Gathered, measure: str, camera: str, mark: Mark) -> float | None:
    track = gathered.tracks[camera]
    if track.release != mark.release or camera in gathered.nonsense:
        return None
    return change(measure, mark.hour, track.total - mark.total)


def _known(values: Iterable[float | None]) -> tuple[float, ...]:
    return tuple(value for value in values if value is not None)


def _numbers(counts: Counts) -> tuple[float, ...]:
    return (
        counts.seconds,
        counts.frames,
        counts.valid,
        counts.objects,
        counts.scores,
        counts.restarts,
    )
