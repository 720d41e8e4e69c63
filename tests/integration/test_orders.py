"""What a person asks of the whole fleet, on a real store, a real broker and obedient puppets."""
# ruff: noqa: F811 - a fixture of another file is a parameter here

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing

import pytest

from controller import audit, orders
from controller.cli.exits import Exit
from controller.devices import Known
from controller.driving import read_repository
from controller.orders import Wish
from controller.status import FleetStatus, RolloutStatus
from shared.assignment import Action
from shared.errors import OperatorError, UnsignedError
from shared.release import block_lengths
from tests.integration.test_controller import DEVICES, Bed, bed, on_nats  # noqa: F401
from tests.puppet import Faults, make_release

pytestmark = on_nats
DECLARED = """
rollouts:
  doors: {release: shapes@%d, selector: "role=door", strategy: all}
"""


def declare(bed: Bed, version: int) -> None:
    """Write what `apply` shall start, and read it as another fleetctl does."""
    path = bed.project / "fleet.yaml"
    path.write_text(path.read_text().split("rollouts:")[0] + DECLARED % version)
    bed.controller.close()
    bed.controller = bed.again()


def fleetctl(bed: Bed, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run fleetctl as a process of its own, on the bed's store and broker."""
    data = bed.project / "data"
    data.mkdir(exist_ok=True)
    link = data / "imxfleet"
    if not link.exists():
        link.symlink_to(bed.home)
    text = (bed.project / "fleet.yaml").read_text()
    (bed.project / "fleet.yaml").write_text(
        text.replace("{embedded: true}", f'{{url: "{bed.broker.url}"}}')
    )
    return subprocess.run(
        [sys.executable, "-m", "controller", *arguments], cwd=bed.project, text=True, check=False,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
        env={**os.environ, "XDG_DATA_HOME": str(data)},
    )  # fmt: skip


def test_plan_says_who_would_change_and_changes_nothing(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.roll_out(1)
    bed.puppets["cam-4"].stop()
    release = bed.release(2)
    version = bed.controller.fleet_status().plan_version

    (found,) = orders.plan(bed.controller, [Wish(release, "role=door", "canary")])

    manifest, _ = make_release("shapes", 2)
    needed = sum(length for file in manifest.files for length in block_lengths(file.bytes))
    assert [(one.device, one.wave) for one in found.devices] == [
        ("cam-1", 0), ("cam-2", 1), ("cam-3", 1), ("cam-4", 1)
    ]  # fmt: skip
    assert {one.bytes for one in found.devices} == {needed}
    assert all(one.runs == {0: "shapes@1"} for one in found.devices)
    assert found.offline == ("cam-4",)
    assert found.waves == (1, 3)
    assert any("cam-4" in risk.text for risk in found.risks)
    assert bed.controller.fleet_status().plan_version == version
    assert [record.rollout for record in bed.controller.history()] == ["r-1"]


def test_plan_of_what_runs_already_changes_nobody(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.roll_out(1)

    (found,) = orders.plan(bed.controller, [Wish("shapes@1", "role=door", "canary")])

    assert found.devices == ()
    assert found.unchanged == len(DEVICES)
    assert found.broker_bytes == 0


def test_plan_tells_a_release_that_a_gate_has_stopped(bed: Bed) -> None:
    bed.join(*DEVICES, faults=Faults(bad=frozenset({"shapes@2"})))
    bed.roll_out(1)
    bed.roll_out(2)

    (found,) = orders.plan(bed.controller, [Wish("shapes@2", "role=door", "canary")])

    assert found.risk == "high"
    assert "shapes@2 was stopped by a gate before: r-2" in [risk.text for risk in found.risks]


def test_what_would_be_refused_is_refused_when_it_is_planned(bed: Bed) -> None:
    bed.join(*DEVICES)
    release = bed.release(1)
    manifest, files = make_release("shapes", 2)
    bed.controller.import_release(manifest, files)
    bed.controller.start_rollout(release, selector="role=door", strategy="canary")

    for wish, kind, text in (
        (Wish("shapes@2", "role=door", "all"), UnsignedError, "not signed"),
        (Wish("shapes@9", "role=door", "all"), OperatorError, "not in the store"),
        (Wish(release, "role=dock", "all"), OperatorError, "matches no device"),
        (Wish(release, "role=", "all"), OperatorError, "expected key=value"),
        (Wish(release, "role=door", "bold"), OperatorError, "expected a strategy"),
        (Wish(release, "role=door", "all"), OperatorError, "overlaps r-1"),
    ):
        with pytest.raises(kind, match=text):
            orders.plan(bed.controller, [wish])
    assert orders.plan(bed.controller, [Wish(release, "role=door", "all", over=True)])


def test_apply_starts_what_is_declared_once_and_never_what_was_stopped(bed: Bed) -> None:
    bed.join(*DEVICES, faults=Faults(bad=frozenset({"shapes@2"})))
    bed.release(1)
    bed.release(2)
    declare(bed, 1)

    (first,) = orders.apply(bed.controller)
    bed.drive(first)
    assert orders.apply(bed.controller) == ()
    assert orders.diff(bed.controller) == ()
    declare(bed, 2)
    (second,) = orders.apply(bed.controller)
    stopped = bed.drive(second)

    assert (stopped.state, stopped.reason) == ("aborted", "gate")
    assert orders.apply(bed.controller) == ()
    assert [(one.kind, one.about) for one in orders.diff(bed.controller)] == [("stopped", "doors")]


def test_apply_starts_nothing_where_one_of_it_would_be_refused(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.release(1)
    declare(bed, 1)
    path = bed.project / "fleet.yaml"
    path.write_text(
        path.read_text() + '  others: {release: shapes@7, selector: "*", strategy: all}\n'
    )
    bed.controller.close()
    bed.controller = bed.again()

    with pytest.raises(OperatorError, match="shapes@7 is not in the store"):
        orders.apply(bed.controller)

    assert bed.controller.history() == ()


def test_diff_shows_both_ways(bed: Bed) -> None:
    bed.join("cam-1", "cam-2")
    bed.roll_out(1)
    bed.release(2)
    path = bed.project / "fleet.yaml"
    path.write_text(
        path.read_text().replace(
            "cam-[1:4]: {labels: {role: door}}",
            "cam-1: {labels: {role: gate}}\n  cam-3: {}",
        )
        + DECLARED.replace('"role=door"', '"role=gate"') % 2
    )
    bed.controller.close()
    bed.controller = bed.again()

    found = orders.diff(bed.controller)

    assert {(one.kind, one.about) for one in found} == {
        ("identity", "cam-1"),
        ("not added", "cam-3"),
        ("start", "doors"),
        ("undeclared device", "cam-2"),
    }
    (identity,) = [one for one in found if one.kind == "identity"]
    assert (identity.declared, identity.real) == ("labels role=gate,site=lab", "role=door,site=lab")


def test_the_commands_end_with_their_exit_codes(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.release(1)
    declare(bed, 1)

    planned = fleetctl(bed, "plan", "--detailed-exitcode")
    differs = fleetctl(bed, "diff", "--detailed-exitcode")
    applied = fleetctl(bed, "apply", "-f", "fleet.yaml", "--timeout", "60s")
    again = fleetctl(bed, "plan", "--detailed-exitcode")
    nothing = fleetctl(bed, "apply")
    nobody = fleetctl(bed, "plan", "shapes@1", "-l", "role=dock", "--strategy", "all")

    assert planned.returncode == Exit.CHANGES, planned.stderr
    assert "4 would change (by wave: 4), 0 cameras" in planned.stdout
    assert differs.returncode == Exit.CHANGES, differs.stderr
    assert applied.returncode == Exit.OK, applied.stderr
    assert again.returncode == nothing.returncode == Exit.OK
    assert nobody.returncode == Exit.ERROR
    assert "matches no device" in nobody.stderr
    assert bed.running == {"shapes@1"}


def test_in_a_frozen_fleet_nobody_changes_and_rollouts_go_on_afterwards(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.roll_out(1)
    orders.freeze(bed.controller, "fair")
    bed.controller.drive(until=lambda _: True, timeout_seconds=40)
    name = bed.controller.start_rollout(bed.release(2), selector="role=door", strategy="all")

    bed.drive_until(name, lambda status: status.state == "running" and _all_wait(status))
    frozen = bed.controller.fleet_status()

    assert bed.running == {"shapes@1"}
    assert {entry.action for entry in read_repository(bed.controller.store).plan} == {Action.HOLD}
    assert frozen.frozen is not None
    assert "fair" in frozen.frozen
    with pytest.raises(OperatorError, match="fleet is frozen since"):
        orders.freeze(bed.controller, "")
    orders.unfreeze(bed.controller)
    status = bed.drive(name)
    assert (status.state, status.is_healthy) == ("completed", True)
    assert bed.running == {"shapes@2"}
    with pytest.raises(OperatorError, match="is not frozen"):
        orders.unfreeze(bed.controller)


def test_an_abort_in_a_frozen_fleet_reverts_nobody_until_it_thaws(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.roll_out(1)
    name = bed.controller.start_rollout(bed.release(2), selector="role=door", strategy="lasting")
    bed.drive_until(name, lambda status: status.counts.get("healthy") == len(DEVICES))
    orders.freeze(bed.controller, "")
    bed.controller.abort(name)
    bed.controller.drive(until=_have_read_and_rest(bed), timeout_seconds=40)

    assert bed.running == {"shapes@2"}
    assert bed.controller.status(name).state == "reverting"
    assert Action.REVERT not in {e.action for e in read_repository(bed.controller.store).plan}
    orders.unfreeze(bed.controller)
    status = bed.drive(name)
    assert (status.state, status.reason) == ("aborted", "operator")
    assert bed.running == {"shapes@1"}


def test_the_audit_log_tells_the_whole_story_and_finds_what_was_edited(bed: Bed) -> None:
    bed.join(*DEVICES, faults=Faults(bad=frozenset({"shapes@2"})))
    bed.roll_out(1)
    bed.roll_out(2)

    told = [(entry.what, entry.about) for entry in audit.entries(bed.controller.store)]
    found = orders.verify_audit(bed.controller)

    assert found.problems == ()
    assert told.count(("device", "cam-1")) == 1
    assert told.index(("order", "r-1")) < told.index(("verdict", "r-1"))
    verdicts = [
        (entry.about, entry.detail["kind"])
        for entry in audit.entries(bed.controller.store)
        if entry.what == "verdict"
    ]
    assert verdicts[:2] == [("r-1", "pass")] * 2
    assert verdicts[2] == ("r-2", "fail")
    outcomes = {
        (entry.about, entry.detail["rollout"], entry.detail["phase"])
        for entry in audit.entries(bed.controller.store)
        if entry.what == "outcome"
    }
    assert {(f"{device}/0", "r-1", "committed") for device in DEVICES} <= outcomes
    assert ("cam-1/0", "r-2", "rolled_back") in outcomes
    plans = [entry for entry in audit.entries(bed.controller.store) if entry.what == "plan"]
    assert int(plans[-1].about) == bed.controller.fleet_status().plan_version
    assert plans[-1].number <= found.sealed
    ended = fleetctl(bed, "audit", "verify", "--head", found.head)
    assert ended.returncode == Exit.OK, ended.stderr
    with closing(sqlite3.connect(bed.controller.folder / "store.sqlite")) as database:
        database.execute("DELETE FROM audit WHERE number = 3")
        database.commit()
    ended = fleetctl(bed, "audit", "verify")
    assert ended.returncode == Exit.UNTRUSTED
    assert "entry 3 is missing" in ended.stderr


def test_a_finished_rollout_is_not_paused_and_undo_needs_one_earlier_release(bed: Bed) -> None:
    bed.join("cam-1", "cam-2")
    bed.roll_out(1)
    first = fleetctl(bed, "rollout", "undo", "r-1", "--detach")
    bed.drive(bed.controller.start_rollout(bed.release(2), selector="*", strategy="all"))
    bed.join("cam-3")
    bed.drive(bed.controller.start_rollout("shapes@1", selector="role=door", strategy="all"))

    paused = fleetctl(bed, "rollout", "pause", "r-3", "--detach")
    dry = fleetctl(bed, "rollout", "undo", "r-2", "--dry-run", "-o", "json")
    logs = fleetctl(bed, "logs", "cam-1", "-o", "jsonl")
    live = fleetctl(bed, "logs", "-n", "0", "-f", "--timeout", "4s")

    assert (first.returncode, paused.returncode) == (Exit.ERROR, Exit.ERROR)
    assert "ran nothing before" in first.stderr
    assert "expected r-3 to be running, it is completed" in paused.stderr
    assert json.loads(dry.stdout)[0]["release"] == "shapes@1"
    told = [json.loads(line) for line in logs.stdout.splitlines()]
    assert {one["about"] for one in told} == {"cam-1", "cam-1/0"}
    outcomes = [one["detail"]["phase"] for one in told if one["what"] == "outcome"]
    assert set(outcomes) == {"committed"}
    assert live.returncode == Exit.TIMEOUT, live.stderr


def _have_read_and_rest(bed: Bed) -> Callable[[FleetStatus], bool]:
    """Return what says that each device has reported the newest plan three times, at rest."""
    first: dict[str, int] = {}

    def is_so(fleet: FleetStatus) -> bool:
        known = bed.controller.store.known(Known)
        reports = [known[device].report for device in bed.puppets]
        are_new = all(
            report is not None
            and report.plan_version == fleet.plan_version
            and report.cameras["0"].is_settled
            for report in reports
        )
        return are_new and all(
            report.seq >= first.setdefault(device, report.seq) + 3
            for device, report in zip(bed.puppets, reports, strict=True)
            if report is not None
        )

    return is_so


def _all_wait(status: RolloutStatus) -> bool:
    return status.counts == {"waiting": len(DEVICES)}
