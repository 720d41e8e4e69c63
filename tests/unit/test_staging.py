"""A network is packaged for the sensor beside whatever else happens on the device."""

import threading
import time
from hashlib import sha256
from pathlib import Path
from queue import Queue

import msgspec
import pytest

from agent.camera import packer
from agent.camera.packer import NoPackerError
from agent.camera.twin.packager import rpk_of
from agent.preparing import RETRY_SECONDS_MIN, Aim, Pack, Packaged, Preparation, Surroundings
from agent.slots import RESERVE_BYTES, Slots
from agent.steps import Cause, Obstructed, Rejected, Staged, WaitingFor
from shared.assignment import Slot
from shared.blocks import split_file
from shared.errors import CameraError
from shared.release import File, Manifest, Role, encode_manifest
from shared.topics import Topics
from tests.tinygraph import LABELS, manifest_of, tiny

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

    def release(self, version: int, *, rpk: bytes = b"") -> tuple[Manifest, Slot]:
        files: dict[str, tuple[Role, bytes]] = {
            "packerOut.zip": ("network", b"%d" % version * 10_000),
            "labels.txt": ("labels", "\n".join(LABELS).encode()),
            "network.rpk": ("rpk", rpk),
        }
        made = []
        for name, (role, data) in files.items():
            if data:
                (block,) = split_file(data)
                self.slots.store(block.sha256, block.data)
                digest, blocks = sha256(data).hexdigest(), (block.sha256,)
                made.append(
                    File(role=role, name=name, bytes=len(data), sha256=digest, blocks=blocks)
                )
        manifest = msgspec.structs.replace(manifest_of({}, version=version), files=tuple(made))
        text = encode_manifest(manifest)
        name = sha256(text).hexdigest()
        self.slots.store(name, text)
        self.slots.assemble(manifest, manifest_sha256=name, kind="modlib")
        return manifest, Slot(manifest.release, name, frozenset())

    def camera(self, number: int, slot: Slot | None = None) -> Preparation:
        return Preparation(number, slot or self.slot, "modlib", self.around)


def packs(network: Path, folder: Path, *, color: str) -> Path:
    folder.mkdir()
    rpk = folder / "network.rpk"
    assert network.is_file()
    rpk.write_bytes(rpk_of(tiny().graph(), color=color))
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

    answers = [cameras[done.camera].packaged(done, 0.0) for done in said]
    assert answers == [(Staged(device.slot.manifest_sha256),)] * 2
    assert device.slots.staged_rpk(device.manifest).is_file()
    assert len(list(device.slots.staged.iterdir())) == 1


def test_a_packer_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def pack(network: Path, folder: Path, *, color: str) -> Path:
        packs(network, folder, color=color)
        raise CameraError("it ended with 1")

    device = Device(tmp_path, pack)

    device.camera(0).begin(Aim.STAGE, 0.0)

    assert str(device.done.get(timeout=WAIT_SECONDS_MAX).error) == "it ended with 1"
    assert not list(device.slots.staged.iterdir())


