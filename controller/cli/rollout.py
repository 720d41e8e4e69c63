"""``fleetctl rollout``: bring a release to devices, watch, and steer.

Every command but ``status`` and ``history`` writes an intention and then drives (or, when another
fleetctl drives, watches) until the rollout comes to rest. Ctrl-C detaches; the devices carry on
with what they have, and ``rollout watch`` goes on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.cli import completing
from controller.cli.exits import Exit
from controller.cli.fleet import Duration, opened, selector_option
from controller.cli.terminal import (
    Format,
    PassphraseReader,
    Terminal,
    output_option,
    passphrase_option,
)
from controller.cli.watchable import Watching, watch_options

if TYPE_CHECKING:
    from controller.service import Controller
    from controller.status import RolloutStatus

IsDone = Callable[["RolloutStatus"], bool]
_ROLLOUT = click.argument("rollout", metavar="ROLLOUT", shell_complete=completing.rollouts)
_NEWEST = click.argument(
    "rollout", metavar="[ROLLOUT]", required=False, shell_complete=completing.rollouts
)
_STRATEGY = click.option(
    "--strategy",
    help="A strategy of fleet.yaml. Default: the only one; a tenth first, where none is.",
)
_OVER = click.option("--over", is_flag=True, help="Take over devices of a rollout that still runs.")


@dataclass(frozen=True, slots=True)
class Driving:
    """How a command that may drive was asked to: the options that all of them share."""

    terminal: Terminal
    passphrase_fd: int | None
    timeout_seconds: float | None = None
    is_detached: bool = False


def drives(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command ``--detach``, ``--timeout``, ``--passphrase-fd`` and ``-o``, as a Driving."""

    @wraps(command)
    def with_driving(
        *,
        detach: bool,
        timeout: float | None,
        passphrase_fd: int | None,
        output: Format,
        **arguments: object,
    ) -> int:
        driving = Driving(Terminal(output), passphrase_fd, timeout, detach)
        return command(driving=driving, **arguments)

    for option in (
        output_option,
        passphrase_option,
        click.option("--timeout", type=Duration(), help="Stop watching after, e.g., 30m: exit 5."),
        click.option("--detach", is_flag=True, help="Only write it down; drive nothing."),
    ):
        with_driving = option(with_driving)
    return with_driving


@contextmanager
def driven(
    driving: Driving, *, file: Path | None = None, reader: PassphraseReader | None = None
) -> Iterator["Controller"]:
    """Open the fleet for an order; where we shall drive, its key is opened before it is given.

    So Ctrl-C at the prompt, or a wrong passphrase, leaves nothing written down.
    """
    with opened(driving.passphrase_fd, file=file, reader=reader) as controller:
        if not driving.is_detached and controller.driver().holder is None:
            controller.signer("controller")
        yield controller


@click.group()
def rollout() -> None:
    """Bring a release to devices; watch, pause, undo it."""


@rollout.command()
@click.argument("release", metavar="NAME@VERSION", shell_complete=completing.releases)
@selector_option(default="*")
@_STRATEGY
@click.option("--name", help="A name that other commands take, too.")
@click.option("--deny", multiple=True, metavar="DEVICE", help="Leave this device out; repeatable.")
@_OVER
@click.option("--dry-run", is_flag=True, help="Only say what it would do, as `plan`.")
@drives
def start(  # noqa: PLR0913 - one parameter an option
    *,
    release: str,
    selector: str,
    strategy: str | None,
    name: str | None,
    deny: tuple[str, ...],
    over: bool,
    dry_run: bool,
    driving: Driving,
) -> int:
    """Roll a signed release out, wave by wave, and watch.

    Exit 0: completed, all healthy. 3: a gate stopped it. 4: paused, or not all healthy. 5: timeout.
    """
    from controller import orders  # noqa: PLC0415 - --help needs no TUF.
    from controller.cli.forecasts import show_forecasts  # noqa: PLC0415

    wish = orders.Wish(release, selector, strategy, name, deny, over)
    if dry_run:
        with opened() as controller:
            show_forecasts(driving.terminal, orders.plan(controller, (wish,)))
        return Exit.OK
    with driven(driving) as controller:
        started = orders.start(controller, wish)
        return _go_on(controller, started, driving)


@rollout.command()
@_NEWEST
@click.option("--timeout", type=Duration(), help="Stop watching after, e.g., 30m: exit 5.")
@passphrase_option
@output_option
def watch(
    rollout: str | None, timeout: float | None, passphrase_fd: int | None, output: Format
) -> int:
    """Drive a rollout, or watch while another fleetctl drives it.

    Without ROLLOUT: the newest.
    """
    with opened(passphrase_fd) as controller:
        found = controller.status(rollout).rollout
        return _go_on(controller, found, Driving(Terminal(output), passphrase_fd, timeout))


