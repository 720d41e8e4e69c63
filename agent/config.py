"""What the command line says about this agent: where its state is, and what it may do."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import yaml

from agent.camera.wire import Simulation
from agent.slots import BUDGET_BYTES
from shared.errors import MalformedError
from shared.files import read_bounded
from shared.limits import CAMERAS_MAX, HEARTBEAT_SECONDS

SETTINGS_BYTES = 65_536  # A simulation's faults for four cameras are 4 KB.


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A settings file with a simulation for each camera, by number."""

    cameras: dict[str, Simulation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How this agent runs.

    Attributes:
        state: Everything durable is below this folder; one agent a folder.
        card: Read once, kept in the state, and wiped where ``wipes_card``.
        is_demo: A root that is marked demo is accepted.
        is_clock_assumed: The clock is believed although nothing says that it is synchronised.
        simulations: What simulated cameras see and suffer, by camera.
        injects_golden: A release's golden set goes through the sensor before it is kept.
        may_reboot: The machine may be rebooted; a simulated one restarts its agent instead.
    """

    state: Path
    card: Path | None = None
    is_demo: bool = False
    is_clock_assumed: bool = False
    simulations: Mapping[int, Simulation] = field(default_factory=dict)
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    budget_bytes: int = BUDGET_BYTES
    injects_golden: bool = False
    may_reboot: bool = False
    wipes_card: bool = False


def options_of(arguments: Namespace) -> Options:
    """Return the options in parsed arguments.

    Raises:
        MalformedError: The settings file is none.
    """
    card: Path | None = arguments.card
    return Options(
        state=arguments.state,
        card=card,
        is_demo=arguments.demo,
        is_clock_assumed=arguments.assume_clock,
        simulations={} if arguments.simulate is None else read_simulations(arguments.simulate),
        heartbeat_seconds=arguments.heartbeat,
        budget_bytes=arguments.disk_budget,
        injects_golden=arguments.inject_golden,
        may_reboot=arguments.allow_reboot,
        wipes_card=arguments.wipe_card or is_on_boot(card),
    )


def is_on_boot(card: Path | None) -> bool:
    """Say whether a card lies where anybody with the SD card in hand could read it."""
    return card is not None and card.resolve().is_relative_to("/boot")


def read_simulations(path: Path) -> dict[int, Simulation]:
    """Return the simulation of each camera: one for all, or ``cameras: {"0": ...}``.

    Raises:
        MalformedError: The file is missing, or not of one of these forms.
    """
    data = read_bounded(path, SETTINGS_BYTES)
    if data is None:
        raise MalformedError(f"--simulate: there is no {path}")
    try:
        plain = yaml.safe_load(data.decode())  # JSON is YAML.
        if isinstance(plain, dict) and "cameras" in plain:
            settings = msgspec.convert(plain, _Settings)
            return {int(number): one for number, one in settings.cameras.items()}
        simulation = msgspec.convert(plain or {}, Simulation)
    except (yaml.YAMLError, msgspec.ValidationError, ValueError) as error:
        raise MalformedError(f"--simulate {path}: {str(error)[:300]}") from error
    return dict.fromkeys(range(CAMERAS_MAX), simulation)
