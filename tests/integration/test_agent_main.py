"""The main job of an agent: plan -> fetch -> verify -> stage -> activate -> probe -> committed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.broker import RunningBroker
from tests.fleet import camera_of, entry_of, make_release, phase_of
from tests.integration.agents import Site, open_site


@pytest.fixture
def site(broker: RunningBroker, tmp_path: Path) -> Iterator[Site]:
    yield from open_site(broker, tmp_path)


def test_a_signed_release_is_fetched_proven_and_streams_back(site: Site) -> None:
    site.agent("gate-01")
    release = make_release(1, padding=600_000)

    site.fleet.offer(release)

    report = site.fleet.wait_phase("gate-01", "committed")
    camera = camera_of(report)
    assert camera["release"] == "tiny@1"
    assert camera["state"] == "streaming"
    assert camera["is_settled"] is True
    assert site.fleet.phases("gate-01")[-1] == "committed"
    topic = site.fleet.topics.camera("gate-01", 0, "detections")
    message = site.fleet.wait_message(lambda message: message.topic == topic)
    detections = json.loads(message.payload)
    assert detections["release"] == "tiny@1"
    assert {one["label"] for one in detections["objects"]} == {"circle", "triangle"}
    counts = site.fleet.topics.camera("gate-01", 0, "counts")
    found = json.loads(site.fleet.wait_message(lambda m: m.topic == counts).payload)
    assert found["counts"] == {"circle": 1, "square": 0, "triangle": 1}


def test_a_second_release_replaces_the_first_which_becomes_the_previous(site: Site) -> None:
    site.agent("gate-01")
    first, second = make_release(1), make_release(2)
    site.fleet.offer(first)
    site.fleet.wait_phase("gate-01", "committed")

    site.fleet.put_blocks(second)
    site.fleet.list_release(second)
    site.fleet.plan(entry_of(second, "r-2"), entry_of(first, "r-1"))

    report = site.fleet.wait_phase("gate-01", "committed", "r-2")
    assert camera_of(report)["release"] == "tiny@2"
    assert camera_of(report)["previous"] == "tiny@1"
    assert phase_of(report, "r-1") == "committed"


def test_two_cameras_take_turns(site: Site) -> None:
    site.agent("gate-01", cameras=2)

    site.fleet.offer(make_release(1))

    site.fleet.wait_phase("gate-01", "committed", camera=0)
    site.fleet.wait_phase("gate-01", "committed", camera=1)
    trial = {"activating", "probing"}
    for report in site.fleet.history["gate-01"]:
        phases = [phase_of(report, "r-1", number) for number in (0, 1)]
        assert not set(phases) <= trial, phases
