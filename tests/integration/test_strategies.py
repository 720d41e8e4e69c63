"""Strategies on a real broker: approval between waves, windows, and what is tried again."""
# ruff: noqa: F811 - a fixture of another file is a parameter here

from datetime import UTC, datetime, timedelta

import pytest

from controller.driving import read_repository
from controller.service import Controller
from controller.status import RolloutStatus
from shared.assignment import Window
from shared.errors import OperatorError
from tests.integration.test_controller import DEVICES, Bed, bed, on_nats  # noqa: F401
from tests.integration.test_controller_agents import Site, site  # noqa: F401
from tests.puppet import Faults

pytestmark = on_nats
STRATEGIES = """\
  approved:
    waves: [{pins: [cam-1], approve: true}, {fraction: 100%}]
    deadlines: {activation: 2s, progress: 20s}
  stubborn:
    waves: [{fraction: 100%}]
    max_failed: 1
    retry: {attempts: 2, after: 1s, causes: [camera]}
    deadlines: {activation: 2s, progress: 20s}
"""


def with_strategies(bed: Bed, strategies: str = STRATEGIES) -> None:
    path = bed.project / "fleet.yaml"
    path.write_text(path.read_text() + strategies)
    bed.controller.close()
    bed.controller = bed.again()


def test_a_wave_that_passed_waits_for_a_person_and_devices_go_on(bed: Bed) -> None:
    with_strategies(bed)
    bed.join(*DEVICES)

    waiting = bed.roll_out(1, "approved")
    plan = read_repository(bed.controller.store).plan
    with pytest.raises(OperatorError, match="waits for an approval"):
        bed.controller.resume(waiting.rollout)
    bed.controller.promote(waiting.rollout)
    ended = bed.drive(waiting.rollout)

    assert (waiting.state, waiting.reason) == ("paused", "approval")
    assert [entry.action.value for entry in plan] == ["run"]  # Not held: it only waits.
    assert [wave.verdict for wave in waiting.waves] == ["pass", None]
    assert (ended.state, ended.is_healthy) == ("completed", True)
    assert "promoted by an operator" in str(ended.waves[0].text)
    with pytest.raises(OperatorError, match="expected r-1 to wait for an answer"):
        bed.controller.promote(waiting.rollout)


def test_a_camera_fault_is_tried_again_and_a_bad_release_is_not(bed: Bed) -> None:
    with_strategies(bed)
    bed.join("cam-1", "cam-2")
    bed.join("cam-3", faults=Faults(bad=frozenset({"shapes@1"}), cause="camera", times=1))
    bed.join("cam-4", faults=Faults(bad=frozenset({"shapes@1"}), times=1))

    status = bed.roll_out(1, "stubborn")

    assert (status.state, status.attempt) == ("completed", 2)
    assert not status.is_healthy  # cam-4 was left out: it would have been tried again, too.
    (entry,) = read_repository(bed.controller.store).plan
    assert entry.deny == {"cam-4"}
    assert {name: puppet.activated for name, puppet in bed.puppets.items()} == {
        "cam-1": ["shapes@1"],
        "cam-2": ["shapes@1"],
        "cam-3": ["shapes@1", "shapes@1"],
        "cam-4": ["shapes@1"],
    }


def test_agents_wait_for_their_window_and_nobody_is_late(site: Site) -> None:
    site.drive(site.start(site.release(1)))
    now = datetime.now(UTC)
    begin, end = (now + timedelta(hours=hours) for hours in (6, 7))
    with_window(site, f'{{from: "{begin:%H:%M}", to: "{end:%H:%M}"}}')
    name = site.controller.start_rollout(site.release(2), selector="*", strategy="night")

    def all_wait(status: RolloutStatus) -> bool:
        cameras = [camera for device in status.devices for camera in device.cameras]
        return len(cameras) > 0 and all(camera.waiting_for == "window" for camera in cameras)

    site.controller.drive(
        name,
        until=lambda fleet: all_wait(fleet.rollouts[0]) and fleet.rollouts[0].driven_seconds > 4,
        timeout_seconds=120,
    )

    status = site.controller.status(name)
    (entry, *_) = read_repository(site.controller.store).plan
    assert status.state == "running"
    assert isinstance(entry.window, Window)
    assert entry.window.begin_minute == begin.hour * 60 + begin.minute
    assert set(site.running.values()) == {"tiny@1"}
    site.controller.abort(name)
    site.drive(name)


def with_window(site: Site, window: str) -> None:
    """Declare a strategy with that window, whose deadline passes while devices wait for it."""
    path = site.controller.file
    path.write_text(
        path.read_text()
        + "  night:\n    waves: [{fraction: 100%}]\n    deadlines: {progress: 2s}\n"
        + f"    window: {window}\n"
    )
    url = site.controller.broker_url
    folder, timing = site.controller.folder, site.controller._timing
    site.controller.close()
    site.controller = Controller.open(path, home=folder.parent, timing=timing, broker_url=url)
