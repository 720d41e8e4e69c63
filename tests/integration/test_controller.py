"""The controller on real brokers, with agents that obey the real rules and have no camera."""

import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import pytest

from controller.broker import RunningBroker
from controller.planning import Book
from controller.service import Controller, Timing
from controller.status import RolloutStatus
from shared.bus import Timing as BusTiming
from shared.errors import (
    AnotherControllerError,
    BrokerUnreachableError,
    OperatorError,
    UnsignedError,
)
from shared.inbox import Received
from shared.release import encode_manifest
from shared.subscriptions import Schedule
from shared.topics import Topics
from tests.integration.conftest import BrokerHouse, MakeClient
from tests.puppet import Faults, Puppet, make_release

QUICK = Timing(
    heartbeat_seconds=0.5,
    silence_seconds_min=3.0,
    tick_seconds=0.05,
    persist_seconds=0.5,
    bus=BusTiming(reconnect_seconds=(0.05, 0.5), repeats=Schedule(after=(0.5,), every=60.0)),
)
FLEET_YAML = """
version: 1
fleet: testbed
broker: {embedded: true}
defaults: {camera: simulated, labels: {site: lab}}
devices:
  cam-[1:4]: {labels: {role: door}}
strategies:
  canary:
    waves: [{pins: [cam-1]}, {fraction: 100%}]
    probe: {seconds: 1s}
    deadlines: {activation: 2s, progress: 20s}
  patient:
    waves: [{pins: [cam-1], bake: 1h}, {fraction: 100%}]
    deadlines: {activation: 2s, progress: 20s}
  lasting:
    waves: [{pins: [cam-1]}, {fraction: 100%, bake: 1h}]
    deadlines: {activation: 2s, progress: 20s}
  all:
    waves: [{fraction: 100%}]
    probe: {seconds: 1s}
    deadlines: {activation: 2s, progress: 20s}
  lenient:
    waves: [{pins: [cam-1]}, {fraction: 100%}]
    max_failed: 3
    min_healthy: 50%
    on_inconclusive: continue
    deadlines: {activation: 2s, progress: 20s}
"""
DEVICES = ("cam-1", "cam-2", "cam-3", "cam-4")
PATIENCE_SECONDS = 40.0
on_nats = pytest.mark.parametrize("house", ["nats"], indirect=True)  # The rules are the same.


@dataclass
class Bed:
    """A fleet of puppets, its broker and its controller."""

    project: Path
    home: Path
    broker: RunningBroker
    controller: Controller
    puppets: dict[str, Puppet] = field(default_factory=dict)

    def again(self) -> Controller:
        return Controller.open(
            self.project, home=self.home, timing=QUICK, broker_url=self.broker.url
        )

    def join(self, *devices: str, faults: Faults | None = None) -> None:
        for device in devices:
            card = self.controller.add_device(device)
            self.puppets[device] = Puppet(card, faults).start()

    def release(self, version: int) -> str:
        manifest, files = make_release("shapes", version)
        self.controller.import_release(manifest, files)
        self.controller.sign_release(manifest.release, None)
        return manifest.release

    def roll_out(
        self, version: int, strategy: str = "canary", *, over: bool = False
    ) -> RolloutStatus:
        release = self.release(version)
        name = self.controller.start_rollout(
            release, selector="role=door", strategy=strategy, over=over
        )
        return self.drive(name)

    def drive(self, name: str) -> RolloutStatus:
        status = self.controller.drive(name, timeout_seconds=PATIENCE_SECONDS)
        assert status is not None
        return status

    def drive_until(self, name: str, is_it: Callable[[RolloutStatus], bool]) -> None:
        self.controller.drive(
            name,
            until=lambda fleet: any(is_it(one) for one in fleet.rollouts if one.rollout == name),
            timeout_seconds=PATIENCE_SECONDS,
        )

    @property
    def running(self) -> set[str | None]:
        return {puppet.runs for puppet in self.puppets.values()}


@pytest.fixture
def bed(broker: RunningBroker, tmp_path: Path) -> Iterator[Bed]:
    (tmp_path / "fleet.yaml").write_text(FLEET_YAML)
    home = tmp_path / "home"
    controller = Controller.init_fleet(
        tmp_path, passphrase=None, home=home, timing=QUICK, broker_url=broker.url
    )
    made = Bed(tmp_path, home, broker, controller)
    yield made
    for puppet in made.puppets.values():
        puppet.stop()
    controller.close()


