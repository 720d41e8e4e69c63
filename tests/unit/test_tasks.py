"""A pose and a segmentation release on a simulated camera: from the graph to what MQTT carries."""

import io
import json
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent import telemetry
from agent.camera.camera import Captured
from agent.camera.simulated import simulated_camera
from agent.camera.wire import Fault, FaultKind, FrameSeen, Simulation, frame_message, read_message
from agent.camera.worker import seen
from agent.health import expected_of, is_proven
from agent.telemetry import Stream
from controller.cli.seen import frame_line
from shared.decode.results import Tensors
from shared.decode.rle import decode_mask, encode_masks
from shared.decode.task import Writer, decoder_of, writer_of
from shared.decode.written import written
from shared.detections import Detections, Object, encode_detections
from shared.errors import MalformedError
from shared.golden import Example, agreement_permille
from shared.graph import Graph
from shared.limits import DETECTIONS_BYTES
from shared.messages import decode
from shared.release import Decode, Manifest, Output
from tests.columns import columns_of
from tests.contract.contract import read_contract
from tests.tinygraph import LABELS, SIDE, Tiny, job_of, stage, tiny

PICTURE = np.full((SIDE, SIDE, 3), 128, np.uint8)
MAP = SIDE // 4
WHOLE = (0.0, 0.0, 1.0, 1.0)
# Rows as in tiny(): the square of row 2 is best, then the circle of row 0; 1 and 3 are suppressed.
KEYPOINTS = np.array(
    [[[16, 8, 0.5, 24, 16, 1], [0] * 6, [48, 16, 0.75, 64, 32, 0.25], [7] * 6]], np.float32
)
COEFFICIENTS = np.array([[[1, 0, 0, 0], [9] * 4, [0, 1, 0, 0], [9] * 4]], np.float32)


def prototypes() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The first is above zero on the left half, the second on the upper half, the others below.

    As many as there are boxes: their number must not be taken for that of the boxes.
    """
    maps = np.full((1, 4, MAP, MAP), -1, np.float32)
    maps[0, 0, :, : MAP // 4] = 1
    maps[0, 1, : MAP // 2] = 1
    return maps


def pose() -> Tiny:
    graph = tiny()
    graph.extras = {"keypoints": KEYPOINTS}
    return graph


def segmentation() -> Tiny:
    graph = tiny()
    graph.extras = {"coefficients": COEFFICIENTS, "prototypes": prototypes()}
    return graph


BOXES = (
    Output(name="boxes", shape=(1, 300, 4), dtype="float32"),
    Output(name="scores", shape=(1, 300), dtype="float32"),
    Output(name="labels", shape=(1, 300), dtype="int32"),
)
RELEASES = {
    "pose": (
        pose(),
        {
            "outputs": (*BOXES, Output(name="keypoints", shape=(1, 300, 6), dtype="float32")),
            "decode": Decode(threshold_permille=250, keypoints=2),
        },
    ),
    "segment": (
        segmentation(),
        {
            "outputs": (
                *BOXES,
                Output(name="coefficients", shape=(1, 300, 4), dtype="float32"),
                Output(name="prototypes", shape=(1, 4, MAP, MAP), dtype="float32"),
            )
        },
    ),
}


def run(folder: Path, task: str, *faults: FaultKind) -> tuple[Manifest, FrameSeen, bytes]:
    """Return the release, what the camera's child says of a frame, and what is published of it."""
    graph, changes = RELEASES[task]
    manifest = stage(folder, graph.graph(), task=task, **changes)
    simulation = Simulation(faults=tuple(Fault(kind=kind) for kind in faults))
    camera = simulated_camera(job_of(folder, manifest, simulation), manifest, threading.Event())
    camera.start(lambda _done: None)
    captured = camera.read()
    assert captured is not None
    frame = heard(captured, writer_of(manifest, LABELS, threshold=0.25))
    state = telemetry.telemetry("r-1", rate_hz=5.0, threshold_permille=250, now=0.0)
    state = telemetry.started(state, Stream(manifest.release, task, LABELS))
    _, published = telemetry.show(state, frame, 0.0)
    assert published.detections is not None
    assert published.counts is not None
    assert json.loads(published.counts)["counts"] == {
        label: sum(thing.label == label for thing in frame.objects or ()) for label in LABELS
    }
    return manifest, frame, published.detections


def heard(captured: Captured, writer: Writer) -> FrameSeen:
    """Return what the parent reads of a frame."""
    message = read_message(io.BytesIO(frame_message(seen(captured, writer))).read)
    assert isinstance(message, FrameSeen)
    return message


