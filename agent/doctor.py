"""`fleet-agent doctor`: what stands between this device and a camera that streams. Pure.

``agent.probes`` reads the facts; here each is judged and, where it is not as it should be, gets the
remedy that a person can type. A warning is something that works for now, or that only some devices
need; an error is something that must be mended. What could not be found out is None, and never an
error: doctor also runs without root, in containers, and on machines that are no Pi.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from agent.host import Power
from agent.status import Status
from agent.watch import STARTS_PER_BOOT_MAX

KERNEL_MIN = (6, 6)  # The first of Raspberry Pi's kernels with the imx500 driver.
LIBCAMERA_MIN = (0, 6)  # What modlib loads; picamera2 gets on with older ones.
FREE_BYTES_MIN = 200 * 1024 * 1024  # Two releases of 48 MiB, their packages, and a log.
MEMORY_BYTES_MIN = 900 * 1024 * 1024  # Below: the packer's Java runs beside a streaming child.
CELSIUS_MAX = 80.0  # At 80 the firmware begins to slow down.
GROUPS = ("video", "render")
UPGRADE = "sudo apt update && sudo apt full-upgrade, then reboot"
JOURNAL = "journalctl -u fleet-agent"

Level = Literal["ok", "warning", "error"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at; ``remedy`` where it is not as it should be."""

    what: str
    level: Level
    text: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found out about this device; None and empty: it could not be.

    Attributes:
        needs_sensor: Some camera of the signed identity is not simulated, or there is none yet.
        card_error: Why there is no card to start from.
        has_card_on_boot: A card lies on the boot partition that was not taken.
        packages: Versions of Debian's packages, by name; None where one is not installed.
        modules: Whether Python finds these.
        load_errors: Why a camera's library that is there does not load; empty: it does.
        groups: Those of the user that the agent runs as.
        sensors: Names of the sensors that the kernel's driver has bound.
        broker_error: Why nothing answers there; empty: it answers.
        state_error: Why the state cannot be used; empty: it can.
        service: What systemd says of the unit, e.g. ``active``.
    """

    needs_sensor: bool = True
    model: str | None = None
    kernel: str = ""
    has_driver: bool | None = None
    packages: dict[str, str | None] = field(default_factory=dict)
    modules: dict[str, bool] = field(default_factory=dict)
    load_errors: dict[str, str] = field(default_factory=dict)
    user: str = ""
    groups: frozenset[str] | None = None
    sensors: tuple[str, ...] = ()
    card_error: str = ""
    has_card_on_boot: bool = False
    broker_url: str = ""
    broker_error: str = ""
    is_clock_synchronised: bool = False
    state: str = ""
    state_error: str = ""
    free_bytes: int | None = None
    memory_bytes: int | None = None
    power: Power = field(default_factory=Power)
    celsius: float | None = None
    service: str | None = None
    status: Status | None = None


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Return what was looked at, in the order in which it is to be mended."""
    findings = [*_machine(facts), *_software(facts), *_camera(facts), *_fleet(facts)]
    return tuple(findings)


def lines(findings: tuple[Finding, ...]) -> Iterator[str]:
    """Say it in plain words."""
    for finding in findings:
        yield f"{finding.level:<8} {finding.what:<12} {finding.text}"
        if finding.remedy is not None:
            yield f"{'':<8} {'':<12} -> {finding.remedy}"


def exit_code(findings: tuple[Finding, ...]) -> int:
    """Return 0 without an error, 6 where only the broker does not answer, else 1."""
    errors = {finding.what for finding in findings if finding.level == "error"}
    if not errors:
        return 0
    return 6 if errors == {"broker"} else 1


def _machine(facts: Facts) -> Iterator[Finding]:
    yield _kernel(facts)
    yield from _power(facts.power)
    if facts.celsius is not None:
        is_hot = facts.celsius >= CELSIUS_MAX
        yield _warns_if(is_hot, "heat", f"{facts.celsius:.0f} C", "give the Pi a cooler, or shade")
    if facts.memory_bytes is not None:
        is_small = facts.memory_bytes < MEMORY_BYTES_MIN
        text = f"{facts.memory_bytes // 1024**2} MiB"
        remedy = "give it releases with a ready rpk file, packed on a larger Pi"
        yield _warns_if(is_small and facts.needs_sensor, "memory", text, remedy)
    yield _disk(facts)
    yield _clock(facts)


