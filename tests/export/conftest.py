"""Everything that takes minutes happens once: a model a task is trained and built for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.broker import run_nats
from tests.export.project import FLEET_YAML, Built, Site, draw_and_train, say

DETECTOR_PIXELS = 160
SORTER_PIXELS = 64


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Import these modules for `-m export` only: most need what `make test` does not install."""
    return None if config.option.markexpr == "export" else True


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
    weights = draw_and_train(place, task="detect", images=1600, epochs=5, size=DETECTOR_PIXELS)
    say("building it")
    data = place / "data" / "shapes.yaml"
    return site.build(weights, data, name="shapes", imgsz=str(DETECTOR_PIXELS))


@pytest.fixture(scope="session")
def poser(site: Site, folder: Path, detector: Built) -> Built:
    """A network of a rectangle, whose backbone and boxes the detector's training made."""
    return _of_the_detector(site, folder, detector, task="pose", imgsz="128,160")


@pytest.fixture(scope="session")
def cutter(site: Site, folder: Path, detector: Built) -> Built:
    return _of_the_detector(site, folder, detector, task="segment", imgsz="160,128")


@pytest.fixture(scope="session")
def sorter(site: Site, folder: Path) -> Built:
    """A classifier of the other family."""
    say("training a classifier")
    place = folder / "sorter"
    weights = draw_and_train(
        place, "--family", "yolov8", task="classify", images=600, epochs=10, size=SORTER_PIXELS
    )
    say("building it")
    return site.build(weights, place / "data", name="sorter", imgsz=str(SORTER_PIXELS))


def _of_the_detector(site: Site, folder: Path, detector: Built, *, task: str, imgsz: str) -> Built:
    say(f"training a network to {task}")
    place = folder / task
    start = ("--start", str(detector.weights))
    weights = draw_and_train(place, *start, task=task, images=640, epochs=3, size=DETECTOR_PIXELS)
    say("building it")
    data = place / "data" / "shapes.yaml"
    return site.build(weights, data, name=f"shapes-{task}", imgsz=imgsz)
