"""Histories that are written down, for what random ones meet too seldom."""

from dataclasses import replace
from math import inf

from controller.simulation.intentions import RULES, STRATEGIES
from controller.simulation.state import Truth, Violation
from controller.simulation.world import World

ENDLESS = replace(RULES[0], bake_seconds=(inf,))
SETTLE_ROUNDS = 12


def calm_world(devices: int) -> World:
    """Return a world in which nothing happens by chance, and all releases are good."""
    world = World(0, devices)
    world.history.is_quiet = True
    for device in world.history.devices:
        device.joins_in = 0
        for sensor in device.sensors:
            sensor.dies_in, sensor.is_flaky = -1, False
    return world


def let_pass(world: World, rounds: int) -> None:
    """Play some rounds."""
    for _ in range(rounds):
        world.history.round += 1
        world.tick()


def launch(world: World, release: str, selector: str) -> str:
    """Start a rollout that never ends by itself, and let it settle; return its name."""
    history = world.history
    history.truth[release], history.listed[release] = Truth.GOOD, f"sha-{release}"
    name = world.operator.begin(release, selector, STRATEGIES[0], ENDLESS)
    let_pass(world, SETTLE_ROUNDS)
    return name


def a_look_that_cannot_be_written() -> set[Violation]:
    """A plan with a revert is accepted, but the disk is full when the camera looks at it.

    Were the plan reported as read then, its revert would leave the plan, and the slot that it is
    about would never hear of it.
    """
    world = calm_world(devices=2)
    dock = world.history.devices[0]  # Every third device is one.
    first = launch(world, "m@1", "*")
    second = launch(world, "m@2", "role=dock")
    for sensor in dock.sensors:
        sensor.disk_full_until = world.history.round + 2 * SETTLE_ROUNDS
    world.operator.asks("abort", first, no_revert=False)
    let_pass(world, SETTLE_ROUNDS)
    for sensor in dock.sensors:
        sensor.disk_full_until = -1
    let_pass(world, SETTLE_ROUNDS)
    world.operator.asks("abort", second, no_revert=False)
    let_pass(world, SETTLE_ROUNDS)
    return world.history.violations


def a_release_that_failed_where_it_was_good() -> set[Violation]:
    """A camera fails a release that it ran before; then what runs instead is aborted."""
    world = calm_world(devices=2)
    launch(world, "m@1", "*")
    second = launch(world, "m@2", "*")
    world.history.truth["m@1"] = Truth.BAD
    world.operator.begin("m@1", "role=dock", STRATEGIES[0], ENDLESS)
    let_pass(world, SETTLE_ROUNDS)
    world.history.truth["m@1"] = Truth.GOOD  # The camera is flaky.
    world.operator.asks("abort", second, no_revert=False)
    let_pass(world, SETTLE_ROUNDS)
    world.oracles.judge_end()
    return world.history.violations


def a_camera_that_died_after_its_commit() -> set[Violation]:
    """A camera dies; then another rollout names the release that it ran."""
    world = calm_world(devices=1)
    launch(world, "m@1", "*")
    launch(world, "m@2", "*")
    for sensor in world.history.devices[0].sensors:
        sensor.is_dead = True
    let_pass(world, SETTLE_ROUNDS)
    launch(world, "m@2", "*")
    return world.history.violations
