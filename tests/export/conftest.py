"""Everything that takes minutes happens once: two models are trained and built for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.broker import run_nats
from tests.export.project import FLEET_YAML, Built, Site, draw_and_train, say

DETECTOR_PIXELS = 160
SORTER_PIXELS = 64


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="session")
def site(folder: Path) -> Iterator[Site]:
    broker = run_nats(folder / "broker")
    project = folder / "project"
    project.mkdir()
    (project / "fleet.yaml").write_text(FLEET_YAML.format(url=broker.url))
    made = Site(project, broker)
    done = made.fleetctl("init")
    assert done.code == 0, done.said
    yield made
    made.close()


@pytest.fixture(scope="session")
def detector(site: Site, folder: Path) -> Built:
    say("training a detector")
    place = folder / "detector"
    weights = draw_and_train(place, images=1600, epochs=5, size=DETECTOR_PIXELS, crops=False)
    say("building it")
    data = place / "data" / "shapes.yaml"
    return site.build(weights, data, name="shapes", imgsz=DETECTOR_PIXELS)


@pytest.fixture(scope="session")
def sorter(site: Site, folder: Path) -> Built:
    say("training a classifier")
    place = folder / "sorter"
    weights = draw_and_train(place, images=600, epochs=10, size=SORTER_PIXELS, crops=True)
    say("building it")
    return site.build(weights, place / "data", name="sorter", imgsz=SORTER_PIXELS)
