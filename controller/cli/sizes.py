"""The size of a network's input, as Ultralytics' ``imgsz`` is written: 640, or height,width."""

from collections.abc import Callable
from typing import TypeVar

import click

SIDES_MAX = 2
_Command = TypeVar("_Command", bound=Callable[..., object])


def imgsz_option(command: _Command) -> _Command:
    """Give a command ``--imgsz``: (height, width); what the sensor takes is checked later."""
    option = click.option(
        "--imgsz", default="320", show_default=True, metavar="PIXELS", callback=_parsed,
        help="Of the network's input: 640, or 480,640 (height,width).",
    )  # fmt: skip
    return option(command)


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width in pixels.

    Raises:
        ValueError: It is no size.
    """
    sides = [side.strip() for side in text.strip("[]() ").split(",")]
    if len(sides) > SIDES_MAX or not all(side.isascii() and side.isdecimal() for side in sides):
        raise ValueError(f"expected a size such as 640, or 480,640 (height,width); got {text!r}")
    return int(sides[0]), int(sides[-1])


def _parsed(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    try:
        return parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error
