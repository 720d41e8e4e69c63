"""What a camera's child is asked for beside frames: an image, and which object is which."""

import io
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from agent.camera.wire import CameraExited, Fault, FrameSeen, ImageTaken, Simulation, Streaming
from shared.limits import IMAGE_BYTES
from tests.cameras import KINDS
from tests.integration.test_camera_process import Cameras
from tests.tinygraph import SIDE, job_of, stage, tiny


@pytest.fixture(params=KINDS)
def cameras(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cameras]:
    """Every kind of camera: simulated, and the real libraries on a twin of the sensor."""
    cameras = Cameras(tmp_path, request.param)
    yield cameras
    for camera in cameras.started:
        camera.kill()


def test_an_image_comes_once_for_each_time_that_it_is_asked_for(cameras: Cameras) -> None:
    manifest = stage(cameras.folder, tiny().graph())
    camera, box = cameras.start(manifest)
    box.until(FrameSeen)

    camera.look(800)
    first = box.until(ImageTaken)
    camera.look(100)
    second = box.until(ImageTaken)
    seen = [box.next() for _ in range(20)]

    for taken in (first, second):
        assert taken.text == ""
        assert 0 < len(taken.jpeg) <= IMAGE_BYTES
    picture = opened(first)
    height, width, _ = picture.shape
    assert min(height, width) >= SIDE
    # The triangle (0.875) from the middle to the right edge is drawn in blue.
    blue = (picture[..., 2] - picture[..., 0] > 120) & (picture[..., 1] > 120)
    rows, columns = np.nonzero(blue)
    assert abs(columns.min() / width - 0.5) < 0.1  # JPEG keeps half of the colours.
    assert abs(rows.max() / height - 0.75) < 0.1
    assert not is_circle_named(picture), "it scores 0.75"
    assert is_circle_named(opened(second))
    assert not any(isinstance(message, ImageTaken) for message in seen)


def opened(taken: ImageTaken) -> NDArray[np.int_]:
    return np.asarray(Image.open(io.BytesIO(taken.jpeg))).astype(np.int_)


def is_circle_named(picture: NDArray[np.int_]) -> bool:
    """Say whether the upper left corner of the circle's box has its name, on red."""
    top, left = (side // 8 for side in picture.shape[:2])
    name = picture[top + 1 : top + 9, left + 1 : left + 23]
    return bool(((name[..., 0] - name[..., 1]) > 100).mean() > 0.4)


def test_tracks_are_told_only_where_they_are_asked_for(cameras: Cameras) -> None:
    manifest = stage(cameras.folder, tiny().graph())
    job = job_of(cameras.folder, manifest)
    _, plain = cameras.start_job(job)
    assert plain.until(FrameSeen).tracks is None
    cameras.started[0].stop()

    _, box = cameras.start_job(msgspec.structs.replace(job, track_permille=500))
    frames = [box.until(FrameSeen) for _ in range(20)]

    told = [frame for frame in frames if frame.tracks is not None]
    assert len(told) > 5
    assert all(len(frame.tracks or ()) == len(frame.objects or ()) for frame in told)
    assert {frame.tracks for frame in told[3:]} == {(1, 2)}


def test_asking_a_camera_that_hangs_fills_nothing_and_it_can_still_be_ended(
    cameras: Cameras,
) -> None:
    manifest = stage(cameras.folder, tiny().graph())
    hang = Simulation(faults=(Fault(kind="hang", after_seconds=1.0),))
    camera, box = cameras.start(manifest, hang)
    box.until(Streaming)
    while camera.pid is not None and "T" not in state_of(camera.pid):
        time.sleep(0.02)

    for _ in range(100_000):
        camera.look(500)  # A pipe holds 64 KiB: it would block here for ever.
    camera.stop(seconds=0.1)

    while not isinstance(last := box.next(), CameraExited):
        time.sleep(0.02)
    assert last.returncode == -signal.SIGKILL


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
