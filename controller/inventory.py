"""fleet.yaml -> Fleet: what an operator declares. State, what really runs, is never written there.

    python -m controller.inventory [FILE]           # checks a file
    python -m controller.inventory --reference      # prints docs/reference/fleet-yaml.md

The sections are both the parser's keys and the reference's tables. All errors of a file come in
one InventoryError. A Fleet is right: every selector matches somebody, every pin is inside its
selector, every wave grows, no two devices share a name.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from yaml.nodes import Node

from controller.declared import (
    BOUNDS,
    CAMERA,
    DEFAULTS,
    DEVICE,
    PRIVACY,
    TELEMETRY,
    CameraDeclared,
    Settings,
    expand,
    read_cameras,
    read_settings,
)
from controller.document import (
    Fields,
    Key,
    Problems,
    Reader,
    Section,
    boolean,
    compose,
    entries,
    list_of,
    matching,
    nearest,
    shown,
    text,
)
from controller.strategies import (
    DEADLINES,
    GATES,
    PROBE,
    RAMP,
    RETRY,
    STRATEGY,
    WAVE,
    WINDOW,
    Strategy,
    read_strategies,
)
from shared.assignment import Camera, Selector, SelectorError
from shared.assignment import parse_selector as parse
from shared.errors import InventoryError, LimitError, OperatorError
from shared.files import read_bounded
from shared.identity import CameraIdentity, Identity, labels_of
from shared.messages import time_text

FLEET_YAML_BYTES = 1024 * 1024  # 10,000 devices, one a line, take half of it.
DEVICES_MAX = 100_000
VERSION = "1"
_NOBODY: tuple[str, ...] = ()
NAME = r"[a-z0-9][a-z0-9-]{0,63}"
RELEASE = r"[a-z0-9][a-z0-9-]{0,63}@[1-9][0-9]{0,8}"
URL = r"mqtts?://[A-Za-z0-9.:\[\]_-]+"

FLEET = Section(
    "fleet.yaml",
    (
        Key("version", "1", "of this format; required"),
        Key("fleet", "name", "the fleet's name, a level of every topic; required"),
        Key("broker", "mapping", "where the broker is; required"),
        Key("home_assistant_install", "true, false", "`serve` acts on the Install button", "false"),
        Key("defaults", "mapping", "settings of every device; a device's own block wins"),
        Key("devices", "mapping", "by name or range: `dock-[01:20]`; required"),
        Key("strategies", "mapping", "how rollouts go, by name"),
        Key("rollouts", "mapping", "for `fleetctl apply`, by name"),
    ),
)
BROKER = Section(
    "broker",
    (
        Key("url", "mqtt:// or mqtts://", "host and port"),
        Key("ca", "path", "PEM file of the authority that signed the broker's certificate"),
        Key("controller_url", "mqtts://", "where fleetctl itself connects", "`url`"),
        Key("embedded", "true, false", "start NATS instead of a `url`", "false"),
    ),
)
ROLLOUT = Section(
    "a rollout",
    (
        Key("release", "name@version", "what to run; required"),
        Key("selector", "text", '`"role=door"`, comma = and, `!=`, `"*"` = all; required'),
        Key("strategy", "name", "one of `strategies`; required"),
        Key("deny", "list", "devices to leave out", "[]"),
    ),
)
SECTIONS = (
    FLEET, BROKER, DEFAULTS, TELEMETRY, BOUNDS, PRIVACY, DEVICE, CAMERA, STRATEGY, WAVE, RAMP,
    PROBE, DEADLINES, GATES, RETRY, WINDOW, ROLLOUT,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is; ``url`` None: the embedded one; ``controller_url`` None: ``url``."""

    url: str | None = None
    ca: str | None = None
    controller_url: str | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """One device with its defaults worked in."""

    id: str
    settings: Settings
    cameras: Mapping[int, CameraDeclared]


@dataclass(frozen=True, slots=True)
class RolloutDeclared:
    """A rollout as ``fleetctl apply`` will want it."""

    name: str
    release: str
    selector: str
    strategy: str
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fleet:
    """All that fleet.yaml says."""

    name: str
    broker: Broker
    devices: Mapping[str, Device]
    strategies: Mapping[str, Strategy] = field(default_factory=dict[str, Strategy])
    rollouts: tuple[RolloutDeclared, ...] = ()
    home_assistant_install: bool = False