def script(path: Path, text: str, *, mode: int = 0o755) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (None, 0),
        ("exit 0", 0o644),
        ("kill -9 $$", 0o755),
        ("sh -c 'kill -9 $$'; exit $?", 0o755),  # A script that passes on how its Java ended.
        ("exec no-such-java", 0o755),
        ("exec sleep 600", 0o755),
    ],
)
def test_a_packer_that_cannot_be_run_is_waited_for_and_not_the_releases_fault(
    text: str | None, mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "imx500-package"
    if text is not None:
        script(program, text, mode=mode)
    monkeypatch.setattr(packer, "PACKER", program)
    monkeypatch.setattr(packer, "PACK_SECONDS", 1.0)
    device = Device(tmp_path / "state", packer.package)
    camera = device.camera(0)

    camera.begin(Aim.STAGE, 0.0)
    (event,) = camera.packaged(device.done.get(timeout=WAIT_SECONDS_MAX), 0.0)

    assert isinstance(event, Obstructed)
    assert (event.what, event.code) == (WaitingFor.REQUIRES, "packer")
    assert "imx500-tools" in event.text
    monkeypatch.setattr(packer, "PACK_SECONDS", WAIT_SECONDS_MAX)
    program.unlink(missing_ok=True)
    (tmp_path / "made.rpk").write_bytes(rpk_of(tiny().graph(), color="RGB"))
    script(program, f'cp {tmp_path}/made.rpk "$4/network.rpk"')
    assert camera.ticked(RETRY_SECONDS_MIN) == ()
    done = device.done.get(timeout=WAIT_SECONDS_MAX)
    assert camera.packaged(done, RETRY_SECONDS_MIN) == (Staged(device.slot.manifest_sha256),)


@pytest.mark.parametrize(
    "text",
    ["echo not a network; exit 1", "exit 255", "exit 0", 'head -c 99 /dev/zero > "$4/network.rpk"'],
)
def test_a_packer_that_will_not_have_a_network_is_the_releases_fault(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packer, "PACKER", script(tmp_path / "imx500-package", text))
    device = Device(tmp_path / "state", packer.package)
    camera = device.camera(0)

    camera.begin(Aim.STAGE, 0.0)
    (event,) = camera.packaged(device.done.get(timeout=WAIT_SECONDS_MAX), 0.0)

    assert isinstance(event, Rejected)
    assert (event.cause, event.code) == (Cause.RELEASE, "package")


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_what_a_packer_started_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "java"
    monkeypatch.setattr(
        packer,
        "PACKER",
        script(tmp_path / "imx500-package", f"sleep 600 & echo $! > {java}; wait"),
    )
    monkeypatch.setattr(packer, "PACK_SECONDS", 2.0)

    with pytest.raises(NoPackerError, match="took over 2 s"):
        packer.package(tmp_path / "packerOut.zip", tmp_path / "made", color="RGB")

    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while is_alive(int(java.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_packer_that_is_not_there_is_told_once_and_again_when_that_changes(
    tmp_path: Path,
) -> None:
    device = Device(tmp_path, packs)
    camera = device.camera(0)
    camera.begin(Aim.STAGE, 0.0)
    device.done.get(timeout=WAIT_SECONDS_MAX)

    def failed(text: str) -> Packaged:
        return Packaged(0, device.slot.manifest_sha256, NoPackerError(text))

    said = [len(camera.packaged(failed(text), 0.0)) for text in ("none", "none", "killed")]

    assert said == [1, 0, 1]


def test_a_disk_that_does_not_take_the_package_is_the_surroundings(tmp_path: Path) -> None:
    def pack(network: Path, folder: Path, *, color: str) -> Path:
        raise OSError(28, f"No space left for {network} in {color}", str(folder))

    device = Device(tmp_path, pack)
    camera = device.camera(0)

    camera.begin(Aim.STAGE, 0.0)
    events = camera.packaged(device.done.get(timeout=WAIT_SECONDS_MAX), 0.0)

    assert events == (Obstructed(device.slot.manifest_sha256, WaitingFor.DISK),)


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


@pytest.mark.parametrize("color", ["RGB", "BGR", "cut"])
def test_a_package_that_comes_with_a_release_is_looked_at_before_it_is_kept(
    color: str, tmp_path: Path
) -> None:
    rpk = rpk_of(tiny().graph(), color="RGB" if color == "cut" else color)
    device = Device(tmp_path, packs)
    _, slot = device.release(2, rpk=rpk[:-700] if color == "cut" else rpk)

    events = device.camera(0, slot).begin(Aim.VERIFY, 0.0)

    rejected = [event for event in events if isinstance(event, Rejected)]
    assert [(one.cause, one.code) for one in rejected] == (
        [] if color == "RGB" else [(Cause.RELEASE, "package")]
    )
