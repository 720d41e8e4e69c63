"""``fleetctl plan``, ``diff`` and ``apply``: look before anything changes, then do as declared."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.cli.exits import Exit
from controller.cli.fleet import opened, selector_option
from controller.cli.forecasts import show_forecasts
from controller.cli.rollout import Driving, driven, drives, leave
from controller.cli.terminal import Format, Terminal, output_option

if TYPE_CHECKING:
    from controller.drift import Drift
    from controller.orders import Wish
    from controller.service import Controller

_FILE = click.option(
    "-f", "--file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Instead of ./fleet.yaml.",
)  # fmt: skip
_DETAILED = click.option(
    "--detailed-exitcode", is_flag=True, help="Exit 8 when something would change."
)
_OVER = click.option("--over", is_flag=True, help="Take over devices of a rollout that still runs.")


@click.command()
@click.argument("release", metavar="[NAME@VERSION]", required=False)
@selector_option(default="*")
@click.option("--strategy", help="A strategy of fleet.yaml. Default: as `rollout start`.")
@click.option("--deny", multiple=True, metavar="DEVICE", help="Leave this device out; repeatable.")
@_OVER
@_FILE
@_DETAILED
@output_option
def plan(  # noqa: PLR0913 - one parameter an option
    *,
    release: str | None,
    selector: str,
    strategy: str | None,
    deny: tuple[str, ...],
    over: bool,
    file: Path | None,
    detailed_exitcode: bool,
    output: Format,
) -> int:
    """Say what a rollout would do; nothing changes.

    Without NAME@VERSION: what `fleetctl apply` would start. For each device: what runs, what it
    would fetch, how long its cameras would see nothing and how long it would take.
    """
    from controller import orders  # noqa: PLC0415 - --help needs no TUF.

    terminal = Terminal(output)
    with opened(file=file) as controller:
        wished: tuple[Wish, ...] = (
            orders.wishes(controller, over=over)
            if release is None
            else (orders.Wish(release, selector, strategy, None, deny, over),)
        )
        found = orders.plan(controller, wished)
    show_forecasts(terminal, found)
    is_change = any(one.devices for one in found)
    return Exit.CHANGES if detailed_exitcode and is_change else Exit.OK


@click.command()
@_FILE
@_DETAILED
@output_option
def diff(*, file: Path | None, detailed_exitcode: bool, output: Format) -> int:
    """Compare what fleet.yaml declares with what is real, both ways."""
    from controller import orders  # noqa: PLC0415

    with opened(file=file) as controller:
        found = orders.diff(controller)
    _table(Terminal(output), found)
    return Exit.CHANGES if detailed_exitcode and found else Exit.OK


@click.command()
@_FILE
@_OVER
@click.option("--dry-run", is_flag=True, help="Only say what it would do, as `plan`.")
@drives
def apply(*, file: Path | None, over: bool, dry_run: bool, driving: Driving) -> int:
    """Start the rollouts that fleet.yaml declares and that were not started, and watch.

    What a gate or a person has stopped is not started again. Exit codes as `rollout start`; of
    several rollouts, the worst.
    """
    from controller import orders  # noqa: PLC0415

    if dry_run:
        return _dry(driving.terminal, file, over=over)
    with driven(driving, file=file) as controller:
        started = orders.apply(controller, over=over)
        if not started:
            driving.terminal.say("Nothing to start. `fleetctl diff` shows what differs.")
            driving.terminal.document([])
            return Exit.OK
        return _follow(controller, started, driving)


def _dry(terminal: Terminal, file: Path | None, *, over: bool) -> int:
    from controller import orders  # noqa: PLC0415

    with opened(file=file) as controller:
        show_forecasts(terminal, orders.plan(controller, orders.wishes(controller, over=over)))
    return Exit.OK


def _follow(controller: "Controller", started: tuple[str, ...], driving: Driving) -> int:
    """Drive all of them, and show one after the other."""
    from controller.cli.watching import watch_rollout  # noqa: PLC0415

    code: int = Exit.OK
    for rollout in started:
        if driving.is_detached:
            leave(controller, rollout, driving.terminal)
            continue
        ended = watch_rollout(
            controller, rollout, driving.terminal, timeout_seconds=driving.timeout_seconds
        )
        if ended in {Exit.TIMEOUT, Exit.INTERRUPTED}:
            return ended
        code = max(code, ended)
    return code


def _table(terminal: Terminal, found: "tuple[Drift, ...]") -> None:
    terminal.table(
        ("what", "about", "declared", "real", "remedy"),
        [(one.kind, one.about, one.declared, one.real, one.remedy) for one in found],
        documents=found,
        empty="What fleet.yaml declares is what is real.",
    )
