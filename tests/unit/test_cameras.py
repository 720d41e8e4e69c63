"""One camera's shell, with a stand-in for its child."""

from dataclasses import replace
from pathlib import Path

from agent import journal as durable
from agent.camera.wire import Job
from agent.cameras import PERSIST_AGAIN_SECONDS, CameraShell, Device, Inbox, Running
from agent.health import Expected, Gate
from agent.journal import JournalFile, LastStart
from agent.preparing import Surroundings
from agent.slots import Slots
from agent.steps import Journal, Looked
from agent.telemetry import telemetry
from agent.watch import BOOT_LOOP_SECONDS
from shared.assignment import Action, Camera, Entry, Slot, parse_selector
from shared.topics import Topics

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
