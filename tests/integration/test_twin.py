"""The real modlib and picamera2 on a twin of the sensor: what only a real camera can do wrong."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from agent.camera.process import CameraProcess
from agent.camera.twin.packager import rpk_of
from agent.camera.wire import (
    CameraExited,
    CameraFailed,
    Fault,
    FrameSeen,
    Job,
    Kind,
    Simulation,
    Streaming,
    Uploading,
)
from agent.camera.worker import ORPHAN_CODE
from agent.health import State
from shared.release import Input, Manifest
from tests.cameras import TWINS, on_kind
from tests.integration.test_camera_process import Box, ended, judged
from tests.tinygraph import SIDE, job_of, stage, tiny

pytestmark = pytest.mark.twin


@dataclass
class Bench:
    """One kind of camera, and children on it that end with the test."""

    kind: Kind
    folder: Path
    started: list[CameraProcess] = field(default_factory=list)

    def job(self, *faults: Fault, **changes: object) -> Job:
        manifest = stage(self.folder, tiny().graph(), **changes)
        job = job_of(self.folder, manifest, Simulation(faults=faults))
        return on_kind(job, self.kind)

    def start(self, job: Job) -> tuple[CameraProcess, Box]:
        box = Box()
        camera = CameraProcess(job, box, len(self.started))
        self.started.append(camera)
        camera.start()
        return camera, box


@pytest.fixture(params=TWINS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(request.param, tmp_path)
    yield bench
    for camera in bench.started:
        camera.kill()


def manifest_of_job(job: Job) -> Manifest:
    return msgspec.json.decode(job.manifest, type=Manifest)


def test_an_upload_tells_how_far_it_is_where_that_may_be_read(bench: Bench) -> None:
    _, box = bench.start(bench.job(Fault(kind="slow_upload", value=4)))

    done = []
    while isinstance(message := box.next(), Uploading):
        done.append(message.done_permille)

    assert isinstance(message, Streaming)
    assert done == sorted(set(done))
    assert any(0 < one < 1000 for one in done)


def test_a_service_that_may_not_read_debugfs_streams_without_knowing_how_far_it_is(
    bench: Bench,
) -> None:
    faults = Fault(kind="slow_upload", value=2), Fault(kind="closed_debugfs")
    _, box = bench.start(bench.job(*faults))

    done = []
    while isinstance(message := box.next(), Uploading):
        done.append(message.done_permille)

    assert isinstance(message, Streaming)
    assert done == [1000]


def test_nobody_is_asked_about_a_package_that_lies_there_from_before(bench: Bench) -> None:
    job = bench.job()
    (bench.folder / "pack").mkdir()  # Where modlib would package, and ask on standard input.
    (bench.folder / "pack" / "network.rpk").write_bytes(b"old")

    _, box = bench.start(job)

    assert judged(manifest_of_job(job), box).state is State.HEALTHY


def test_a_killed_child_leaves_nobody_behind_who_holds_its_pipe(bench: Bench) -> None:
    camera, box = bench.start(bench.job(Fault(kind="slow_upload", value=60)))
    box.until(Uploading)  # modlib would have forked by now, to draw a progress bar.
    assert camera.pid is not None

    os.kill(camera.pid, signal.SIGKILL)

    assert ended(box).returncode == -signal.SIGKILL


def test_a_stop_that_hangs_is_ended(bench: Bench) -> None:
    camera, box = bench.start(bench.job(Fault(kind="hang_in_stop")))
    box.until(FrameSeen)

    camera.stop()

    assert not camera.is_alive
    assert ended(box).returncode in {ORPHAN_CODE, -signal.SIGKILL}


def test_a_stop_during_an_upload_ends_the_child(bench: Bench) -> None:
    camera, box = bench.start(bench.job(Fault(kind="slow_upload", value=60)))
    box.until(Uploading)

    camera.stop()

    assert not camera.is_alive
    assert not isinstance(ended(box), Streaming)


def test_the_sixteenth_start_works_and_the_twenty_fifth_finds_the_bridge_dead(
    bench: Bench,
) -> None:
    job = bench.job(Fault(kind="dead_bridge", value=20))
    manifest = manifest_of_job(job)
    _, sixteenth = bench.start(msgspec.structs.replace(job, starts=15))
    assert judged(manifest, sixteenth).state is State.HEALTHY

    _, later = bench.start(msgspec.structs.replace(job, starts=24))

    assert judged(manifest, later).code == "start_failed"


@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_a_network_for_either_order_of_colours_runs(color: str, bench: Bench) -> None:
    size = Input(width=SIDE, height=SIDE, color=color)  # type: ignore[arg-type]
    job = bench.job(input=size)
    _, box = bench.start(job)

    assert judged(manifest_of_job(job), box).state is State.HEALTHY


@pytest.mark.parametrize("damage", ["BGR", "cut", "gone"])
def test_a_package_that_is_not_this_releases_fails_with_a_reason(damage: str, bench: Bench) -> None:
    job = bench.job()
    assert job.rpk is not None
    good = Path(job.rpk).read_bytes()
    match damage:
        case "BGR":
            Path(job.rpk).write_bytes(rpk_of(tiny().graph(), color="BGR"))
        case "cut":
            Path(job.rpk).write_bytes(good[: len(good) // 2])
        case _:
            Path(job.rpk).unlink()

    _, box = bench.start(job)

    failed = box.next()
    assert isinstance(failed, CameraFailed)
    assert failed.code == "release"


def test_a_second_camera_is_the_second_sensor(bench: Bench) -> None:
    job = msgspec.structs.replace(bench.job(), camera=1)
    _, box = bench.start(job)

    assert judged(manifest_of_job(job), box).state is State.HEALTHY


def test_two_cameras_of_a_device_run_at_the_same_time(bench: Bench) -> None:
    job = bench.job()
    boxes = [bench.start(msgspec.structs.replace(job, camera=n))[1] for n in range(2)]

    assert [judged(manifest_of_job(job), box).state for box in boxes] == [State.HEALTHY] * 2


def test_frames_bear_the_time_when_they_were_captured(bench: Bench) -> None:
    _, box = bench.start(bench.job())
    frames = [box.until(FrameSeen) for _ in range(10)]

    first, last = frames[0], frames[-1]
    per_frame = (last.at - first.at) / (last.frame - first.frame)
    assert per_frame == pytest.approx(1 / 30, rel=0.1)  # The sensor's clock, not this machine's.
    assert isinstance(first, FrameSeen)
    assert not isinstance(box.next(), CameraExited)
