"""Microseconds from output tensors to the published message, in one process, on real outputs.

The way of a frame: the child decodes tensors into objects and writes them into the pipe; the parent
reads them, proves whose they are, and makes the message. What is left out is the pipe itself and
the network. Beside it stands what one writes without thinking: a loop over the rows of the tensors,
and ``json.dumps``, with no check, no second process and no limit.
"""

import io
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns

from agent import telemetry
from agent.camera.camera import Captured
from agent.camera.scene import draw
from agent.camera.wire import FrameSeen, frame_message, read_message
from agent.camera.worker import seen
from agent.health import expected_of, is_proven
from agent.telemetry import Stream
from controller.demo import SHAPES
from controller.export.pack import make_release
from shared.decode.results import Tensors
from shared.decode.task import Writer, writer_of
from shared.graph import Graph
from shared.release import Manifest

SEED, FRAMES = 7, 64
ROUNDS = 60
THRESHOLD = 0.5  # The default of `telemetry.threshold`.


@dataclass(frozen=True, slots=True)
class FrameCost:
    """Medians over all frames and rounds.

    Attributes:
        decode_us: Tensors to objects, in the child.
        pipe_us: Objects to bytes and back.
        message_us: Proof, counts, rates and the message, in the parent.
        plain_us: The loop with ``json.dumps``.
        objects: In a frame, on average.
    """

    decode_us: float
    pipe_us: float
    message_us: float
    total_us: float
    plain_us: float
    objects: float


@dataclass(frozen=True, slots=True)
class _Job:
    manifest: Manifest
    labels: tuple[str, ...]
    writer: Writer
    captured: tuple[Captured, ...]


def measure() -> FrameCost:
    """Measure; takes a second or two."""
    job = _job(SHAPES / "second")
    ours = [_timed(job) for _ in range(ROUNDS)]
    plain = [_plain_us(job) for _ in range(ROUNDS)]
    decode, pipe, message = (
        statistics.median(frame[part] for a_round in ours for frame in a_round) for part in range(3)
    )
    return FrameCost(
        decode_us=decode,
        pipe_us=pipe,
        message_us=message,
        total_us=statistics.median(sum(frame) for a_round in ours for frame in a_round),
        plain_us=statistics.median(us for a_round in plain for us in a_round),
        objects=statistics.mean(len(_objects(job, one)) for one in job.captured),
    )


def _job(folder: Path) -> _Job:
    manifest, files = make_release(folder, name="shapes", version=1)
    labels = tuple(files["labels.txt"].decode().splitlines())
    graph = Graph(files["simulator.onnx"])
    size = (manifest.input.width, manifest.input.height)
    captured = tuple(
        Captured(
            number,
            0.0,
            tensors=graph.run(draw(SEED, number, size)[0]),
            network_name=graph.network_name,
            dnn_ms=1.0,
        )
        for number in range(FRAMES)
    )
    return _Job(manifest, labels, writer_of(manifest, labels, threshold=THRESHOLD), captured)


def _timed(job: _Job) -> list[tuple[float, float, float]]:
    """Return microseconds of the three parts, for each frame."""
    manifest = job.manifest
    stream = Stream(manifest.release, manifest.task, job.labels)
    state = telemetry.telemetry("bench-1", rate_hz=1.0, threshold_permille=500, now=0.0)
    state = telemetry.started(state, stream)
    expected = expected_of(
        manifest, kind="simulated", frame_rate=16.0, probe_seconds=1.0, valid_rate=900
    )
    costs: list[tuple[float, float, float]] = []
    for now, captured in enumerate(job.captured, start=1):  # A message a frame, none left out.
        at = perf_counter_ns()
        frame = seen(captured, job.writer)
        decoded_at = perf_counter_ns()
        message = read_message(io.BytesIO(frame_message(frame)).read)
        read_at = perf_counter_ns()
        assert isinstance(message, FrameSeen)
        assert is_proven(message, expected)
        state, published = telemetry.show(state, message, float(now))
        done_at = perf_counter_ns()
        assert published.detections is not None
        costs.append(
            ((decoded_at - at) / 1e3, (read_at - decoded_at) / 1e3, (done_at - read_at) / 1e3)
        )
    return costs


def _plain_us(job: _Job) -> list[float]:
    costs: list[float] = []
    for captured in job.captured:
        at = perf_counter_ns()
        _plain(job, captured)
        costs.append((perf_counter_ns() - at) / 1e3)
    return costs


def _plain(job: _Job, captured: Captured) -> bytes:
    """Make the same message by a loop over all rows, as one would in a notebook."""
    boxes, scores, classes, count = _tensors(captured)
    objects = []
    for row in range(int(count.reshape(-1)[0])):
        score = float(scores[0, row])
        if score < THRESHOLD:
            continue
        class_ = int(classes[0, row])
        sides = (job.manifest.input.width, job.manifest.input.height) * 2
        box = [round(float(boxes[0, row, k]) / sides[k], 4) for k in range(4)]
        objects.append(
            {"label": job.labels[class_], "class": class_, "score": round(score, 3), "box": box}
        )
    document = {"frame": captured.frame, "release": "shapes@1", "objects": objects}
    return json.dumps(document).encode()


def _objects(job: _Job, captured: Captured) -> tuple[object, ...]:
    frame = read_message(io.BytesIO(frame_message(seen(captured, job.writer))).read)
    assert isinstance(frame, FrameSeen)
    return frame.objects or ()


def _tensors(captured: Captured) -> Tensors:
    assert captured.tensors is not None
    return captured.tensors
