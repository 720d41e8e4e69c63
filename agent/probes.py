"""What `fleet-agent doctor` reads of this machine. Nothing here judges, changes anything or raises.

The broker is only knocked at (and its certificate looked at): a client with this device's name
would push the running agent off.
"""

import grp
import os
import platform
import pwd
import shutil
import socket
import ssl
import subprocess
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from agent import host, status
from agent.camera.choice import why_not
from agent.doctor import Facts
from agent.journal import from_text
from shared.card import Card, read_card
from shared.errors import FleetError

BROKER_SECONDS = 5.0
COMMAND_SECONDS = 10.0
PACKAGES = ("python3-libcamera", "imx500-all", "imx500-tools")
MODULES = ("libcamera", "modlib", "picamera2", "onnxruntime")
LIBRARIES: Final = ("modlib", "picamera2")
USER = "fleet-agent"
STATE = Path("/var/lib/fleet-agent")
BOOT_CARD = Path("/boot/firmware/fleet-agent.yaml")
_UNIT = "fleet-agent.service"
_MODEL = Path("/sys/firmware/devicetree/base/model")
_SUBDEVICES = Path("/sys/class/video4linux")


def read_facts(state: Path, *, is_service: bool) -> Facts:
    """Look at everything.

    Args:
        state: The state folder.
        is_service: It is the packaged service's; otherwise what we are is what the agent is.
    """
    card, card_error = _card(state)
    needs_sensor = _needs_sensor(state)
    modules = {name: _is_there(name) for name in MODULES}
    user = USER if is_service else _own_name()
    return Facts(
        needs_sensor=needs_sensor,
        model=_model(),
        kernel=platform.release(),
        has_driver=_has_driver(),
        packages=_packages(),
        modules=modules,
        load_errors=_load_errors(modules) if needs_sensor else {},
        user=user,
        groups=_groups(user),
        sensors=sensors(_SUBDEVICES),
        card_error=card_error,
        has_card_on_boot=is_service and BOOT_CARD.exists(),
        broker_url="" if card is None else card.broker.url,
        broker_error="" if card is None else knock(card),
        is_clock_synchronised=host.is_clock_synchronised(),
        state=str(state),
        state_error=_state_error(state),
        free_bytes=_free_bytes(state),
        memory_bytes=_memory_bytes(),
        power=host.PowerMeter().read(monotonic()),
        celsius=host.temperature_c(),
        service=_service() if is_service else None,
        status=read_status(state, card),
    )


def is_service(state: Path) -> bool:
    """Say whether a state is the packaged service's."""
    return state == STATE


def read_status(state: Path, card: Card | None) -> status.Status | None:
    """Return what the agent of this state last said, once it is enrolled."""
    if card is None:
        return None
    note = status.read_note(state)
    return status.judge(card, note, is_running=status.is_running(state))


def sensors(folder: Path) -> tuple[str, ...]:
    """Return the imx500 sensors that the kernel's driver has bound: its names of subdevices."""
    found = set()
    for name in folder.glob("*/name"):
        with suppress(OSError):
            text = name.read_text(encoding="utf-8", errors="replace").strip()
            if text.startswith("imx500"):
                found.add(text)
    return tuple(sorted(found))


def knock(card: Card) -> str:
    """Return why nothing answers where the card says that the broker is; empty: it does."""
    parts = urlsplit(card.broker.url)
    is_secure = parts.scheme == "mqtts"
    name = parts.hostname or ""
    try:
        address = (name, parts.port or (8883 if is_secure else 1883))
        with socket.create_connection(address, timeout=BROKER_SECONDS) as plain:
            if is_secure:
                ca = card.broker.ca
                is_text = ca is not None and "-----BEGIN" in ca
                context = ssl.create_default_context(
                    cafile=None if is_text else ca, cadata=ca if is_text else None
                )
                context.wrap_socket(plain, server_hostname=name).close()
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not good: {error.verify_message}"
    except OSError as error:
        return str(error.strerror or error)
    return ""


def _card(state: Path) -> tuple[Card | None, str]:
    try:
        return read_card(state / "card.yaml"), ""
    except (FleetError, OSError) as error:
        return None, str(error)


def _needs_sensor(state: Path) -> bool:
    try:
        identity = from_text((state / "journal.json").read_bytes()).identity
    except (FleetError, OSError):
        return True
    kinds = set() if identity is None else {one.kind for one in identity.cameras.values()}
    return kinds != {"simulated"}


def _model() -> str | None:
    with suppress(OSError):
        return _MODEL.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    return None


def _has_driver() -> bool | None:
    folder = Path("/lib/modules") / platform.release()
    if not folder.exists():  # A container.
        return None
    return any(folder.glob("kernel/drivers/media/i2c/imx500.ko*"))


def _packages() -> dict[str, str | None]:
    query = shutil.which("dpkg-query")
    if query is None:
        return {}
    shown = r"${Package} ${db:Status-Status} ${Version}\n"
    text = _said(query, "--show", f"--showformat={shown}", *PACKAGES)
    rows = [line.split(" ") for line in text.splitlines()]
    installed = {row[0]: row[2] for row in rows if row[1:2] == ["installed"]}
    return {package: installed.get(package) for package in PACKAGES}


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _load_errors(modules: dict[str, bool]) -> dict[str, str]:
    """Return what a child of its own, as a camera's is, finds against each library."""
    return {library: why_not(library) for library in LIBRARIES if modules[library]}


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _groups(user: str) -> frozenset[str] | None:
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return None
    if account.pw_uid == 0:
        return None  # It may do all.
    names = set()
    for number in os.getgrouplist(user, account.pw_gid):
        with suppress(KeyError):
            names.add(grp.getgrgid(number).gr_name)
    return frozenset(names)


def _state_error(state: Path) -> str:
    if not state.exists():
        return f"there is no {state}"
    if not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        return f"{_own_name()} may not read and write {state}"
    owner = state.stat().st_uid
    strangers = [
        path.name for path in state.iterdir() if path.is_file() and path.stat().st_uid != owner
    ]
    return f"{strangers[0]} in {state} is not its owner's" if strangers else ""


def _free_bytes(state: Path) -> int | None:
    try:
        return shutil.disk_usage(state if state.exists() else "/").free
    except OSError:
        return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _service() -> str | None:
    if not Path("/run/systemd/system").exists():
        return None
    text = _said("/usr/bin/systemctl", "is-active", _UNIT).strip()
    return text or None


def _said(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
