"""The golden set goes through modlib's data injection: on a twin, as far as that can prove it."""

from pathlib import Path

import msgspec
import pytest

from agent.camera.process import CameraProcess
from agent.camera.wire import Fault, FrameSeen, GoldenCompared, Simulation, Streaming
from agent.health import State, expected_of
from shared.release import Input, Manifest
from tests.cameras import on_kind
from tests.integration.test_camera_process import Box, judged
from tests.integration.test_golden_camera import packed
from tests.tinygraph import job_of, tiny

pytestmark = pytest.mark.twin


def started(folder: Path, manifest: Manifest, *faults: Fault) -> tuple[CameraProcess, Box]:
    job = on_kind(job_of(folder, manifest, Simulation(faults=faults)), "modlib")
    box = Box()
    camera = CameraProcess(msgspec.structs.replace(job, injects=True), box, 1)
    camera.start()
    return camera, box


@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_the_golden_set_of_the_network_is_found_again_and_then_the_lens_counts(
    color: str, tmp_path: Path
) -> None:
    manifest = packed(tmp_path, tiny())
    size = Input(width=manifest.input.width, height=manifest.input.height, color=color)  # type: ignore[arg-type]
    manifest = msgspec.structs.replace(manifest, input=size)
    camera, box = started(tmp_path, manifest)

    compared, streaming = box.until(GoldenCompared), box.until(Streaming)
    assert compared.found_permille == 1000
    assert box.until(FrameSeen).is_valid
    assert judged(manifest, box, compared, streaming).state is State.HEALTHY
    camera.stop()


def test_another_network_does_not_find_it(tmp_path: Path) -> None:
    manifest = packed(tmp_path, tiny())
    moved = tiny()
    moved.boxes[0, 2] += 24
    (tmp_path / "simulator.onnx").write_bytes(moved.graph())
    camera, box = started(tmp_path, manifest)

    found = box.until(GoldenCompared).found_permille

    assert found is not None
    assert found < 900
    camera.stop()


def test_a_bridge_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    manifest = packed(tmp_path, tiny())
    camera, box = started(tmp_path, manifest, Fault(kind="injection_busy", value=3))

    assert box.until(GoldenCompared).found_permille == 1000
    camera.stop()


@pytest.mark.parametrize(
    "fault", [Fault(kind="no_injection"), Fault(kind="injection_busy", value=1000)]
)
def test_where_nothing_can_be_injected_the_release_is_judged_without(
    fault: Fault, tmp_path: Path
) -> None:
    manifest = packed(tmp_path, tiny())
    camera, box = started(tmp_path, manifest, fault)
    compared = box.until(GoldenCompared)

    assert compared.found_permille is None
    assert judged(manifest, box, compared).state is State.HEALTHY
    camera.stop()


def test_the_gate_waits_for_a_golden_set_that_was_asked_for(tmp_path: Path) -> None:
    manifest = packed(tmp_path, tiny())
    common = {"frame_rate": 30.0, "probe_seconds": 1.0, "valid_rate": 900}

    assert expected_of(manifest, kind="modlib", **common).golden_permille_min is None  # type: ignore[arg-type]
    asked = expected_of(manifest, kind="modlib", injects=True, **common)  # type: ignore[arg-type]
    assert asked.golden_permille_min == 900
