"""Install the packages in a throwaway Debian, boot it, and see its agent do the main job.

    fleetctl's own code and a broker here  <--MQTT on loopback-->  systemd in a container: the .deb

Real are the packages, dpkg, systemd with the unit's sandbox, polkit and the broker; the camera is
simulated. Needs root, mmdebstrap and systemd-nspawn. Each step prints what was seen, and the first
that is not as told ends the run with exit 1. The container shares this machine's loopback, and
nothing of it stays.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from throwaway import (
    SERVICE,
    SUITE,
    WAIT_SECONDS,
    Box,
    NotAsToldError,
    base,
    saw,
    unpacked,
    wait_for,
)

from controller.broker import run_nats
from controller.demo import SHAPES
from controller.export.pack import FILE_NAMES, make_release
from controller.service import AT_REST, Controller
from shared.card import write_card

if TYPE_CHECKING:
    from shared.release import Role

DEVICE = "gate-01"
NEWER = "99.0.0"
STATE = "var/lib/fleet-agent"
CARD = "boot/firmware/fleet-agent.yaml"
WATCHDOG_SECONDS = 8
EXPOSURE_MAX = 4.0  # systemd's own measure, of 10; it calls less than 5 "medium", less than 2 "ok".
_HAS_NUMPY = "import importlib.util as u; print(u.find_spec('numpy') is not None)"
REBOOT_CODE = 133  # systemd-nspawn's, where what it ran asked for a reboot.
# A demo's keys are plain and its clock is believed: nothing else differs from the packaged unit.
# And before each start, in the same sandbox: the clock may be asked, nothing else may be written.
_SANDBOXED = """import ctypes, os
buffer = ctypes.create_string_buffer(512)
assert ctypes.CDLL(None).adjtimex(buffer) >= 0
for path in "/etc", "/opt", "/usr":
    assert os.statvfs(path).f_flag & os.ST_RDONLY, path + " can be written"
assert "CapEff:\\t0000000000000000" in open("/proc/self/status").read()
assert os.getgroups(), "video and render"
"""
_SANDBOX_FILE = "opt/sandboxed.py"
DROP_IN = f"""[Service]
ExecStartPre=/opt/fleet-agent/bin/python /{_SANDBOX_FILE}
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


def main() -> None:
    """Try the packages in a folder, and print what was seen."""
    arguments = _parser().parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imxfleet-deb-")))
        box = Box(unpacked(base(arguments.base), folder / "root"))
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
    older = sorted(set(folder.glob("*.deb")) - set(newer))
    agent, *overlays = sorted(older, key=lambda deb: len(deb.name))
    bare(box, agent)
    install(box, overlays)
    write_card(box.root / CARD, controller.add_device(DEVICE))
    box.boot()
    release(controller, 1)
    roll_out(controller, "shapes@1")
    saw("the card is wiped from the boot partition", not (box.root / CARD).exists())
    saw("its children run as fleet-agent, too", box.users() == ["fleet-agent"] * 2)
    asked(box)
    foreign(box, controller)
    reboot(box)
    watchdog(box, controller)
    upgrade(box, controller, newer)
    purge(box)


def bare(box: Box, agent: Path) -> None:
    """The agent's own package is enough for its parent."""
    install(box, [agent])
    python = "/opt/fleet-agent/bin/python"
    has_numpy = box.offline(python, "-c", _HAS_NUMPY).strip()
    saw("the parent is installed without numpy", has_numpy == "False", has_numpy)
    said = box.offline("/usr/bin/fleet-agent", "--version").strip()
    saw("fleet-agent says its version", bool(said), said)
    state = box.offline("stat", "--format=%a %U", f"/{STATE}").strip()
    saw("the state is the agent's alone", state == "700 fleet-agent", state)


def asked(box: Box) -> None:
    """What a person types on the device."""
    status = json.loads(box.inside("fleet-agent", "status", "-o", "json"))
    saw("status: runs, well", status["is_running"] and status["is_well"], str(status["problems"]))
    findings = json.loads(box.inside("fleet-agent", "doctor", "-o", "json", may_fail=True))
    wrong = {one["what"] for one in findings if one["level"] == "error"}
    # This machine's clock is nobody's to set.
    saw("doctor: nothing but the container's clock is wrong", wrong <= {"clock"}, str(wrong))
    private = box.tried("runuser", "-u", "nobody", "--", "fleet-agent", "status")
    saw("status: exit 1 for who may not read the state", private == 1, str(private))
    units = (SERVICE, "fleet-agent-card.service")
    said = box.inside("systemd-analyze", "verify", *units)
    saw("systemd-analyze verify has nothing to say", not said.strip(), said)
    for unit in units:
        text = box.inside("systemd-analyze", "security", "--no-pager", unit)
        exposure = float(text.rsplit(unit, 1)[1].split(":", 1)[1].split()[0])
        saw(f"systemd-analyze security: {unit} {exposure}", exposure <= EXPOSURE_MAX)


def foreign(box: Box, controller: Controller) -> None:
    """Another device's card is refused, kept where it lies, and told."""
    card = msgspec.structs.replace(controller.add_device(DEVICE), device="gate-99")
    write_card(box.root / CARD, card)
    box.inside("systemctl", "restart", SERVICE)
    wait_for("the service", lambda: box.shown("ActiveState") == "active")
    roll_out_seen(controller, "shapes@1")
    findings = json.loads(box.inside("fleet-agent", "doctor", "-o", "json", may_fail=True))
    wrong = {one["what"] for one in findings if one["level"] == "error"}
    saw("another device's card is refused and told", "card" in wrong, str(wrong))
    saw("it is not wiped", (box.root / CARD).exists())
    (box.root / CARD).unlink()
    box.inside("systemctl", "reset-failed")


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
    (box.root / _SANDBOX_FILE).unlink()
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
    box.offline("unshare", "--net", "dpkg", "--force-unsafe-io", "--install", *names)
    for unit, text in ((SERVICE, DROP_IN), ("fleet-agent-card.service", CARD_DROP_IN)):
        path = box.root / "etc/systemd/system" / f"{unit}.d" / "try.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (box.root / CARD).parent.mkdir(parents=True, exist_ok=True)
    (box.root / _SANDBOX_FILE).write_text(_SANDBOXED, encoding="utf-8")


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


def _last_words(box: Box) -> str:
    if box.booted is None:
        return ""
    return box.inside("journalctl", "--no-pager", "--lines=60", "--unit=fleet-agent*",
                      may_fail=True)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(prog="packaging/try_deb.py", description=__doc__)
    parser.add_argument("folder", type=Path, help=f"packages of one version, and of {NEWER}")
    base = root / "build" / f"debian-{SUITE}.tar"
    parser.add_argument("--base", type=Path, default=base, help="made where there is none")
    return parser


if __name__ == "__main__":
    main()
