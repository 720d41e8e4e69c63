"""Questions before what cannot be taken back. Ctrl-C at one ends the command with nothing done."""

import sys
from collections.abc import Callable
from typing import TypeVar

import click

from shared.errors import OperatorError

_Command = TypeVar("_Command", bound=Callable[..., object])


def yes_option(command: _Command) -> _Command:
    """Give a command ``--yes``."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


def confirmed(question: str) -> bool:
    """Ask; without a terminal nobody can answer.

    Raises:
        OperatorError: There is no terminal to ask at.
        click.Abort: Ctrl-C, or the end of the input.
    """
    if not sys.stdin.isatty():
        raise OperatorError(f"{question} expected --yes: this is no terminal to ask at")
    return click.confirm(question, err=True)
