"""Install the packages in a throwaway Debian, boot it, and see its agent do the main job.

    fleetctl's own code and a broker here  <--MQTT on loopback-->  systemd in a container: the .deb

Real are the packages, dpkg, systemd with the unit's sandbox, polkit and the broker; the camera is
simulated. Needs root, mmdebstrap and systemd-nspawn. Each step prints what was seen, and the first
that is not as told ends the run with exit 1. The container shares this machine's loopback, and
nothing of it stays.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from controller.broker import run_nats
from controller.demo import SHAPES
from controller.export.pack import FILE_NAMES, make_release
from controller.service import AT_REST, Controller
from shared.card import write_card

if TYPE_CHECKING:
    from shared.release import Role

_NSPAWN = "systemd-nspawn"
SUITE = "bookworm"
INSTALLED_FIRST = "python3,systemd,systemd-sysv,dbus,polkitd,udev,procps"
DEVICE = "gate-01"
NEWER = "99.0.0"
SERVICE = "fleet-agent.service"
STATE = "var/lib/fleet-agent"
CARD = "boot/firmware/fleet-agent.yaml"
WAIT_SECONDS = 90.0
WATCHDOG_SECONDS = 8
REBOOT_CODE = 133  # systemd-nspawn's, where what it ran asked for a reboot.
# A demo's keys are plain and its clock is believed: nothing else differs from the packaged unit.
DROP_IN = f"""[Service]
ExecStart=
ExecStart=/opt/fleet-agent/bin/fleet-agent run --allow-reboot --demo --assume-clock --heartbeat 5
WatchdogSec={WATCHDOG_SECONDS}
"""
CARD_DROP_IN = f"""[Service]
ExecStart=
ExecStart=/opt/fleet-agent/bin/fleet-agent enroll --demo /{CARD}
"""
FLEET = """
version: 1
fleet: try
broker: {{url: "{url}"}}
defaults: {{camera: simulated}}
devices: {{{device}: {{}}}}
strategies:
  at-once:
    waves: [{{fraction: 100%}}]
    probe: {{seconds: 2s}}
"""


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
             "--link-journal=no", "-D", str(self.root)],
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


def main() -> None:
    """Try the packages in a folder, and print what was seen."""
    arguments = _parser().parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imxfleet-deb-")))
        box = Box(_unpacked(_base(arguments.base), folder / "root"))
        stack.callback(box.halt)
        try:
            with fleet(folder) as controller:
                try_all(box, controller, arguments.folder)
        except NotAsToldError as error:
            said = _last_words(box)
            print(f"NOT AS TOLD: {error}\n{said}")  # noqa: T201
            sys.exit(1)


def try_all(box: Box, controller: Controller, folder: Path) -> None:
    """Go through a package's life."""
    newer = sorted(folder.glob(f"*_{NEWER}_*.deb"))
    install(box, sorted(set(folder.glob("*.deb")) - set(newer)))
    write_card(box.root / CARD, controller.add_device(DEVICE))
    box.boot()
    release(controller, 1)
    roll_out(controller, "shapes@1")
    saw("the card is wiped from the boot partition", not (box.root / CARD).exists())
    saw("its children run as fleet-agent, too", box.users() == ["fleet-agent"] * 2)
    reboot(box)
    watchdog(box, controller)
    upgrade(box, controller, newer)
    purge(box)


def reboot(box: Box) -> None:
    """The sandboxed agent may reboot the device; nobody else without a password may."""
    sandbox = ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=")
    properties = [f"--property={one}" for one in sandbox]
    asked = {}
    for user in ("nobody", "fleet-agent"):
        command = ["systemctl", "--no-ask-password", "reboot"]
        asked[user] = box.tried("systemd-run", "--quiet", "--wait", "--pipe", f"--uid={user}",
                                *properties, *command)  # fmt: skip
    saw("nobody else may reboot the device", asked["nobody"] != 0)
    saw("the agent may reboot the device", asked["fleet-agent"] == 0)
    assert box.booted is not None
    code = box.booted.wait(WAIT_SECONDS)
    saw("the device rebooted", code == REBOOT_CODE, f"it ended with {code}")
    box.boot()
    wait_for("the service after the reboot", lambda: box.shown("ActiveState") == "active")


def watchdog(box: Box, controller: Controller) -> None:
    """A parent whose loop stands still is ended, and starts again."""
    pid = box.shown("MainPID")
    box.inside("kill", "-STOP", pid)
    wait_for("the watchdog to restart the service", lambda: box.shown("NRestarts") == "1")
    wait_for("the service", lambda: box.shown("ActiveState") == "active")
    saw("the watchdog restarts an agent whose loop stands still", box.shown("MainPID") != pid)
    roll_out_seen(controller, "shapes@1")


def upgrade(box: Box, controller: Controller, newer: list[Path]) -> None:
    """A later version finds the state, and takes the next release."""
    install_of = run_of(controller)[0]
    copy_into(box, newer)
    box.inside("dpkg", "--install", *(f"/root/{deb.name}" for deb in newer))
    wait_for("the upgraded service", lambda: box.shown("ActiveState") == "active")
    release(controller, 2)
    roll_out(controller, "shapes@2")
    camera = controller.show_device(DEVICE).cameras[0]
    before = None if camera is None else camera.previous
    saw("an upgrade keeps install, release and history",
        (run_of(controller)[0], before) == (install_of, "shapes@1"), str(before))  # fmt: skip


