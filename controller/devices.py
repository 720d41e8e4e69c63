"""Fold what devices say into what is known of each. Pure.

Messages come twice, late, and from before a power cut: order is (n of ``run``, ``seq``) within one
install. A new install replaces the old one (``reinstalled``); a replaced one that speaks again is a
second card with the same id (``duplicate_device``), and is not listened to.

Online means: the last status is ``online`` AND a live message was heard since our connect. After a
site's power cut the broker still holds ``online`` for devices that are dead.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from shared.errors import MalformedError
from shared.limits import REPORTED_BYTES
from shared.messages import CameraReported, Reported, decode, parse_time

_RUN = re.compile(r"(.*)-([0-9]{1,18})")  # Python reads no more than 4,300 digits.
ALERTS_SHOWN = 20
INSTALLS_MAX = 8  # Remembered per device; a card that is replaced more often is a test bench.


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one device.

    Attributes:
        is_live: A live message was heard since our connect.
        heard: How many live reports were heard; it only tells one look from the next.
        replaced: Installs that a newer one has taken the place of.
        is_reinstalled: The install changed while we knew the device.
        is_duplicate: A replaced install spoke again.
        duplicate_run, duplicate_serial: The one that did, and the machine that it is in.
    """

    device: str
    is_status_online: bool = False
    is_live: bool = False
    heard: int = 0
    report: Reported | None = None
    replaced: tuple[str, ...] = ()
    is_reinstalled: bool = False
    is_duplicate: bool = False
    duplicate_run: str = ""
    duplicate_serial: str | None = None

    @property
    def is_online(self) -> bool:
        """Say whether the device can be heard now."""
        return self.is_status_online and self.is_live

    def camera(self, number: int) -> CameraReported | None:
        """Return what the device last said of one of its cameras."""
        return None if self.report is None else self.report.cameras.get(str(number))


def fold(known: Known, what: str, payload: bytes, *, is_retained: bool) -> Known:
    """Return what is known after a message on one of a device's topics.

    Raises:
        RefusedError: It is not what its topic says.
    """
    if what == "status":
        return fold_status(known, payload, is_retained=is_retained)
    if what == "reported":
        return fold_reported(known, _read_report(payload), is_retained=is_retained)
    return known


def _read_report(payload: bytes) -> Reported:
    report = decode(payload, Reported, bytes_max=REPORTED_BYTES)
    parse_time(report.at)
    if strange := [number for number in report.cameras if not number.isdecimal()]:
        raise MalformedError(f"expected cameras by number, got {strange[0][:40]!r}")
    return report


def fold_status(known: Known, text: bytes, *, is_retained: bool) -> Known:
    """Return what is known after a status; anything but ``online`` is offline."""
    is_online = text == b"online"
    is_live = known.is_live or (is_online and not is_retained)
    return replace(known, is_status_online=is_online, is_live=is_live and is_online)


def fold_reported(known: Known, report: Reported, *, is_retained: bool) -> Known:
    """Return what is known after a report; an old or foreign one changes nothing."""
    install, number = parse_run(report.run)
    if install in known.replaced:
        return replace(
            known, is_duplicate=True, duplicate_run=report.run, duplicate_serial=report.serial
        )
    last = known.report
    if last is not None:
        last_install, last_number = parse_run(last.run)
        if install != last_install:
            gone = (*known.replaced, last_install)[-INSTALLS_MAX:]
            known = replace(known, replaced=gone, is_reinstalled=True)
        elif (number, report.seq) < (last_number, last.seq):
            return known
    if is_retained:
        return replace(known, report=report)
    return replace(known, report=report, is_live=True, heard=known.heard + 1)


def disconnected(devices: Mapping[str, Known]) -> dict[str, Known]:
    """Return what is known once our own connection is gone: nobody is heard live."""
    return {name: replace(known, is_live=False) for name, known in devices.items()}


def parse_run(run: str) -> tuple[str, int]:
    """Return install and count of agent starts in ``<install>-<n>``; a malformed run counts 0."""
    match = _RUN.fullmatch(run)
    return (run, 0) if match is None else (match[1], int(match[2]))


class RevokedRun:
    """Who runs a release that was revoked, kept up with every report."""

    def __init__(self, revoked: frozenset[str], devices: Iterable[Known] = ()) -> None:
        """Look at all devices once."""
        self._revoked = revoked
        self._found: dict[str, tuple[str, ...]] = {}
        for known in devices:
            self.note(known)

    def note(self, known: Known) -> None:
        """Look at a device's newest report."""
        found = revoked_on(known, self._revoked) if self._revoked else ()
        if found:
            self._found[known.device] = found
        else:
            self._found.pop(known.device, None)

    @property
    def alerts(self) -> tuple[str, ...]:
        """Return a sentence for each device, of very many only the first."""
        words = [
            f"{device}: {text}" for device in sorted(self._found) for text in self._found[device]
        ]
        more = (f"and {len(words) - ALERTS_SHOWN} more",) if len(words) > ALERTS_SHOWN else ()
        return (*words[:ALERTS_SHOWN], *more)


def revoked_on(known: Known, revoked: frozenset[str]) -> tuple[str, ...]:
    """Return what an operator should know about the revoked releases that a device runs."""
    cameras = known.report.cameras.items() if known.report else ()
    return tuple(
        f"camera {number} runs {camera.release}, which was revoked"
        + ("" if camera.previous else "; it has nothing to go back to")
        for number, camera in cameras
        if camera.release in revoked
    )


def notes_of(known: Known, identity_version: int) -> tuple[str, ...]:
    """Return what an operator should know about a device."""
    notes: list[str] = []
    if known.is_reinstalled:
        notes.append("reinstalled: a new card speaks for this device")
    if known.is_duplicate:
        notes.append(_duplicate(known))
    if known.report is not None:
        notes.extend(_notes_of_report(known.report, identity_version))
    return tuple(notes)


def _duplicate(known: Known) -> str:
    """Say which two cards speak under one id, and in which machines they are."""
    newer = known.report
    cards = [_card(known.duplicate_run, known.duplicate_serial)]
    if newer is not None:
        cards.append(_card(newer.run, newer.serial))
    return (
        f"duplicate_device: two cards speak for it: {' and '.join(cards)}; `fleetctl device add`"
        " one of them under an id of its own"
    )


def _card(run: str, serial: str | None) -> str:
    return f"{run or 'one of before'} in {serial or 'a machine without a serial number'}"


def _notes_of_report(report: Reported, identity_version: int) -> Iterator[str]:
    if report.identity_version < identity_version:
        yield f"has identity {report.identity_version}, signed is {identity_version}"
    if report.clock == "unsynced":
        yield "its clock is not synchronised"
    for what, error in (("plan", report.refused.trust), ("identity", report.refused.identity)):
        if error is not None:
            yield f"refused the {what}: {error.code}: {error.text}"
    for entry in report.refused.entries:
        yield f"does not follow {entry.rollout}: {entry.code}: {entry.text}"
