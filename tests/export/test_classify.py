"""A classifier from training to what comes back over MQTT: real tools, real broker, real agent."""

import shutil
from pathlib import Path

import pytest

from agent.camera.scene import CLASS_NAMES
from agent.camera.simulated import open_source
from agent.camera.wire import Simulation
from shared.detections import Class, Detections
from tests.export.project import Built, Site, say, ultralytics_says

pytestmark = [pytest.mark.export, pytest.mark.timeout(3600)]

FRAMES = 48
TOP1_MIN = 0.75  # Of three classes: who guesses reaches a third.
BROKEN_MAX = 0.4
SCORES_APART_MAX = 0.04
THRESHOLD = 0.25


@pytest.fixture(scope="session")
def pictures(sorter: Built, folder: Path) -> list[Path]:
    """Held-out crops of all classes in one folder, as the simulated camera reads it."""
    place = folder / "crops"
    place.mkdir()
    for label in CLASS_NAMES:
        for path in sorted((sorter.data / "test" / label).iterdir()):
            shutil.copyfile(path, place / f"{path.stem}-{label}.png")
    return sorted(place.iterdir())


@pytest.fixture(scope="session")
def frames(site: Site, sorter: Built, pictures: list[Path]) -> list[Detections]:
    say("rolling it out")
    site.start_agent("sorter", Simulation(scene=f"folder:{pictures[0].parent}"))
    site.roll_out(sorter.manifest.release, selector="task=classify")
    heard = site.frames("sorter", FRAMES)
    site.stop_agents()
    return heard


def test_the_command_leaves_a_classifiers_release_in_the_store(site: Site, sorter: Built) -> None:
    verified = site.fleetctl("release", "verify", sorter.manifest.release)

    assert verified.code == 0, verified.said
    assert sorter.manifest.task == "classify"
    assert [(output.name, output.shape) for output in sorter.manifest.outputs] == [
        ("scores", (1, len(CLASS_NAMES)))
    ]
    assert set(sorter.files) == {
        "network", "dnn_params", "labels", "memory_report", "simulator", "golden", "receipt",
    }  # fmt: skip
    name = sorter.manifest.network_name.encode()
    assert b'name="' + name + b'"' in sorter.files["dnn_params"]


def test_the_class_that_comes_over_mqtt_is_the_one_that_was_drawn(
    sorter: Built, frames: list[Detections], pictures: list[Path]
) -> None:
    said = [_best(frame).label for frame in frames]
    true = [_truth(frame, pictures) for frame in frames]
    others = [CLASS_NAMES[(CLASS_NAMES.index(label) + 1) % len(CLASS_NAMES)] for label in said]

    right = sum(a == b for a, b in zip(said, true, strict=True)) / len(frames)
    shifted = sum(a == b for a, b in zip(others, true, strict=True)) / len(frames)

    say(f"top-1 over MQTT of {len(frames)} frames: {right:.3f}; with shifted labels {shifted:.3f}")
    assert {frame.release for frame in frames} == {sorter.manifest.release}
    assert set(true) == set(CLASS_NAMES)
    assert shifted < BROKEN_MAX
    assert right > TOP1_MIN


def test_ultralytics_classifies_the_same_from_its_exported_folder(
    sorter: Built, frames: list[Detections], pictures: list[Path]
) -> None:
    source = open_source(f"folder:{pictures[0].parent}", 0, (sorter.size, sorter.size))
    answers = ultralytics_says(
        sorter.folder,
        [source.picture(frame.frame) for frame in frames],
        imgsz=sorter.size,
        threshold=THRESHOLD,
    )

    apart = 0.0
    for frame, answer in zip(frames, answers, strict=True):
        theirs = {str(one["label"]): float(str(one["score"])) for one in answer}
        ours = {one.label: one.score for one in _classes(frame)}
        assert theirs[_best(frame).label] >= max(theirs.values()) - SCORES_APART_MAX
        apart = max(apart, *(abs(ours[label] - theirs[label]) for label in ours))

    say(f"MQTT and Ultralytics: scores at most {apart:.3f} apart in {len(frames)} frames")
    assert apart <= SCORES_APART_MAX


def _truth(frame: Detections, pictures: list[Path]) -> str:
    return pictures[frame.frame % len(pictures)].stem.rpartition("-")[2]


def _classes(frame: Detections) -> tuple[Class, ...]:
    assert isinstance(frame.classes, tuple)
    return frame.classes


def _best(frame: Detections) -> Class:
    return _classes(frame)[0]
