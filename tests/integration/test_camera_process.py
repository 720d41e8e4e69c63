"""Real children on a real (tiny) graph, judged by the real gate, with every fault there is."""

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pytest

from agent.camera.process import CameraProcess
from agent.camera.wire import (
    CameraExited,
    CameraFailed,
    Fault,
    FaultKind,
    FrameSeen,
    FromCamera,
    Job,
    Kind,
    Message,
    Simulation,
    Streaming,
    Uploading,
    encode_job,
)
from agent.health import UNKNOWN, Gate, State, Verdict, expected_of
from shared.release import Manifest, Output
from tests.cameras import KINDS, TWINS, on_kind
from tests.tinygraph import NETWORK_NAME, job_of, stage, tiny

MessageType = TypeVar("MessageType", bound=Message)
PATIENCE_SECONDS = 60.0  # A loaded machine starts a child in seconds; nobody waits this long.
PROBE_SECONDS = 0.5


@dataclass
class Box:
    """An inbox that a test reads with a deadline."""

    events: "queue.SimpleQueue[FromCamera | CameraExited]" = field(
        default_factory=queue.SimpleQueue
    )

    def put(self, event: FromCamera | CameraExited, /) -> None:
        self.events.put(event)

    def __len__(self) -> int:
        return self.events.qsize()

    def until(self, kind: type[MessageType]) -> MessageType:
        """Return the next message of that kind; the child must not end before it."""
        while not isinstance(message := self.next(), kind):
            assert not isinstance(message, CameraExited | CameraFailed), message
        return message

    def next(self) -> Message | CameraExited:
        event = self.events.get(timeout=PATIENCE_SECONDS)
        return event if isinstance(event, CameraExited) else event.message


@dataclass
class Cameras:
    """Starts children and ends them all with the test."""

    folder: Path
    kind: Kind
    started: list[CameraProcess] = field(default_factory=list)

    def start(
        self, manifest: Manifest, simulation: Simulation | None = None
    ) -> tuple[CameraProcess, Box]:
        return self.start_job(job_of(self.folder, manifest, simulation))

    def start_job(
        self, job: Job, process: type[CameraProcess] = CameraProcess
    ) -> tuple[CameraProcess, Box]:
        box = Box()
        camera = process(on_kind(job, self.kind), box, len(self.started))
        self.started.append(camera)
        camera.start()
        return camera, box


@pytest.fixture(params=KINDS)
def cameras(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cameras]:
    """Every kind of camera: simulated, and the real libraries on a twin of the sensor."""
    cameras = Cameras(tmp_path, request.param)
    yield cameras
    for camera in cameras.started:
        camera.kill()


def gate_of(manifest: Manifest) -> Gate:
    expected = expected_of(
        manifest,
        kind="simulated",
        frame_rate=manifest.frame_rate,
        probe_seconds=PROBE_SECONDS,
        valid_rate=900,
    )
    return Gate(expected, started_at=time.monotonic())


def judged(manifest: Manifest, box: Box, *seen: Message) -> Verdict:
    """Feed the gate until it knows."""
    gate, verdict = gate_of(manifest), UNKNOWN
    for message in seen:
        gate = gate.observe(message, time.monotonic())
    deadline = time.monotonic() + PATIENCE_SECONDS
    while verdict.state is State.UNKNOWN and time.monotonic() < deadline:
        gate = gate.observe(box.next(), time.monotonic())
        verdict = gate.judge(time.monotonic())
    return verdict


def faulty(kind: FaultKind, *, value: float = 0.0, after_seconds: float = 0.0) -> Simulation:
    return Simulation(faults=(Fault(kind=kind, value=value, after_seconds=after_seconds),))


def test_a_good_release_passes_the_gate_and_shows_what_is_there(
    cameras: Cameras, tmp_path: Path
) -> None:
    manifest = stage(tmp_path, tiny().graph())
    camera, box = cameras.start(manifest)

    uploading, streaming, frame = box.until(Uploading), box.until(Streaming), box.until(FrameSeen)

    assert frame.network_name == NETWORK_NAME
    assert [(o.label, o.score, o.box) for o in frame.objects or ()] == [
        ("triangle", 0.875, (0.5, 0.25, 1.0, 0.75)),
        ("circle", 0.75, (0.125, 0.125, 0.375, 0.375)),
    ]
    assert judged(manifest, box, uploading, streaming, frame) == Verdict(State.HEALTHY)
    camera.stop()
    assert not camera.is_alive
    assert ended(box).returncode == 0


def test_a_child_takes_one_core(cameras: Cameras, tmp_path: Path) -> None:
    process, box = cameras.start(stage(tmp_path, tiny().graph()))
    box.until(Streaming)
    environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")

    assert b"OPENBLAS_NUM_THREADS=1" in environment
    assert b"OMP_NUM_THREADS=1" in environment


def ended(box: Box) -> CameraExited:
    while not isinstance(event := box.next(), CameraExited):
        pass
    return event