def _kernel(facts: Facts) -> Finding:
    text = f"{facts.kernel} on {facts.model or 'no Raspberry Pi'}"
    if not facts.needs_sensor:
        return _ok("kernel", f"{text}; cameras are simulated")
    if _version(facts.kernel) < KERNEL_MIN:
        return _error("kernel", f"{text}; the imx500 driver came with 6.6", UPGRADE)
    if facts.has_driver is False:
        return _error("kernel", f"{text}, without the imx500 driver", UPGRADE)
    return _ok("kernel", text)


def _power(power: Power) -> Iterator[Finding]:
    supply = "use the official supply (27 W for a Pi 5), and a short cable"
    cooler = "give the Pi a cooler; a weak supply throttles it, too"
    if power.is_under_voltage:
        yield _error("power", "the supply is too weak now: under-voltage", supply)
    elif power.was_under_voltage:
        yield _warning("power", "the supply was too weak since boot: under-voltage", supply)
    elif power.is_under_voltage is False:
        yield _ok("power", "no under-voltage")
    else:
        yield _ok("power", "this machine does not say")
    if power.is_throttled:
        yield _warning("throttling", "the processor is slowed down now", cooler)
    elif power.was_throttled:
        yield _warning("throttling", "the processor was slowed down since boot", cooler)


def _disk(facts: Facts) -> Finding:
    if facts.free_bytes is None:
        return _ok("disk", "not known")
    text = f"{facts.free_bytes // 1024**2} MiB free at {facts.state}"
    if facts.free_bytes < FREE_BYTES_MIN:
        remedy = "make room (sudo apt clean; journalctl --vacuum-size=50M), or take a larger card"
        return _error("disk", text, remedy)
    return _ok("disk", text)


def _clock(facts: Facts) -> Finding:
    if facts.is_clock_synchronised:
        return _ok("clock", "synchronised")
    remedy = "timedatectl set-ntp true; let UDP 123 out, or name a server in timesyncd.conf"
    return _error("clock", "not synchronised: nothing new is taken until it is", remedy)


def _software(facts: Facts) -> Iterator[Finding]:
    if not facts.needs_sensor:
        has = facts.modules.get("onnxruntime", False)
        remedy = "install the package fleet-agent-simulated"
        yield _ok("simulation", "installed") if has else _error("simulation", "missing", remedy)
        return
    yield _libcamera(facts)
    for package in ("imx500-all", "imx500-tools"):
        if package in facts.packages:
            yield _package(package, facts.packages[package])
    yield _driver(facts)


def _libcamera(facts: Facts) -> Finding:
    version = facts.packages.get("python3-libcamera")
    install = "sudo apt install python3-libcamera (Raspberry Pi OS; plain Debian has none)"
    if version is None and not facts.modules.get("libcamera", False):
        return _error("libcamera", "missing", install)
    if version is not None and _version(version) < LIBCAMERA_MIN:
        return _warning("libcamera", f"{version}, too old for modlib: picamera2 is used", UPGRADE)
    return _ok("libcamera", version or "found")


def _package(package: str, version: str | None) -> Finding:
    if version is not None:
        return _ok(package, version)
    what = "it packs releases" if package == "imx500-tools" else "the sensor's firmware"
    return _error(package, f"missing: {what}", f"sudo apt install {package} (Raspberry Pi OS)")


def _driver(facts: Facts) -> Finding:
    found = [name for name in ("modlib", "picamera2") if facts.modules.get(name, False)]
    if not found:
        remedy = "install the package fleet-agent-modlib, or sudo apt install python3-picamera2"
        return _error("driver", "neither modlib nor picamera2 is there", remedy)
    against = [f"{name} does not load: {facts.load_errors[name]}" for name in found
               if facts.load_errors.get(name)]  # fmt: skip
    if len(against) == len(found):
        return _error("driver", "; ".join(against), UPGRADE)
    loading = " and ".join(name for name in found if not facts.load_errors.get(name))
    if against:
        return _warning("driver", f"{loading} is used; {against[0]}", UPGRADE)
    return _ok("driver", loading)


