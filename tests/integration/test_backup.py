"""The workstation's disk is lost: backup, restore, stop, adopt, on a real broker."""

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.backup import back_up, restore
from controller.broker import RunningBroker
from controller.service import Controller
from shared.errors import AnotherControllerError, OperatorError, StorageError
from tests.integration.conftest import on_nats
from tests.integration.test_controller import DEVICES, FLEET_YAML, PATIENCE_SECONDS, QUICK, Bed
from tests.puppet import make_release

PASSPHRASE = "correct horse battery"


@pytest.fixture
def bed(broker: RunningBroker, tmp_path: Path) -> Iterator[Bed]:
    (tmp_path / "fleet.yaml").write_text(FLEET_YAML)
    home = tmp_path / "home"
    controller = Controller.init_fleet(
        tmp_path, passphrase=PASSPHRASE, home=home, timing=QUICK, broker_url=broker.url
    )
    made = Bed(tmp_path, home, broker, controller)
    yield made
    for puppet in made.puppets.values():
        puppet.stop()
    made.controller.close()


def release(bed: Bed, version: int) -> str:
    manifest, files = make_release("shapes", version)
    bed.controller.import_release(manifest, files)
    bed.controller.sign_release(manifest.release, PASSPHRASE)
    return manifest.release


def opened(bed: Bed) -> Controller:
    return Controller.open(
        bed.project, home=bed.home, timing=QUICK, broker_url=bed.broker.url,
        passphrase=lambda _: PASSPHRASE,
    )  # fmt: skip


def lose_the_disk(bed: Bed) -> None:
    bed.controller.close()
    shutil.rmtree(bed.home)


def test_the_disk_is_lost_in_the_middle_of_a_wave_and_the_fleet_goes_on(bed: Bed) -> None:
    bed.join(*DEVICES)
    first, second = release(bed, 1), release(bed, 2)
    name = bed.controller.start_rollout(first, selector="role=door", strategy="all")
    assert bed.drive(name).state == "completed"
    file = bed.project / "backup.tar"
    back_up(bed.home / "testbed", file, with_keys=True)
    lost = bed.controller.start_rollout(second, selector="role=door", strategy="patient")
    bed.drive_until(lost, lambda status: status.counts.get("healthy", 0) >= 1)
    lose_the_disk(bed)

    restore(file, bed.home / "testbed")
    bed.controller = opened(bed)
    with pytest.raises(AnotherControllerError):
        bed.controller.drive(name, until=lambda _: False, timeout_seconds=PATIENCE_SECONDS)
    version, rollouts = bed.controller.adopt()

    assert rollouts[0] == lost
    at_rest = bed.controller.status(lost)
    assert (at_rest.state, at_rest.release) == ("paused", second)
    before = {name: list(puppet.activated) for name, puppet in bed.puppets.items()}
    bed.controller.drive(lost, timeout_seconds=PATIENCE_SECONDS)  # Paused: out, and nothing moves.
    assert bed.controller.fleet_status().plan_version == version
    assert {name: puppet.activated for name, puppet in bed.puppets.items()} == before
    bed.controller.resume(lost)
    status = bed.drive(lost)
    assert (status.state, status.is_healthy) == ("completed", True)
    assert bed.running == {second}


@on_nats
def test_what_was_adopted_can_be_aborted(bed: Bed) -> None:
    bed.join(*DEVICES)
    first, second = release(bed, 1), release(bed, 2)
    bed.drive(bed.controller.start_rollout(first, selector="role=door", strategy="all"))
    file = bed.project / "backup.tar"
    back_up(bed.home / "testbed", file, with_keys=True)
    lost = bed.controller.start_rollout(second, selector="role=door", strategy="patient")
    bed.drive_until(lost, lambda status: status.counts.get("healthy", 0) >= 1)
    lose_the_disk(bed)
    restore(file, bed.home / "testbed")
    bed.controller = opened(bed)
    bed.controller.adopt()

    bed.controller.abort(lost)

    assert bed.drive(lost).state == "aborted"
    assert bed.running == {first}


@on_nats
def test_keys_are_in_it_only_when_asked_for_and_only_encrypted(bed: Bed, tmp_path: Path) -> None:
    plain, full = tmp_path / "plain.tar", tmp_path / "full.tar"
    back_up(bed.home / "testbed", plain, with_keys=False)
    back_up(bed.home / "testbed", full, with_keys=True)

    with tarfile.open(plain) as archive:
        names = archive.getnames()
    with tarfile.open(full) as archive:
        keys = [name for name in archive.getnames() if name.startswith("keys/")]
        texts = [archive.extractfile(name).read() for name in keys]  # type: ignore[union-attr]

    assert not [name for name in names if "keys" in name or "controller" in name]
    assert {"keys/root-1.pem", "keys/release.pem", "keys/broker-devices.pem"} <= set(keys)
    assert all(b"ENCRYPTED PRIVATE KEY" in text for text in texts)
    assert full.stat().st_mode & 0o077 == 0


@on_nats
def test_nothing_is_overwritten_and_damage_is_found(bed: Bed, tmp_path: Path) -> None:
    release(bed, 1)
    file = tmp_path / "backup.tar"
    back_up(bed.home / "testbed", file, with_keys=True)
    with pytest.raises(OperatorError, match="already"):
        restore(file, bed.home / "testbed")

    data = bytearray(file.read_bytes())
    with tarfile.open(file) as archive:
        blob = next(m for m in archive if m.name.startswith("blobs/") and m.size > 1_000)
    data[blob.offset_data + 500] ^= 1
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        restore(damaged, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


@on_nats
def test_an_archive_that_reaches_outside_is_refused(bed: Bed, tmp_path: Path) -> None:
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as archive:
        archive.add(bed.project / "fleet.yaml", arcname="blobs/../../escaped")

    with pytest.raises(OperatorError, match="no backup"):
        restore(evil, tmp_path / "elsewhere")
    assert not list(tmp_path.rglob("escaped"))


@on_nats
def test_there_is_nothing_to_adopt_where_the_broker_has_our_own(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.drive(bed.controller.start_rollout(release(bed, 1), selector="role=door", strategy="all"))

    with pytest.raises(OperatorError, match="ours is"):
        bed.controller.adopt()
