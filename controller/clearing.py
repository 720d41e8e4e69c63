"""Which releases' blocks may leave the broker (docs/protocol.md, delivery rule 8). Pure.

The broker keeps every block that it was sent. A release stays there while an entry of the plan
names it, while a device runs it or could go back to it, and while an undo of the last completed
rollout would need it; and for a day longer, because an operator may undo in the morning what was
finished in the evening.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from controller.steering import Site

CLEAR_SECONDS = 24 * 3600.0

UnneededSince = Mapping[str, float | None]  # Releases at the broker; None: something needs it.


@dataclass(frozen=True, slots=True)
class Clearing:
    """What is at the broker, and what was asked to leave it.

    Attributes:
        since: Durable, with times of the wall clock; a release is in it until it has left.
        leaving: Releases whose blocks the last look told the publisher to clear.
    """

    since: UnneededSince = field(default_factory=dict[str, float | None])
    leaving: frozenset[str] = frozenset()


def noted(clearing: Clearing, site: Site, now: float) -> Clearing:
    """Return what will be at the broker once the plan of this book is; asked before it is sent."""
    planned = {rollout.entry.release for rollout in site.book}
    since = unneeded_since(clearing.since, planned=planned, needed=needed_releases(site), now=now)
    return replace(clearing, since=since)


def look(clearing: Clearing, site: Site, now: float) -> Clearing:
    """Return what is leaving now; what was leaving before has left, by the publisher's word."""
    since = noted(clearing, site, now).since
    gone = due(since, now)
    left = gone & clearing.leaving
    return Clearing({name: at for name, at in since.items() if name not in left}, gone - left)


def needed_releases(site: Site) -> frozenset[str]:
    """Return the releases whose blocks somebody may still ask the broker for."""
    planned = {rollout.entry.release for rollout in site.book}
    return frozenset({*planned, *_on_devices(site), *_before_the_last(site)})


def prunable(site: Site, declared: Iterable[str]) -> tuple[str, ...]:
    """Return the listed releases that no entry, device or undo needs, nor fleet.yaml names.

    An undo is possible of every rollout that the plan has, and of the last completed one.
    """
    undone = (
        release
        for rollout in site.book
        for release in site.records[rollout.entry.rollout].ran_before
    )
    kept = {*needed_releases(site), *undone, *declared}
    return tuple(release for release in site.listed if release not in kept)


def unneeded_since(
    before: UnneededSince, *, planned: Iterable[str], needed: Iterable[str], now: float
) -> dict[str, float | None]:
    """Return what is at the broker, and since when nothing has needed it.

    Args:
        before: What the last call returned.
        planned: The releases of the plan: what the publisher brings to the broker.
        needed: ``needed_releases``.
        now: The wall clock. One that was set back starts the day anew.
    """
    kept = frozenset(needed)
    return {
        release: None if release in kept else min(before.get(release) or now, now)
        for release in {**before, **dict.fromkeys(planned)}
    }


def due(since: UnneededSince, now: float) -> frozenset[str]:
    """Return the releases whose day is over."""
    return frozenset(
        release for release, at in since.items() if at is not None and now - at >= CLEAR_SECONDS
    )


def _on_devices(site: Site) -> Iterator[str]:
    for known in site.devices.values():
        for camera in known.report.cameras.values() if known.report else ():
            yield from (name for name in (camera.release, camera.previous) if name is not None)


def _before_the_last(site: Site) -> Iterable[str]:
    """Return what an undo of the last completed rollout would bring back."""
    completed = [
        (record.ended_at, record)
        for record in site.records.values()
        if record.state == "completed" and record.ended_at is not None
    ]
    return max(completed, key=lambda one: one[0])[1].ran_before if completed else ()
