"""The demo as a newcomer runs it: a process of its own, real broker, real agents."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from controller.demo import DEVICES_DECLARED, ROOT, write_project
from controller.inventory import load_fleet
from tests.integration.ending import end_once_there, environment, wait_until_none

DEMO = (sys.executable, "-m", "controller", "demo")
END_SECONDS = 120.0


def test_the_demo_goes_as_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*DEMO, "--once", "--devices", "2", "-o", "json"],
        env=environment(tmp_path), capture_output=True, check=False, timeout=END_SECONDS,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr.decode()
    chapters = json.loads(ran.stdout)
    assert all(chapter["is_as_told"] for chapter in chapters)
    assert [c["happened"] for c in chapters if "tried shapes@3" in c["title"]] == [
        "rolled_back, cause release"
    ]
    assert wait_until_none(tmp_path) == []
    assert list(tmp_path.glob("imxfleet-*")) == []  # onnxruntime leaves a file of its own, .ses


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_demo_is_ended_no_process_is_left(tmp_path: Path, number: int) -> None:
    # Broker and agents are up.
    end_once_there(DEMO, tmp_path, "*/cam-3.log", number=number, seconds_max=60.0)

    assert wait_until_none(tmp_path) == []


def test_the_demo_fleet_is_the_documented_one_with_more_devices(tmp_path: Path) -> None:
    project = write_project(tmp_path, devices=12, url="mqtt://127.0.0.1:1884")

    fleet = load_fleet(project / "fleet.yaml")

    assert len(fleet.devices) == 12
    assert fleet.broker.url == "mqtt://127.0.0.1:1884"
    assert DEVICES_DECLARED in (ROOT / "fleet.yaml").read_text()
