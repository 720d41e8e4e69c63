"""What a deployment's journal says to others: in ``reported``, and on disk. Pure.

``JournalDocument`` is the journal as it is written: ``msgspec.json`` encodes it, and decodes it
strictly. ``waiting_for`` is left out: the first look after a start finds it again.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from agent.deployment import view
from agent.steps import (
    ON_TRIAL,
    PREPARING,
    Cause,
    Ended,
    Journal,
    Latest,
    Phase,
)
from shared import messages
from shared.assignment import Camera, Entry, Keep, Slot, Try, Wait, wanted

_OUTCOMES = frozenset({Phase.COMMITTED, Phase.ROLLED_BACK, Phase.REJECTED, Phase.BROKEN})


class EndedDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One outcome as it is written."""

    rollout: str
    attempt: int
    phase: Phase
    cause: Cause | None = None
    code: str = ""
    text: str = ""


class JournalDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A deployment's journal as it is written."""

    phase: Phase
    active: Slot | None
    previous: Slot | None
    is_running: bool
    making: Slot | None
    failing: Slot | None
    restoring: Slot | None
    cause: Cause | None
    code: str
    text: str
    is_reboot_due: bool
    activations_started: int
    restores_started: int
    ended: tuple[EndedDocument, ...]
    failed: frozenset[str]
    latest: Latest | None


def to_document(journal: Journal) -> JournalDocument:
    """Return what is written of a journal."""
    ended = tuple(
        EndedDocument(
            rollout=rollout,
            attempt=attempt,
            phase=end.phase,
            cause=end.cause,
            code=end.code,
            text=end.text,
        )
        for (rollout, attempt), end in journal.ended.items()
    )
    return JournalDocument(
        phase=journal.phase,
        active=journal.active,
        previous=journal.previous,
        is_running=journal.is_running,
        making=journal.making,
        failing=journal.failing,
        restoring=journal.restoring,
        cause=journal.cause,
        code=journal.code,
        text=journal.text,
        is_reboot_due=journal.is_reboot_due,
        activations_started=journal.activations_started,
        restores_started=journal.restores_started,
        ended=ended,
        failed=journal.failed,
        latest=journal.latest,
    )


def from_document(document: JournalDocument) -> Journal:
    """Return the journal that was written."""
    ended = {
        (end.rollout, end.attempt): Ended(end.phase, end.cause, end.code, end.text)
        for end in document.ended
    }
    return Journal(
        phase=document.phase,
        active=document.active,
        previous=document.previous,
        is_running=document.is_running,
        making=document.making,
        failing=document.failing,
        restoring=document.restoring,
        cause=document.cause,
        code=document.code,
        text=document.text,
        is_reboot_due=document.is_reboot_due,
        activations_started=document.activations_started,
        restores_started=document.restores_started,
        ended=ended,
        failed=document.failed,
        latest=document.latest,
    )


def deployment_reported(
    journal: Journal,
    *,
    since: str,
    progress: messages.Progress | None = None,
    missing_blocks: tuple[str, ...] = (),
) -> messages.DeploymentReported | None:
    """Return the deployment that is under way, or the last one, as ``reported`` shows it."""
    latest = journal.latest
    if latest is None:
        return None
    end = shown(journal, latest)
    return messages.DeploymentReported(
        rollout=latest.tried[0],
        attempt=latest.tried[1],
        manifest_sha256=latest.manifest_sha256,
        phase=end.phase.value,
        since=since,
        waiting_for=None if journal.waiting_for is None else journal.waiting_for.value,
        progress=progress,
        missing_blocks=missing_blocks,
        cause=None if end.cause is None else end.cause.value,
        error=messages.ErrorText(end.code, end.text) if end.code else None,
    )


def shown(journal: Journal, latest: Latest) -> Ended:
    """Return phase, cause and error of a deployment: what is under way wins over what has ended."""
    if journal.phase in ON_TRIAL | PREPARING:
        return Ended(journal.phase, journal.cause, journal.code, journal.text)
    return journal.ended.get(latest.tried, Ended(Phase.IDLE))


def ends_reported(journal: Journal, plan: Sequence[Entry]) -> tuple[messages.EndReported, ...]:
    """Return the outcomes for the rollouts that the plan names."""
    named = {entry.rollout for entry in plan}
    return tuple(
        messages.EndReported(
            rollout=rollout,
            attempt=attempt,
            phase=_outcome(end.phase),
            cause=None if end.cause is None else end.cause.value,
        )
        for (rollout, attempt), end in sorted(journal.ended.items())
        if rollout in named
    )


def owners(journal: Journal) -> tuple[Try, ...]:
    """Return the tries that what runs belongs to."""
    return () if journal.active is None else tuple(sorted(journal.active.owners))


def is_settled(
    journal: Journal, identity: Camera, plan: Sequence[Entry], listed: dict[str, str]
) -> bool:
    """Say whether the camera has nothing under way, and nothing more to do for this plan."""
    if journal.phase in ON_TRIAL or journal.is_reboot_due:
        return False
    want = wanted(plan, listed, view(journal, identity))
    return isinstance(want, Wait) or (isinstance(want, Keep) and journal.making is None)


def _outcome(phase: Phase) -> Literal["committed", "rolled_back", "rejected", "broken"]:
    assert phase in _OUTCOMES
    match phase:
        case Phase.COMMITTED:
            return "committed"
        case Phase.ROLLED_BACK:
            return "rolled_back"
        case Phase.REJECTED:
            return "rejected"
        case _:
            return "broken"