def purge(box: Box) -> None:
    """What is removed keeps the state; what is purged leaves nothing."""
    names = ["fleet-agent-simulated", "fleet-agent"]
    box.inside("dpkg", "--remove", *names)
    saw("removed, the service is gone", box.shown("LoadState") in {"not-found", "masked"})
    saw("removed, the state stays", (box.root / STATE / "journal.json").exists())
    shutil.rmtree(box.root / f"etc/systemd/system/{SERVICE}.d")  # This test's own.
    shutil.rmtree(box.root / "etc/systemd/system/fleet-agent-card.service.d")
    box.inside("dpkg", "--purge", *names)
    places = ("etc", "opt", "usr", "var/lib", "lib/systemd")
    left = box.inside("find", *(f"/{place}" for place in places), "-name", "*fleet-agent*",
                      may_fail=True)  # fmt: skip
    saw("purged, no file is left", not left.strip(), left)
    saw("purged, no user is left", box.tried("id", "fleet-agent") != 0)


def run_of(controller: Controller) -> tuple[str, str]:
    """Return install and number of the run that the device reported last."""
    reported = controller.show_device(DEVICE).reported
    install_of, _, number = ("" if reported is None else reported.run).partition("-")
    return install_of, number


def roll_out_seen(controller: Controller, name: str) -> None:
    """Wait until the device reports that it infers with a release."""

    def is_streaming() -> bool:
        device = controller.show_device(DEVICE)
        camera = device.cameras[0]
        is_it = camera is not None and (camera.release, camera.state) == (name, "streaming")
        return is_it and device.state == "online"

    wait_for(f"{name} to stream again", is_streaming)


def copy_into(box: Box, debs: list[Path]) -> None:
    """Put packages where the box can install them."""
    for deb in debs:
        shutil.copy(deb, box.root / "root")


def install(box: Box, debs: list[Path]) -> None:
    """Install packages without a network, and what only a test needs beside them."""
    copy_into(box, debs)
    names = [f"/root/{deb.name}" for deb in debs]
    box.offline("unshare", "--net", "dpkg", "--install", *names)
    for unit, text in ((SERVICE, DROP_IN), ("fleet-agent-card.service", CARD_DROP_IN)):
        path = box.root / "etc/systemd/system" / f"{unit}.d" / "try.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (box.root / CARD).parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def fleet(folder: Path) -> Iterator[Controller]:
    """Run a broker, and open a controller of a new fleet."""
    broker = run_nats(folder / "broker")
    try:
        project = folder / "project"
        project.mkdir()
        text = FLEET.format(url=broker.url, device=DEVICE)
        (project / "fleet.yaml").write_text(text, encoding="utf-8")
        Controller.init_fleet(project, passphrase=None, home=folder / "home").close()
        controller = Controller.open(project, home=folder / "home")
        try:
            yield controller
        finally:
            controller.close()
    finally:
        broker.stop()


def release(controller: Controller, version: int) -> None:
    """Sign a release of the small detector of drawn shapes."""
    source = SHAPES / ("first", "second")[version - 1]
    roles: tuple[Role, ...] = ("simulator", "labels")
    manifest, files = make_release(
        {role: source / FILE_NAMES[role] for role in roles}, name="shapes", version=version
    )
    controller.import_release(manifest, files)
    controller.sign_release(manifest.release, None)


def roll_out(controller: Controller, name: str) -> None:
    """Roll a release out, until it is at rest and its device is healthy."""
    rollout = controller.start_rollout(name, selector="*", strategy="at-once")
    status = controller.drive(
        rollout,
        until=lambda fleet: any(
            one.rollout == rollout and one.state in AT_REST for one in fleet.rollouts
        ),
        timeout_seconds=WAIT_SECONDS,
    )
    is_healthy = status is not None and status.is_healthy
    text = "" if status is None else f"{status.state}, {status.counts}"
    saw(f"{name} rolled out: completed, healthy", is_healthy, text)


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


def _base(path: Path) -> Path:
    """Return the tar of a small Debian; made once, as it takes a minute."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_suffix(".part.tar")
        print(f"Making a small Debian ({SUITE}); a minute or two, once", flush=True)  # noqa: T201
        _run("mmdebstrap", "--variant=minbase", f"--include={INSTALLED_FIRST}", SUITE, str(made))
        made.replace(path)
    return path


def _unpacked(base: Path, root: Path) -> Path:
    root.mkdir()
    _run("tar", "--extract", "--file", str(base), "--directory", str(root))
    return root


def _last_words(box: Box) -> str:
    if box.booted is None:
        return ""
    return box.inside("journalctl", "--no-pager", "--lines=60", "--unit=fleet-agent*",
                      may_fail=True)  # fmt: skip


def _run(*command: str, may_fail: bool = False) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and not may_fail:
        raise NotAsToldError(f"{' '.join(command)} ended with {done.returncode}:\n"
                             f"{done.stdout[-3000:]}{done.stderr[-3000:]}")  # fmt: skip
    return done.stdout


def _parser() -> argparse.ArgumentParser:
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(prog="packaging/try_deb.py", description=__doc__)
    parser.add_argument("folder", type=Path, help=f"packages of one version, and of {NEWER}")
    base = root / "build" / f"debian-{SUITE}.tar"
    parser.add_argument("--base", type=Path, default=base, help="made where there is none")
    return parser


if __name__ == "__main__":
    main()
