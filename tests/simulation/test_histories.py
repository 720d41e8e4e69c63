"""Seeded histories of the real machines: no harm, and nothing stands still."""

import pytest

from controller.simulation.world import World


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_no_history_does_harm_or_stands_still(first: int) -> None:
    broken = {seed: seen for seed in range(first, first + 10) if (seen := World(seed).play())}

    assert broken == {}


@pytest.mark.parametrize("seed", [1000, 1001])
def test_a_fleet_of_two_hundred_devices_comes_to_rest_without_harm(seed: int) -> None:
    assert World(seed, devices=200).play() == set()


def test_the_same_seed_tells_the_same_story() -> None:
    first, second = World(7), World(7)
    first.play()
    second.play()

    assert first.snapshot() == second.snapshot()
