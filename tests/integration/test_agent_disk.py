"""A disk that is really full while a release is fetched: a delay, never an outcome.

The kernel refuses the writes of the running agent: a limit on the length of files (RLIMIT_FSIZE)
needs no rights, and can be set and lifted from outside. Where this machine lets us mount one, a
small disk is filled, too.
"""

import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.slots import RESERVE_BYTES
from controller.broker import RunningBroker
from shared.subscriptions import Schedule
from tests.fleet import Reported, RunningAgent, camera_of, entry_of, make_release, phase_of
from tests.integration.agents import Site, is_streaming, open_site
from tests.integration.conftest import on_nats

DEVICE = "gate-01"
REPEATED_SECONDS = Schedule().after
pytestmark = on_nats


@pytest.fixture
def site(broker: RunningBroker, tmp_path: Path) -> Iterator[Site]:
    yield from open_site(broker, tmp_path)


def limit_files(agent: RunningAgent, longest_bytes: int = resource.RLIM_INFINITY) -> None:
    """Let the kernel refuse what makes any file of the agent longer."""
    _, hard = resource.prlimit(agent.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (longest_bytes, hard))


def waits_for_disk(report: Reported) -> bool:
    deployment = camera_of(report).get("deployment")
    return isinstance(deployment, dict) and deployment["waiting_for"] == "disk"


def test_a_disk_without_room_for_blocks_delays_the_release_and_the_old_one_streams_on(
    site: Site,
) -> None:
    agent = site.agent(DEVICE)
    first, second = make_release(1), make_release(2, padding=300_000)
    site.fleet.offer(first)
    site.fleet.wait_phase(DEVICE, "committed")

    limit_files(agent, 60_000)  # Room for journals, none for a block.
    site.fleet.put_blocks(second)
    site.fleet.list_release(second)
    site.fleet.plan(entry_of(second, "r-2"), entry_of(first))

    report = site.fleet.wait(DEVICE, waits_for_disk)
    assert phase_of(report, "r-2") == "fetching"
    assert camera_of(report)["release"] == "tiny@1"
    assert is_streaming(report)
    limit_files(agent)
    site.fleet.wait_phase(DEVICE, "committed", "r-2")


def test_a_plan_that_no_disk_could_take_is_followed_once_there_is_room(site: Site) -> None:
    """Nor is it a repeated subscription that brings it: we begin after that of 10 s, and end before
    that of 60 s.
    """
    agent = site.agent(DEVICE)
    agent.wait_said("connected to the broker")
    connected_at = time.monotonic()
    first, second = make_release(1), make_release(2)
    site.fleet.offer(first)
    site.fleet.wait_phase(DEVICE, "committed")

    limit_files(agent, 0)  # Not a byte: neither journal nor bundle.
    site.fleet.put_blocks(second)
    site.fleet.list_release(second)
    site.fleet.plan(entry_of(second, "r-2"), entry_of(first))

    report = site.fleet.wait(DEVICE, lambda report: says_disk(report) and is_streaming(report))
    assert camera_of(report)["release"] == "tiny@1"
    while time.monotonic() < connected_at + REPEATED_SECONDS[1] + 1.0:
        site.fleet.take(0.2)
    limit_files(agent)  # And nobody sends anything again.
    left = connected_at + REPEATED_SECONDS[2] - 1.0 - time.monotonic()
    site.fleet.wait(DEVICE, lambda r: phase_of(r, "r-2") == "committed", left)


def test_a_budget_that_is_spent_waits_and_is_no_bad_outcome(site: Site) -> None:
    release = make_release(1, padding=300_000)
    agent = site.agent(DEVICE, "--disk-budget", "200000")
    site.fleet.offer(release)

    report = site.fleet.wait(DEVICE, waits_for_disk)
    assert camera_of(report)["ended"] == []
    agent.stop()
    agent.arguments = agent.arguments[:-2]
    agent.start()
    site.fleet.wait_phase(DEVICE, "committed")


def says_disk(report: Reported) -> bool:
    message = report["refused"]["message"]  # type: ignore[index]
    return message is not None and message["code"] == "disk"


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    folder.mkdir()
    command = ["/bin/mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets us mount no small disk; the tests above run everywhere")
    try:
        yield
    finally:
        subprocess.run(["/bin/umount", str(folder)], check=True)


def test_a_release_that_fills_the_disk_gives_way_to_one_that_fits(
    broker: RunningBroker, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / DEVICE, RESERVE_BYTES + 2_000_000),
        contextmanager(open_site)(broker, tmp_path) as site,
    ):
        site.agent(DEVICE)
        site.fleet.offer(make_release(1, padding=4_000_000))
        report = site.fleet.wait(DEVICE, waits_for_disk)
        assert camera_of(report)["ended"] == []

        site.fleet.offer(make_release(2), "r-2")

        report = site.fleet.wait_phase(DEVICE, "committed", "r-2")
        assert camera_of(report)["release"] == "tiny@2"