@pytest.mark.parametrize(
    ("simulation", "code"),
    [
        (faulty("failed_start"), "start_failed"),
        (faulty("busy"), "busy"),
        (faulty("crash"), "crashed"),
        (faulty("crash", after_seconds=0.2), "crashed"),
        (faulty("wrong_name"), "wrong_network"),
        (faulty("wrong_shapes"), "wrong_shapes"),
        (faulty("not_finite"), "bad_values"),
        (faulty("class_out_of_range"), "bad_values"),
        (faulty("too_many"), "bad_values"),
        (faulty("stale_output"), "stalled"),
        (faulty("low_rate", value=500), "low_valid_rate"),
        (faulty("slow_dnn", value=2), "slow_dnn"),
    ],
)
def test_the_gate_names_the_fault(
    simulation: Simulation, code: str, cameras: Cameras, tmp_path: Path
) -> None:
    manifest = stage(tmp_path, tiny().graph())
    _, box = cameras.start(manifest, simulation)

    assert judged(manifest, box).code == code


class WithFailingDecoder(CameraProcess):
    """A child whose post-processing raises what nobody foresaw."""

    PROGRAM = (
        "import sys\n"
        "from agent.camera import worker\n"
        "def writer_of(*_, **__):\n"
        "    def write(tensors):\n"
        "        raise ZeroDivisionError('in the middle of a frame')\n"
        "    return write\n"
        "worker.writer_of = writer_of\n"
        "sys.exit(worker.main())\n"
    )

    def _command(self, job: int) -> list[str]:
        return [sys.executable, "-c", self.PROGRAM, str(job), str(os.getpid())]


def test_post_processing_that_raises_ends_the_child_with_a_reason(
    cameras: Cameras, tmp_path: Path
) -> None:
    manifest = stage(tmp_path, tiny().graph())
    _, box = cameras.start_job(job_of(tmp_path, manifest), WithFailingDecoder)

    verdict = judged(manifest, box)

    assert verdict.code == "crashed"
    assert "ZeroDivisionError: in the middle of a frame" in verdict.text
    assert ended(box).returncode == 1


def test_a_fault_of_another_release_does_nothing(cameras: Cameras, tmp_path: Path) -> None:
    manifest = stage(tmp_path, tiny().graph())
    fault = Fault(kind="crash", release="tiny@2")
    _, box = cameras.start(manifest, Simulation(faults=(fault,)))

    assert judged(manifest, box).state is State.HEALTHY


def test_a_dead_bridge_fails_after_so_many_starts(cameras: Cameras, tmp_path: Path) -> None:
    manifest = stage(tmp_path, tiny().graph())
    job = job_of(tmp_path, manifest, faulty("dead_bridge", value=3))
    _, alive = cameras.start_job(job)
    _, dead = cameras.start_job(msgspec.structs.replace(job, starts=3))

    assert judged(manifest, alive).state is State.HEALTHY
    assert judged(manifest, dead).code == "start_failed"


def test_frames_without_inference_are_told_apart_from_frames_that_show_nothing(
    cameras: Cameras, tmp_path: Path
) -> None:
    manifest = stage(tmp_path, tiny().graph())
    _, box = cameras.start(manifest, faulty("no_valid_output"))

    frame = box.until(FrameSeen)

    assert not frame.is_valid
    assert frame.objects is None
    assert frame.network_name == ""


def test_a_slow_upload_reports_its_progress(cameras: Cameras, tmp_path: Path) -> None:
    manifest = stage(tmp_path, tiny().graph())
    _, box = cameras.start(manifest, faulty("slow_upload", value=0.4))

    done = []
    while isinstance(message := box.next(), Uploading):
        done.append(message.done_permille)

    assert isinstance(message, Streaming)
    assert done == sorted(done)
    assert done[-1] == 1000


def test_a_stalled_stream_sends_no_frame_but_stops_when_asked(
    cameras: Cameras, tmp_path: Path
) -> None:
    manifest = stage(tmp_path, tiny().graph())
    camera, box = cameras.start(manifest, faulty("stall"))

    box.until(Streaming)
    camera.stop()

    assert isinstance(box.next(), CameraExited)


def test_a_hung_child_is_killed(cameras: Cameras, tmp_path: Path) -> None:
    manifest = stage(tmp_path, tiny().graph())
    camera, box = cameras.start(manifest, faulty("hang", after_seconds=1.0))
    box.until(FrameSeen)
    pid = camera.pid
    assert pid is not None
    wait_until_stopped(pid)

    camera.stop(seconds=0.2)

    assert not camera.is_alive
    assert ended(box).returncode == -signal.SIGKILL


def wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    stat = Path(f"/proc/{pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("fault", [None, faulty("hang", after_seconds=0.1)])
def test_a_child_dies_with_its_parent_even_while_it_hangs(
    fault: Simulation | None, tmp_path: Path
) -> None:
    manifest = stage(tmp_path, tiny().graph())
    job = tmp_path / "job"
    job.write_bytes(encode_job(job_of(tmp_path, manifest, fault)))
    program = (
        "import sys,time\n"
        "from agent.camera.process import CameraProcess\n"
        "from agent.camera.wire import decode_job\n"
        "class Box:\n"
        "    def put(self, event):\n"
        "        print(type(getattr(event, 'message', event)).__name__, flush=True)\n"
        "    def __len__(self): return 0\n"
        "camera = CameraProcess(decode_job(open(sys.argv[1],'rb').read()), Box(), 1)\n"
        "camera.start(); print(camera.pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(job)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(next(line for line in parent.stdout if line.strip().isdigit()))
        assert any("FrameSeen" in line for line in parent.stdout)
        if fault is not None:
            wait_until_stopped(pid)
        parent.kill()
        parent.wait()

    assert is_gone(pid)


def is_gone(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # Dead; who adopts it in a container may never ask.
            return True
        time.sleep(0.02)
    return False


def test_a_graph_of_nan_is_a_bad_release(cameras: Cameras, tmp_path: Path) -> None:
    bad = tiny()
    bad.scores[0, 0, 0] = np.nan
    manifest = stage(tmp_path, bad.graph())
    _, box = cameras.start(manifest)

    assert judged(manifest, box).code == "bad_values"


def test_a_graph_with_another_name_than_its_manifest_is_a_bad_release(
    cameras: Cameras, tmp_path: Path
) -> None:
    manifest = stage(tmp_path, tiny(network_name="nffffffffffff").graph())
    _, box = cameras.start(manifest)

    assert judged(manifest, box).code == "wrong_network"


def test_a_graph_without_a_name_proves_nothing(cameras: Cameras, tmp_path: Path) -> None:
    manifest = stage(tmp_path, tiny(network_name="").graph())
    _, box = cameras.start(manifest)

    assert judged(manifest, box).code == "wrong_network"


def test_a_manifest_that_promises_other_outputs_is_a_bad_release(
    cameras: Cameras, tmp_path: Path
) -> None:
    outputs = (Output(name="boxes", shape=(1, 100, 4), dtype="float32"),)
    manifest = stage(tmp_path, tiny().graph(), outputs=outputs)
    _, box = cameras.start(manifest)

    assert judged(manifest, box).code == "wrong_shapes"


def test_a_detector_that_says_it_segments_is_a_bad_release(
    cameras: Cameras, tmp_path: Path
) -> None:
    manifest = stage(tmp_path, tiny().graph(), task="segment")
    _, box = cameras.start(manifest)

    assert judged(manifest, box).code == "bad_values"


@pytest.mark.parametrize(
    ("graph", "changes"),
    [
        (b"not a graph", {}),
        (tiny().graph(), {"labels": 4}),
    ],
)
def test_a_release_that_cannot_be_read_fails_with_a_reason(
    graph: bytes, changes: dict[str, object], cameras: Cameras, tmp_path: Path
) -> None:
    manifest = stage(tmp_path, graph, **changes)
    _, box = cameras.start(manifest)

    failed = box.next()

    assert isinstance(failed, CameraFailed)
    assert failed.code == "release"
    assert ended(box).returncode == 1


@pytest.mark.parametrize("kind", TWINS)
def test_a_real_camera_that_is_not_there_says_so(kind: Kind, tmp_path: Path) -> None:
    job = on_kind(job_of(tmp_path, stage(tmp_path, tiny().graph())), kind)
    box = Box()
    camera = CameraProcess(msgspec.structs.replace(job, simulation=Simulation()), box, 1)
    camera.start()

    failed = box.next()

    assert isinstance(failed, CameraFailed)
    assert failed.code in {"unavailable", "missing"}
    camera.stop()


def test_a_folder_of_images_is_a_scene(cameras: Cameras, tmp_path: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (100, 50)).save(pictures / "one.png")
    manifest = stage(tmp_path, tiny().graph())
    _, box = cameras.start(manifest, Simulation(scene=f"folder:{pictures}"))

    assert judged(manifest, box).state is State.HEALTHY


def test_a_child_that_speaks_nonsense_is_ended(cameras: Cameras, tmp_path: Path) -> None:
    manifest = stage(tmp_path, tiny().graph())
    camera, box = cameras.start(manifest)
    box.until(FrameSeen)
    pid = camera.pid
    assert pid is not None

    with Path(f"/proc/{pid}/fd/{wire_of(pid)}").open("wb", buffering=0) as pipe:
        pipe.write(b"\xff\xff\xff\xff")
    codes = []
    while not isinstance(event := box.next(), CameraExited):
        if isinstance(event, CameraFailed):
            codes.append(event.code)

    assert codes == ["protocol"]
    assert event.returncode == -signal.SIGKILL


def wire_of(pid: int) -> int:
    """Return the child's descriptor of the pipe to us: the only pipe above standard error."""
    entries = [entry for entry in Path(f"/proc/{pid}/fd").iterdir() if int(entry.name) > 2]
    return next(int(entry.name) for entry in entries if str(entry.readlink()).startswith("pipe:"))
