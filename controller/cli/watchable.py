"""``--watch`` and ``--timeout`` for commands that list something: show it again and again."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from time import monotonic, sleep

import click

from controller.cli.exits import Exit
from controller.cli.fleet import Duration

WATCH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Watching:
    """How often, and for how long."""

    is_watching: bool
    timeout_seconds: float | None

    def repeat(self, show: Callable[[], object]) -> int:
        """Show once, or again and again until the time is up or Ctrl-C."""
        end = None if self.timeout_seconds is None else monotonic() + self.timeout_seconds
        show()
        while self.is_watching:
            if end is not None and monotonic() + WATCH_SECONDS > end:
                return Exit.TIMEOUT
            sleep(WATCH_SECONDS)
            show()
        return Exit.OK


def watch_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command ``--watch`` and ``--timeout``, as a Watching."""

    @wraps(command)
    def with_watching(*, watch: bool, timeout: float | None, **arguments: object) -> int:
        return command(watching=Watching(watch, timeout), **arguments)

    with_timeout = click.option(
        "--timeout", type=Duration(), help="End --watch after, e.g., 30m: exit 5."
    )(with_watching)
    return click.option("-w", "--watch", is_flag=True, help="Every two seconds, until Ctrl-C.")(
        with_timeout
    )
