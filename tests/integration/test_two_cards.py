"""Two cards with one device's id, in two machines: real agents, a real broker, the real fold."""

import shutil
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pytest

from controller.broker import RunningBroker
from controller.devices import Known, fold, notes_of
from tests.fleet import RunningAgent
from tests.integration.agents import Site, open_site


@pytest.fixture
def site(broker: RunningBroker, tmp_path: Path) -> Iterator[Site]:
    yield from open_site(broker, tmp_path)


def known_of(site: Site) -> Known:
    """What a controller that heard everything knows of the device."""
    topic = site.fleet.topics.device("gate-01", "reported")
    heard = [message for message in site.fleet.messages if message.topic == topic]
    return reduce(
        lambda known, message: fold(known, "reported", message.payload, is_retained=False),
        heard,
        Known("gate-01"),
    )


def test_two_agents_that_answer_to_one_id_are_told_apart_and_reported(site: Site) -> None:
    first = site.agent("gate-01")
    run = str(site.fleet.wait("gate-01", lambda _: True)["run"])
    copied = site.folder / "copied.yaml"
    shutil.copy(first.card, copied)
    second = RunningAgent("gate-01", site.folder / "twin", copied, first.arguments)
    site.agents.append(second.start())
    twin = str(site.fleet.wait("gate-01", lambda report: report["run"] != run)["run"])

    site.fleet.wait("gate-01", lambda _: known_of(site).is_duplicate)

    (note,) = [one for one in notes_of(known_of(site), 1) if one.startswith("duplicate_device")]
    assert run in note
    assert twin in note
    assert run.partition("-")[0] != twin.partition("-")[0]
