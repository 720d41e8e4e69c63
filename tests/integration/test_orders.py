"""What a person asks of the whole fleet, on a real store, a real broker and obedient puppets."""

import os
import subprocess
import sys

import pytest

from controller import orders
from controller.cli.exits import Exit
from controller.orders import Wish
from shared.errors import OperatorError, UnsignedError
from shared.release import block_lengths
from tests.integration.test_controller import DEVICES, Bed, bed, on_nats  # noqa: F401
from tests.puppet import Faults, make_release

pytestmark = on_nats
DECLARED = """
rollouts:
  doors: {release: shapes@%d, selector: "role=door", strategy: all}
"""


def declare(bed: Bed, version: int) -> None:  # noqa: F811
    """Write what `apply` shall start, and read it as another fleetctl does."""
    path = bed.project / "fleet.yaml"
    path.write_text(path.read_text().split("rollouts:")[0] + DECLARED % version)
    bed.controller.close()
    bed.controller = bed.again()


def fleetctl(bed: Bed, *arguments: str) -> subprocess.CompletedProcess[str]:  # noqa: F811
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


def test_plan_says_who_would_change_and_changes_nothing(bed: Bed) -> None:  # noqa: F811
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


def test_plan_of_what_runs_already_changes_nobody(bed: Bed) -> None:  # noqa: F811
    bed.join(*DEVICES)
    bed.roll_out(1)

    (found,) = orders.plan(bed.controller, [Wish("shapes@1", "role=door", "canary")])

    assert found.devices == ()
    assert found.unchanged == len(DEVICES)
    assert found.broker_bytes == 0


def test_plan_tells_a_release_that_a_gate_has_stopped(bed: Bed) -> None:  # noqa: F811
    bed.join(*DEVICES, faults=Faults(bad=frozenset({"shapes@2"})))
    bed.roll_out(1)
    bed.roll_out(2)

    (found,) = orders.plan(bed.controller, [Wish("shapes@2", "role=door", "canary")])

    assert found.risk == "high"
    assert "shapes@2 was stopped by a gate before: r-2" in [risk.text for risk in found.risks]


def test_what_would_be_refused_is_refused_when_it_is_planned(bed: Bed) -> None:  # noqa: F811
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


def test_apply_starts_what_is_declared_once_and_never_what_was_stopped(bed: Bed) -> None:  # noqa: F811
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


def test_apply_starts_nothing_where_one_of_it_would_be_refused(bed: Bed) -> None:  # noqa: F811
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


def test_diff_shows_both_ways(bed: Bed) -> None:  # noqa: F811
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


def test_the_commands_end_with_their_exit_codes(bed: Bed) -> None:  # noqa: F811
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
