"""Shell completion: ``fleetctl completion bash|zsh|fish``, and the names that TAB offers.

A name comes from fleet.yaml or the store. Whatever is wrong with them, TAB offers nothing and says
nothing: the command itself will.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from controller.cli.fleet import opened
from shared.errors import FleetError

if TYPE_CHECKING:
    from controller.service import Controller

VARIABLE = "_FLEETCTL_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes TAB complete commands, options, devices, releases and rollouts.

    In ~/.bashrc: eval "$(fleetctl completion bash)". In zsh alike; for fish write it to
    ~/.config/fish/completions/fleetctl.fish.
    """
    from controller.cli.app import fleetctl  # noqa: PLC0415 - it imports this file.

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these three"
    click.echo(kind(fleetctl, {}, "fleetctl", VARIABLE).source())


def devices(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the devices of fleet.yaml that begin so."""
    del context, parameter
    return _beginning(incomplete, lambda controller: controller.fleet.devices)


def releases(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the releases of the store that begin so."""
    del context, parameter
    return _beginning(
        incomplete, lambda controller: (row[0] for row in controller.store.releases())
    )


def rollouts(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids and names of rollouts that begin so, the newest first."""
    del context, parameter

    def names(controller: "Controller") -> Iterable[str]:
        records = controller.store.records()
        return [*(one.rollout for one in records), *(one.name for one in records)]

    return _beginning(incomplete, names)


def _beginning(incomplete: str, names: "Callable[[Controller], Iterable[str]]") -> list[str]:
    try:
        with opened() as controller:
            found = dict.fromkeys(names(controller))
    except (FleetError, OSError):
        return []
    return [name for name in found if name.startswith(incomplete)]