def load_fleet(path: Path) -> Fleet:
    """Return the fleet that a file declares.

    Raises:
        InventoryError: It has errors: all of them, one a line.
        OperatorError: There is no such file.
    """
    try:
        data = read_bounded(path, FLEET_YAML_BYTES)
    except LimitError as error:
        raise InventoryError(str(error)) from error
    if data is None:
        raise OperatorError(
            f"expected a fleet.yaml, found none at {path}; `fleetctl init` needs it"
        )
    try:
        return parse_fleet(data.decode("utf-8"), path.name)
    except UnicodeDecodeError as error:
        raise InventoryError(f"{path.name}:1:1: expected UTF-8: {error}") from error


def parse_fleet(written: str, file: str = "fleet.yaml") -> Fleet:
    """Return the fleet in a text; raises InventoryError."""
    root, problems = compose(written, file)
    fields = Fields(root, problems, FLEET)
    fields.require("version", _version, VERSION)
    name = fields.require("fleet", matching(NAME, "a name of a-z, 0-9 and '-'"), "")
    broker = _broker(fields, problems)
    base = Settings()
    if "defaults" in fields:
        base = read_settings(Fields(fields.at("defaults"), problems, DEFAULTS), base, problems)
    no_devices: Mapping[str, Device] = {}
    devices = fields.require("devices", lambda node, p: _devices(node, base, p), no_devices)
    no_strategies: Mapping[str, Strategy] = {}
    strategies = fields.take("strategies", read_strategies, no_strategies)
    for strategy in strategies.values():
        _check_pins(strategy, devices, problems)
    rollouts: tuple[RolloutDeclared, ...] = ()
    if "rollouts" in fields:
        rollouts = _rollouts(fields.at("rollouts"), devices, strategies, problems)
    install = fields.take("home_assistant_install", boolean, default=False)
    problems.raise_if_any()
    return Fleet(name, broker, devices, strategies, rollouts, install)


def identity_of(fleet: str, device: Device, *, version: int, at: datetime) -> Identity:
    """Return what the controller signs about a device."""
    return Identity(
        fleet=fleet,
        device=device.id,
        version=version,
        at=time_text(at),
        timezone=device.settings.timezone,
        labels=dict(device.settings.labels),
        cameras={
            str(number): CameraIdentity(kind=camera.kind, labels=dict(camera.labels))
            for number, camera in sorted(device.cameras.items())
        },
        settings=device.settings.signed,
    )


def cameras_of(device: Device) -> tuple[Camera, ...]:
    """Return a device's cameras as the rules of assignment see them."""
    return tuple(
        Camera(device.id, number, labels_of(device.settings.labels, camera.labels, number))
        for number, camera in sorted(device.cameras.items())
    )


def pins_outside(pins: frozenset[str], cameras: tuple[Camera, ...]) -> tuple[str, ...]:
    """Return the pins that name none of the cameras that a selector matches."""
    inside = {name for c in cameras for name in (c.device, f"{c.device}/{c.number}")}
    return tuple(sorted(pins - inside))


def selector_of(written: str) -> Selector:
    """Return a selector that an operator wrote.

    Raises:
        OperatorError: It is none.
    """
    try:
        return parse(written)
    except SelectorError as error:
        raise OperatorError(f"selector {written!r}: {error}") from error


def reference() -> str:
    """Return docs/reference/fleet-yaml.md."""
    return "\n".join(_reference_lines()) + "\n"


def _version(node: Node, problems: Problems) -> str | None:
    if shown(node) != repr(VERSION):
        problems.expected(node, f"version {VERSION}")
        return None
    return VERSION


def _broker(fields: Fields, problems: Problems) -> Broker:
    if "broker" not in fields:
        fields.require("broker", text, "")
        return Broker()
    own = Fields(fields.at("broker"), problems, BROKER)
    is_embedded = own.take("embedded", boolean, default=False)
    if is_embedded == ("url" in own):
        problems.add(own.node, "expected either url or `embedded: true` in broker")
    url = own.take("url", matching(URL, "mqtt://host:1883 or mqtts://host:8883"), "")
    ca = own.take("ca", text, "")
    ours = own.take("controller_url", matching(URL, "mqtts://host:8884"), "")
    return Broker(url or None, ca or None, ours or None)


def _devices(node: Node, base: Settings, problems: Problems) -> Mapping[str, Device] | None:
    """Return every device, ranges expanded; two of one name are a problem."""
    devices: dict[str, Device] = {}
    lines: dict[str, int] = {}
    read_name = matching(NAME, "a name of a-z, 0-9 and '-'")
    for key, value in entries(node, problems):
        names = expand(key, problems) if "[" in key.value else (read_name(key, problems),)
        fields = Fields(value, problems, DEVICE)
        settings = read_settings(fields, base, problems)
        cameras = read_cameras(
            fields.at("cameras") if "cameras" in fields else None, settings, problems
        )
        for name in names:
            if name is None or not _is_fresh(name, key, lines, problems):
                continue
            lines[name] = key.start_mark.line + 1
            devices[name] = Device(name, settings, cameras)
    if not devices and not problems.found:
        problems.expected(node, "at least one device")
    if len(devices) > DEVICES_MAX:
        problems.add(node, f"expected at most {DEVICES_MAX} devices, got {len(devices)}")
    return devices


