"""`fleetctl model bench` shows what was measured, and leaves empty what was not."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.cli import app
from controller.export.comparison import COLUMNS, OnCamera, seen_on_cameras
from controller.export.facts import read_facts
from controller.export.receipt import Pictures, Receipt, Score, encode_receipt
from controller.status import DeviceStatus
from shared.errors import ExportError
from shared.messages import CameraReported, Evidence, EvidencePair, Quantiles

PACKAGE = Path(__file__).resolve().parents[2] / "examples" / "shapes" / "second"
SHA256 = "a" * 64


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "measured"
    shutil.copytree(PACKAGE, folder)
    facts = read_facts(folder / "simulator.onnx")
    scores = (("mAP50-95", 0.612, 0.587), ("mAP50", 0.8, 0.79))
    receipt = Receipt(
        task="detect",
        network_name=facts.network_name,
        scores=tuple(
            Score(metric=metric, float32=float32, quantised=quantised, stock=None)
            for metric, float32, quantised in scores
        ),
        classes=(),
        pictures=Pictures(split="test", count=9, objects=20, is_held_out=True, sha256=SHA256),
        files={},
        memory_bytes=facts.memory_bytes,
    )
    (folder / "receipt.json").write_bytes(encode_receipt(receipt))
    (folder / "packerOut.zip").write_bytes(b"x" * 1_234_567)
    return folder


def test_a_row_holds_what_receipt_and_files_say(package: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.md"

    done = CliRunner().invoke(
        app.fleetctl, ["model", "bench", str(package), "-o", "json", "--markdown", str(table)]
    )

    assert done.exit_code == 0, done.output
    (model,) = json.loads(done.stdout)
    assert model["packer_bytes"] == 1_234_567
    assert model["scores"] == {"mAP50-95": 0.587, "mAP50": 0.79}
    assert model["float32"] == 0.612
    assert model["graph_ms"] > 0
    assert model["on_camera"] is None
    heads, _, row = (
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in table.read_text().splitlines()[:3]
    )
    assert tuple(heads) == COLUMNS
    assert row[:7] == ["measured", "detect", "160x160", "1.23", "mAP50-95", "0.612", "0.587"]


def test_what_nobody_measured_is_empty() -> None:
    done = CliRunner().invoke(app.fleetctl, ["model", "bench", str(PACKAGE), "-o", "json"])

    (model,) = json.loads(done.stdout)
    assert model["scores"] == {}
    assert (model["float32"], model["packer_bytes"], model["on_camera"]) == (None, None, None)


def test_a_receipt_that_does_not_read_is_refused(package: Path) -> None:
    (package / "receipt.json").write_bytes(b"{}")

    done = CliRunner().invoke(app.fleetctl, ["model", "bench", str(package)])

    assert isinstance(done.exception, ExportError)
    assert "not a receipt" in str(done.exception)


def evidence(*, release: str = "a@1", valid: int = 100, p50: float | None = 20.0) -> Evidence:
    return Evidence(
        release=release,
        seconds=10,
        frames=valid + 10,
        valid=valid,
        objects=0,
        score_histogram=(0,) * 10,
        dnn_ms=None if p50 is None else Quantiles(p50, p50),
    )


def device(
    *, kind: str = "modlib", sha256: str = SHA256, running: Evidence | None = None
) -> DeviceStatus:
    camera = CameraReported(
        kind=kind,
        state="streaming",
        release="a@1",
        manifest_sha256=sha256,
        evidence=EvidencePair(running=running or evidence()),
    )
    return DeviceStatus(
        device="eye", state="online", labels={}, cameras={0: camera, 1: None}, identity_version=1,
        identity_reported=1, plan_version=1, last_heard=None, agent_version=None, notes=(),
        reported=None,
    )  # fmt: skip


def test_real_cameras_count_and_of_several_the_median() -> None:
    devices = [device(running=evidence(valid=v, p50=p)) for v, p in ((90, 18), (100, 20), (300, 9))]

    seen = seen_on_cameras(devices, release="a@1", manifest_sha256=SHA256)

    assert seen == OnCamera(cameras=3, ms=18, frames_per_second=10)


@pytest.mark.parametrize(
    "other",
    [
        device(kind="simulated"),
        device(sha256="b" * 64),
        device(running=evidence(release="a@2")),
    ],
    ids=["a simulated camera", "other content under the name", "of the release before"],
)
def test_nothing_else_counts(other: DeviceStatus) -> None:
    assert seen_on_cameras([other], release="a@1", manifest_sha256=SHA256) is None


def test_a_sensor_that_gives_no_times_leaves_them_empty() -> None:
    seen = seen_on_cameras(
        [device(running=evidence(p50=None))], release="a@1", manifest_sha256=SHA256
    )

    assert seen == OnCamera(cameras=1, ms=None, frames_per_second=10)
