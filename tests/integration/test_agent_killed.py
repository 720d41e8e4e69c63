"""``kill -9`` of a real agent in each phase: after its restart a verified model runs.

What happens after a kill does not depend on the broker, so one is enough.
"""

from collections.abc import Iterator

import pytest

from agent.camera.wire import Fault
from agent.steps import Phase
from controller.broker import run_nats
from tests.fleet import Release, camera_of, cause_of, entry_of, make_release, phase_of
from tests.integration.agents import Site, is_streaming, open_site

# Phase, what the journal says then, and which path is touched at the kill; none: at once.
KILLS = {
    "idle": ("idle", '"identity":{'),
    "fetching": ("fetching", '"phase":"fetching"'),
    "fetching, at a block": ("fetching", '"phase":"fetching"', "/blocks/"),
    "verifying": ("verifying", '"phase":"verifying"'),
    "verifying, at a file": ("verifying", '"phase":"verifying"', ".making/files/"),
    "staging": ("staging", '"phase":"staging"'),
    "waiting": ("waiting", '"phase":"waiting"'),
    "activating": ("activating", '"phase":"activating"'),
    "activating, at the child": ("activating", '"phase":"activating"', "agent.camera.worker"),
    "probing": ("probing", '"phase":"probing"'),
    "committed": ("committed", '"phase":"committed"'),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One fleet for all: each test has a device of its own."""
    folder = tmp_path_factory.mktemp("killed")
    broker = run_nats(folder / "broker")
    yield from open_site(broker, folder)
    broker.kill()


@pytest.fixture(autouse=True)
def _one_at_a_time(site: Site) -> Iterator[None]:
    yield
    while site.agents:
        site.agents.pop().stop()


@pytest.fixture(scope="module")
def releases(site: Site) -> tuple[Release, Release]:
    """Two signed releases; everybody gets the first."""
    first, second = make_release(1, padding=300_000), make_release(2)
    site.fleet.offer(first)
    site.fleet.put_blocks(second)
    site.fleet.list_release(second)
    return first, second


def named(text: str) -> str:
    return text.replace(", ", "-").replace(" ", "-")


@pytest.mark.parametrize("kill", KILLS)
def test_an_agent_killed_in_any_phase_of_a_deployment_ends_committed(
    site: Site, releases: tuple[Release, Release], kill: str
) -> None:
    site.fleet.plan(entry_of(releases[0]))
    agent = site.agent(named(kill), dies=KILLS[kill][1:])
    agent.wait_killed()

    agent.start()

    report = site.fleet.wait_phase(agent.device, "committed")
    assert camera_of(report)["release"] == "tiny@1"
    assert is_streaming(site.fleet.wait(agent.device, is_streaming))


@pytest.mark.parametrize("where", ["at once", "at the child"])
def test_an_agent_killed_while_rolling_back_ends_on_the_release_before(
    site: Site, releases: tuple[Release, Release], where: str
) -> None:
    first, second = releases
    site.fleet.plan(entry_of(first))
    device = f"rolling-back-{named(where)}"
    agent = site.agent(device, faults=(Fault(kind="crash", release="tiny@2"),))
    site.fleet.wait_phase(device, "committed")
    agent.stop()
    agent.dies = (
        '"phase":"rolling_back"',
        *(["agent.camera.worker"] if where != "at once" else []),
    )
    pinned = entry_of(second, "r-2", share=0, pins=frozenset({device}))
    site.fleet.plan(pinned, entry_of(first))
    agent.start().wait_killed()

    agent.start()

    report = site.fleet.wait_phase(device, "rolled_back", "r-2")
    assert cause_of(report, "r-2") == "release"
    assert camera_of(report)["release"] == "tiny@1"
    assert is_streaming(site.fleet.wait(device, is_streaming))


def test_an_agent_killed_before_the_reboot_that_is_due_reboots_and_takes_the_next_release(
    site: Site, releases: tuple[Release, Release]
) -> None:
    """Broken: the first release of all is bad, and nothing comes before it."""
    first, second = releases
    site.fleet.plan(entry_of(first))
    faults = (Fault(kind="crash", release="tiny@1"),)
    agent = site.agent("broken", faults=faults, dies=('"is_reboot_due":true',))
    agent.wait_killed()

    agent.start()

    report = site.fleet.wait_phase("broken", "broken")
    assert phase_of(report, "r-1") == "broken"
    assert agent.log.read_text().count("leaving: simulated_reboot") == 1
    agent.kill()  # Once more, while nothing runs.
    agent.start()
    site.fleet.plan(entry_of(second, "r-2", share=0, pins=frozenset({"broken"})), entry_of(first))
    report = site.fleet.wait_phase("broken", "committed", "r-2")
    assert camera_of(report)["release"] == "tiny@2"
    assert is_streaming(site.fleet.wait("broken", is_streaming))


def test_every_phase_has_its_kill() -> None:
    killed_in = {phase for phase, *_ in KILLS.values()} | {"rolling_back", "broken"}

    outcomes = {"rolled_back", "rejected"}  # Written with the phase that follows: idle.
    assert killed_in == {phase.value for phase in Phase} - outcomes