def test_a_good_release_goes_to_the_canary_first_and_then_to_everyone(bed: Bed) -> None:
    bed.join(*DEVICES)

    status = bed.roll_out(1)

    assert (status.state, status.is_healthy) == ("completed", True)
    assert [wave.verdict for wave in status.waves] == ["pass", "pass"]
    assert status.waves[0].devices == {"healthy": 1}
    assert status.waves[1].devices == {"healthy": 3}
    assert bed.running == {"shapes@1"}


def test_a_bad_release_stops_at_the_canary_and_is_reverted(bed: Bed) -> None:
    bed.join(*DEVICES, faults=Faults(bad=frozenset({"shapes@2"})))
    bed.roll_out(1)

    status = bed.roll_out(2)

    assert (status.state, status.reason) == ("aborted", "gate")
    assert status.text == "1 of 1 treated device ended badly (1 failed); at most 0 may"
    assert [failed.device for failed in status.failed] in (["cam-1"], [])
    tried = [name for name, puppet in bed.puppets.items() if "shapes@2" in puppet.activated]
    assert tried == ["cam-1"]
    assert bed.running == {"shapes@1"}


@on_nats
def test_an_abort_takes_treated_devices_back(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.roll_out(1)
    name = bed.controller.start_rollout(bed.release(2), selector="role=door", strategy="lasting")
    bed.drive_until(name, lambda status: status.counts.get("healthy") == len(DEVICES))

    bed.controller.abort(name)
    status = bed.drive(name)

    assert (status.state, status.reason) == ("aborted", "operator")
    assert bed.running == {"shapes@1"}


@on_nats
def test_the_first_rollout_of_all_can_be_aborted_with_nothing_to_go_back_to(bed: Bed) -> None:
    bed.join(*DEVICES)
    name = bed.controller.start_rollout(bed.release(1), selector="role=door", strategy="patient")
    bed.drive_until(name, lambda status: status.counts.get("healthy", 0) >= 1)

    bed.controller.abort(name)
    status = bed.drive(name)

    assert status.state == "aborted"
    assert bed.puppets["cam-1"].runs == "shapes@1"  # Better than nothing.


@on_nats
def test_undo_brings_back_what_ran_before(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.roll_out(1)
    second = bed.roll_out(2)

    status = bed.drive(bed.controller.undo(second.rollout))

    assert (status.state, status.release) == ("completed", "shapes@1")
    assert bed.running == {"shapes@1"}
    listed = {one.release: one.running_on for one in bed.controller.list_releases()}
    assert listed == {"shapes@1": len(DEVICES), "shapes@2": 0}
    with pytest.raises(OperatorError, match="ran nothing before"):
        bed.controller.undo("r-1")


@on_nats
def test_the_next_fleetctl_sends_the_new_release_and_nothing_again(
    bed: Bed, make_client: MakeClient
) -> None:
    bed.join(*DEVICES)
    bed.roll_out(1)
    topics = Topics("testbed")
    client = make_client(bed.broker.url)
    client.connected()
    for topic in ("fleet-blocks/v1/testbed/+", topics.any_device("identity")):
        client.bus.subscribe(topic)
        client.subscribed(topic)

    bed.controller = bed.again()
    bed.roll_out(2)
    bed.controller.close()

    manifest, _ = make_release("shapes", 2)
    blocks = {block for file in manifest.files for block in file.blocks}
    blocks.add(sha256(encode_manifest(manifest)).hexdigest())
    while (event := client.inbox.get(1.0)) is not None:
        client.heard.append(event)
    new = [e.topic for e in client.heard if isinstance(e, Received) and not e.is_retained]
    assert sorted(new) == sorted(map(topics.block, blocks))


@on_nats
def test_overlapping_rollouts_can_be_aborted_one_after_the_other(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.roll_out(1)
    two = bed.controller.start_rollout(bed.release(2), selector="role=door", strategy="patient")
    bed.drive_until(two, lambda status: status.counts.get("healthy", 0) >= 1)
    with pytest.raises(OperatorError, match="overlaps"):
        bed.controller.start_rollout(bed.release(3), selector="role=door", strategy="patient")
    three = bed.controller.start_rollout(
        "shapes@3", selector="role=door", strategy="patient", over=True
    )
    bed.drive_until(three, lambda status: status.counts.get("healthy", 0) >= 1)

    bed.controller.abort(three)
    bed.drive(three)
    bed.controller.abort(two)
    bed.drive(two)

    assert bed.controller.status(two).state == "aborted"
    assert bed.running == {"shapes@1"}


@on_nats
def test_what_was_rejected_is_tried_again_by_retry_and_not_at_the_next_wave(bed: Bed) -> None:
    bed.join(*DEVICES)
    bed.puppets["cam-1"].faults = Faults(rejected=frozenset({"shapes@1"}))

    first = bed.roll_out(1, "lenient")
    bed.puppets["cam-1"].faults = Faults()
    before = bed.puppets["cam-1"].runs
    bed.controller.retry(first.rollout)
    status = bed.drive(first.rollout)

    assert (first.state, first.is_healthy, before) == ("completed", False, None)
    assert (status.state, status.attempt, status.is_healthy) == ("completed", 2, True)


@on_nats
def test_a_device_that_hangs_in_activation_is_silent_and_not_offline(bed: Bed) -> None:
    bed.join(*DEVICES, faults=Faults(hangs=frozenset({"shapes@1"})))

    name = bed.controller.start_rollout(bed.release(1), selector="role=door", strategy="canary")
    bed.drive_until(name, lambda status: status.reason == "gate")

    assert "1 silent" in (bed.controller.status(name).text or "")
    assert bed.puppets["cam-2"].activated == []


@on_nats
def test_a_wave_that_nobody_online_can_answer_is_inconclusive_and_can_be_promoted(bed: Bed) -> None:
    bed.controller.add_device("cam-1")  # It never comes.
    bed.join("cam-2", "cam-3", "cam-4")

    paused = bed.roll_out(1)
    bed.controller.promote(paused.rollout)
    status = bed.drive(paused.rollout)

    assert (paused.state, paused.reason, bed.puppets["cam-2"].activated) == (
        "paused", "inconclusive", ["shapes@1"],
    )  # fmt: skip
    assert (status.state, status.is_healthy) == ("completed", False)


@on_nats
def test_a_driver_that_was_killed_is_continued_by_the_next(bed: Bed) -> None:
    bed.join(*DEVICES)
    name = bed.controller.start_rollout(bed.release(1), selector="role=door", strategy="canary")
    script = f"""
        from pathlib import Path
        from controller.service import Controller, Timing
        controller = Controller.open(
            Path({str(bed.project)!r}), home=Path({str(bed.home)!r}),
            timing=Timing(heartbeat_seconds=0.5, tick_seconds=0.05), broker_url={bed.broker.url!r})
        controller.drive({name!r}, until=lambda _: False)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while bed.controller.status(name).counts.get("healthy") is None:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert bed.controller.status(name).not_driven_since is not None
    status = bed.drive(name)

    assert (status.state, status.is_healthy) == ("completed", True)


@on_nats
def test_of_two_controllers_one_drives_and_acts_on_what_the_other_was_asked(bed: Bed) -> None:
    bed.join(*DEVICES)
    name = bed.controller.start_rollout(bed.release(1), selector="role=door", strategy="canary")
    is_over = threading.Event()
    seen: list[bool] = []

    def drive() -> None:
        other = bed.again()
        other.drive(None, until=lambda _: is_over.is_set(), timeout_seconds=PATIENCE_SECONDS)
        other.close()

    thread = threading.Thread(target=drive)
    thread.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while bed.controller.driver().holder is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first = bed.controller.drive(
        name, on_change=lambda f: seen.append(f.driver.is_us), timeout_seconds=PATIENCE_SECONDS
    )
    release = bed.release(2)  # Signed here while the other one drives.
    bed.controller.retry(name)
    again = bed.drive(name)
    second = bed.drive(
        bed.controller.start_rollout(release, selector="role=door", strategy="canary")
    )
    is_over.set()
    thread.join()

    assert first is not None
    assert (first.state, again.state, again.attempt) == ("completed", "completed", 2)
    assert (second.state, second.is_healthy) == ("completed", True)
    assert not any(seen)


def test_a_wiped_broker_is_filled_again(bed: Bed, house: BrokerHouse, tmp_path: Path) -> None:
    bed.join(*DEVICES)
    bed.roll_out(1)
    bed.broker.kill()
    house.folder = tmp_path / "empty"
    house.start(port=bed.broker.port)

    status = bed.roll_out(2)

    assert status.is_healthy
    assert bed.running == {"shapes@2"}


@on_nats
def test_a_restored_backup_stops_instead_of_signing_against_the_newer_one(bed: Bed) -> None:
    bed.join(*DEVICES)
    repository = bed.controller._store.get("repository", dict)
    assert repository is not None
    bed.roll_out(1)
    with bed.controller._store.transaction():
        bed.controller._store.put("repository", repository)
        bed.controller._store.put("book", Book.__origin__())  # type: ignore[attr-defined]

    with pytest.raises(AnotherControllerError):
        bed.controller.drive("r-1", until=lambda _: False, timeout_seconds=PATIENCE_SECONDS)


@on_nats
def test_what_must_not_begin_is_refused_before_anything_is_written(bed: Bed) -> None:
    manifest, files = make_release("shapes", 9)
    bed.controller.import_release(manifest, files)

    with pytest.raises(UnsignedError, match="release sign shapes@9"):
        bed.controller.start_rollout("shapes@9", selector="*", strategy="all")
    bed.controller.sign_release("shapes@9", None)
    with pytest.raises(OperatorError, match="matches no device that was added"):
        bed.controller.start_rollout("shapes@9", selector="*", strategy="all")
    bed.controller.add_device("cam-2")
    with pytest.raises(OperatorError, match="pins cam-1"):
        bed.controller.start_rollout("shapes@9", selector="*", strategy="canary")
    with pytest.raises(OperatorError, match=r"gate-07: \{\}"):
        bed.controller.add_device("gate-07")
    assert bed.controller.history() == ()


@on_nats
def test_devices_are_shown_as_declared_added_seen_or_unknown(bed: Bed) -> None:
    bed.join("cam-1")
    bed.controller.add_device("cam-2")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while bed.controller.show_device("cam-1").state != "online":
        assert time.monotonic() < deadline

    states = {status.device: status.state for status in bed.controller.list_devices()}

    assert states == {
        "cam-1": "online", "cam-2": "never seen", "cam-3": "not added", "cam-4": "not added",
    }  # fmt: skip


@on_nats
def test_without_a_broker_it_says_so_and_past_its_time_it_stops(bed: Bed) -> None:
    bed.controller.add_device("cam-1")
    name = bed.controller.start_rollout(bed.release(1), selector="*", strategy="canary")
    nobody = Controller.open(
        bed.project,
        home=bed.home,
        timing=replace(QUICK, connect_seconds=0.5),
        broker_url="mqtt://127.0.0.1:9",
    )

    with pytest.raises(BrokerUnreachableError):
        nobody.drive(name)
    nobody.close()
    with pytest.raises(TimeoutError):
        bed.controller.drive(name, until=lambda _: False, timeout_seconds=0.5)
    assert bed.controller.driver().holder is None


@on_nats
def test_malformed_messages_of_devices_do_not_stop_a_rollout(
    bed: Bed, make_client: MakeClient
) -> None:
    client = make_client(bed.broker.url)
    client.connected()
    for rest in ("reported", "status", "camera/0/counts", "nonsense"):
        for device in ("cam-4", "stranger"):
            topic = f"fleet/v1/testbed/device/{device}/{rest}"
            client.bus.publish(topic, b'{"v":1,"at":[]}', 1, True)  # noqa: FBT003 - MQTT
    bed.join("cam-1", "cam-2", "cam-3")

    status = bed.roll_out(1)

    assert (status.state, status.is_healthy) == ("completed", True)
    assert "undeclared" in {one.state for one in bed.controller.list_devices()}


@on_nats
def test_keys_with_a_passphrase_ask_for_it(tmp_path: Path, broker: RunningBroker) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET_YAML)
    home = tmp_path / "home"
    Controller.init_fleet(tmp_path, passphrase="a long secret", home=home).close()
    asked: list[str] = []

    def passphrase(role: str) -> str:
        asked.append(role)
        return "a long secret"

    controller = Controller.open(
        tmp_path, home=home, passphrase=passphrase, timing=QUICK, broker_url=broker.url
    )
    manifest, files = make_release("shapes", 1)
    controller.import_release(manifest, files)

    with pytest.raises(UnsignedError):
        controller.sign_release("shapes@1", "wrong")
    with pytest.raises(UnsignedError, match="not signed"):
        controller.verify_release("shapes@1")
    controller.sign_release("shapes@1", "a long secret")
    controller.add_device("cam-1")

    assert controller.verify_release("shapes@1").is_signed
    assert asked == ["controller"]
    assert not controller.is_demo
    with pytest.raises(OperatorError, match="never overwritten"):
        Controller.init_fleet(tmp_path, passphrase="another long one", home=home)
    controller.close()