@rollout.command()
@_NEWEST
@watch_options
@output_option
def status(rollout: str | None, output: Format, watching: Watching) -> int:
    """Show how a rollout stands in the store; `rollout watch` drives it, too.

    Without ROLLOUT: the newest.
    """
    from controller.cli.render import picture  # noqa: PLC0415 - --help needs no rich.

    terminal = Terminal(output)

    def show() -> None:
        with opened() as controller:
            found, frozen = controller.status(rollout), controller.fleet_status().frozen
        terminal.show(picture(found))
        if frozen:
            terminal.say(frozen)
        terminal.document(found)

    return watching.repeat(show)


@rollout.command()
@output_option
def history(output: Format) -> None:
    """List the rollouts, newest first."""
    from controller.cli.render import counts_words, state_words  # noqa: PLC0415

    with opened() as controller:
        found = controller.history()
    rows = [
        (
            item.rollout,
            item.name,
            item.release,
            item.selector,
            state_words(item),
            counts_words(item.counts),
            f"{item.started_at:%Y-%m-%d %H:%M}",
        )
        for item in found
    ]
    Terminal(output).table(
        ("id", "name", "release", "selector", "state", "devices", "started (UTC)"),
        rows,
        documents=found,
        empty="No rollout yet. Next: fleetctl rollout start NAME@VERSION",
    )


@rollout.command()
@_ROLLOUT
@drives
def pause(*, rollout: str, driving: Driving) -> int:
    """Let nobody new activate; what is under way on a device goes on."""
    with driven(driving) as controller:
        controller.pause(rollout)
        return _until(controller, rollout, driving, lambda status: status.state != "running")


@rollout.command()
@_ROLLOUT
@drives
def resume(*, rollout: str, driving: Driving) -> int:
    """Go on where `pause` stopped."""
    with driven(driving) as controller:
        controller.resume(rollout)
        return _go_on(controller, rollout, driving)


@rollout.command()
@_ROLLOUT
@drives
def promote(*, rollout: str, driving: Driving) -> int:
    """Start the next wave after an inconclusive one."""
    with driven(driving) as controller:
        controller.promote(rollout)
        return _go_on(controller, rollout, driving)


@rollout.command()
@_ROLLOUT
@drives
def retry(*, rollout: str, driving: Driving) -> int:
    """Let devices where it ended badly try again."""
    with driven(driving) as controller:
        controller.retry(rollout)
        return _go_on(controller, rollout, driving)


@rollout.command()
@_ROLLOUT
@click.option("--no-revert", is_flag=True, help="Devices keep what they run.")
@drives
def abort(*, rollout: str, no_revert: bool, driving: Driving) -> int:
    """Stop a rollout; its devices go back to what they ran before."""
    with driven(driving) as controller:
        controller.abort(rollout, no_revert=no_revert)
        return _until(controller, rollout, driving, lambda status: status.is_over)


@rollout.command()
@_ROLLOUT
@click.option("--strategy", help="A strategy of fleet.yaml. Default: one wave for all.")
@_OVER
@click.option("--dry-run", is_flag=True, help="Only say what it would do, as `plan`.")
@drives
def undo(*, rollout: str, strategy: str | None, over: bool, dry_run: bool, driving: Driving) -> int:
    """Roll out what the devices of a rollout ran before it."""
    if dry_run:
        return _plan_undo(rollout, strategy, driving, over=over)
    with driven(driving) as controller:
        started = controller.undo(rollout, strategy=strategy, over=over)
        return _go_on(controller, started, driving)


def _plan_undo(rollout: str, strategy: str | None, driving: Driving, *, over: bool) -> int:
    from controller import orders  # noqa: PLC0415 - --help needs no TUF.
    from controller.cli.forecasts import show_forecasts  # noqa: PLC0415

    with opened() as controller:
        found = orders.plan_undo(controller, rollout, strategy, over=over)
    show_forecasts(driving.terminal, found)
    return Exit.OK


def _go_on(
    controller: "Controller", rollout: str, driving: Driving, is_done: IsDone | None = None
) -> int:
    """Drive until the rollout comes to rest; the exit code says how."""
    from controller.cli.watching import watch_rollout  # noqa: PLC0415 - --help needs no rich.

    if driving.is_detached:
        return leave(controller, rollout, driving.terminal)
    return watch_rollout(
        controller,
        rollout,
        driving.terminal,
        timeout_seconds=driving.timeout_seconds,
        is_done=is_done,
    )


def _until(controller: "Controller", rollout: str, driving: Driving, is_done: IsDone) -> int:
    """Drive until what was asked for is so: that is success, whatever became of the rollout."""
    code = _go_on(controller, rollout, driving, is_done)
    return Exit.OK if is_done(controller.status(rollout)) else code


def leave(controller: "Controller", rollout: str, terminal: Terminal) -> int:
    """Say who will act on what was written down."""
    found = controller.status(rollout)
    holder = controller.driver().holder
    if holder is None:
        terminal.say(f"{found.rollout} is written down. Nobody drives it until `fleetctl rollout")
        terminal.say(f"watch {found.rollout}`.")
    else:
        terminal.say(f"{found.rollout} is written down; {holder} drives it.")
    terminal.document(found)
    return Exit.OK
