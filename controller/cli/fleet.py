"""Open the fleet of the working directory for one command, and close it again."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from controller.cli.terminal import PassphraseReader

if TYPE_CHECKING:
    from controller.service import Controller
    from controller.status import DeviceStatus

_DURATION = re.compile(r"(\d{1,6}(?:\.\d+)?)(s|m|h|d)?")
_Command = TypeVar("_Command", bound=Callable[..., object])
_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class Duration(click.ParamType[float]):
    """``90s``, ``30m``, ``2h``, ``1d``, or seconds, as in fleet.yaml."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(f"expected a duration such as 90s, 30m or 2h, got {value!r}", param, ctx)
        return float(match[1]) * _UNIT_SECONDS[match[2] or "s"]


def selector_option(*, default: str | None = None) -> Callable[[_Command], _Command]:
    """Return what gives a command ``-l``, ``--selector``."""
    return click.option(
        "-l", "--selector", default=default, show_default=default is not None,
        help="Which devices, e.g. role=door or site=a,role!=dock.",
    )  # fmt: skip


def matching(devices: "Sequence[DeviceStatus]", selector: str | None) -> "tuple[DeviceStatus, ...]":
    """Return the devices of which a camera's labels, as declared, match the selector."""
    from controller.inventory import selector_of  # noqa: PLC0415

    if selector is None:
        return tuple(devices)
    wanted = selector_of(selector)
    return tuple(
        one
        for one in devices
        if any(wanted.matches({**one.labels, "camera": str(number)}) for number in one.cameras)
    )


@contextmanager
def opened(
    passphrase_fd: int | None = None,
    *,
    file: Path | None = None,
    reader: PassphraseReader | None = None,
) -> Iterator["Controller"]:
    """Give the fleet of ./fleet.yaml, or of another file."""
    from controller.service import Controller  # noqa: PLC0415 - --help needs no TUF.

    passphrase = reader or PassphraseReader(passphrase_fd)
    controller = Controller.open(file or Path.cwd(), passphrase=passphrase)
    try:
        yield controller
    finally:
        controller.close()


def passphrase_for(controller: "Controller", role: str, passphrase_fd: int | None) -> str | None:
    """Return the passphrase of a key; a demo's keys are plain and have none."""
    return None if controller.is_demo else PassphraseReader(passphrase_fd)(role)
