"""Releases of the store are looked at and compared by the `model` commands."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from agent.camera.scene import draw
from controller.cli import app
from controller.devices import Known
from controller.export.pack import make_release
from controller.service import Controller
from controller.store import Store
from shared.errors import OperatorError
from shared.messages import CameraReported, Evidence, EvidencePair, Quantiles, Reported

PACKAGE = Path(__file__).resolve().parents[2] / "examples" / "shapes" / "second"
RELEASE = "shapes@2"
FLEET_YAML = """\
version: 1
fleet: shapes
broker: {url: "mqtt://127.0.0.1:1"}
defaults: {camera: simulated}
devices:
  eye-1: {}
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Give the store of a fleet with one release; commands run in its folder."""
    (tmp_path / "fleet.yaml").write_text(FLEET_YAML)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    controller = Controller.init_fleet(tmp_path, passphrase=None, home=tmp_path / "data/imxfleet")
    manifest, files = make_release(PACKAGE, name="shapes", version=2)
    controller.import_release(manifest, files)
    opened = Store(controller.folder)
    yield opened
    opened.close()
    controller.close()


def fleetctl(*arguments: object) -> Result:
    return CliRunner().invoke(app.fleetctl, ["model", *map(str, arguments)])


@pytest.mark.usefixtures("store")
def test_a_release_sees_what_its_package_sees(tmp_path: Path) -> None:
    Image.fromarray(np.asarray(draw(1, 40, 160)[0])).save(tmp_path / "scene.png")

    (of_release, of_folder) = (
        json.loads(fleetctl("predict", network, "scene.png", "-o", "json").stdout)[0]
        for network in (RELEASE, PACKAGE)
    )

    assert of_release["objects"]
    assert of_release["objects"] == of_folder["objects"]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("command", ["predict", "bench"])
def test_a_release_that_is_not_there_is_named(tmp_path: Path, command: str) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "scene.png")
    more = ["scene.png"] if command == "predict" else []

    done = fleetctl(command, "shapes@3", *more)

    assert isinstance(done.exception, OperatorError)
    assert "shapes@3 is not in the store" in str(done.exception)


def test_a_real_cameras_report_fills_its_columns_and_a_simulated_ones_does_not(
    store: Store,
) -> None:
    for kind, expected in (("simulated", None), ("modlib", 17.5)):
        store.save_known("eye-1", Known("eye-1", report=_report(store, kind)))

        (model,) = json.loads(fleetctl("bench", RELEASE, "-o", "json").stdout)

        seen = model["on_camera"]
        assert model["model"] == RELEASE
        assert (seen and seen["ms"]) == expected
    assert seen == {"cameras": 1, "ms": 17.5, "frames_per_second": 15.0}


def _report(store: Store, kind: str) -> Reported:
    evidence = Evidence(
        release=RELEASE, seconds=60, frames=1000, valid=900, objects=0,
        score_histogram=(0,) * 10, dnn_ms=Quantiles(17.5, 18.0),
    )  # fmt: skip
    camera = CameraReported(
        kind=kind,
        state="streaming",
        release=RELEASE,
        manifest_sha256=store.manifest_sha256(RELEASE),
        evidence=EvidencePair(running=evidence),
    )
    return Reported(
        at="2026-11-24T03:00:00.000Z", clock="synced", boot="b", run="card-1", seq=0,
        agent_version="0.1.0", plan_version=1, plan_sha256=None, identity_version=1,
        cameras={"0": camera},
    )  # fmt: skip
