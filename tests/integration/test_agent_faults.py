"""Cameras, brokers, disks and agents that fail: a device ends on a verified, running model."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.camera.wire import Fault
from controller.broker import RunningBroker
from controller.twins import PACKER_VARIABLE, write_packer
from shared.assignment import Action, Probe
from tests.cameras import KINDS
from tests.fleet import (
    camera_of,
    cause_of,
    entry_of,
    make_release,
    phase_of,
)
from tests.integration.agents import Site, is_streaming, open_site
from tests.integration.conftest import BrokerHouse, on_nats

DEVICE = "gate-01"


@pytest.fixture
def site(broker: RunningBroker, tmp_path: Path) -> Iterator[Site]:
    yield from open_site(broker, tmp_path)


@pytest.fixture(params=KINDS)
def any_site(
    request: pytest.FixtureRequest,
    broker: RunningBroker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """A site with simulated cameras, or with the real libraries on twins of the sensor."""
    monkeypatch.setenv(PACKER_VARIABLE, str(write_packer(tmp_path)))
    yield from open_site(broker, tmp_path, request.param)


FAULTS = ("crash", "wrong_shapes", "wrong_name", "failed_start", "hang", "no_valid_output")
# The libraries load slowly, and every fault is shown on them in test_camera_process.py.
FAULTS_ON_TWINS = ("crash", "wrong_name", "failed_start")


@on_nats
def test_releases_that_fail_their_gate_are_rolled_back_and_to_blame(any_site: Site) -> None:
    site = any_site
    kinds = FAULTS if site.kind == "simulated" else FAULTS_ON_TWINS
    faults = [
        Fault(kind=kind, release=f"tiny@{number}")  # type: ignore[arg-type]
        for number, kind in enumerate(kinds, start=2)
    ]
    site.agent(DEVICE, faults=tuple(faults))
    first = site.release(1)
    site.offer(first)
    site.fleet.wait_phase(DEVICE, "committed")
    is_quick = site.kind == "simulated"
    quick = Probe(seconds=1, valid_rate_permille=500, activation_seconds=3)
    probe = quick if is_quick else site.probe

    for number, kind in enumerate(kinds, start=2):
        release, rollout = site.release(number), f"r-{number}"
        site.fleet.put_blocks(release)
        site.fleet.list_release(release)
        site.fleet.plan(site.entry(release, rollout, probe=probe), site.entry(first, "r-1"))

        report = site.fleet.wait_phase(DEVICE, "rolled_back", rollout)
        assert cause_of(report, rollout) == "release", kind
        assert camera_of(report)["release"] == "tiny@1", kind
        assert is_streaming(site.fleet.wait(DEVICE, is_streaming))


@on_nats
def test_a_rejected_release_is_not_tried_by_the_next_wave_but_by_a_new_attempt(
    site: Site,
) -> None:
    agent = site.agent(DEVICE, faults=(Fault(kind="crash", release="tiny@2"),))
    first, second = make_release(1), make_release(2)
    site.fleet.offer(first)
    site.fleet.wait_phase(DEVICE, "committed")
    site.fleet.put_blocks(second)
    site.fleet.list_release(second)
    site.fleet.plan(entry_of(second, "r-2", share=2**31, pins=frozenset({DEVICE})), entry_of(first))
    starts = camera_of(site.fleet.wait_phase(DEVICE, "rolled_back", "r-2"))["starts"]

    site.fleet.plan(entry_of(second, "r-2"), entry_of(first))
    version = site.fleet.repository.version
    report = site.fleet.wait(
        DEVICE,
        lambda report: report["plan_version"] == version and bool(camera_of(report)["is_settled"]),
    )
    assert camera_of(report)["starts"] == starts

    agent.stop()
    site.set_faults(DEVICE)
    agent.start()
    site.fleet.plan(entry_of(second, "r-2", attempt=2), entry_of(first))
    site.fleet.wait(DEVICE, lambda report: camera_of(report)["release"] == "tiny@2")


@on_nats
def test_a_release_whose_network_bears_another_name_is_never_committed(site: Site) -> None:
    site.agent(DEVICE)
    first, second = make_release(1), make_release(2, runs_as="n-somebody-else")
    site.fleet.offer(first)
    site.fleet.wait_phase(DEVICE, "committed")

    site.fleet.put_blocks(second)
    site.fleet.list_release(second)
    site.fleet.plan(entry_of(second, "r-2"), entry_of(first, "r-1"))

    report = site.fleet.wait_phase(DEVICE, "rolled_back", "r-2")
    assert cause_of(report, "r-2") == "release"


@on_nats
def test_a_dead_camera_is_blamed_on_the_camera_not_on_the_release(any_site: Site) -> None:
    site = any_site
    # The bridge dies for good at the second start: the new release's, and every later one.
    dead = Fault(kind="dead_bridge", value=1)
    agent = site.agent(DEVICE, faults=(dead,))
    first, second = site.release(1), site.release(2)
    site.offer(first)
    site.fleet.wait_phase(DEVICE, "committed")
    site.set_faults(DEVICE, Fault(kind="failed_start"))  # What the reboot finds.

    site.fleet.put_blocks(second)
    site.fleet.list_release(second)
    site.fleet.plan(site.entry(second, "r-2"), site.entry(first))

    report = site.fleet.wait_phase(DEVICE, "broken", "r-2")
    assert cause_of(report, "r-2") == "camera"
    assert camera_of(report)["release"] == "tiny@1"
    assert agent.is_alive
    assert "leaving: simulated_reboot" in agent.log.read_text()


@on_nats
def test_a_release_that_kills_the_bridge_is_blamed_on_the_release(any_site: Site) -> None:
    site = any_site
    agent = site.agent(DEVICE, faults=(Fault(kind="dead_bridge", value=1),))
    first, second = site.release(1), site.release(2)
    site.offer(first)
    site.fleet.wait_phase(DEVICE, "committed")

    site.fleet.put_blocks(second)
    site.fleet.list_release(second)
    site.fleet.plan(site.entry(second, "r-2"), site.entry(first))

    report = site.fleet.wait_phase(DEVICE, "rolled_back", "r-2")
    assert cause_of(report, "r-2") == "release"  # The boot brought the old one back.
    assert is_streaming(site.fleet.wait(DEVICE, is_streaming))
    assert "leaving: simulated_reboot" in agent.log.read_text()


@on_nats
def test_a_failed_first_release_with_nothing_before_is_broken_for_unknown_cause(
    site: Site,
) -> None:
    site.agent(DEVICE, faults=(Fault(kind="crash", release="tiny@1"),))

    site.fleet.offer(make_release(1))

    report = site.fleet.wait_phase(DEVICE, "broken")
    assert cause_of(report, "r-1") == "unknown"
    assert camera_of(report)["release"] is None
    second = make_release(2)
    site.fleet.put_blocks(second)
    site.fleet.list_release(second)
    site.fleet.plan(entry_of(second, "r-2"))
    site.fleet.wait_phase(DEVICE, "committed", "r-2")


@on_nats
def test_the_first_rollout_aborted_keeps_running_what_nothing_precedes(site: Site) -> None:
    site.agent(DEVICE)
    entry = site.fleet.offer(make_release(1))
    site.fleet.wait_phase(DEVICE, "committed")

    site.fleet.plan(replace(entry, action=Action.REVERT))

    report = site.fleet.wait_phase(DEVICE, "rolled_back")
    assert cause_of(report, "r-1") == "operator"
    assert camera_of(report)["release"] == "tiny@1"
    assert is_streaming(report)


@on_nats
def test_a_plan_in_the_middle_of_an_activation_waits_for_its_end(site: Site) -> None:
    site.agent(DEVICE, faults=(Fault(kind="slow_upload", value=2.0),))
    first, second = make_release(1), make_release(2)
    site.fleet.offer(first)
    site.fleet.wait_phase(DEVICE, "activating")

    site.fleet.put_blocks(second)
    site.fleet.list_release(second)
    site.fleet.plan(entry_of(second, "r-2"), entry_of(first, "r-1"))

    report = site.fleet.wait_phase(DEVICE, "committed", "r-2")
    assert phase_of(report, "r-1") == "committed"
    assert camera_of(report)["previous"] == "tiny@1"


@on_nats
def test_a_killed_or_silenced_camera_child_is_started_again(any_site: Site) -> None:
    site = any_site
    agent = site.agent(DEVICE)
    site.offer(site.release(1))
    site.fleet.wait_phase(DEVICE, "committed")
    (child,) = agent.children()

    os.kill(child, signal.SIGKILL)

    report = site.fleet.wait(
        DEVICE, lambda report: camera_of(report)["starts"] == 2 and is_streaming(report)
    )
    assert phase_of(report, "r-1") == "committed"


@on_nats
def test_a_hung_and_silent_camera_child_is_replaced(any_site: Site) -> None:
    site = any_site
    agent = site.agent(DEVICE)
    site.offer(site.release(1))
    site.fleet.wait_phase(DEVICE, "committed")
    (child,) = agent.children()

    os.kill(child, signal.SIGSTOP)

    report = site.fleet.wait(
        DEVICE, lambda report: camera_of(report)["starts"] == 2 and is_streaming(report), 60
    )
    assert phase_of(report, "r-1") == "committed"


@on_nats
def test_camera_children_die_with_a_killed_agent(site: Site) -> None:
    agent = site.agent(DEVICE)
    site.fleet.offer(make_release(1))
    site.fleet.wait_phase(DEVICE, "committed")
    (child,) = agent.children()

    agent.kill()

    def is_gone(_: object) -> bool:
        try:
            stat = Path(f"/proc/{child}/stat").read_text()
        except OSError:
            return True
        return stat.rpartition(")")[2].split()[0] == "Z"

    site.fleet.wait(DEVICE, is_gone)


def test_a_broker_killed_during_the_fetch_and_restarted_empty_is_only_a_delay(
    house: BrokerHouse, tmp_path: Path
) -> None:
    broker = house.start()
    with contextmanager(open_site)(broker, tmp_path) as site:
        site.agent(DEVICE)
        release = make_release(1, padding=600_000)
        digest = release.manifest.files[0].blocks[-1]
        site.fleet.put_blocks(release)
        site.fleet.put(site.fleet.topics.block(digest), b"")
        site.fleet.list_release(release)
        bundle = site.fleet.plan(entry_of(release))
        site.fleet.wait_phase(DEVICE, "fetching")

        broker.kill()
        house.folder = tmp_path / "empty"
        house.start_again(broker)
        site.fleet.put_blocks(release)
        site.fleet.put(site.fleet.topics.trust, bundle)

        report = site.fleet.wait_phase(DEVICE, "committed")
        assert camera_of(report)["release"] == "tiny@1"
