"""The camera child: one camera, one release. Reads frames, decodes them, says what it saw.

Started by agent/camera/process.py and of no use without it. It judges nothing and limits nothing:
the parent does both, and can kill it at any moment. Its standard output is the parent's; whatever
libraries print goes to standard error.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.camera.camera import Camera, Captured, FailedError, Pixels, read_file
from agent.camera.wire import (
    JOB_BYTES_MAX,
    CameraFailed,
    FrameText,
    GoldenCompared,
    ImageTaken,
    Job,
    Message,
    Streaming,
    Uploading,
    decode_job,
    frame_message,
)
from shared.decode.labels import read_labels
from shared.decode.results import Tensors
from shared.decode.task import Decoder, Writer, decoder_of, writer_of
from shared.errors import FleetError, RefusedError
from shared.golden import agreement_permille, read_golden
from shared.limits import MANIFEST_BYTES, TEXT_CHARACTERS_MAX
from shared.messages import decode
from shared.release import Manifest

if TYPE_CHECKING:
    from agent.camera.tracks import Tracker

STOP_SECONDS = 4.0  # Before the parent kills us, so that the kernel sees the camera closed.
ORPHAN_CODE = 75
FAILED_CODE = 1
_PR_SET_PDEATHSIG = 1

Say = Callable[[Message | FrameText], None]
Wishes = deque[float]  # For an image: the lowest score that is drawn.


def main() -> int:
    """Run the job whose file descriptor is the first argument; the second is our parent."""
    job_file, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    logging.basicConfig(level=logging.INFO, format="camera: %(name)s: %(message)s")
    say = _own_output()
    stopping, wishes = threading.Event(), Wishes(maxlen=1)
    threading.Thread(target=_listen, args=(stopping, wishes), daemon=True).start()
    with os.fdopen(job_file, "rb") as file:
        job = decode_job(file.read(JOB_BYTES_MAX))
    try:
        _run(job, say, stopping, wishes)
    except FailedError as error:
        return _fail(say, error.code, error.text)
    except RefusedError as error:
        return _fail(say, "release", error.text)
    except (FleetError, OSError) as error:
        return _fail(say, "crashed", str(error))
    except Exception as error:
        logging.getLogger(__name__).exception("a fault of this program, or of a library")
        return _fail(say, "crashed", f"{type(error).__name__}: {error}")
    return 0


def _run(job: Job, say: Say, stopping: threading.Event, wishes: Wishes) -> None:
    manifest = decode(job.manifest, Manifest, bytes_max=MANIFEST_BYTES)
    labels = _read_labels(job, manifest)
    writer = writer_of(manifest, labels, threshold=job.threshold_permille / 1000)
    tracker = _tracker(job)
    _begin(job, manifest, say)
    camera = _open(job, manifest, stopping)
    try:
        camera.start(lambda done: say(Uploading(done_permille=done)))
        if stopping.is_set():
            return
        say(Streaming())
        if job.kind == "simulated":
            _compare_golden(job, manifest, lambda image: camera.infer(image) or (), say)
        while (captured := camera.read()) is not None:
            say(seen(captured, writer, tracker))
            if wishes and captured.tensors is not None:
                say(_image(camera, captured, decoder_of(manifest, labels, threshold=wishes.pop())))
    finally:
        camera.stop()


def _begin(job: Job, manifest: Manifest, say: Say) -> None:
    """Do what comes before a library of cameras is loaded for the stream."""
    if job.kind == "simulated":
        return
    if job.simulation.twin:
        from agent.camera.twin.machine import put_in_place  # noqa: PLC0415

        put_in_place(job, manifest)
    if job.injects and job.kind == "modlib" and manifest.file("golden") is not None:
        _inject_golden(job, manifest, say)


def _open(job: Job, manifest: Manifest, stopping: threading.Event) -> Camera:
    """Open the camera; each kind's libraries are imported only where it is used."""
    if job.kind == "simulated":
        try:
            from agent.camera.simulated import simulated_camera  # noqa: PLC0415
        except ImportError as error:
            text = f"a simulated camera needs the extra `sim`: {error}"
            raise FailedError("unavailable", text) from error
        return simulated_camera(job, manifest, stopping)
    if job.kind == "picamera2":
        from agent.camera.picamera import pi_camera  # noqa: PLC0415

        return pi_camera(job, manifest, stopping)
    from agent.camera.aicamera import ai_camera  # noqa: PLC0415

    return ai_camera(job, manifest, stopping)


