"""`make bench` as its users run it: real broker, real agents, one line of JSON a fleet size."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.ending import end_once_there, environment, wait_until_none

BENCH = (sys.executable, "-m", "benchmarks", "--agents", "3", "-o", "json")
AGENTS = 3  # On two processors: two full agents and a core.
NEEDED = {
    "agents", "release_bytes", "controller_bytes_sent", "seconds_to_committed", "gap_seconds",
}  # fmt: skip


def test_a_bench_prints_a_line_of_json_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ran = subprocess.run(
        BENCH, env=environment(tmp_path), capture_output=True, check=False, timeout=240
    )

    assert ran.returncode == 0, ran.stderr.decode()
    (line,) = ran.stdout.splitlines()
    result = json.loads(line)
    assert result.keys() >= NEEDED
    assert (result["agents"], result["release_bytes"]) == (AGENTS, 3_000_000)
    # All of the release once, and next to nothing else.
    assert 1.0 < result["controller_bytes_sent"] / result["release_bytes"] < 1.02
    assert result["seconds_to_committed"] >= result["seconds_fixed"]
    assert result["gap_seconds_max"] >= result["gap_seconds"] > 0
    assert result["camera"]["rss_bytes"] > result["agent"]["rss_bytes"] > 0
    assert result["busy_permille"] > 0
    assert 0 <= result["idle_permille"] < result["busy_permille"]
    assert wait_until_none(tmp_path) == []
    assert list(tmp_path.glob("imxfleet-*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_however_a_bench_is_ended_no_process_is_left(tmp_path: Path, number: int) -> None:
    there = "*/devices/full-1/journal.json"  # The last to start runs.
    end_once_there(BENCH, tmp_path, there, number=number, seconds_max=100.0)

    assert wait_until_none(tmp_path) == []
