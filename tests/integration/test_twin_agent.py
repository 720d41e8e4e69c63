"""A whole agent with the real libraries on a twin: the choice, the package, the golden set."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.camera.twin.packager import rpk_of
from controller.broker import RunningBroker
from controller.twins import PACKER_VARIABLE, write_packer
from tests.cameras import TWINS, graph_of, with_file
from tests.fleet import camera_of, cause_of, make_release
from tests.integration.agents import Site, is_streaming, open_site
from tests.integration.conftest import on_nats

pytestmark = pytest.mark.twin
DEVICE = "gate-01"


@pytest.fixture(params=TWINS)
def site(
    request: pytest.FixtureRequest,
    broker: RunningBroker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    monkeypatch.setenv(PACKER_VARIABLE, str(write_packer(tmp_path)))
    yield from open_site(broker, tmp_path, request.param)


@on_nats
def test_auto_says_what_it_chose_and_why(site: Site) -> None:
    agent = site.agent(DEVICE, kind="auto")
    site.offer(site.release(1))

    report = site.fleet.wait_phase(DEVICE, "committed")

    assert camera_of(report)["kind"] == "modlib"
    assert camera_of(report)["kind_reason"] == "modlib loads"
    assert "cameras declared auto are driven by modlib: modlib loads" in agent.last_words()


@on_nats
def test_a_device_without_a_packer_runs_what_was_packaged_on_another(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(PACKER_VARIABLE, str(tmp_path / "none"))
    site.agent(DEVICE)
    release = make_release(1)
    rpk = rpk_of(graph_of(release), color="RGB")

    site.offer(with_file(release, "rpk", "network.rpk", rpk))

    report = site.fleet.wait_phase(DEVICE, "committed")
    assert is_streaming(report)


@on_nats
def test_a_package_for_other_colours_is_rejected_while_the_old_model_streams(site: Site) -> None:
    site.agent(DEVICE)
    first, second = site.release(1), make_release(2)
    site.offer(first)
    starts = camera_of(site.fleet.wait_phase(DEVICE, "committed"))["starts"]
    second = with_file(second, "rpk", "network.rpk", rpk_of(graph_of(second), color="BGR"))

    site.fleet.put_blocks(second)
    site.fleet.list_release(second)
    site.fleet.plan(site.entry(second, "r-2"), site.entry(first, "r-1"))

    report = site.fleet.wait_phase(DEVICE, "rejected", "r-2")
    assert cause_of(report, "r-2") == "release"
    assert camera_of(report)["starts"] == starts
    assert is_streaming(report)


@on_nats
def test_a_missing_packer_is_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packer = tmp_path / "later" / "imx500-package"
    monkeypatch.setenv(PACKER_VARIABLE, str(packer))
    site.agent(DEVICE)
    site.offer(site.release(1))
    site.fleet.wait(DEVICE, lambda report: _waiting_for(report) == "requires")

    packer.parent.mkdir()
    write_packer(packer.parent)

    assert is_streaming(site.fleet.wait_phase(DEVICE, "committed"))


def _waiting_for(report: dict[str, object]) -> object:
    deployment = camera_of(report).get("deployment")
    return deployment["waiting_for"] if isinstance(deployment, dict) else None
