"""A throwaway Debian in a folder: made, booted under systemd-nspawn, asked, and halted.

It shares this machine's network, so that what runs in it reaches a broker on loopback.
"""

import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

_NSPAWN = "systemd-nspawn"
_CLOCK = "--system-call-filter=adjtimex clock_adjtime"  # As on a machine: they may be asked.
SUITE = "bookworm"
SERVICE = "fleet-agent.service"
INSTALLED_FIRST = "python3,systemd,systemd-sysv,dbus,polkitd,udev,procps"
WAIT_SECONDS = 90.0


class NotAsToldError(Exception):
    """A step did not end as it should."""


@dataclass
class Box:
    """A Debian in a folder, and the systemd that runs in it once it is booted."""

    root: Path
    booted: subprocess.Popen[bytes] | None = None

    def offline(self, *command: str) -> str:
        """Run a command in it while it is not booted."""
        return _run(_NSPAWN, "--quiet", "--register=no", "--keep-unit", "--pipe",
                    "-D", str(self.root), "--as-pid2", *command)  # fmt: skip

    def inside(self, *command: str, may_fail: bool = False) -> str:
        """Run a command in the booted system."""
        return _run("nsenter", "--all", "--target", str(self._leader), *command, may_fail=may_fail)

    def tried(self, *command: str) -> int:
        """Return the exit code of a command in the booted system."""
        full = ["nsenter", "--all", "--target", str(self._leader), *command]
        return subprocess.run(full, capture_output=True, check=False).returncode

    def users(self) -> list[str]:
        """Return the users of the service's processes."""
        pid = self.shown("MainPID")
        return self.inside("ps", "-o", "user:20=", "--pid", pid, "--ppid", pid).split()

    def boot(self) -> None:
        """Boot it, until systemd answers."""
        log = (self.root.parent / "boot.log").open("ab")
        self.booted = subprocess.Popen(
            [_NSPAWN, "--quiet", "--register=no", "--keep-unit", "--boot",
             "--link-journal=no", _CLOCK, "-D", str(self.root)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        wait_for("the booted Debian", self._is_up)

    def halt(self) -> None:
        """End it."""
        if self.booted is not None and self.booted.poll() is None:
            self.booted.send_signal(signal.SIGTERM)
            try:
                self.booted.wait(30)
            except subprocess.TimeoutExpired:
                self.booted.kill()
                self.booted.wait()
        self.booted = None

    def _is_up(self) -> bool:
        said = self.inside("systemctl", "is-system-running", may_fail=True)
        return said.strip() in {"running", "degraded"}

    @property
    def _leader(self) -> int:
        assert self.booted is not None
        path = Path(f"/proc/{self.booted.pid}/task/{self.booted.pid}/children")
        children = path.read_text(encoding="ascii").split()
        return int(children[0]) if children else self.booted.pid

    def shown(self, what: str) -> str:
        """Return a property of the service."""
        return self.inside("systemctl", "show", "--value", "--property", what, SERVICE).strip()


def base(path: Path) -> Path:
    """Return the tar of a small Debian; made once, as it takes a minute."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_suffix(".part.tar")
        print(f"Making a small Debian ({SUITE}); a minute or two, once", flush=True)  # noqa: T201
        _run("mmdebstrap", "--variant=minbase", f"--include={INSTALLED_FIRST}", SUITE, str(made))
        made.replace(path)
    return path


def unpacked(base: Path, root: Path) -> Path:
    """Return the folder that a tar was unpacked into."""
    root.mkdir()
    _run("tar", "--extract", "--file", str(base), "--directory", str(root))
    return root


def saw(what: str, is_so: bool, otherwise: str = "") -> None:  # noqa: FBT001
    """Say what was seen.

    Raises:
        NotAsToldError: It was not.
    """
    if not is_so:
        raise NotAsToldError(f"{what}: {otherwise or 'no'}")
    print(f"ok   {what}", flush=True)  # noqa: T201


def wait_for(what: str, is_so: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait until something is so."""
    begun = monotonic()
    while not is_so():
        if monotonic() - begun > seconds:
            raise NotAsToldError(f"expected {what} within {seconds:.0f} s")
        sleep(0.2)


def _run(*command: str, may_fail: bool = False) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and not may_fail:
        raise NotAsToldError(f"{' '.join(command)} ended with {done.returncode}:\n"
                             f"{done.stdout[-3000:]}{done.stderr[-3000:]}")  # fmt: skip
    return done.stdout
