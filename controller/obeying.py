"""Do what operators ask for: an intention and a site become the next site. Pure.

Each verb either does all of it or raises OperatorError, and says what it would have needed. The
command tries it on what is known before it writes the intention down; whoever drives does it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from controller import planning
from controller.planning import Book, State
from controller.rollout import Reach, Verdict, VerdictKind, next_wave, retried
from controller.steering import Site, following, reported_by, start_next_wave, with_record
from controller.store import Frozen, Intention
from shared.assignment import Action, Entry, parse_selector
from shared.errors import OperatorError


def obey(site: Site, intention: Intention) -> Site:
    """Do what an operator asked for.

    Raises:
        OperatorError: It would do harm, or the rollout is not in a state for it.
    """
    verb = _VERBS[intention.verb]
    try:
        return verb(site, intention)
    except planning.RefusedError as error:
        raise OperatorError(str(error)) from error


def ran_before(site: Site, selector: str, release: str) -> dict[str, int]:
    """Return which other releases the devices of a selector run now, with how many cameras."""
    wanted = parse_selector(selector)
    running = (
        reported.release
        for camera in site.cameras
        if wanted.matches(camera.labels)
        and (reported := reported_by(site, camera)) is not None
        and reported.release != release
    )
    return dict(Counter(name for name in running if name is not None))


def _start(site: Site, intention: Intention) -> Site:
    record = site.records[intention.rollout]
    selector = parse_selector(record.selector)
    fresh = Entry(
        rollout=record.rollout,
        attempt=1,
        action=Action.RUN,
        release=record.release,
        manifest_sha256=site.listed[record.release],
        selector=selector,
        pins=frozenset(),
        salt=record.rollout,
        share=0,
        deny=frozenset(record.deny),
        window=record.window,
        probe=record.probe,
    )
    waves = tuple(planning.Wave(permille, frozenset(pins)) for pins, permille in record.waves)
    is_over = intention.arguments.get("over") is True
    before = ran_before(site, record.selector, record.release)
    book = planning.start(site.book, fresh, waves, site.cameras, over=is_over)
    started = planning.find(book, record.rollout)
    reach = Reach(started.entry.pins, started.entry.share)
    course = next_wave(record.course, reach, None, wave=started.wave)
    after = replace(record, course=course, ran_before=before)
    return with_record(replace(site, book=book), after)


def _pause(site: Site, intention: Intention) -> Site:
    book = planning.pause(site.book, intention.rollout)
    return _said(site, book, intention.rollout, "paused by an operator")


def _resume(site: Site, intention: Intention) -> Site:
    record = site.records[intention.rollout]
    if record.reason == "inconclusive":
        raise OperatorError(
            f"{record.rollout} is paused because its wave was inconclusive ({record.text}): "
            "`rollout promote` goes on, `retry` tries again, `abort` ends it"
        )
    if record.state == "paused" and record.reason == "approval":
        raise OperatorError(
            f"{record.rollout} waits for an approval ({record.text}): `rollout promote` starts what"
            " comes next, `abort` ends it"
        )
    book = planning.resume(site.book, intention.rollout)
    return _said(site, book, intention.rollout, None)


def _promote(site: Site, intention: Intention) -> Site:
    record = site.records[intention.rollout]
    if record.state != "paused" or record.reason not in {"inconclusive", "approval"}:
        raise OperatorError(
            f"expected {record.rollout} to wait for an answer, it is {record.state}"
        )
    site = replace(site, book=planning.resume(site.book, record.rollout))
    is_passed = record.reason == "approval"
    kind = VerdictKind.PASS if is_passed else VerdictKind.INCONCLUSIVE
    verdict = Verdict(kind, f"{record.text}; promoted by an operator")
    return start_next_wave(site, record.rollout, verdict)


def _retry(site: Site, intention: Intention) -> Site:
    book = planning.retry(site.book, intention.rollout)
    record = site.records[intention.rollout]
    attempt = planning.find(book, intention.rollout).entry.attempt
    site = with_record(site, replace(record, course=retried(record.course, attempt)))
    return _said(site, book, intention.rollout, None)


def _abort(site: Site, intention: Intention) -> Site:
    is_revert = intention.arguments.get("no_revert") is not True
    book = planning.abort(site.book, intention.rollout, site.next_version, revert=is_revert)
    return _said(site, book, intention.rollout, "aborted by an operator")


def _said(site: Site, book: Book, name: str, text: str | None) -> Site:
    record = replace(site.records[name], reason=None if text is None else "operator", text=text)
    state = planning.find(book, name).state
    return with_record(replace(site, book=book), following(record, state, site.now))


def _freeze(site: Site, intention: Intention) -> Site:
    if site.frozen is not None:
        raise OperatorError(f"{site.frozen}; `fleetctl unfreeze` ends it")
    who, reason = (str(intention.arguments.get(key, "")) for key in ("who", "reason"))
    return replace(site, frozen=Frozen(who, site.now, reason))


def _unfreeze(site: Site, intention: Intention) -> Site:
    del intention
    if site.frozen is None:
        raise OperatorError("the fleet is not frozen")
    return replace(site, frozen=None, book=planning.thawed(site.book, site.next_version))


def _revoke(site: Site, intention: Intention) -> Site:
    """Take a release back from everybody who runs it, or may yet."""
    release = str(intention.arguments.get("release", ""))
    if site.frozen is not None:
        raise OperatorError(f"{site.frozen}; nobody could leave {release} before `unfreeze`")
    live = {one.entry.rollout for one in site.book if one.state in planning.LIVE}
    site = replace(site, book=planning.revoke(site.book, release, site.next_version))
    for name, record in site.records.items():
        if record.release == release and name in live:
            told = replace(record, reason="revoked", text=f"{release} was revoked")
            site = with_record(site, following(told, State.REVERTING, site.now))
    return site


def _publish(site: Site, intention: Intention) -> Site:
    del intention  # What was signed since the last plan goes out with the next: now.
    return site


def _remove(site: Site, intention: Intention) -> Site:
    """Forget a device; a revert need not wait for it any more."""
    device = str(intention.arguments.get("device", ""))
    cameras = tuple(camera for camera in site.cameras if camera.device != device)
    return replace(site, cameras=cameras)


_VERBS: Mapping[str, Callable[[Site, Intention], Site]] = {
    "start": _start,
    "pause": _pause,
    "resume": _resume,
    "promote": _promote,
    "retry": _retry,
    "abort": _abort,
    "freeze": _freeze,
    "unfreeze": _unfreeze,
    "remove": _remove,
    "revoke": _revoke,
    "publish": _publish,
}
PUBLISHING = frozenset({"revoke", "publish"})  # These need a plan, whether it differs or not.
