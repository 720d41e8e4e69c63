"""A network is packaged for the sensor beside whatever else happens on the device."""

import threading
from hashlib import sha256
from pathlib import Path
from queue import Queue

import msgspec
import pytest

from agent.preparing import Aim, Pack, Packaged, Preparation, Surroundings
from agent.slots import RESERVE_BYTES, Slots
from agent.steps import Obstructed, Staged, WaitingFor
from shared.assignment import Slot
from shared.blocks import split_file
from shared.errors import CameraError
from shared.release import File, Manifest, encode_manifest
from shared.topics import Topics
from tests.tinygraph import manifest_of

WAIT_SECONDS_MAX = 60.0


class Bus:
    """Whoever asks is never answered."""

    def subscribe(self, topic: str, *, bytes_max: int) -> None:
        pass

    def unsubscribe(self, topic: str) -> None:
        pass


class Device:
    """A store with one assembled release, and cameras that package it."""

    def __init__(self, folder: Path, pack: Pack, *, budget_bytes: int = RESERVE_BYTES) -> None:
        self.slots = Slots(folder, budget_bytes=budget_bytes)
        self.done: Queue[Packaged] = Queue()
        self.around = Surroundings(
            Bus(), Topics("lab"), self.slots, lambda _: True, self.done.put, pack
        )
        self.manifest, self.slot = self.release(1)

    def release(self, version: int) -> tuple[Manifest, Slot]:
        data = b"%d" % version * 10_000
        (block,) = split_file(data)
        digest = sha256(data).hexdigest()
        file = File(
            role="network", name="packerOut.zip", bytes=len(data), sha256=digest,
            blocks=(block.sha256,),
        )  # fmt: skip
        manifest = msgspec.structs.replace(manifest_of({}, version=version), files=(file,))
        text = encode_manifest(manifest)
        name = sha256(text).hexdigest()
        for known, content in ((name, text), (block.sha256, data)):
            self.slots.store(known, content)
        self.slots.assemble(manifest, manifest_sha256=name, kind="modlib")
        return manifest, Slot(manifest.release, name, frozenset())

    def camera(self, number: int, slot: Slot | None = None) -> Preparation:
        return Preparation(number, slot or self.slot, "modlib", self.around)


def packs(network: Path, folder: Path, *, color: str) -> Path:
    folder.mkdir()
    rpk = folder / "network.rpk"
    rpk.write_bytes(color.encode() + network.read_bytes())
    return rpk


def test_two_cameras_of_a_device_package_one_network_at_the_same_time(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=WAIT_SECONDS_MAX)

    def pack(network: Path, folder: Path, *, color: str) -> Path:
        both.wait()
        rpk = packs(network, folder, color=color)
        both.wait()  # Neither is done before the other has written.
        return rpk

    device = Device(tmp_path, pack)
    cameras = [device.camera(0), device.camera(1)]

    for camera in cameras:
        camera.begin(Aim.STAGE, 0.0)
    said = [device.done.get(timeout=WAIT_SECONDS_MAX) for _ in cameras]

    answers = [cameras[done.camera].packaged(done) for done in said]
    assert answers == [(Staged(device.slot.manifest_sha256),)] * 2
    assert device.slots.staged_rpk(device.manifest).is_file()
    assert len(list(device.slots.staged.iterdir())) == 1


def test_a_packer_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def pack(network: Path, folder: Path, *, color: str) -> Path:
        packs(network, folder, color=color)
        raise CameraError("it ended with 1")

    device = Device(tmp_path, pack)

    device.camera(0).begin(Aim.STAGE, 0.0)

    assert device.done.get(timeout=WAIT_SECONDS_MAX).error == "it ended with 1"
    assert not list(device.slots.staged.iterdir())


def test_without_room_for_the_package_a_release_waits_and_is_not_rejected(tmp_path: Path) -> None:
    device = Device(tmp_path, packs, budget_bytes=30_000)

    events = device.camera(0).begin(Aim.STAGE, 0.0)

    assert events == (Obstructed(device.slot.manifest_sha256, WaitingFor.DISK),)


def test_a_package_goes_with_its_release(tmp_path: Path) -> None:
    device = Device(tmp_path, packs)
    manifest, slot = device.release(2)
    for number, one in enumerate((device.slot, slot)):
        device.camera(number, one).begin(Aim.STAGE, 0.0)
        device.done.get(timeout=WAIT_SECONDS_MAX)

    device.slots.collect(needed={slot.manifest_sha256})

    assert not device.slots.staged_rpk(device.manifest).exists()
    assert device.slots.staged_rpk(manifest).is_file()


@pytest.mark.parametrize("aim", [Aim.FETCH, Aim.VERIFY, Aim.STAGE])
def test_a_manifest_that_the_disk_does_not_give_back_is_the_surroundings(
    aim: Aim, tmp_path: Path
) -> None:
    device = Device(tmp_path, packs)
    manifest = tmp_path / "releases" / device.slot.manifest_sha256 / "manifest"
    manifest.unlink()
    manifest.mkdir()  # It is there, and reading it is an error.

    events = device.camera(0).begin(aim, 0.0)

    assert events == (Obstructed(device.slot.manifest_sha256, WaitingFor.DISK),)
