"""What a deployment leaves in the journal: outcomes, for good, and what it forgets. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from agent.steps import ON_TRIAL, Cause, Ended, Journal, Latest, Persist, Phase, Step
from shared.assignment import Entry, Slot, Try, owners_left
from shared.limits import TEXT_CHARACTERS_MAX

ENDED_MAX = 256  # Four full plans; rollouts are never named twice, so older ones are not asked for.


def ended_badly(journal: Journal, cause: Cause, phase: Phase) -> Journal:
    """File the bad end of what failed, for good."""
    done = replace(
        dropped(journal),
        phase=phase,
        failing=None,
        restoring=None,
        cause=None,
        code="",
        text="",
        latest=journal.latest,
    )
    failing = journal.failing
    if failing is None:
        return done
    failed = {failing.manifest_sha256} if cause is Cause.RELEASE else set[str]()
    outcome = Phase.BROKEN if phase is Phase.BROKEN else Phase.ROLLED_BACK
    end = Ended(outcome, cause, journal.code, journal.text)
    ended = filed(done, failing.owners | failing.rivals, end)
    return replace(done, failed=journal.failed | failed, ended=ended)


def filed(journal: Journal, tries: frozenset[Try], ended: Ended) -> dict[Try, Ended]:
    """Return the outcomes with these tries among them; a bad end is final."""
    fresh = {tried: ended for tried in sorted(tries) if tried not in journal.ended_badly}
    kept = {tried: end for tried, end in journal.ended.items() if tried not in fresh}
    return dict(list({**kept, **fresh}.items())[-ENDED_MAX:])


def reverts_remembered(journal: Journal, plan: Sequence[Entry]) -> Journal:
    """Take reverted tries from every slot: the entry may leave the plan before the slot does."""

    def left(slot: Slot | None) -> Slot | None:
        return None if slot is None else replace(slot, owners=owners_left(plan, slot))

    def gone(slot: Slot | None) -> frozenset[Try]:
        return frozenset() if slot is None else slot.owners - owners_left(plan, slot)

    ended = gone(journal.active) | gone(journal.making) | gone(journal.failing)
    latest = journal.latest
    if journal.active is not None and journal.phase not in ON_TRIAL and gone(journal.active):
        latest = latest_try(journal.active, max(gone(journal.active)))
    return replace(
        journal,
        active=left(journal.active),
        previous=left(journal.previous),
        making=left(journal.making),
        restoring=left(journal.restoring),
        failing=left(journal.failing),
        ended=filed(journal, ended, Ended(Phase.ROLLED_BACK, Cause.OPERATOR)),
        latest=latest,
    )


def dropped(journal: Journal) -> Journal:
    """Return the journal without what was under way before its trial."""
    phase = Phase.IDLE if journal.is_running or journal.active is None else Phase.BROKEN
    dropped = replace(journal, phase=phase, making=None, activations_started=0, waiting_for=None)
    return settled(dropped)


def settled(journal: Journal) -> Journal:
    """Return the journal that shows no deployment but one that has ended."""
    latest = journal.latest
    return (
        journal
        if latest is None or latest.tried in journal.ended
        else replace(journal, latest=None)
    )


def latest_try(slot: Slot, tried: Try) -> Latest:
    """Return how a deployment of the slot is shown."""
    return Latest(tried, slot.release, slot.manifest_sha256)


def latest_owner(slot: Slot) -> Latest | None:
    """Return how the deployment that put the slot there is shown."""
    return latest_try(slot, max(slot.owners)) if slot.owners else None


def noted(journal: Journal, code: str, text: str) -> Journal:
    """Return the journal with what failed, in one word and in a sentence."""
    return replace(journal, code=code, text=cut(text))


def cut(text: str) -> str:
    """Return a text of a length that is reported."""
    return text[:TEXT_CHARACTERS_MAX]


def persisted(journal: Journal) -> Step:
    """Return the step that only writes the journal."""
    return journal, (Persist(journal),)
