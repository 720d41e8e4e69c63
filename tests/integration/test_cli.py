"""fleetctl as a person calls it: processes, a real broker, exit codes and what is printed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from time import monotonic

import pytest

from controller.broker import RunningBroker, run_nats
from controller.cli.exits import Exit
from controller.service import Controller
from shared.card import read_card
from shared.release import Decode, File, Input, Manifest, Output, Requires
from tests.puppet import Faults, Puppet

PASSPHRASE = "a long enough passphrase"
FLEET = """\
version: 1
fleet: site-a
broker: {{url: "{url}"}}
devices:
  cam-1: {{camera: simulated, labels: {{role: door}}}}
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    running = run_nats(tmp_path_factory.mktemp("broker"))
    yield running
    running.stop()


@pytest.fixture
def project(tmp_path: Path, broker: RunningBroker) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "fleet.yaml").write_text(FLEET.format(url=broker.url))
    return folder


def fleetctl(
    project: Path, *arguments: str, passphrase: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run fleetctl in a project; the passphrase comes over a pipe."""
    reader, writer = os.pipe()
    os.write(writer, f"{passphrase or ''}\n".encode())
    os.close(writer)
    options = ["--passphrase-fd", str(reader)] if passphrase is not None else []
    try:
        return subprocess.run(
            [sys.executable, "-m", "controller", *arguments, *options],
            cwd=project, pass_fds=(reader,), stdin=subprocess.DEVNULL, capture_output=True,
            env={**os.environ, "XDG_DATA_HOME": str(project.parent / "data")}, text=True,
            check=False, timeout=120,
        )  # fmt: skip
    finally:
        os.close(reader)


@pytest.fixture
def fleet(project: Path) -> Path:
    made = fleetctl(project, "init", passphrase=PASSPHRASE)
    assert made.returncode == Exit.OK, made.stderr
    return project


def imported(project: Path) -> str:
    """Put an unsigned release into the store, as `model build --no-sign` does."""
    data = b"circle\n"
    digest = sha256(data).hexdigest()
    labels = File(
        role="labels", name="labels.txt", bytes=len(data), sha256=digest, blocks=(digest,)
    )
    manifest = Manifest(
        name="shapes", version=1, task="detect", frame_rate=16, network_name="n0123456789ab",
        input=Input(width=64, height=64, color="RGB"), decode=Decode(threshold_permille=250),
        outputs=(Output(name="boxes", shape=(1, 300, 4), dtype="float32"),), labels=1,
        requires=Requires(agent="0.1.0"), memory_bytes=0, golden=None, receipt=None,
        provenance={}, files=(labels,),
    )  # fmt: skip
    home = project.parent / "data" / "imxfleet"
    controller = Controller.open(project, home=home, passphrase=lambda _: PASSPHRASE)
    try:
        return controller.import_release(manifest, {"labels.txt": data}).release
    finally:
        controller.close()


def signed(project: Path) -> str:
    """Add the fleet's device, and put a signed release into the store."""
    release = imported(project)
    home = project.parent / "data" / "imxfleet"
    controller = Controller.open(project, home=home, passphrase=lambda _: PASSPHRASE)
    try:
        controller.add_device("cam-1")
        controller.sign_release(release, PASSPHRASE)
    finally:
        controller.close()
    return release


def test_init_keeps_encrypted_keys_outside_the_project_and_never_overwrites(fleet: Path) -> None:
    again = fleetctl(fleet, "init", passphrase=PASSPHRASE)

    keys = list((fleet.parent / "data").rglob("keys/*"))
    assert keys
    assert all(b"ENCRYPTED" in key.read_bytes() for key in keys if b"PRIVATE" in key.read_bytes())
    assert all(key.stat().st_mode & 0o077 == 0 for key in keys)
    assert again.returncode == Exit.ERROR
    assert "Traceback" not in again.stderr


def test_device_add_writes_a_card_once_and_says_how_to_go_on(fleet: Path) -> None:
    added = fleetctl(fleet, "device", "add", "cam-1", passphrase=PASSPHRASE)
    again = fleetctl(fleet, "device", "add", "cam-1", passphrase=PASSPHRASE)

    assert added.returncode == Exit.OK, added.stderr
    assert (fleet / "cam-1.card.yaml").stat().st_mode & 0o077 == 0
    assert "fleet-agent run" in added.stdout
    assert again.returncode == Exit.ERROR
    assert "--force" in again.stderr


def test_a_device_that_is_not_declared_is_refused_with_the_line_to_add(fleet: Path) -> None:
    added = fleetctl(fleet, "device", "add", "cam-9", passphrase=PASSPHRASE)

    assert added.returncode == Exit.ERROR
    assert "cam-9: {}" in added.stderr


def test_an_unsigned_release_is_not_rolled_out_and_does_not_verify(fleet: Path) -> None:
    release = imported(fleet)

    verified = fleetctl(fleet, "release", "verify", release)
    started = fleetctl(fleet, "rollout", "start", release, passphrase=PASSPHRASE)

    assert verified.returncode == Exit.UNTRUSTED
    assert started.returncode == Exit.UNTRUSTED
    assert "release sign" in verified.stderr


def test_a_signed_release_verifies_and_is_listed_as_json(fleet: Path) -> None:
    release = imported(fleet)

    signing = fleetctl(fleet, "release", "sign", release, passphrase=PASSPHRASE)
    verified = fleetctl(fleet, "release", "verify", release)
    listed = fleetctl(fleet, "release", "ls", "-o", "json")

    assert signing.returncode == verified.returncode == Exit.OK
    assert [(r["release"], r["is_signed"]) for r in json.loads(listed.stdout)] == [(release, True)]


def test_a_wrong_passphrase_signs_nothing(fleet: Path) -> None:
    release = imported(fleet)

    signing = fleetctl(fleet, "release", "sign", release, passphrase="wrong")

    assert signing.returncode == Exit.UNTRUSTED
    assert "Traceback" not in signing.stderr


def test_a_rollout_that_nobody_takes_up_times_out_and_goes_on_later(fleet: Path) -> None:
    release = signed(fleet)

    started = fleetctl(fleet, "rollout", "start", release, "--timeout", "2s", passphrase=PASSPHRASE)
    status = fleetctl(fleet, "rollout", "status", "-o", "json")

    assert started.returncode == Exit.TIMEOUT, started.stderr
    assert "rollout watch r-1" in started.stderr
    assert json.loads(status.stdout)["state"] == "running"


def test_a_rollout_may_be_written_down_and_aborted(fleet: Path) -> None:
    release = signed(fleet)

    detached = fleetctl(fleet, "rollout", "start", release, "--detach", passphrase=PASSPHRASE)
    aborted = fleetctl(
        fleet, "rollout", "abort", "r-1", "--no-revert", "--timeout", "30s", passphrase=PASSPHRASE
    )
    history = fleetctl(fleet, "rollout", "history", "-o", "json")

    assert detached.returncode == Exit.OK, detached.stderr
    assert aborted.returncode == Exit.OK, aborted.stderr
    assert [(r["state"], r["reason"]) for r in json.loads(history.stdout)] == [
        ("aborted", "operator")
    ]


def test_two_fleetctl_at_once_are_one_driver_and_one_watcher(fleet: Path) -> None:
    release = signed(fleet)
    added = fleetctl(fleet, "device", "add", "cam-1", passphrase=PASSPHRASE)
    puppet = Puppet(read_card(fleet / "cam-1.card.yaml"), Faults(seconds=2.0))

    with ThreadPoolExecutor() as both:
        starts = [
            both.submit(fleetctl, fleet, "rollout", "start", release, passphrase=PASSPHRASE)
            for _ in range(2)
        ]
        wait_for_rollout(fleet)
        watch = both.submit(
            fleetctl, fleet, "rollout", "watch", "r-1", "--timeout", "90s", passphrase=PASSPHRASE
        )
        puppet.start()
        ended = [start.result() for start in starts]
        watched = watch.result()
    puppet.stop()

    assert added.returncode == Exit.OK, added.stderr
    assert sorted(one.returncode for one in ended) == [Exit.OK, Exit.ERROR], ended
    assert "overlaps r-1" in "".join(one.stderr for one in ended)
    assert watched.returncode == Exit.OK, watched.stderr
    history = json.loads(fleetctl(fleet, "rollout", "history", "-o", "json").stdout)
    assert [(r["rollout"], r["state"]) for r in history] == [("r-1", "completed")]
    assert puppet.activated == [release]


def wait_for_rollout(project: Path) -> None:
    deadline = monotonic() + 60.0
    while fleetctl(project, "rollout", "status", "r-1").returncode != Exit.OK:
        assert monotonic() < deadline


@pytest.mark.parametrize("name", ["+", "#", "cam-1/#", "../cam-1", "cam.1"])
def test_names_that_could_inject_topics_are_refused(fleet: Path, name: str) -> None:
    added = fleetctl(fleet, "device", "add", name, passphrase=PASSPHRASE)

    assert added.returncode == Exit.ERROR
    assert "expected a device" in added.stderr
    assert "Traceback" not in added.stderr


def test_tail_without_frames_ends_with_the_timeout_code(fleet: Path) -> None:
    ended = fleetctl(fleet, "tail", "--count", "1", "--timeout", "1s")

    assert ended.returncode == Exit.TIMEOUT


def test_a_broker_that_does_not_answer_is_exit_six(fleet: Path) -> None:
    (fleet / "fleet.yaml").write_text(FLEET.format(url="mqtt://127.0.0.1:1"))
    release = signed(fleet)

    started = fleetctl(fleet, "rollout", "start", release, passphrase=PASSPHRASE)
    tailed = fleetctl(fleet, "tail", "--count", "1")

    assert started.returncode == tailed.returncode == Exit.BROKER
    assert "127.0.0.1:1" in tailed.stderr


def test_doctor_names_the_broker_and_the_devices(fleet: Path) -> None:
    checked = fleetctl(fleet, "doctor", "-o", "json")

    found = {finding["what"]: finding for finding in json.loads(checked.stdout)}
    assert found["broker"]["level"] == "ok"
    assert found["devices"]["text"] == "0 of 1 online"
    assert checked.returncode == Exit.OK
