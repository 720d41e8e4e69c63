"""What a real agent finds when it starts: old trust, a device that hung, a camera worn out.

The files are what a device would have after that time or those crashes; the agent is a process.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tuf.api.metadata import Snapshot, Timestamp

from agent.journal import Saved, Starts, TrustFloor
from agent.watch import BOOT_LOOP_RUNS, STARTS_PER_BOOT_MAX
from controller.broker import RunningBroker
from controller.repository import bundle_bytes
from shared.messages import parse_time, time_text
from tests.fleet import FLEET, Reported, camera_of, cause_of, entry_of, make_release, phase_of
from tests.integration.agents import Site, is_streaming, open_site
from tests.integration.conftest import on_nats
from tests.making import bundle_of, forged

DEVICE = "gate-01"
pytestmark = on_nats


@pytest.fixture
def site(broker: RunningBroker, tmp_path: Path) -> Iterator[Site]:
    yield from open_site(broker, tmp_path)


def waiting_for(report: Reported) -> object:
    deployment = camera_of(report).get("deployment")
    return deployment["waiting_for"] if isinstance(deployment, dict) else None


def expire(signed: Timestamp | Snapshot) -> None:
    signed.expires = datetime.now(UTC) - timedelta(days=1)


def test_over_an_expired_trust_journal_the_old_model_runs_and_only_a_newer_plan_counts(
    site: Site,
) -> None:
    fleet, agent = site.fleet, site.agent(DEVICE)
    first, second = make_release(1), make_release(2)
    fleet.offer(first)
    fleet.wait_phase(DEVICE, "committed")
    agent.stop()
    older = bundle_bytes(fleet.repository)
    fleet.put_blocks(second)
    fleet.list_release(second)
    files = json.loads(fleet.sign(entry_of(second, "r-2"), entry_of(first)))["files"]
    expired = forged(files, fleet.keys, timestamp=expire, snapshot=expire)
    (agent.state / "trust.json").write_bytes(bundle_of(expired, FLEET))
    agent.change_journal(lambda saved: msgspec.structs.replace(saved, trust=TrustFloor()))
    fleet.put(fleet.topics.trust, b"")
    fleet.reported.clear()

    agent.start()

    report = fleet.wait(DEVICE, lambda report: waiting_for(report) == "clock")
    assert parse_time(report["trust"]["expires"]) < datetime.now(UTC)  # type: ignore[index]
    report = fleet.wait(DEVICE, is_streaming)
    assert camera_of(report)["release"] == "tiny@1"
    fleet.put(fleet.topics.trust, older)
    fleet.wait(DEVICE, lambda report: "replayed" in str(report["refused"]))
    fleet.plan(entry_of(second, "r-2"), entry_of(first))
    assert camera_of(fleet.wait_phase(DEVICE, "committed", "r-2"))["release"] == "tiny@2"


def test_a_release_that_hangs_the_device_after_its_commit_is_rolled_back(site: Site) -> None:
    fleet, agent = site.fleet, site.agent(DEVICE)
    first, second = make_release(1), make_release(2)
    fleet.offer(first)
    fleet.wait_phase(DEVICE, "committed")
    fleet.put_blocks(second)
    fleet.list_release(second)
    fleet.plan(entry_of(second, "r-2"), entry_of(first))
    fleet.wait_phase(DEVICE, "committed", "r-2")

    for _ in range(BOOT_LOOP_RUNS):
        report = fleet.wait(DEVICE, is_streaming)
        assert camera_of(report)["release"] == "tiny@2"
        agent.kill()  # The device hangs, and somebody takes the plug out.
        agent.change_journal(lambda saved: msgspec.structs.replace(saved, boots=saved.boots + 1))
        fleet.reported.clear()
        agent.start()

    report = fleet.wait_phase(DEVICE, "rolled_back", "r-2")
    assert cause_of(report, "r-2") == "release"  # The one before runs well on this camera.
    assert camera_of(report)["release"] == "tiny@1"
    assert is_streaming(fleet.wait(DEVICE, is_streaming))


def test_a_camera_started_too_often_takes_a_new_release_only_after_a_reboot(site: Site) -> None:
    fleet, agent = site.fleet, site.agent(DEVICE)
    first, second = make_release(1), make_release(2)
    fleet.offer(first)
    fleet.wait_phase(DEVICE, "committed")
    agent.stop()

    def worn(saved: Saved) -> Saved:
        starts = Starts(boot=saved.boot, counts={"0": STARTS_PER_BOOT_MAX})
        just_now = time_text(datetime.now(UTC))  # The reboot of this day is spent.
        return msgspec.structs.replace(saved, starts=starts, rebooted_at=just_now)

    agent.change_journal(worn)
    fleet.put_blocks(second)
    fleet.list_release(second)
    fleet.plan(entry_of(second, "r-2"), entry_of(first))
    agent.start()

    report = fleet.wait(DEVICE, lambda r: waiting_for(r) == "reboot" and is_streaming(r))
    assert camera_of(report)["release"] == "tiny@1"
    agent.stop()
    agent.change_journal(lambda saved: msgspec.structs.replace(saved, rebooted_at=None))
    agent.start()  # A day later.
    report = fleet.wait_phase(DEVICE, "committed", "r-2")
    assert camera_of(report)["starts"] == 2  # In the new boot: the old release, and this one.
    assert phase_of(report, "r-1") == "committed"
    assert agent.log.read_text().count("leaving: simulated_reboot") == 1
