"""What the machine says of itself: its clock, boot, serial number, heat and memory.

Nothing here raises: what a machine does not say is None. Nothing here changes the machine, but for
``reboot``, which only a device that was told so (``--allow-reboot``) ever calls.
"""

import ctypes
import subprocess
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SERIAL = Path("/sys/firmware/devicetree/base/serial-number")
_TEMPERATURE = Path("/sys/class/thermal/thermal_zone0/temp")
_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_BOOT_CHARACTERS = 8
_TIMEX_BYTES = 512  # More than `struct timex` has anywhere.
_TIME_ERROR = 5  # What adjtimex returns while the clock is not synchronised.
_UNDER_VOLTAGE_BIT, _THROTTLED_BITS = 0x1, 0xE
_REBOOT_SECONDS = 30
_KIBIBYTE = 1024


def boot_id(simulated_boots: int) -> str:
    """Return eight characters that differ after each boot of the kernel.

    Args:
        simulated_boots: How often a simulated device "rebooted" since; each counts as a boot.
    """
    kernel = _text(_BOOT_ID) or "no-boot-id"
    return sha256(f"{kernel}\n{simulated_boots}".encode()).hexdigest()[:_BOOT_CHARACTERS]


def is_clock_synchronised() -> bool:
    """Say whether the kernel knows its clock to be right (NTP, PTP or GPS keeps it)."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: read only.
    try:
        state = int(ctypes.CDLL(None).adjtimex(buffer))
    except (OSError, AttributeError):
        return False
    return 0 <= state < _TIME_ERROR


def utc_now() -> datetime:
    """Return the wall clock, right or not."""
    return datetime.now(UTC)


def serial() -> str | None:
    """Return the Pi's serial number."""
    text = _text(_SERIAL)
    return None if text is None else text.strip("\0\n ") or None


def temperature_c() -> float | None:
    """Return the processor's temperature."""
    text = _text(_TEMPERATURE)
    try:
        return None if text is None else int(text) / 1000
    except ValueError:
        return None


def power() -> tuple[bool | None, bool | None]:
    """Return whether the Pi is throttled now, and whether its supply is too weak now."""
    text = _text(_THROTTLED)
    try:
        bits = None if text is None else int(text, 16)
    except ValueError:
        bits = None
    if bits is None:
        return None, None
    return bool(bits & _THROTTLED_BITS), bool(bits & _UNDER_VOLTAGE_BIT)


def memory_bytes(*pids: int) -> int:
    """Return the resident memory of this process and of the others named."""
    return sum(_resident(pid) for pid in ("self", *map(str, pids)))


def reboot() -> None:
    """Ask systemd for a reboot of the whole machine."""
    command = ["/usr/bin/systemctl", "reboot"]
    subprocess.run(command, check=False, timeout=_REBOOT_SECONDS)


def _resident(process: str) -> int:
    for line in (_text(Path("/proc") / process / "status") or "").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * _KIBIBYTE
    return 0


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
