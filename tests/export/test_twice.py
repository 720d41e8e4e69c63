"""The same inputs give the same bytes, and unchanged ones are not built again."""

import json

import pytest

from tests.export.project import Built, Site, say

pytestmark = [pytest.mark.export, pytest.mark.timeout(3600)]


def test_two_builds_of_one_input_are_the_same_byte_for_byte(site: Site, sorter: Built) -> None:
    say("building the classifier once more, without the cache")
    events = site.project / "events"
    again = site.build(
        sorter.weights, sorter.data, "--no-cache", "--tensorboard", str(events),
        name="again", imgsz=str(sorter.size), keep=False,
    )  # fmt: skip

    assert again.files.keys() == sorter.files.keys()
    assert {role for role, data in again.files.items() if data != sorter.files[role]} == set()
    assert again.manifest.files == sorter.manifest.files
    assert again.manifest.provenance == sorter.manifest.provenance
    written = [path for path in events.rglob("events.out.tfevents.*") if path.stat().st_size > 1000]
    assert written, "TensorBoard has nothing to show"


def test_an_unchanged_build_is_taken_from_the_cache(site: Site, sorter: Built) -> None:
    done = site.fleetctl(*_command(sorter), "--name", "sorter", "--version", "1", "-o", "json")

    assert done.code == 0, done.said
    assert json.loads(done.out)["release"] == sorter.manifest.release
    assert "the same inputs were built before" in done.said
    assert "quantise" not in done.said


def test_a_taken_name_is_refused_before_anything_is_built(site: Site, sorter: Built) -> None:
    changed = ("--conf", "0.3")
    done = site.fleetctl(*_command(sorter), *changed, "--name", "sorter", "--version", "1")

    assert done.code == 1
    assert "sorter@1 is already in the store" in done.said
    assert "--version 2" in done.said
    assert "quantise" not in done.said


def _command(built: Built) -> tuple[str, ...]:
    return (
        "model", "build", str(built.weights), "--data", str(built.data),
        "--imgsz", str(built.size), "--images", "60",
    )  # fmt: skip
