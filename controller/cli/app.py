"""The command ``fleetctl``: which nouns there are, and how a run of it ends.

A noun's file is imported when it is called, so that ``--help`` and shell completion answer at once.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from controller.cli.exits import Exit, exit_of, text_of
from controller.cli.terminal import Terminal
from shared.errors import FleetError


@dataclass(frozen=True, slots=True)
class Noun:
    """Where a command lives, and its line in ``fleetctl --help``."""

    module: str
    attribute: str
    help: str


NOUNS = {
    "demo": Noun("demo", "demo", "Show it all on this machine: broker, agents, three rollouts."),
    "init": Noun("init", "init", "Make keys and store for the fleet of ./fleet.yaml."),
    "broker": Noun("broker", "broker", "Run the embedded MQTT broker."),
    "model": Noun("model", "model", "Turn a YOLO model into a release."),
    "release": Noun("release", "release", "List, show, sign, carry, revoke, prune releases."),
    "device": Noun("device", "device", "Add, list, label, restart, ask, remove devices."),
    "rollout": Noun("rollout", "rollout", "Bring a release to devices; watch, pause, undo it."),
    "plan": Noun("planning", "plan", "Say what a rollout, or `apply`, would do."),
    "diff": Noun("planning", "diff", "Compare what fleet.yaml declares with what is real."),
    "apply": Noun("planning", "apply", "Start the rollouts that fleet.yaml declares."),
    "freeze": Noun("freezing", "freeze", "Let no device change anything, whatever runs."),
    "unfreeze": Noun("freezing", "unfreeze", "Let devices change again."),
    "serve": Noun("serving", "serve", "Drive all rollouts, as a service with metrics."),
    "backup": Noun("backups", "backup", "Write store, releases and, when asked, keys to a file."),
    "restore": Noun("backups", "restore", "Put a backup where there is no fleet."),
    "adopt": Noun("backups", "adopt", "Take over the newer plan that the broker holds."),
    "tail": Noun("tail", "tail", "Print what the cameras see, live."),
    "keys": Noun("keys", "keys", "Who may sign what; a new controller key."),
    "audit": Noun("auditing", "audit", "Who ordered what, and what came of it."),
    "completion": Noun("completing", "completion", "What makes TAB complete, for your shell."),
    "logs": Noun("logs", "logs", "What happened to devices, and what comes."),
    "support-bundle": Noun("supporting", "support_bundle", "One file for whoever helps."),
    "doctor": Noun("doctor", "doctor", "Check this machine, the broker and the fleet."),
}


class Nouns(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the nouns, in the order in which a newcomer meets them."""
        del ctx
        return list(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one noun."""
        del ctx
        noun = NOUNS.get(cmd_name)
        if noun is None:
            return None
        command = getattr(import_module(f"controller.cli.{noun.module}"), noun.attribute)
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the nouns without importing them."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=noun.help)
            for name, noun in NOUNS.items()
            if name.startswith(incomplete)
        ]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest noun when there is none of that name."""
        if args[0] not in NOUNS and not ctx.resilient_parsing:
            ctx.fail(f"no command {args[0]!r}; expected one of {', '.join(NOUNS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the nouns without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, noun.help) for name, noun in NOUNS.items()])


@click.command(cls=Nouns, no_args_is_help=False, invoke_without_command=True)
@click.version_option(package_name="imxfleet", prog_name="fleetctl")
@click.pass_context
def fleetctl(context: click.Context) -> None:
    """Run AI models on fleets of Raspberry Pi AI Cameras.

    Commands read ./fleet.yaml; keys and store live in $XDG_DATA_HOME/imxfleet/<fleet>. Every
    command takes -o json. Try: fleetctl demo
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code, and print what went wrong."""
    _end_in_order_when_told()
    # What matters is said by the commands, in their own words.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        result = fleetctl.main(args=list(arguments), prog_name="fleetctl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return Exit.USAGE if isinstance(error, click.UsageError) else Exit.ERROR
    except (click.Abort, KeyboardInterrupt):
        Terminal.from_streams().error("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return _after_broken_pipe()
    except TimeoutError as error:
        Terminal.from_streams().error(text_of(error))
        return Exit.TIMEOUT
    except (FleetError, OSError) as error:
        Terminal.from_streams().error(text_of(error))
        return exit_of(error)
    return int(result) if isinstance(result, int) else Exit.OK


def _end_in_order_when_told() -> None:
    """Let SIGTERM and a closed window end a command as Ctrl-C does: what it started is ended."""
    if threading.current_thread() is not threading.main_thread():
        return  # Python handles signals on its main thread only.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def _after_broken_pipe() -> int:
    """Leave quietly when the reader (``head``) has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.OK