def is_healthy(manifest: Manifest, frame: FrameSeen) -> bool:
    expected = expected_of(
        manifest, kind="simulated", frame_rate=16, probe_seconds=60, valid_rate=900
    )
    return is_proven(frame, expected)


def test_a_pose_release_runs_on_a_simulated_camera(tmp_path: Path) -> None:
    manifest, frame, payload = run(tmp_path, "pose")

    document = json.loads(payload)
    assert is_healthy(manifest, frame)
    assert document["task"] == "pose"
    assert document["objects"] == [
        {"label": "triangle", "class": 2, "score": 0.875, "box": [0.5, 0.25, 1.0, 0.75],
         "keypoints": [[0.75, 0.25, 0.75], [1.0, 0.5, 0.25]]},
        {"label": "circle", "class": 0, "score": 0.75, "box": [0.125, 0.125, 0.375, 0.375],
         "keypoints": [[0.25, 0.125, 0.5], [0.375, 0.25, 1.0]]},
    ]  # fmt: skip
    read_contract().validate("detections", document)


def test_a_segmentation_release_runs_on_a_simulated_camera(tmp_path: Path) -> None:
    manifest, frame, payload = run(tmp_path, "segment")

    document = json.loads(payload)
    assert is_healthy(manifest, frame)
    assert [thing["label"] for thing in document["objects"]] == ["triangle", "circle"]
    first, second = (thing.mask for thing in frame.objects or ())
    assert first is not None
    assert second is not None
    assert document["objects"][0]["mask"] == {"size": [MAP, MAP], "counts": first.counts}
    upper, left = np.zeros((2, MAP, MAP), np.bool_)
    upper[4:8, 8:16] = True  # The box is 32 16 64 48, the prototype ends in the middle.
    left[2:6, 2:4] = True  # The box is 8 8 24 24, the prototype ends at a quarter.
    assert np.array_equal(decode_mask(first), upper)
    assert np.array_equal(decode_mask(second), left)
    read_contract().validate("detections", document)


@pytest.mark.parametrize("task", RELEASES)
def test_a_line_of_tail_names_what_is_seen(tmp_path: Path, task: str) -> None:
    _, _, payload = run(tmp_path, task)

    line = frame_line("cam-1", 0, decode(payload, Detections, bytes_max=DETECTIONS_BYTES))

    assert "1 triangle, 1 circle (best 0.88)" in line


@pytest.mark.parametrize("task", RELEASES)
@pytest.mark.parametrize("fault", ["wrong_shapes", "not_finite", "class_out_of_range"])
def test_bad_values_fail_the_gate_in_every_task(
    tmp_path: Path, task: str, fault: FaultKind
) -> None:
    manifest, frame, _ = run(tmp_path, task, fault)

    assert not is_healthy(manifest, frame)
    assert frame.objects == ()


def test_prototypes_are_no_rows_though_they_are_as_many_as_boxes() -> None:
    *_, coefficients, found = Graph(segmentation().graph()).run(PICTURE)

    assert np.array_equal(found, prototypes())
    assert coefficients.shape == (1, 300, 4)
    assert coefficients[0, :3].tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_there_is_no_number_of_valid_rows_beside_keypoints() -> None:
    outputs = Graph(pose().graph()).run(PICTURE)

    assert [tensor.shape for tensor in outputs] == [(1, 300, 4), (1, 300), (1, 300), (1, 300, 6)]
    assert outputs[3][0, :3].tolist() == [
        KEYPOINTS[0, 2].tolist(),
        KEYPOINTS[0, 0].tolist(),
        [0] * 6,
    ]


def test_a_number_that_is_none_stays_visible_in_a_row_that_is_suppressed() -> None:
    spoilt = pose()
    spoilt.extras = {"keypoints": np.where(KEYPOINTS == 7, np.nan, KEYPOINTS)}

    assert np.isnan(Graph(spoilt.graph()).run(PICTURE)[3]).all()


def test_rows_that_are_not_as_many_as_boxes_are_refused() -> None:
    odd = pose()
    odd.extras = {"keypoints": KEYPOINTS[:, :3]}

    with pytest.raises(MalformedError):
        Graph(odd.graph()).run(PICTURE)


def agreement(task: str, outputs: Tensors, changed: Tensors, folder: Path) -> int:
    graph, changes = RELEASES[task]
    manifest = stage(folder, graph.graph(), task=task, **changes)
    decoder = decoder_of(manifest, LABELS, threshold=0.25)
    return agreement_permille((Example(PICTURE, outputs),), run=lambda _: changed, decode=decoder)


