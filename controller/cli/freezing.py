"""``fleetctl freeze`` and ``unfreeze``: no device changes anything, whatever runs."""

from typing import TYPE_CHECKING

import click

from controller.cli.exits import Exit
from controller.cli.rollout import Driving, driven, drives

if TYPE_CHECKING:
    from controller.service import Controller


@click.command()
@click.option("--reason", default="", help="Why; everybody who looks at a rollout is told.")
@drives
def freeze(*, reason: str, driving: Driving) -> int:
    """Let no device of the fleet change anything, until `unfreeze`.

    Rollouts stand still: nobody new activates, nobody goes back, no verdict falls. What a device
    has begun to activate it finishes, and what it was told to leave before it leaves. An offline
    device hears of it when it is back.
    """
    from controller import orders  # noqa: PLC0415 - --help needs no TUF.

    with driven(driving) as controller:
        orders.freeze(controller, reason)
        return _until_out(controller, driving)


@click.command()
@drives
def unfreeze(*, driving: Driving) -> int:
    """Let devices change again: rollouts go on where they stood."""
    from controller import orders  # noqa: PLC0415

    with driven(driving) as controller:
        orders.unfreeze(controller)
        return _until_out(controller, driving)


def _until_out(controller: "Controller", driving: Driving) -> int:
    """Drive until the broker has handed the plan back, or whoever drives has taken the order."""
    if not driving.is_detached:
        controller.drive(until=lambda _: True, timeout_seconds=driving.timeout_seconds)
    status = controller.fleet_status()
    if driving.is_detached:
        driving.terminal.say("Written down; whoever drives next acts on it.")
    else:
        version = f"plan {status.plan_version} says so"
        driving.terminal.say(f"{status.frozen or 'The fleet is not frozen'}; {version}.")
    driving.terminal.document({"frozen": status.frozen, "plan_version": status.plan_version})
    return Exit.OK
