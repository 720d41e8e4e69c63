"""The demo as a newcomer runs it: a process of its own, real broker, real agents."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from controller.demo import DEVICES_DECLARED, ROOT, write_project
from controller.inventory import load_fleet

DEMO = (sys.executable, "-m", "controller", "demo")
END_SECONDS = 120.0


def processes_below(folder: Path) -> list[int]:
    """Return the processes that were started with a path below the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command:
                found.append(int(entry.name))
    return found


def wait_until_none(folder: Path) -> list[int]:
    deadline = monotonic() + 20.0
    while (left := processes_below(folder)) and monotonic() < deadline:
        sleep(0.1)
    return left


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


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
    demo = subprocess.Popen(
        DEMO, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = monotonic() + 60.0
        while not any(tmp_path.glob("*/cam-3.log")):  # Broker and agents are up.
            assert monotonic() < deadline
            assert demo.poll() is None
            sleep(0.05)
        demo.send_signal(number)
        demo.wait(60.0)
    finally:
        demo.kill()
        demo.wait()

    assert wait_until_none(tmp_path) == []


def test_the_demo_fleet_is_the_documented_one_with_more_devices(tmp_path: Path) -> None:
    project = write_project(tmp_path, devices=12, url="mqtt://127.0.0.1:1884")

    fleet = load_fleet(project / "fleet.yaml")

    assert len(fleet.devices) == 12
    assert fleet.broker.url == "mqtt://127.0.0.1:1884"
    assert DEVICES_DECLARED in (ROOT / "fleet.yaml").read_text()
