"""What fleet.yaml declares against what is real, both ways. Pure.

A declared rollout is in place when the newest one of its name brings the same release to the same
selector, however it ended: what a gate or a person has stopped is reported, and never started
again by itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from controller import planning
from controller.devices import Known
from controller.inventory import Fleet, RolloutDeclared, identity_of
from controller.steering import Site
from controller.store import Record
from shared.assignment import parse_selector
from shared.identity import Identity
from shared.messages import parse_time

Kind = Literal[
    "start", "stopped", "differs", "not added", "identity", "other release", "undeclared rollout",
    "undeclared device",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference.

    Attributes:
        kind: ``start`` is what `apply` does; ``identity`` what driving does by itself.
        about: A rollout's name, or a device.
    """

    kind: Kind
    about: str
    declared: str
    real: str
    remedy: str


def drift(fleet: Fleet, site: Site, identities: Mapping[str, Identity]) -> tuple[Drift, ...]:
    """Return what differs, in the order of fleet.yaml; then what it does not know."""
    return (
        *_devices(fleet, identities),
        *(found for declared in fleet.rollouts for found in _rollout(declared, site)),
        *_undeclared(fleet, site, identities),
    )


def to_start(fleet: Fleet, site: Site) -> tuple[RolloutDeclared, ...]:
    """Return the declared rollouts that `apply` starts."""
    return tuple(declared for declared in fleet.rollouts if not _is_begun(declared, site))


def _newest(name: str, site: Site) -> Record | None:
    mine = [record for record in site.records.values() if record.name == name]
    return max(mine, key=lambda record: int(record.rollout.removeprefix("r-")), default=None)


def _is_begun(declared: RolloutDeclared, site: Site) -> bool:
    record = _newest(declared.name, site)
    if record is None or record.release != declared.release:
        return False
    return parse_selector(record.selector) == parse_selector(declared.selector)


def _rollout(declared: RolloutDeclared, site: Site) -> Iterator[Drift]:
    record = _newest(declared.name, site)
    wants = f"{declared.release} to {declared.selector}"
    if record is None or not _is_begun(declared, site):
        is_new = record is None
        real = "never started" if record is None else f"{record.release} to {record.selector}"
        state = "" if record is None else f" ({record.rollout}, {record.state})"
        over = "" if is_new or (record and record.is_over) else " --over"
        yield Drift("start", declared.name, wants, real + state, f"fleetctl apply{over}")
        return
    if record.state == "aborted":
        why = record.text or record.reason or ""
        again = f"fleetctl rollout start {declared.release} -l {declared.selector}"
        yield Drift("stopped", declared.name, wants, f"{record.rollout} aborted: {why}", again)
        return
    for what, wished, real in (
        ("strategy", declared.strategy, record.strategy),
        ("deny", ",".join(sorted(declared.deny)), ",".join(sorted(record.deny))),
    ):
        if wished != real:
            remedy = "counts from its next rollout on"
            yield Drift("differs", declared.name, f"{what} {wished or '-'}", real or "-", remedy)
    yield from _cameras(declared, record, site)


def _cameras(declared: RolloutDeclared, record: Record, site: Site) -> Iterator[Drift]:
    """Yield the cameras that a finished rollout covers and that run something else."""
    rollout = next((r for r in site.book if r.entry.rollout == record.rollout), None)
    if rollout is None or record.state != "completed":
        return
    for camera in planning.members(site.book, rollout, site.listed, site.cameras):
        known = site.devices.get(camera.device, Known(camera.device))
        reported = known.camera(camera.number)
        runs = None if reported is None else reported.release
        if runs == declared.release:
            continue
        where = f"{camera.device}/{camera.number}"
        state = "" if known.is_status_online else ", offline"
        heard = f", last heard {parse_time(known.report.at):%Y-%m-%d %H:%M}" if known.report else ""
        real = f"{runs or 'nothing'}{state}{heard}"
        yield Drift("other release", where, declared.release, real, "fleetctl device show")


def _devices(fleet: Fleet, identities: Mapping[str, Identity]) -> Iterator[Drift]:
    for name, device in fleet.devices.items():
        signed = identities.get(name)
        if signed is None:
            remedy = f"fleetctl device add {name}"
            yield Drift("not added", name, "declared", "no identity", remedy)
            continue
        wished = identity_of(fleet.name, device, version=signed.version, at=parse_time(signed.at))
        if msgspec.structs.replace(wished, at=signed.at) != signed:
            declared, real = _differing(wished, signed)
            yield Drift("identity", name, declared, real, "signed anew by whoever drives next")


def _differing(wished: Identity, signed: Identity) -> tuple[str, str]:
    """Return the first setting that differs, on both sides."""
    for name in ("labels", "cameras", "settings", "timezone"):
        one, other = getattr(wished, name), getattr(signed, name)
        if one != other:
            return f"{name} {_words(one)}", _words(other)
    return "another identity", "another identity"


def _words(value: object) -> str:
    plain = msgspec.to_builtins(value)
    if isinstance(plain, dict) and all(isinstance(part, str) for part in plain.values()):
        return ",".join(f"{key}={part}" for key, part in sorted(plain.items())) or "-"
    return msgspec.json.encode(plain).decode()


def _undeclared(fleet: Fleet, site: Site, identities: Mapping[str, Identity]) -> Iterator[Drift]:
    names = {declared.name for declared in fleet.rollouts}
    for rollout in site.book:
        record = site.records[rollout.entry.rollout]
        if rollout.state in planning.LIVE and record.name not in names:
            real = f"{record.rollout}: {record.release} to {record.selector}, {record.state}"
            remedy = f"fleetctl rollout abort {record.rollout}, or declare it"
            yield Drift("undeclared rollout", record.name, "-", real, remedy)
    for name in sorted({*identities, *site.devices} - fleet.devices.keys()):
        real = "added" if name in identities else "heard"
        yield Drift(
            "undeclared device", name, "-", real, f"fleetctl device rm {name}, or declare it"
        )
