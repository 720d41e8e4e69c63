"""One camera's shell, with a stand-in for its child."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from queue import Queue

import pytest

from agent import journal as durable
from agent import slots as store
from agent.camera.packer import NoPackerError
from agent.camera.twin.packager import rpk_of
from agent.camera.wire import Job, Kind
from agent.cameras import PERSIST_AGAIN_SECONDS, CameraShell, Device, Inbox, Running
from agent.health import Expected, Gate
from agent.journal import JournalFile, LastStart
from agent.preparing import RETRY_SECONDS_MAX, RETRY_SECONDS_MIN, Packaged, Surroundings
from agent.slots import Slots
from agent.steps import Journal, Looked, Phase
from agent.telemetry import telemetry
from agent.watch import BOOT_LOOP_SECONDS
from shared.assignment import Action, Camera, Entry, Probe, Slot, parse_selector
from shared.blocks import split_file
from shared.release import Role, encode_manifest
from shared.topics import Topics
from tests.tinygraph import LABELS, manifest_of, tiny

SLOT = Slot("tiny@1", "a" * 64, frozenset())
EXPECTED = Expected("n1", (), frame_rate=16, probe_seconds=1, valid_rate_permille=900)


class Quiet:
    """A bus, an inbox and a child to which nothing happens."""

    token, pid = 1, None

    def subscribe(self, topic: str, *, bytes_max: int) -> None: ...
    def unsubscribe(self, topic: str) -> None: ...
    def put(self, event: object, /) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def __len__(self) -> int:
        return 0


def make_child(_job: Job, _inbox: Inbox, _token: int) -> Quiet:
    return Quiet()


def running(journal: JournalFile, state: Path) -> CameraShell:
    """Return a camera whose release was started at 0 seconds and gives valid outputs."""
    around = Surroundings(Quiet(), Topics("lab"), Slots(state), lambda _: True, lambda _: None)
    device = Device(
        boot="b", journal=journal, around=around, inbox=Quiet(), reboot=lambda: False,
        publish=lambda *_: True, may_reboot=lambda: False, changed=lambda: None,
        time_text=lambda: "", child=make_child,
    )  # fmt: skip
    stream = telemetry("x-1", rate_hz=5, threshold_permille=500, now=0.0)
    shell = CameraShell(Camera("gate-01", 0, {}), "simulated", device, stream)
    start = LastStart(manifest_sha256=SLOT.manifest_sha256, at="")
    journal.change(lambda saved: durable.started(saved, boot="b", camera=0, start=start))
    shell.running = Running(SLOT, Quiet(), EXPECTED, Gate(EXPECTED, 0.0), is_steady=True)
    return shell


def test_a_full_disk_does_not_keep_a_camera_from_its_ticks(tmp_path: Path) -> None:
    journal = JournalFile(tmp_path)
    shell = running(journal, tmp_path)
    assert shell.running is not None
    now = shell.running.last_valid_at = BOOT_LOOP_SECONDS
    no_room = tmp_path / "journal.json.part"  # The temporary name cannot be written.
    no_room.mkdir()

    shell.ticked(now)

    assert journal.saved.last_starts
    no_room.rmdir()
    shell.ticked(now + PERSIST_AGAIN_SECONDS)
    shell.ticked(now + PERSIST_AGAIN_SECONDS)
    assert not journal.saved.last_starts  # It ran so long that no hang is blamed on its start.


def test_a_plan_is_not_read_before_its_reverts_are_written(tmp_path: Path) -> None:
    shell = running(JournalFile(tmp_path), tmp_path)
    slot = replace(SLOT, owners=frozenset({("r-1", 1)}))
    shell.journal = Journal(active=slot, is_running=True)
    everybody = parse_selector("*")
    revert = Entry(
        "r-1",
        1,
        Action.REVERT,
        slot.release,
        slot.manifest_sha256,
        everybody,
        frozenset(),
        "r-1",
        0,
    )
    no_room = tmp_path / "journal.json.part"
    no_room.mkdir()

    shell.look(Looked((revert,), {slot.release: slot.manifest_sha256}), now=0.0)

    assert not shell.is_dirty
    assert shell.is_behind
    no_room.rmdir()
    shell.ticked(PERSIST_AGAIN_SECONDS)
    assert not shell.is_behind
    assert shell.journal.active == replace(slot, owners=frozenset())


WAIT_SECONDS_MAX = 10.0
FILES: dict[str, tuple[Role, bytes]] = {
    "simulator.onnx": ("simulator", b"graph"),
    "packerOut.zip": ("network", b"network"),
    "labels.txt": ("labels", "\n".join(LABELS).encode()),
}
MANIFEST = manifest_of(FILES)
MANIFEST_TEXT = encode_manifest(MANIFEST)
COMMITTED = Slot(
    MANIFEST.release,
    sha256(MANIFEST_TEXT).hexdigest(),
    frozenset({("r-1", 1)}),
    probe=Probe(activation_seconds=60),
)
BLOCKS = {COMMITTED.manifest_sha256: MANIFEST_TEXT} | {
    block.sha256: block.data for _, data in FILES.values() for block in split_file(data)
}


class Pi(Quiet):
    """A device on whose modlib camera a release is committed, as the agent finds it at a start."""

    def __init__(self, state: Path, *, kind_before: Kind = "modlib") -> None:
        self.slots = Slots(state)
        for digest, data in BLOCKS.items():
            self.slots.store(digest, data)
        digest = COMMITTED.manifest_sha256
        self.slots.assemble(MANIFEST, manifest_sha256=digest, kind=kind_before)
        if kind_before == "modlib":
            self.keep(state / "network.rpk")
        self.has_packer = True
        self.jobs: list[Job] = []
        self.asked: list[str] = []
        self.packed: Queue[Packaged] = Queue()
        around = Surroundings(
            self, Topics("lab"), self.slots, lambda _: True, self.packed.put, self.pack
        )
        device = Device(
            boot="b", journal=JournalFile(state), around=around, inbox=self,
            reboot=lambda: False, publish=lambda *_: True, may_reboot=lambda: False,
            changed=lambda: None, time_text=lambda: "", child=self.child,
        )  # fmt: skip
        stream = telemetry("x-1", rate_hz=5, threshold_permille=500, now=0.0)
        self.shell = CameraShell(Camera("gate-01", 0, {}), "modlib", device, stream)
        self.before = Journal(active=COMMITTED, is_running=True)

    def boot(self, **changes: object) -> None:
        self.shell.journal = self.before = replace(self.before, **changes)  # type: ignore[arg-type]
        self.shell.boot(is_new_boot=True, can_reboot=True, is_clean=True, now=0.0)

    def keep(self, rpk: Path) -> Path:
        rpk.write_bytes(b"packaged")
        self.slots.keep_staged(rpk, MANIFEST)
        return rpk

    def pack(self, network: Path, folder: Path, *, color: str) -> Path:
        if not self.has_packer:
            raise NoPackerError("apt install imx500-tools")
        folder.mkdir()
        rpk = folder / "network.rpk"
        assert network.is_file()
        rpk.write_bytes(rpk_of(tiny().graph(), color=color))
        return rpk

    def child(self, job: Job, _inbox: Inbox, _token: int) -> Quiet:
        self.jobs.append(job)
        return Quiet()

    def subscribe(self, topic: str, *, bytes_max: int) -> None:
        assert bytes_max
        self.asked.append(topic.rsplit("/", 1)[1])

    def hears_packer(self, now: float = 0.0) -> None:
        self.shell.packaged(self.packed.get(timeout=WAIT_SECONDS_MAX), now)

    def is_started(self) -> bool:
        """Say whether the release was started once, packaged, and nothing was held against it."""
        (job,) = self.jobs
        assert self.shell.journal == self.before
        rpk = self.slots.staged_rpk(MANIFEST)
        return job.rpk == str(rpk) and rpk.is_file()


def test_a_committed_release_that_is_packaged_starts_at_once(tmp_path: Path) -> None:
    pi = Pi(tmp_path)

    pi.boot()

    assert pi.is_started()


@pytest.mark.parametrize("is_running", [True, False])
@pytest.mark.parametrize("is_upgraded", [True, False])
def test_a_release_whose_package_is_gone_or_another_packers_is_packaged_and_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_upgraded: bool, is_running: bool
) -> None:
    pi = Pi(tmp_path)
    if is_upgraded:
        monkeypatch.setattr(store, "packer_version", lambda: "of tomorrow")
    else:
        pi.slots.staged_rpk(MANIFEST).unlink()

    pi.boot(is_running=is_running, phase=Phase.IDLE if is_running else Phase.BROKEN)

    assert not pi.jobs
    pi.hears_packer()
    assert pi.is_started()
    assert not pi.asked


def test_a_simulated_camera_that_becomes_a_real_one_fetches_and_packages_what_it_runs(
    tmp_path: Path,
) -> None:
    pi = Pi(tmp_path, kind_before="simulated")

    pi.boot()

    while pi.asked:
        digest = pi.asked.pop()
        pi.shell.received(digest, BLOCKS[digest], 0.0)
    pi.hears_packer()
    assert pi.is_started()


def test_a_committed_release_waits_for_a_packer_as_long_as_it_takes(tmp_path: Path) -> None:
    pi = Pi(tmp_path)
    pi.slots.staged_rpk(MANIFEST).unlink()
    pi.has_packer = False

    pi.boot()
    pi.hears_packer()
    now = 0.0
    for retries in range(12):  # Many times as long as an activation may take.
        now += RETRY_SECONDS_MIN * 2**retries
        pi.shell.ticked(now)
        pi.hears_packer(now)

    assert not pi.jobs
    assert pi.shell.journal == pi.before
    pi.has_packer = True
    pi.shell.ticked(now + RETRY_SECONDS_MAX)
    pi.hears_packer(now + RETRY_SECONDS_MAX)
    assert pi.is_started()


def test_a_release_on_trial_does_not_wait_for_a_packer_for_ever(tmp_path: Path) -> None:
    pi = Pi(tmp_path)
    pi.slots.staged_rpk(MANIFEST).unlink()
    pi.has_packer = False

    pi.boot(active=None, making=COMMITTED, is_running=False, phase=Phase.ACTIVATING)
    pi.hears_packer()
    pi.shell.ticked(float(COMMITTED.probe.activation_seconds))

    assert pi.shell.journal.phase is Phase.BROKEN
