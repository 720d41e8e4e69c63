"""``fleetctl doctor``: what is missing on this machine, at the broker or in the fleet."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import click

from controller.cli.exits import Exit
from controller.cli.fleet import opened
from controller.cli.terminal import Format, Terminal, output_option
from shared.errors import FleetError
from shared.limits import RELEASES_LISTED_MAX

if TYPE_CHECKING:
    from controller.service import Controller

PYTHON_MIN = (3, 11)
JAVA_SECONDS = 10.0
BROKER_SECONDS = 3.0
RELEASES_WARNED = RELEASES_LISTED_MAX * 4 // 5
Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    level: Level
    text: str


@click.command()
@output_option
def doctor(output: Format) -> int:
    """Check this machine, the broker and the fleet; exit 1 when something is wrong.

    A warning is something that only some commands need. Exit 6 when the broker does not answer.
    """
    findings = all_findings()
    rows = [(finding.level, finding.what, finding.text) for finding in findings]
    Terminal(output).table(("", "what", "found"), rows, documents=findings, empty="")
    errors = [finding.what for finding in findings if finding.level == "error"]
    if not errors:
        return Exit.OK
    return Exit.BROKER if errors == ["broker"] else Exit.ERROR


def all_findings() -> list[Finding]:
    """Return all that was looked at."""
    return [*_machine(), *_fleet()]


def _machine() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    is_new = sys.version_info >= PYTHON_MIN
    yield Finding("python", "ok" if is_new else "error", version)
    yield _tried("NATS server", _nats)
    yield _tried("Mosquitto", _mosquitto)
    yield _module("onnxruntime", "simulated cameras and `demo`", remedy="make demo")
    yield _module("torch", "`model build`", remedy="make export")
    yield _java()


def _fleet() -> Iterator[Finding]:
    if not Path("fleet.yaml").is_file():
        yield Finding("fleet.yaml", "warning", "none in this folder; `fleetctl init` writes one")
        return
    try:
        with opened() as controller:
            yield Finding("fleet", "ok", f"{controller.fleet.name}, in {controller.folder}")
            yield _broker(controller.broker_url)
            yield from _inside(controller)
    except FleetError as error:
        yield Finding("fleet", "error", str(error))


def _inside(controller: "Controller") -> Iterator[Finding]:
    releases = controller.list_releases()
    level: Level = "warning" if len(releases) > RELEASES_WARNED else "ok"
    yield Finding("releases", level, f"{len(releases)} of at most {RELEASES_LISTED_MAX}")
    devices = controller.list_devices()
    missing = [d.device for d in devices if d.state != "online"]
    text = f"{len(devices) - len(missing)} of {len(devices)} online"
    yield Finding("devices", "warning" if missing else "ok", text)
    for device in devices:
        for note in device.notes:
            yield Finding(device.device, "warning", note)
    driver = controller.driver()
    if driver.holder is not None:
        yield Finding("driver", "ok", f"{driver.holder} drives the rollouts")


def _broker(url: str) -> Finding:
    parts = urlsplit(url)
    port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=BROKER_SECONDS).close()
    except OSError as error:
        return Finding("broker", "error", f"{url} does not answer: {error}")
    return Finding("broker", "ok", f"{url} answers")


def _tried(what: str, find: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", find())
    except FleetError as error:
        return Finding(what, "warning", str(error))


def _nats() -> str:
    from controller.broker import find_nats, nats_version  # noqa: PLC0415

    path = find_nats()
    return f"{'.'.join(map(str, nats_version(path) or ()))}, {path}"


def _mosquitto() -> str:
    from controller.broker import find_mosquitto  # noqa: PLC0415

    return str(find_mosquitto())


def _module(name: str, purpose: str, *, remedy: str) -> Finding:
    if find_spec(name) is not None:
        return Finding(name, "ok", f"installed, for {purpose}")
    return Finding(name, "warning", f"missing; {purpose} needs it: `{remedy}` installs it")


def _java() -> Finding:
    java = shutil.which("java")
    if java is None:
        return Finding("Java", "warning", "missing; `model build` needs Java 17 or later")
    answer = subprocess.run(
        [java, "-version"], capture_output=True, timeout=JAVA_SECONDS, check=False
    )
    first, *_ = (answer.stderr or answer.stdout).decode(errors="replace").splitlines() or ["?"]
    return Finding("Java", "ok", first)