def _is_fresh(name: str, key: Node, lines: Mapping[str, int], problems: Problems) -> bool:
    """Say whether a name from a key is one, and is new."""
    if re.fullmatch(NAME, name) is None:
        problems.add(key, f"expected names of a-z, 0-9 and '-', got {name!r}")
        return False
    if name in lines:
        problems.add(key, f"device {name!r} comes twice, first in line {lines[name]}")
        return False
    return True


def _check_pins(strategy: Strategy, devices: Mapping[str, Device], problems: Problems) -> None:
    """Note pins that name no declared camera."""
    cameras = tuple(camera for device in devices.values() for camera in cameras_of(device))
    outside = pins_outside(strategy.pins, cameras)
    for pin, node in strategy.pin_nodes:
        if pin in outside:
            near = nearest(node, tuple(devices))
            problems.add(node, f"expected a pin that names a declared device, got {pin!r}{near}")


def _rollouts(
    node: Node,
    devices: Mapping[str, Device],
    strategies: Mapping[str, Strategy],
    problems: Problems,
) -> tuple[RolloutDeclared, ...]:
    found: list[RolloutDeclared] = []
    for key, value in entries(node, problems):
        fields = Fields(value, problems, ROLLOUT)
        name = matching(NAME, "a name of a-z, 0-9 and '-'")(key, problems)
        release = fields.require("release", matching(RELEASE, "name@version, e.g. helmet@8"), "")
        strategy = fields.require("strategy", text, "")
        if strategy and strategy not in strategies:
            at = fields.at("strategy")
            problems.expected(at, "one of strategies", names=tuple(strategies))
        selector = fields.require("selector", text, "")
        if selector:
            _check_selector(
                fields.at("selector"), selector, strategies.get(strategy), devices, problems
            )
        deny = fields.take("deny", list_of(_declared(devices)), _NOBODY)
        if name is not None:
            found.append(RolloutDeclared(name, release, selector, strategy, deny))
    return tuple(found)


def _declared(devices: Mapping[str, Device]) -> Reader[str]:
    def read(node: Node, problems: Problems) -> str | None:
        value = text(node, problems)
        if value is not None and value not in devices:
            problems.expected(node, "a declared device", names=tuple(devices))
            return None
        return value

    return read


def _check_selector(
    node: Node,
    written: str,
    strategy: Strategy | None,
    devices: Mapping[str, Device],
    problems: Problems,
) -> None:
    """Note a selector that is none, matches nobody, or leaves a pin of its strategy outside."""
    try:
        selector = parse(written)
    except SelectorError as error:
        problems.add(node, f"selector: {error}")
        return
    cameras = tuple(
        camera
        for device in devices.values()
        for camera in cameras_of(device)
        if selector.matches(camera.labels)
    )
    if devices and not cameras:
        problems.expected(node, "a selector that matches at least one device")
    elif strategy is not None:
        for pin in pins_outside(strategy.pins, cameras):
            problems.add(node, f"pin {pin!r} of strategy {strategy.name} is outside {written!r}")


def _reference_lines() -> Iterator[str]:
    yield "# fleet.yaml: every key"
    yield ""
    yield "Written by `python -m controller.inventory --reference` from the types that parse it; a"
    yield "test holds the two equal. The file at the project's root is a commented example."
    yield ""
    yield "Durations are `90s`, `30m`, `2h` or `1d`; percentages `10%`; counts whole numbers. Words"
    yield "that YAML 1.1 reads as something else (`off`, `no`, `22:00`) are refused: quote them."
    yield "All errors of a file are told at once, each with its line and column."
    for section in SECTIONS:
        yield f"\n## {section.title}\n"
        yield "| key | value | meaning | default |"
        yield "|---|---|---|---|"
        for key in section.keys:
            default = f"`{key.default}`" if key.default else ""
            yield f"| `{key.name}` | {key.kind} | {key.meaning} | {default} |"


def main(arguments: list[str]) -> int:
    """Check a file, or print the reference."""
    if arguments == ["--reference"]:
        sys.stdout.write(reference())
        return 0
    try:
        fleet = load_fleet(Path(arguments[0] if arguments else "fleet.yaml"))
    except (OperatorError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{fleet.name}: {len(fleet.devices)} devices, all right\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
