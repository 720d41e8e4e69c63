"""`fleet-agent status`, `doctor` and `doctor --hardware` beside a real agent on a real broker."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec
import pytest

from agent.journal import Saved
from controller.broker import RunningBroker, run_nats
from tests.fleet import ROOT, RunningAgent, entry_of, make_release
from tests.integration.agents import Site, is_streaming, open_site

WALKED = (
    "deploy", "swap", "kill the camera's process", "kill the agent", "cut the network",
    "restore the network", "pull the plug",
)  # fmt: skip


@pytest.fixture
def house(tmp_path: Path) -> Iterator[list[RunningBroker]]:
    """A broker that can be taken away and brought back."""
    running = [run_nats(tmp_path / "broker")]
    yield running
    running[-1].stop()


@pytest.fixture
def site(house: list[RunningBroker], tmp_path: Path) -> Iterator[Site]:
    yield from open_site(house[0], tmp_path)


def rebooted(saved: Saved) -> Saved:
    """What the next boot finds: a simulated device counts its own."""
    return msgspec.structs.replace(saved, boots=saved.boots + 1, is_clean=True)


def asked(agent: RunningAgent, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", *arguments, "--state", str(agent.state)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_status_and_doctor_say_what_runs_then_that_nothing_does(site: Site) -> None:
    agent = site.agent("gate-01")
    site.fleet.offer(make_release(1))
    site.fleet.wait_phase("gate-01", "committed")
    site.fleet.wait("gate-01", is_streaming)

    running = asked(agent, "status", "-o", "json")
    words = asked(agent, "status")
    checked = asked(agent, "doctor", "-o", "json")
    agent.stop()
    stopped = asked(agent, "status")

    said = json.loads(running.stdout)
    assert (running.returncode, said["is_running"], said["is_well"]) == (0, True, True)
    assert said["note"]["children"].keys() == {"0"}
    assert "simulated, streaming, tiny@1" in words.stdout
    assert words.returncode == 0
    findings = {one["what"]: one for one in json.loads(checked.stdout)}
    assert findings["camera 0"]["level"] == "ok"
    assert findings["broker"]["text"].endswith("connected")
    assert "camera" not in findings, "a simulated camera has no sensor to be missing"
    assert stopped.returncode == 3
    assert "not running" in stopped.stdout


def test_a_broker_that_is_gone_is_seen_by_status_and_by_doctor(
    site: Site, house: list[RunningBroker]
) -> None:
    agent = site.agent("gate-01")
    agent.wait_said("connected to the broker")
    house[0].kill()
    agent.wait_said("no connection to the broker: ")
    agent.wait_said("no connection to the broker: ", times=2)

    status = asked(agent, "status")
    doctor = asked(agent, "doctor", "-o", "json")

    assert status.returncode == 4
    assert "no connection to the broker" in status.stdout
    (finding,) = [one for one in json.loads(doctor.stdout) if one["what"] == "broker"]
    assert finding["level"] == "error"
    assert finding["remedy"]


def test_a_device_that_is_not_enrolled_is_told_without_a_traceback(tmp_path: Path) -> None:
    nobody = RunningAgent("gate-01", tmp_path / "none", tmp_path / "none.yaml")

    for arguments in (["status"], ["doctor", "--hardware", "--report", str(tmp_path / "r.json")]):
        done = asked(nobody, *arguments)
        assert done.returncode == 1
        assert "there is no" in done.stderr
        assert "Traceback" not in done.stderr


class Walk:
    """The person's terminal: `doctor --hardware`, line by line."""

    def __init__(self, agent: RunningAgent, report: Path) -> None:
        command = [sys.executable, "-m", "agent", "doctor", "--hardware", "--state"]
        self.process = subprocess.Popen(
            [*command, str(agent.state), "--report", str(report)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_said(self, text: str) -> None:
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            assert not line.startswith("FAILED"), "".join(said)
            if text in line:
                return
        raise AssertionError("".join(said))


def walk_until_the_plug(site: Site, house: list[RunningBroker], agent: RunningAgent) -> None:
    """Do what the person is told, up to the last step, and cut the power there."""
    first, second = make_release(1), make_release(2)
    with Walk(agent, report_of(site)) as walk:
        walk.wait_said(": deploy")
        site.fleet.offer(first)
        walk.wait_said(": swap")
        site.fleet.put_blocks(second)
        site.fleet.list_release(second)
        site.fleet.plan(entry_of(second, "r-2"), entry_of(first))
        walk.wait_said(": kill the agent")
        agent.wait_killed()  # By doctor; systemd would start it again.
        agent.start()
        walk.wait_said(": cut the network")
        house[0].stop()
        walk.wait_said(": restore the network")
        house.append(run_nats(site.folder / "broker", house[0].port))
        walk.wait_said(": pull the plug")
    agent.kill()  # The power cut ends doctor, too.
    agent.change_journal(rebooted)
    agent.start()


def report_of(site: Site) -> Path:
    return site.folder / "report.json"


def test_a_person_is_walked_through_a_trial_that_survives_the_power_cut(
    site: Site, house: list[RunningBroker]
) -> None:
    agent = site.agent("gate-01")
    agent.wait_said("connected to the broker")

    walk_until_the_plug(site, house, agent)
    with Walk(agent, report_of(site)) as again:
        again.wait_said("The report is in")
        code = again.process.wait()

    assert code == 0
    text = report_of(site).read_text()
    written = json.loads(text)
    assert tuple(one["name"] for one in written["walked"]) == WALKED
    assert {one["outcome"] for one in written["walked"]} == {"passed"}
    assert written["walked"][1]["text"].startswith("tiny@1 -> tiny@2")
    assert written["device"] == "gate-01"
    for secret in ("password", "BEGIN", '"root"'):
        assert secret not in text