def seen(captured: Captured, writer: Writer, tracker: "Tracker | None" = None) -> FrameText:
    """Return what the child says of a frame."""
    if captured.tensors is None:
        return FrameText(frame=captured.frame, at=captured.at, is_valid=False)
    began = time.perf_counter_ns()
    written = writer(captured.tensors)
    tracks = None
    if tracker is not None and written.columns is not None:
        tracks = tracker.update(written.columns, time.monotonic())
    return FrameText(
        frame=captured.frame,
        at=captured.at,
        is_valid=True,
        network_name=captured.network_name,
        shapes=tuple(tuple(tensor.shape) for tensor in captured.tensors),
        dnn_ms=captured.dnn_ms,
        dsp_ms=captured.dsp_ms,
        problems=written.problems,
        objects=None if written.objects is None else msgspec.Raw(written.objects),
        classes=written.classes,
        tracks=tracks,
        decode_us=(time.perf_counter_ns() - began) // 1000,
    )


def _tracker(job: Job) -> "Tracker | None":
    if job.track_permille is None:
        return None
    try:
        from agent.camera.tracks import Tracker  # noqa: PLC0415 - Only where it is asked for.
    except ImportError as error:
        logging.warning("no tracked objects: %s is not installed", error.name)  # noqa: LOG015
        return None
    return Tracker(least=job.track_permille / 1000)


def _image(camera: Camera, captured: Captured, decoder: Decoder) -> ImageTaken:
    """Return what the frame showed; a camera without pictures is no reason to fail."""
    try:
        from agent.camera.snapshot import snapshot  # noqa: PLC0415 - Only when it is asked for.
    except ImportError as error:
        return ImageTaken(jpeg=b"", text=f"an image needs Pillow: {error}")
    picture = camera.picture()
    if picture is None or captured.tensors is None:
        return ImageTaken(jpeg=b"", text="this camera gives no image")
    return ImageTaken(jpeg=snapshot(picture, decoder(captured.tensors)))


def _inject_golden(job: Job, manifest: Manifest, say: Say) -> None:
    """Run the golden set through the sensor, or say that it cannot be done here."""
    from agent.camera.injection import NoInjectionError, injecting  # noqa: PLC0415

    try:
        with injecting(job, manifest) as infer:
            _compare_golden(job, manifest, infer, say)
    except NoInjectionError as error:
        logging.getLogger(__name__).warning("%s", error)
        say(GoldenCompared(found_permille=None))


def _compare_golden(
    job: Job, manifest: Manifest, infer: Callable[[Pixels], Tensors], say: Say
) -> None:
    """Run the golden set where the release has one."""
    file = manifest.file("golden")
    if file is None:
        return
    examples = read_golden(
        read_file(Path(job.folder) / file.name),
        size=(manifest.input.width, manifest.input.height),
        outputs=len(manifest.outputs),
    )
    # The manifest's threshold, not the job's: what counts as found must not depend on a setting.
    threshold = manifest.decode.threshold_permille / 1000
    decoder = decoder_of(manifest, _read_labels(job, manifest), threshold=threshold)
    say(GoldenCompared(found_permille=agreement_permille(examples, run=infer, decode=decoder)))


def _read_labels(job: Job, manifest: Manifest) -> tuple[str, ...]:
    file = manifest.file("labels")
    if file is None:
        raise FailedError("release", f"{manifest.release} has no labels")
    labels = read_labels(read_file(Path(job.folder) / file.name))
    if len(labels) != manifest.labels:
        text = f"expected {manifest.labels} labels, {file.name} has {len(labels)}"
        raise FailedError("release", text)
    return labels


def _fail(say: Say, code: str, text: str) -> int:
    say(CameraFailed(code=code, text=text[:TEXT_CHARACTERS_MAX]))
    return FAILED_CODE


def _own_output() -> Say:
    """Take standard output for the wire and give libraries standard error instead."""
    wire = os.dup(1)
    os.dup2(2, 1)
    pipe = os.fdopen(wire, "wb")

    def say(message: Message | FrameText) -> None:
        try:
            pipe.write(frame_message(message))
            pipe.flush()
        except BrokenPipeError:
            os._exit(ORPHAN_CODE)  # Nobody listens any more.

    return say


def _listen(stopping: threading.Event, wishes: Wishes) -> None:
    """Take wishes for images; stop when standard input ends: the parent asked, or is gone."""
    with suppress(OSError):
        while words := os.read(0, 4096):
            wishes.extend(int(word) / 1000 for word in words.split() if word.isdigit())
    stopping.set()
    time.sleep(STOP_SECONDS)
    os._exit(ORPHAN_CODE)


def _die_with(parent: int) -> None:
    """Have the kernel kill us when the parent dies, whatever native code is doing then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It died before we could say so.
        os._exit(ORPHAN_CODE)


if __name__ == "__main__":
    sys.exit(main())
