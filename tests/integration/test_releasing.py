"""Releases that are carried, revoked and pruned, and a controller key that is rotated."""
# ruff: noqa: F811 - a fixture of another file is a parameter here

import json
import shutil
import zipfile
from pathlib import Path
from time import time

import pytest

from controller import audit, orders, releasing
from controller.cli.exits import Exit
from controller.driving import read_repository
from controller.repository import controller_keys
from controller.service import Controller
from shared.assignment import Action
from shared.errors import OperatorError, UnsignedError
from tests.integration.test_controller import DEVICES, QUICK, Bed, bed, on_nats  # noqa: F401
from tests.integration.test_devices import eventually
from tests.integration.test_orders import fleetctl
from tests.puppet import make_release

pytestmark = on_nats


def brought_out(bed: Bed) -> None:
    """Drive until the broker hands back what the store has."""
    bed.controller.drive(until=lambda _: True, timeout_seconds=40)


def test_a_release_revoked_in_the_middle_of_its_rollout_is_left_by_all(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.roll_out(1)
    name = bed.controller.start_rollout(bed.release(2), selector="role=door", strategy="lasting")
    bed.drive_until(name, lambda status: status.counts.get("healthy") == len(DEVICES))
    before = read_repository(bed.controller.store).version

    releasing.revoke(bed.controller, "shapes@2", None)
    status = bed.drive(name)

    assert (status.state, status.reason, status.text) == (
        "aborted", "revoked", "shapes@2 was revoked"
    )  # fmt: skip
    assert bed.running == {"shapes@1"}
    plans = [e for e in audit.entries(bed.controller.store) if e.what == "plan"]
    (first,) = [e for e in plans if int(e.about) == before + 1]
    assert "revert shapes@2" in str(first.detail["entries"])  # In ONE bundle with the list.
    assert "shapes@2" not in read_repository(bed.controller.store).listed
    states = {one.release: one.state for one in bed.controller.list_releases()}
    assert states == {"shapes@1": "signed", "shapes@2": "revoked"}
    with pytest.raises(UnsignedError, match="never signed again"):
        bed.controller.start_rollout("shapes@2", selector="role=door", strategy="all")
    with pytest.raises(OperatorError, match="signed before"):
        bed.controller.sign_release("shapes@2", None)
    with pytest.raises(OperatorError, match="is not listed"):
        releasing.revoke(bed.controller, "shapes@2", None)


def test_a_finished_release_is_left_too_and_who_cannot_is_reported(bed: Bed) -> None:
    bed.join("cam-1")
    bed.roll_out(1)

    releasing.revoke(bed.controller, "shapes@1", None)
    brought_out(bed)
    alerts: list[str] = []
    bed.controller.drive(
        until=lambda fleet: alerts.extend(fleet.alerts) or bool(fleet.alerts), timeout_seconds=40
    )

    words = "camera 0 runs shapes@1, which was revoked; it has nothing to go back to"
    assert f"cam-1: {words}" in alerts
    assert words in bed.controller.show_device("cam-1").notes
    assert bed.puppets["cam-1"].runs == "shapes@1"


def test_a_frozen_fleet_revokes_nothing(bed: Bed) -> None:
    bed.join("cam-1")
    bed.roll_out(1)
    orders.freeze(bed.controller, "")
    brought_out(bed)

    with pytest.raises(OperatorError, match="frozen since"):
        releasing.revoke(bed.controller, "shapes@1", None)

    assert "shapes@1" in read_repository(bed.controller.store).listed


def test_prune_delists_what_nobody_needs_and_reverts_nothing(bed: Bed) -> None:
    bed.join(*DEVICES)
    for version in (1, 2, 3, 4):
        bed.roll_out(version)
    bed.release(5)
    for puppet in bed.puppets.values():
        eventually(lambda puppet=puppet: puppet.runs == "shapes@4")

    dry = fleetctl(bed, "release", "prune", "--dry-run", "-o", "json")
    pruned = releasing.prune(bed.controller, None)
    brought_out(bed)

    # 4 runs and is in the plan, 3 is its undo and the previous slot; 5 nobody has ever run.
    assert json.loads(dry.stdout)["releases"] == list(pruned) == [
        "shapes@1", "shapes@2", "shapes@5"
    ]  # fmt: skip
    repository = read_repository(bed.controller.store)
    assert sorted(repository.listed) == ["shapes@3", "shapes@4"]
    assert repository.published_targets.version == repository.signed_targets.version
    assert {entry.action for entry in repository.plan} == {Action.RUN}
    assert bed.running == {"shapes@4"}
    undone = bed.drive(bed.controller.undo(bed.controller.history()[0].rollout))
    assert (undone.state, bed.running) == ("completed", {"shapes@3"})


def test_a_release_is_signed_on_another_machine_and_comes_back(
    bed: Bed,
    tmp_path: Path,
) -> None:
    manifest, files = make_release("shapes", 7)
    bed.controller.import_release(manifest, files)
    other = copied(bed, tmp_path / "vault")
    (bed.controller.keys / "release.pem").unlink()
    there, back = tmp_path / "there.zip", tmp_path / "back.zip"

    with pytest.raises(UnsignedError, match="no release key"):
        bed.controller.sign_release("shapes@7", None)
    releasing.export(bed.controller, "shapes@7", there)
    assert releasing.take(other, there).state == "unsigned"
    other.sign_release("shapes@7", None)
    releasing.export(other, "shapes@7", back)
    taken = releasing.take(bed.controller, back)
    again = releasing.take(bed.controller, back)

    assert taken.state == again.state == "signed"
    assert bed.controller.verify_release("shapes@7").is_signed
    bed.join("cam-1")
    name = bed.controller.start_rollout("shapes@7", selector="role=door", strategy="all")
    assert bed.drive(name).is_healthy
    other.close()


def test_what_was_changed_on_the_way_is_refused_and_leaves_nothing(
    bed: Bed,
    tmp_path: Path,
) -> None:
    bed.release(1)
    good, bad = tmp_path / "good.zip", tmp_path / "bad.zip"
    releasing.export(bed.controller, "shapes@1", good)
    other = Controller.init_fleet(
        project(tmp_path / "other", bed), passphrase=None, home=tmp_path / "o", timing=QUICK
    )

    with pytest.raises(UnsignedError, match="not signed by this fleet's release key"):
        releasing.take(other, good)
    assert other.list_releases() == ()
    for member, change, text in (
        ("files/simulator.onnx", b"other bytes", "not what its manifest says"),
        ("manifest.json", b"{}", "no file of"),
        ("targets.json", b"{}", "not signed by"),
    ):
        rewritten(good, bad, member, change)
        with pytest.raises(OperatorError, match=text):
            releasing.take(copied(bed, tmp_path / f"v-{member[:3]}"), bad)
    bad.write_bytes(b"no zip at all")
    with pytest.raises(OperatorError, match="no file of"):
        releasing.take(bed.controller, bad)
    other.close()


def test_two_machines_that_both_signed_are_told_apart(bed: Bed, tmp_path: Path) -> None:
    other = copied(bed, tmp_path / "vault")
    path = tmp_path / "forked.zip"
    bed.release(1)
    manifest, files = make_release("shapes", 2)
    other.import_release(manifest, files)
    other.sign_release("shapes@2", None)
    releasing.export(other, "shapes@2", path)

    with pytest.raises(OperatorError, match="signed without shapes@1"):
        releasing.take(bed.controller, path)

    assert list(read_repository(bed.controller.store).listed) == ["shapes@1"]
    other.close()


def test_a_rotated_controller_key_signs_plans_and_identities(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.roll_out(1)
    old = controller_keys(read_repository(bed.controller.store))

    repository = releasing.rotate(bed.controller, lambda _: None)
    bed.controller.close()
    bed.controller = bed.again()
    status = bed.roll_out(2)

    bed.controller.drive(
        until=lambda _: not orders.unheard(bed.controller, dict.fromkeys(DEVICES, 2)),
        timeout_seconds=40,
    )

    assert controller_keys(repository) != old
    assert repository.root_version == 2
    assert (status.state, status.is_healthy, bed.running) == ("completed", True, {"shapes@2"})
    assert orders.verify_audit(bed.controller).problems == ()
    roles = {one.role: one for one in releasing.list_keys(bed.controller)}
    assert roles["timestamp"].keys == roles["snapshot"].keys != roles["root"].keys
    assert roles["root"].threshold == 2
    assert list(roles["timestamp"].files) == ["controller.pem"]


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_rotation_that_was_cut_off_ends_as_it_was_committed(
    bed: Bed,
    monkeypatch: pytest.MonkeyPatch,
    is_committed: bool,  # noqa: FBT001
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    where = "settle_next" if is_committed else "rotate_controller"
    with monkeypatch.context() as patched:
        patched.setattr(releasing, where, cut)
        with pytest.raises(KeyboardInterrupt):
            releasing.rotate(bed.controller, lambda _: None)
    assert (bed.controller.keys / "controller-next.pem").exists()

    bed.join(*DEVICES)
    status = bed.roll_out(1)

    assert status.is_healthy
    assert not (bed.controller.keys / "controller-next.pem").exists()
    assert read_repository(bed.controller.store).root_version == (2 if is_committed else 1)


def test_nobody_rotates_while_somebody_drives(bed: Bed) -> None:
    assert bed.controller.store.take_lease("somebody", time())

    with pytest.raises(OperatorError, match="drives this fleet: end it first"):
        releasing.rotate(bed.controller, lambda _: None)


def test_the_commands_ask_before_what_cannot_be_taken_back(bed: Bed) -> None:
    bed.join("cam-1")
    bed.roll_out(1)

    asked = fleetctl(bed, "release", "revoke", "shapes@1")
    exported = fleetctl(bed, "release", "export", "shapes@1", "one.zip")
    again = fleetctl(bed, "release", "export", "shapes@1", "one.zip")
    imported = fleetctl(bed, "release", "import", "one.zip", "-o", "json")
    revoked = fleetctl(bed, "release", "revoke", "shapes@1", "--yes", "--timeout", "30s")
    rotated = fleetctl(bed, "keys", "rotate", "--yes", "--timeout", "30s")
    listed = fleetctl(bed, "keys", "ls")

    assert (asked.returncode, again.returncode) == (Exit.ERROR, Exit.ERROR)
    assert "expected --yes" in asked.stderr
    assert exported.returncode == imported.returncode == Exit.OK, imported.stderr
    assert json.loads(imported.stdout)["state"] == "signed"
    assert revoked.returncode == Exit.OK, revoked.stderr
    assert rotated.returncode == Exit.OK, rotated.stderr
    assert "2 of 3" in listed.stdout
    assert "controller.pem (plain)" in listed.stdout


def project(folder: Path, bed: Bed) -> Path:
    folder.mkdir()
    (folder / "fleet.yaml").write_bytes((bed.project / "fleet.yaml").read_bytes())
    return folder


def copied(bed: Bed, home: Path) -> Controller:
    """Return the same fleet on another machine: its keys and store as they are now."""
    shutil.copytree(bed.home, home)
    return Controller.open(bed.project, home=home, timing=QUICK, broker_url=bed.broker.url)


def rewritten(good: Path, bad: Path, member: str, change: bytes) -> None:
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            target.writestr(name, change if name == member else source.read(name))
