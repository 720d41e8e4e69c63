"""`camera: auto` takes what loads, and says why."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.camera import choice, process
from agent.camera.choice import Choice, choose, why_not
from agent.camera.process import environment_of
from agent.camera.wire import Kind
from tests.cameras import TWINS


@pytest.mark.parametrize(
    ("modlib", "picamera2", "chosen"),
    [
        ("", "", Choice("modlib", "modlib loads")),
        ("", "no", Choice("modlib", "modlib loads")),
        ("too old", "", Choice("picamera2", "picamera2 loads; modlib does not load: too old")),
        (
            "too old",
            "not there",
            Choice("modlib", "modlib does not load: too old; nor does picamera2: not there"),
        ),
    ],
)
def test_what_loads_is_chosen_and_why_is_said(modlib: str, picamera2: str, chosen: Choice) -> None:
    against = {"modlib": modlib, "picamera2": picamera2}

    assert choose(lambda kind: against[kind]) == chosen


@pytest.mark.parametrize("kind", TWINS)
def test_where_nothing_is_installed_each_library_says_what_it_misses(kind: Kind) -> None:
    # No machine that tests has a system's libcamera.
    assert kind in why_not(kind) or "libcamera" in why_not(kind)


@pytest.mark.twin
@pytest.mark.parametrize("kind", TWINS)
def test_on_a_twin_both_libraries_load(kind: Kind) -> None:
    assert why_not(kind, is_twin=True) == ""


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import time; time.sleep(600)", "loading took over 1 s"),
        ("raise SystemExit(3)", "it said nothing"),
        ("import os; os.abort()", "it said nothing"),
    ],
)
def test_a_library_that_hangs_or_crashes_does_not_load(
    program: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.run

    def run(_command: list[str], **options: object) -> object:
        return real([sys.executable, "-c", program], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(choice.subprocess, "run", run)
    monkeypatch.setattr(choice, "PROBE_SECONDS", 1.0)

    assert why_not("modlib") == reason


def test_only_picamera2_sees_the_systems_packages_first_and_only_where_it_is_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "SYSTEM_PACKAGES", tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert "PYTHONPATH" not in environment_of("picamera2")

    (tmp_path / "picamera2").mkdir()

    assert environment_of("picamera2")["PYTHONPATH"] == str(tmp_path)
    assert "PYTHONPATH" not in environment_of("modlib")
