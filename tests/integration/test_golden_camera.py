"""What the exporter packs as a golden set is what a simulated camera's child runs and passes."""

import queue
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from agent.camera.process import CameraProcess
from agent.camera.wire import CameraExited, FromCamera, GoldenCompared
from agent.health import expected_of
from controller.export.facts import FACTS_KEY, Facts
from controller.export.goldens import golden_of
from controller.export.pack import GOLDEN_TOLERANCE_PERMILLE, make_release
from shared.graph import Graph
from shared.release import Input, Manifest
from tests.tinygraph import LABELS, NETWORK_NAME, SIDE, Tiny, job_of, manifest_of, tiny

PATIENCE_SECONDS = 60.0


@dataclass
class Box:
    """An inbox of one camera."""

    events: "queue.SimpleQueue[FromCamera | CameraExited]" = field(
        default_factory=queue.SimpleQueue
    )

    def put(self, event: FromCamera | CameraExited, /) -> None:
        self.events.put(event)

    def __len__(self) -> int:
        return self.events.qsize()


def packed(folder: Path, graph: Tiny) -> Manifest:
    """Write a package with the golden set of its own graph, and return its release."""
    facts = Facts(
        task="detect",
        network_name=NETWORK_NAME,
        input=Input(width=SIDE, height=SIDE, color="RGB"),
        outputs=manifest_of({}).outputs,
        threshold_permille=250,
        memory_bytes=0,
        provenance={},
    )
    graph.metadata[FACTS_KEY] = msgspec.json.encode(facts).decode()
    pictures = [np.full((SIDE, SIDE, 3), level, np.uint8) for level in (1, 128, 255)]
    golden = golden_of(pictures, graph=Graph(graph.graph()), count=3)
    (folder / "simulator.onnx").write_bytes(graph.graph())
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    (folder / "golden.npz").write_bytes(golden)
    manifest, _ = make_release(folder, name="tiny", version=1)
    return manifest


def compared(folder: Path, manifest: Manifest) -> int:
    """Return what the camera's child says of the golden set."""
    box = Box()
    camera = CameraProcess(job_of(folder, manifest), box, 0)
    camera.start()
    try:
        while True:
            event = box.events.get(timeout=PATIENCE_SECONDS)
            assert not isinstance(event, CameraExited), event
            if isinstance(event.message, GoldenCompared):
                return event.message.found_permille
    finally:
        camera.kill()


def test_a_simulated_camera_passes_with_its_own_golden_set(tmp_path: Path) -> None:
    manifest = packed(tmp_path, tiny())

    assert compared(tmp_path, manifest) == 1000
    expected = expected_of(
        manifest, kind="simulated", frame_rate=30, probe_seconds=1, valid_rate=900
    )
    assert expected.golden_permille_min == 1000 - GOLDEN_TOLERANCE_PERMILLE


def test_another_graph_under_the_same_golden_set_does_not_pass(tmp_path: Path) -> None:
    manifest = packed(tmp_path, tiny())
    moved = tiny()
    moved.boxes[0, 2] += 24
    (tmp_path / "simulator.onnx").write_bytes(moved.graph())

    assert compared(tmp_path, manifest) < 1000 - GOLDEN_TOLERANCE_PERMILLE