def shifted(outputs: Tensors, pixels: float) -> Tensors:
    """Move the best object's keypoints: the diagonal of its box is 45 pixels long."""
    *boxes, points = (np.array(tensor) for tensor in outputs)
    points[0, 0, [0, 3]] -= pixels
    return (*boxes, points)


def test_a_pose_is_found_again_where_its_keypoints_are_near(tmp_path: Path) -> None:
    outputs = Graph(pose().graph()).run(PICTURE)

    assert agreement("pose", outputs, outputs, tmp_path) == 1000
    assert agreement("pose", outputs, shifted(outputs, 4), tmp_path) == 1000
    assert agreement("pose", outputs, shifted(outputs, 5), tmp_path) == 500


def test_a_keypoint_that_the_network_doubts_weighs_little(tmp_path: Path) -> None:
    outputs = Graph(pose().graph()).run(PICTURE)
    sure, doubtful = (np.array(outputs[3]) for _ in range(2))
    sure[0, 0, 0] -= 12
    doubtful[0, 0, 3] -= 12

    assert agreement("pose", outputs, (*outputs[:3], sure), tmp_path) == 500
    assert agreement("pose", outputs, (*outputs[:3], doubtful), tmp_path) == 1000


def test_a_mask_is_found_again_where_half_of_both_is_common(tmp_path: Path) -> None:
    *rows, maps = Graph(segmentation().graph()).run(PICTURE)
    outputs = (*rows, maps)
    half, less = (np.array(maps) for _ in range(2))
    half[0, 1, 4:6] = -1
    less[0, 1, 4:7] = -1

    assert agreement("segment", outputs, outputs, tmp_path) == 1000
    assert agreement("segment", outputs, (*rows, half), tmp_path) == 1000
    assert agreement("segment", outputs, (*rows, less), tmp_path) == 500


def test_a_golden_output_of_another_network_is_no_agreement(tmp_path: Path) -> None:
    outputs = Graph(segmentation().graph()).run(PICTURE)
    others = Graph(pose().graph()).run(PICTURE)
    narrow = (*outputs[:4], outputs[4][..., :-1])

    for wrong in (others, narrow, outputs[:4]):
        with pytest.raises(MalformedError):
            agreement("segment", wrong, outputs, tmp_path)


def noise(number: int, *, side: int = 160, share: float = 0.5) -> tuple[Object, ...]:
    masks = encode_masks(np.random.default_rng(0).random((number, side, side)) < share)
    return tuple(
        Object(label="circle", class_=0, score=round(1 - i / 1000, 3), box=WHOLE, mask=mask)
        for i, mask in enumerate(masks)
    )


def posed(number: int) -> tuple[Object, ...]:
    points = tuple((0.1234, 0.5678, 0.999) for _ in range(133))  # Whole bodies have that many.
    return tuple(
        Object(label="é" * 64, class_=0, score=round(1 - i / 1000, 3), box=WHOLE, keypoints=points)
        for i in range(number)
    )


@pytest.mark.parametrize("objects", [noise(300), noise(300, side=32, share=0.1), posed(300)])
def test_a_frame_full_of_masks_or_keypoints_loses_its_worst_objects_and_says_so(
    objects: tuple[Object, ...],
) -> None:
    whole = Detections(
        at="a", run="r", seq=0, frame=0, release="r@1", task="segment", dnn_ms=None, objects=objects
    )

    payload = encode_detections(whole)

    document = decode(payload, Detections, bytes_max=DETECTIONS_BYTES)
    assert isinstance(document.objects, tuple)
    assert document.objects == objects[: len(document.objects)]
    assert document.truncated == 300 - len(document.objects)
    one_more = msgspec.structs.replace(
        document,
        objects=objects[: len(document.objects) + 1],
        truncated=299 - len(document.objects),
    )
    assert len(msgspec.json.encode(one_more)) > DETECTIONS_BYTES


@pytest.mark.parametrize("objects", [noise(300), noise(300, side=32, share=0.1), posed(300)])
def test_a_full_frame_goes_through_the_pipe_and_is_published_as_if_it_were_whole(
    objects: tuple[Object, ...],
) -> None:
    def published(given: tuple[Object, ...]) -> bytes:
        return encode_detections(
            Detections(
                at="a",
                run="r",
                seq=0,
                frame=0,
                release="r@1",
                task="pose",
                dnn_ms=None,
                objects=given,
            )
        )

    captured = Captured(0, 0.0, tensors=(np.zeros(1),))
    found = columns_of(objects)
    frame = heard(captured, lambda _: written(found, bytes_max=DETECTIONS_BYTES))
    carried = frame.objects or ()

    assert len(carried) == 300
    assert published(carried) == published(objects)
