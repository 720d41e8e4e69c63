"""What a person asks of the whole fleet: `plan`, `diff`, `apply`, `freeze`. A shell.

forecast.py    what a rollout would do
drift.py       what fleet.yaml declares against what is real
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from controller import asking, audit, drift, forecast, labelling
from controller.devices import Known
from controller.driving import keep_identity, read_identities, read_repository
from controller.inventory import identity_of, parse_fleet, selector_of
from controller.obeying import obey
from controller.publishing import Held
from controller.repository import controller_keys
from controller.store import Intention, Record
from shared.errors import OperatorError
from shared.files import write_atomically
from shared.identity import camera_of
from shared.release import Manifest

if TYPE_CHECKING:
    from controller.inventory import RolloutDeclared
    from controller.service import Controller
    from controller.steering import Site


@dataclass(frozen=True, slots=True)
class Wish:
    """A rollout that somebody may start."""

    release: str
    selector: str
    strategy: str | None = None
    name: str | None = None
    deny: tuple[str, ...] = ()
    over: bool = False


def wishes(controller: "Controller", *, over: bool = False) -> tuple[Wish, ...]:
    """Return what `apply` would start."""
    declared = drift.to_start(controller.fleet, controller.site())
    return tuple(_wish(one, over=over) for one in declared)


def _wish(declared: "RolloutDeclared", *, over: bool) -> Wish:
    return Wish(
        declared.release, declared.selector, declared.strategy, declared.name, declared.deny, over
    )


def order(controller: "Controller", verb: str, **arguments: object) -> None:
    """Leave a wish about the whole fleet for whoever drives, after trying it on what is known.

    Raises:
        OperatorError: It would be refused.
    """
    store = controller.store
    with store.transaction():
        obey(controller.site(), Intention(0, verb, "", arguments))
        store.intend(verb, "", **arguments)
        audit.note(store, "order", "fleet", verb=verb, **arguments)


def freeze(controller: "Controller", reason: str) -> None:
    """Let no device of the fleet change anything, whatever runs."""
    order(controller, "freeze", who=audit.who(), reason=reason)


def unfreeze(controller: "Controller") -> None:
    """Let devices change again."""
    order(controller, "unfreeze", who=audit.who())


def plan(controller: "Controller", wished: Sequence[Wish]) -> tuple[forecast.Forecast, ...]:
    """Return what each would do; nothing is written down.

    Raises:
        UnsignedError: A release is not signed.
        OperatorError: One would be refused.
    """
    records = [
        controller.new_record(
            wish.release, wish.selector, controller.strategy(wish.strategy), wish.name, wish.deny
        )
        for wish in wished
    ]
    return _forecasts(
        controller, [(record, w.over) for record, w in zip(records, wished, strict=True)]
    )


def plan_undo(
    controller: "Controller", rollout: str, strategy: str | None, *, over: bool
) -> tuple[forecast.Forecast, ...]:
    """Return what `rollout undo` would do."""
    return _forecasts(controller, [(controller.undo_record(rollout, strategy), over)])


def _forecasts(
    controller: "Controller", wanted: Sequence[tuple[Record, bool]]
) -> tuple[forecast.Forecast, ...]:
    devices, _ = controller.heard()
    site = replace(controller.site(), devices=devices)
    knows = _knowledge(controller, site, [record.release for record, _ in wanted])
    name = controller.store.next_rollout()
    return tuple(
        forecast.forecast(site, replace(record, rollout=name), knows, over=over)
        for record, over in wanted
    )


def _knowledge(controller: "Controller", site: "Site", wanted: Sequence[str]) -> forecast.Knowledge:
    reports = (known.report for known in site.devices.values() if known.report is not None)
    cameras = (camera for report in reports for camera in report.cameras.values())
    names = {name for camera in cameras for name in (camera.release, camera.previous) if name}
    store = controller.store
    digests = {name: store.manifest_sha256(name) for name in {*names, *wanted}}
    held = store.get("held", Held)
    is_there = held is not None and held.broker == controller.broker_url
    return forecast.Knowledge(
        identities=read_identities(store),
        manifests={
            name: msgspec.json.decode(store.blob(digest), type=Manifest)
            for name, digest in digests.items()
            if digest is not None
        },
        held=held.blocks if held is not None and is_there else frozenset(),
        is_frozen=site.frozen is not None,
    )


def diff(controller: "Controller") -> tuple[drift.Drift, ...]:
    """Return what is declared and not real, and what is real and not declared."""
    devices, _ = controller.heard()
    site = replace(controller.site(), devices=devices)
    return drift.drift(controller.fleet, site, read_identities(controller.store))


def apply(controller: "Controller", *, over: bool = False) -> tuple[str, ...]:
    """Start what is declared and was not started; return the rollouts' ids.

    Nothing is started unless all of it can be: each is tried on a copy first.
    """
    wished = wishes(controller, over=over)
    plan(controller, wished)
    started: list[str] = []
    for wish in wished:
        try:
            started.append(start(controller, wish))
        except OperatorError as error:
            done = f" ({', '.join(started)} was started)" if started else ""
            raise OperatorError(f"rollout {wish.name}: {error}{done}") from error
    return tuple(started)


def start(controller: "Controller", wish: Wish) -> str:
    """Start a rollout; return its id."""
    return controller.start_rollout(
        wish.release,
        selector=wish.selector,
        strategy=wish.strategy,
        over=wish.over,
        name=wish.name,
        deny=wish.deny,
    )


def devices_of(
    controller: "Controller", named: Sequence[str], selector: str | None
) -> tuple[str, ...]:
    """Return the added devices that were named, or that a selector matches; labels as signed.

    Raises:
        OperatorError: Nobody is meant, or one is not added.
    """
    identities = read_identities(controller.store)
    for device in named:
        if device not in identities:
            raise OperatorError(f"expected a device that was added, got {device!r};"
                                " see `fleetctl device ls`")  # fmt: skip
    if selector is None:
        if not named:
            raise OperatorError("expected a device, or -l with a selector")
        return tuple(dict.fromkeys(named))
    wanted = selector_of(selector)
    matching = {
        device
        for device, identity in identities.items()
        if any(wanted.matches(camera_of(identity, int(n)).labels) for n in identity.cameras)
    }
    found = tuple(d for d in identities if d in matching and (not named or d in named))
    if not found:
        raise OperatorError(
            f"selector {selector!r} matches no device that was added; see `fleetctl device ls`"
        )
    return found


def label(
    controller: "Controller", devices: Sequence[str], changes: labelling.Labels
) -> dict[str, int]:
    """Change labels in fleet.yaml and sign the identities; return their versions.

    Raises:
        OperatorError: One of them cannot be changed; then none was.
    """
    path = controller.file
    text = path.read_text(encoding="utf-8")
    for device in devices:
        text = labelling.relabelled(text, device, changes, path.name)
    controller.fleet = parse_fleet(text, path.name)
    signer = controller.signer("controller")
    write_atomically(path, text.encode(), mode=path.stat().st_mode & 0o777)
    store, versions = controller.store, {}
    with store.transaction():
        for device, (version, _, _) in store.identities().items():
            if device not in devices:
                continue
            identity = identity_of(
                controller.fleet.name,
                controller.fleet.devices[device],
                version=version + 1,
                at=datetime.now(UTC),
            )
            keep_identity(store, identity, signer)
            versions[device] = identity.version
            audit.note(store, "device", device, verb="label", **changes)
    return versions


def unheard(controller: "Controller", versions: Mapping[str, int]) -> tuple[str, ...]:
    """Return the devices that have not yet reported the identity that was signed for them."""
    known = controller.store.known(Known)
    reports = {device: known[device].report for device in versions if device in known}
    return tuple(
        device
        for device, version in versions.items()
        if (report := reports.get(device)) is None or report.identity_version < version
    )


def ask(
    controller: "Controller", devices: Sequence[str], verb: str, *, seconds: float, camera: int = 0
) -> tuple[asking.Answer, ...]:
    """Ask devices for something, and return their answers."""
    with asking.Line(controller.fleet.name, controller.address) as line:
        answers = asking.ask(line, devices, verb, seconds=seconds, camera=camera)
    with controller.store.transaction():
        for answer in answers:
            said = {"status": answer.status, "code": answer.code, "camera": camera}
            audit.note(controller.store, "device", answer.device, verb=verb, **said)
    return answers


def remove(controller: "Controller", device: str, *, force: bool) -> None:
    """Wish that a device is forgotten; whoever drives does it.

    Raises:
        OperatorError: It is not added, or online and not forced.
    """
    devices_of(controller, (device,), None)
    known, _ = controller.heard()
    if device in known and known[device].is_status_online and not force:
        raise OperatorError(
            f"{device} is online: switch it off first, or use --force; it would go on with what it"
            " runs and be shown as undeclared"
        )
    order(controller, "remove", device=device)


def clear_device(controller: "Controller", device: str) -> tuple[str, ...]:
    """Clear what the broker keeps of a device; return what it has not acknowledged."""
    with asking.Line(controller.fleet.name, controller.address) as line:
        return asking.clear(line, asking.retained_of(line.topics, device))


def verify_audit(controller: "Controller", head: str | None = None) -> audit.Checked:
    """Return what is wrong with the audit log; ``head``: a digest that must be in it."""
    store = controller.store
    repository = read_repository(store)
    is_sealed = repository.version > 1  # The first plan is that of `init`.
    found = audit.verify(store, controller_keys(repository), is_sealed=is_sealed)
    digests = {digest for _, _, digest in store.audit_rows()}
    if head is not None and head not in digests:
        problem = f"no entry has the digest {head[:12]}: the log was cut off or written anew"
        return replace(found, problems=(*found.problems, problem))
    return found
