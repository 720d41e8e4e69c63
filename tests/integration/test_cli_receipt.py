"""What people see of measured accuracy: ``release show`` and ``release diff``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from controller.export.facts import FACTS_KEY, Facts
from controller.export.goldens import golden_of
from controller.export.pack import make_release
from controller.export.receipt import Receipt, encode_receipt
from controller.service import Controller
from shared.graph import Graph
from shared.release import SENSOR_MEMORY_BYTES, Input
from tests.receipts import receipt_of
from tests.tinygraph import LABELS, NETWORK_NAME, SIDE, manifest_of, tiny

FLEET_YAML = (
    "version: 1\nfleet: shapes\nbroker: {url: 'mqtt://127.0.0.1:1'}\ndevices: {eye-1: {}}\n"
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet with three releases: with receipt and golden set, with a better one, and bare."""
    project = tmp_path_factory.mktemp("fleet") / "project"
    project.mkdir()
    (project / "fleet.yaml").write_text(FLEET_YAML)
    home = project.parent / "data" / "imxfleet"
    controller = Controller.init_fleet(project, home=home, passphrase=None)
    try:
        for version, receipt in enumerate((receipt_of(), receipt_of(quantised=0.53), None), 1):
            package = _package(project / f"package-{version}", receipt)
            controller.import_release(*make_release(package, name="shapes", version=version))
    finally:
        controller.close()
    return project


def _package(folder: Path, receipt: Receipt | None) -> Path:
    facts = Facts(
        task="detect",
        network_name=NETWORK_NAME,
        input=Input(width=SIDE, height=SIDE, color="RGB"),
        outputs=manifest_of({}).outputs,
        threshold_permille=250,
        memory_bytes=SENSOR_MEMORY_BYTES // 2,
        provenance={},
    )
    graph = tiny()
    graph.metadata[FACTS_KEY] = msgspec.json.encode(facts).decode()
    folder.mkdir()
    (folder / "simulator.onnx").write_bytes(graph.graph())
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    if receipt is not None:
        picture = np.full((SIDE, SIDE, 3), 128, np.uint8)
        golden = golden_of([picture], graph=Graph(graph.graph()), count=1)
        (folder / "golden.npz").write_bytes(golden)
        (folder / "receipt.json").write_bytes(encode_receipt(receipt))
    return folder


def fleetctl(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controller", *arguments],
        cwd=project, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_DATA_HOME": str(project.parent / "data")}, timeout=120,
    )  # fmt: skip


def test_release_show_prints_what_was_measured(fleet: Path) -> None:
    shown = fleetctl(fleet, "release", "show", "shapes@1")
    document = json.loads(fleetctl(fleet, "release", "show", "shapes@1", "-o", "json").stdout)

    assert shown.returncode == 0, shown.stderr
    rows = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "mAP50-95 0.537 0.294 0.521 0.016" in rows
    assert "circle 16 0.500 0.400 0.100" in rows
    assert "Measured on 20 pictures with 21 objects of the split test" in shown.stdout
    assert document["receipt"]["classes"][1]["label"] == "triangle"
    assert document["receipt"]["scores"][0]["quantised"] == 0.521
    assert document["manifest"]["receipt"]["quantised_permille"] == 521
    assert document["manifest"]["golden"]["tolerance_permille"] == 100


def test_a_release_without_a_receipt_is_shown_without_one(fleet: Path) -> None:
    shown = fleetctl(fleet, "release", "show", "shapes@3")
    document = json.loads(fleetctl(fleet, "release", "show", "shapes@3", "-o", "json").stdout)

    assert shown.returncode == 0, shown.stderr
    assert "Measured" not in shown.stdout
    assert document["receipt"] is None


def test_release_diff_prints_what_differs_and_by_how_much(fleet: Path) -> None:
    shown = fleetctl(fleet, "release", "diff", "shapes@1", "shapes@2")
    documents = json.loads(
        fleetctl(fleet, "release", "diff", "shapes@1", "shapes@2", "-o", "json").stdout
    )

    rows = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "accuracy mAP50-95, quantised 0.521 0.53 +0.009" in rows
    assert documents[0] == {
        "about": "accuracy", "name": "mAP50-95, quantised",
        "one": 0.521, "other": 0.53, "change": 0.009,
    }  # fmt: skip


def test_release_diff_of_one_release_says_that_nothing_differs(fleet: Path) -> None:
    shown = fleetctl(fleet, "release", "diff", "shapes@1", "shapes@1")

    assert shown.returncode == 0, shown.stderr
    assert "the same accuracy" in shown.stdout


def test_release_diff_refuses_a_release_that_is_not_there(fleet: Path) -> None:
    refused = fleetctl(fleet, "release", "diff", "shapes@1", "shapes@9")

    assert refused.returncode == 1
    assert "shapes@9" in refused.stderr
    assert "Traceback" not in refused.stderr
