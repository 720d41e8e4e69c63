"""What the machine says of itself: its clock, boot, serial number, heat and memory.

Nothing here raises: what a machine does not say is None. Nothing here changes the machine, but for
``reboot``, which only a device that was told so (``--allow-reboot``) ever calls.
"""

import ctypes
import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SERIAL = Path("/sys/firmware/devicetree/base/serial-number")
_TEMPERATURE = Path("/sys/class/thermal/thermal_zone0/temp")
_HWMON = Path("/sys/class/hwmon")
_BOOT_CHARACTERS = 8
_TIMEX_BYTES = 512  # More than `struct timex` has anywhere.
_TIME_ERROR = 5  # What adjtimex returns while the clock is not synchronised.
_UNDER_VOLTAGE_BIT, _THROTTLED_BITS = 0x1, 0xE  # Capped, throttled, soft temperature limit.
_SINCE_BOOT_SHIFT = 16
_FIRMWARE_SECONDS = 60.0
_ASK_SECONDS = 2.0  # The loop waits for it; the firmware needs ten milliseconds.
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


@dataclass(frozen=True, slots=True)
class Power:
    """What the firmware says of supply and heat, now and since boot; None: it does not say."""

    is_throttled: bool | None = None
    is_under_voltage: bool | None = None
    was_throttled: bool | None = None
    was_under_voltage: bool | None = None


def parse_throttled(text: str) -> Power:
    """Return what ``vcgencmd get_throttled`` means: ``throttled=0x50005``."""
    try:
        bits = int(text.strip().removeprefix("throttled="), 16)
    except ValueError:
        return Power()
    since_boot = bits >> _SINCE_BOOT_SHIFT
    return Power(
        bool(bits & _THROTTLED_BITS),
        bool(bits & _UNDER_VOLTAGE_BIT),
        bool(since_boot & _THROTTLED_BITS),
        bool(since_boot & _UNDER_VOLTAGE_BIT),
    )


class PowerMeter:
    """Reads the supply's alarm each time, and asks the firmware, for which it forks, seldom.

    The kernel's own file of these bits is deprecated (it warns in its log), and a Pi 5 has none.
    """

    def __init__(self, hwmon: Path = _HWMON, command: str = "/usr/bin/vcgencmd") -> None:
        """Prepare; ``hwmon`` is where the kernel shows its sensors."""
        self._hwmon = hwmon
        self._command = command
        self._firmware = Power()
        self._asked_at = float("-inf")

    def read(self, now: float) -> Power:
        """Return how the supply is."""
        if now - self._asked_at >= _FIRMWARE_SECONDS:
            self._asked_at = now
            self._firmware = self._ask()
        alarm = self._alarm()
        return self._firmware if alarm is None else replace(self._firmware, is_under_voltage=alarm)

    def _ask(self) -> Power:
        command = [self._command, "get_throttled"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return Power()
        return parse_throttled(done.stdout)

    def _alarm(self) -> bool | None:
        for name in self._hwmon.glob("hwmon*/name"):
            if _text(name) == "rpi_volt":
                text = _text(name.with_name("in0_lcrit_alarm"))
                return None if text not in {"0", "1"} else text == "1"
        return None


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