def _camera(facts: Facts) -> Iterator[Finding]:
    if facts.needs_sensor:
        yield _sensors(facts)
        if facts.groups is not None:
            yield _groups(facts)
    note = None if facts.status is None else facts.status.note
    if note is None or facts.status is None or not facts.status.is_running:
        return
    for number, camera in note.reported.cameras.items():
        what, text = f"camera {number}", f"{camera.state}, {camera.starts} starts in this boot"
        if camera.state == "needs_reboot" or camera.starts >= STARTS_PER_BOOT_MAX:
            yield _error(what, f"needs a reboot: {text}", "sudo reboot")
        elif camera.state == "missing":
            yield _error(what, text, _CABLE)
        elif camera.state == "stalled":
            yield _warning(what, text, f"wait; {JOURNAL} says what is tried")
        else:
            yield _ok(what, text)


def _sensors(facts: Facts) -> Finding:
    if facts.sensors:
        return _ok("camera", ", ".join(facts.sensors))
    return _error("camera", "no AI Camera found by the kernel", _CABLE)


def _groups(facts: Facts) -> Finding:
    assert facts.groups is not None
    lacking = [group for group in GROUPS if group not in facts.groups]
    if not lacking:
        return _ok("groups", f"{facts.user} is in {' and '.join(GROUPS)}")
    remedy = f"sudo usermod -aG {','.join(lacking)} {facts.user}, then restart the service"
    return _error("groups", f"{facts.user} is not in {', '.join(lacking)}", remedy)


def _fleet(facts: Facts) -> Iterator[Finding]:
    yield _card(facts)
    yield _state(facts)
    if not facts.card_error:
        yield _broker(facts)
    if facts.service is not None:
        is_up = facts.service == "active"
        remedy = f"sudo systemctl restart fleet-agent; {JOURNAL}"
        yield _ok("service", "active") if is_up else _error("service", facts.service, remedy)
    if facts.status is not None and facts.status.is_running:
        for problem in facts.status.problems:
            taken = "taken over" in problem.lower()  # MQTT's words for another with our name.
            yield _warning("agent", problem, _TWIN if taken else JOURNAL)


def _card(facts: Facts) -> Finding:
    if facts.has_card_on_boot:
        text = "a card lies on the boot partition and was not taken"
        remedy = "sudo fleet-agent enroll /boot/firmware/fleet-agent.yaml says why"
        return _error("card", text, remedy)
    if facts.card_error:
        remedy = (
            "fleetctl device add ID --card FILE on the workstation; here: sudo fleet-agent enroll"
            " FILE"
        )
        return _error("card", facts.card_error, remedy)
    return _ok("card", "enrolled" if facts.status is None else _enrolled(facts.status))


def _enrolled(status: Status) -> str:
    return f"{status.device} of {status.fleet}"


def _state(facts: Facts) -> Finding:
    if not facts.state_error:
        return _ok("state", facts.state)
    remedy = f"run this with sudo; else: sudo chown -R fleet-agent: {facts.state}"
    return _error("state", facts.state_error, remedy)


def _broker(facts: Facts) -> Finding:
    is_connected = (
        facts.status is not None
        and facts.status.is_running
        and facts.status.note is not None
        and facts.status.note.broker.is_connected
    )
    if is_connected:
        return _ok("broker", f"{facts.broker_url}: connected")
    if facts.broker_error:
        remedy = "is it up, and does its name resolve here? fleetctl doctor on the workstation"
        return _error("broker", f"{facts.broker_url}: {facts.broker_error}", remedy)
    return _ok("broker", f"{facts.broker_url} answers")


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"(?:\d+:)?(\d+)\.(\d+)", text)
    return (0, 0) if match is None else (int(match[1]), int(match[2]))


def _ok(what: str, text: str) -> Finding:
    return Finding(what=what, level="ok", text=text)


def _warning(what: str, text: str, remedy: str) -> Finding:
    return Finding(what=what, level="warning", text=text, remedy=remedy)


def _error(what: str, text: str, remedy: str) -> Finding:
    return Finding(what=what, level="error", text=text, remedy=remedy)


def _warns_if(is_so: bool, what: str, text: str, remedy: str) -> Finding:  # noqa: FBT001
    return _warning(what, text, remedy) if is_so else _ok(what, text)


_TWIN = (
    "another card has this device's id; `fleetctl device ls` says which machines they are in:"
    " give one of them a card of its own"
)
_CABLE = (
    "power off, seat the cable at both ends; camera_auto_detect=1 (or dtoverlay=imx500) in"
    " /boot/firmware/config.txt; reboot"
)
