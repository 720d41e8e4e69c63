"""What a thief or a broken broker may send to an agent: it keeps running and says so.

One agent with a proven release takes all messages of a test; what it runs must not change.
"""

import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from controller.broker import RunningBroker
from controller.repository import bundle_bytes, create, sign_plan
from shared.limits import BUNDLE_BYTES
from shared.messages import time_text
from shared.release import encode_manifest
from tests.fleet import (
    FLEET,
    Release,
    Reported,
    camera_of,
    cause_of,
    entry_of,
    make_release,
    phase_of,
)
from tests.integration.agents import Site, open_site
from tests.making import bundle_of, new_keys, sign_again

DEVICE = "gate-01"


@pytest.fixture
def site(broker: RunningBroker, tmp_path: Path) -> Iterator[Site]:
    yield from open_site(broker, tmp_path)


@pytest.fixture
def proven(site: Site) -> Site:
    """A site whose one device runs tiny@1, proven."""
    site.agent(DEVICE)
    site.fleet.offer(make_release(1))
    site.fleet.wait_phase(DEVICE, "committed")
    return site


def refused(report: Reported, what: str) -> str | None:
    error = report["refused"][what]  # type: ignore[index]
    return None if error is None else str(error["code"])


def wait_refused(site: Site, what: str, *codes: str) -> None:
    report = site.fleet.wait(
        DEVICE,
        lambda report: refused(report, what) in codes and camera_of(report)["state"] == "streaming",
    )
    assert camera_of(report)["release"] == "tiny@1"


def wait_accepted(site: Site, bundle: bytes) -> None:
    """Publish an honest bundle and wait until nothing is refused any more."""
    site.fleet.put(site.fleet.topics.trust, bundle)
    site.fleet.wait(DEVICE, lambda report: refused(report, "trust") is None)


def test_bundles_that_nobody_honest_sent_are_refused_and_the_model_stays(proven: Site) -> None:
    fleet = proven.fleet
    honest = bundle_bytes(fleet.repository)
    files: dict[str, str] = json.loads(honest)["files"]
    trust = fleet.topics.trust

    for name, text in files.items():  # Bytes changed in each metadata file.
        changed = text.replace("2", "3", 1)
        fleet.put(trust, bundle_of({**files, name: changed}, FLEET))
        report = fleet.wait(DEVICE, lambda report: refused(report, "trust") is not None)
        assert camera_of(report)["release"] == "tiny@1", name
        wait_accepted(proven, honest)

    other = create(new_keys("other", is_demo=True), now=datetime.now(UTC))
    fleet.put(trust, bundle_bytes(other))  # The plan of another fleet.
    wait_refused(proven, "trust", "fleet", "signature", "root", "untrusted")
    wait_accepted(proven, honest)

    thief = new_keys(FLEET, is_demo=True)
    fleet.put(trust, bundle_bytes(create(thief, now=datetime.now(UTC))))  # Unknown keys.
    wait_refused(proven, "trust", "signature", "root", "untrusted")
    wait_accepted(proven, honest)

    fleet.put(trust, b"x" * (BUNDLE_BYTES + 1))
    wait_refused(proven, "trust", "limit")
    wait_accepted(proven, honest)


def test_older_and_forked_plans_are_refused_and_expired_ones_too(proven: Site) -> None:
    fleet = proven.fleet
    release = make_release(1)
    entry = fleet.repository.plan[0]
    before = fleet.repository
    older = bundle_bytes(before)
    now = datetime.now(UTC)
    newer = fleet.plan(entry)
    version = fleet.repository.version
    fleet.wait(DEVICE, lambda report: report["plan_version"] == version)

    fleet.put(fleet.topics.trust, older)
    wait_refused(proven, "trust", "replayed")
    wait_accepted(proven, newer)

    later = now + timedelta(seconds=5)
    fork = sign_plan(before, (entry, entry_of(release, "r-9")), fleet.keys.controller, later)
    fleet.put(fleet.topics.trust, bundle_bytes(fork))
    wait_refused(proven, "trust", "equivocation")
    wait_accepted(proven, newer)

    files: dict[str, str] = json.loads(newer)["files"]

    def expire(signed: object) -> None:
        signed.expires = now - timedelta(days=1)  # type: ignore[attr-defined]
        signed.version += 1  # type: ignore[attr-defined]

    stale = sign_again(files["timestamp.json"], [fleet.keys.controller], expire)
    fleet.put(fleet.topics.trust, bundle_of({**files, "timestamp.json": stale}, FLEET))
    wait_refused(proven, "trust", "expired")
    wait_accepted(proven, newer)


def test_malformed_input_on_every_subscribed_topic_keeps_the_agent_running(proven: Site) -> None:
    fleet = proven.fleet
    device = fleet.topics.device
    junk = (b"not json", b'{"v":1,"fleet":7}', b"[" * 3000)

    for data in junk:
        fleet.put(fleet.topics.trust, data)
        wait_refused(proven, "trust", "malformed")
        wait_accepted(proven, bundle_bytes(fleet.repository))
        fleet.put(device(DEVICE, "identity"), data)
        wait_refused(proven, "identity", "malformed")
        fleet.put(device(DEVICE, "identity"), fleet.identity(DEVICE))
        fleet.put(device(DEVICE, "request/reboot"), data, retain=False)
        wait_refused(proven, "message", "malformed")
    fleet.put(device(DEVICE, "request/identify"), b"x" * 5000, retain=False)
    wait_refused(proven, "message", "limit")

    assert proven.agents[0].is_alive


def test_identities_of_others_and_older_ones_are_refused(proven: Site) -> None:
    fleet = proven.fleet
    topic = fleet.topics.device(DEVICE, "identity")
    fleet.put(topic, fleet.identity(DEVICE, version=3))
    fleet.wait(DEVICE, lambda report: report["identity_version"] == 3)

    fleet.put(topic, fleet.identity(DEVICE, version=2))
    wait_refused(proven, "identity", "replayed")
    fleet.put(topic, fleet.identity("gate-02", version=9))
    wait_refused(proven, "identity", "device")
    fleet.put(topic, b"")
    fleet.put(topic, fleet.identity(DEVICE, version=4))

    report = fleet.wait(DEVICE, lambda report: report["identity_version"] == 4)
    assert refused(report, "identity") is None


def test_an_unlisted_entry_is_skipped_while_the_rest_counts(proven: Site) -> None:
    fleet = proven.fleet
    unlisted, second = make_release(9), make_release(2)
    fleet.put_blocks(unlisted)
    fleet.put_blocks(second)
    fleet.list_release(second)

    fleet.plan(entry_of(unlisted, "r-9"), entry_of(second, "r-2"))

    report = fleet.wait_phase(DEVICE, "committed", "r-2")
    entries = report["refused"]["entries"]  # type: ignore[index]
    assert [(one["rollout"], one["code"]) for one in entries] == [("r-9", "unlisted")]


def lying(version: int, **changes: object) -> Release:
    """Return a release whose manifest says something else of its graph file."""
    honest = make_release(version)
    graph, labels = honest.manifest.files
    lie = msgspec.structs.replace(graph, **changes)
    manifest = msgspec.structs.replace(honest.manifest, files=(lie, labels))
    return Release(manifest, encode_manifest(manifest), honest.blocks)


def test_releases_that_lie_or_do_not_fit_are_rejected_before_the_old_one_stops(
    proven: Site,
) -> None:
    fleet = proven.fleet
    wrong_file = lying(2, sha256="0" * 64)
    too_wide = make_release(3, input=msgspec.structs.replace(
        make_release(3).manifest.input, width=1280, height=1280
    ))  # fmt: skip
    other_name = make_release(4)
    misnamed = Release(
        msgspec.structs.replace(other_name.manifest, version=44), other_name.text, other_name.blocks
    )

    causes = {"r-2": "trust", "r-3": "release", "r-4": "trust"}
    for rollout, release in (("r-2", wrong_file), ("r-3", too_wide), ("r-4", misnamed)):
        fleet.offer(release, rollout)
        report = fleet.wait_phase(DEVICE, "rejected", rollout)
        assert cause_of(report, rollout) == causes[rollout]
        assert camera_of(report)["starts"] == 1
        assert camera_of(report)["state"] == "streaming"


def test_a_block_with_changed_bytes_is_ignored_until_the_right_one_comes(proven: Site) -> None:
    fleet = proven.fleet
    second = make_release(2)
    fleet.put_blocks(second)
    digest = second.manifest.files[0].blocks[0]
    right = second.blocks[digest]
    fleet.put(fleet.topics.block(digest), b"x" + right[1:])
    fleet.list_release(second)
    fleet.plan(entry_of(second, "r-2"))
    fleet.wait_phase(DEVICE, "fetching", "r-2")

    fleet.put(fleet.topics.block(digest), right)

    fleet.wait_phase(DEVICE, "committed", "r-2")


def test_duplicates_and_reordered_messages_change_nothing(proven: Site) -> None:
    fleet = proven.fleet
    release = make_release(1)
    older = bundle_bytes(fleet.repository)
    newer = fleet.sign(*fleet.repository.plan)
    for bundle in (newer, newer, older, newer, older, newer):
        fleet.put(fleet.topics.trust, bundle)
        for digest, data in release.everything.items():
            fleet.put(fleet.topics.block(digest), data)

    version = fleet.repository.version
    report = fleet.wait(
        DEVICE,
        lambda report: report["plan_version"] == version and refused(report, "trust") is None,
    )
    assert camera_of(report)["starts"] == 1


def test_a_truncated_trust_journal_never_leads_to_an_older_plan(proven: Site) -> None:
    fleet, agent = proven.fleet, proven.agents[0]
    older = bundle_bytes(fleet.repository)
    newer = fleet.plan(*fleet.repository.plan)
    version = fleet.repository.version
    fleet.wait(DEVICE, lambda report: report["plan_version"] == version)
    agent.stop()
    fleet.put(fleet.topics.trust, older)
    path = agent.state / "trust.json"
    path.write_bytes(path.read_bytes()[:-100])

    agent.start()

    wait_refused(proven, "trust", "replayed")  # What runs went on, under no plan.
    fleet.put(fleet.topics.trust, newer)
    report = fleet.wait(DEVICE, lambda report: report["plan_version"] == version)
    assert refused(report, "trust") is None


def test_a_missing_trust_journal_never_leads_to_an_older_plan(proven: Site) -> None:
    fleet, agent = proven.fleet, proven.agents[0]
    older = bundle_bytes(fleet.repository)
    fleet.plan(*fleet.repository.plan)
    version = fleet.repository.version
    fleet.wait(DEVICE, lambda report: report["plan_version"] == version)
    agent.stop()
    fleet.put(fleet.topics.trust, older)
    (agent.state / "trust.json").unlink()

    agent.start()

    wait_refused(proven, "trust", "replayed")


def request(identifier: str, **more: object) -> bytes:
    now = datetime.now(UTC)
    times = {"at": time_text(now), "expires": time_text(now + timedelta(seconds=30))}
    return json.dumps({"v": 1, "id": identifier, **times, **more}).encode()


def test_requests_are_answered_once_and_retained_ones_refused(proven: Site) -> None:
    fleet = proven.fleet
    device = fleet.topics.device
    proven.agents[0].stop()
    fleet.put(device(DEVICE, "request/restart-camera"), request("q-1"), retain=True)
    proven.agents[0].start()
    wait_refused(proven, "message", "retained")
    starts = camera_of(fleet.reported[DEVICE])["starts"]
    assert isinstance(starts, int)

    again = request("q-2")
    for _ in range(3):
        fleet.put(device(DEVICE, "request/restart-camera"), again, retain=False)
    fleet.put(device(DEVICE, "request/snapshot"), request("q-3"), retain=False)

    topic = device(DEVICE, "response/snapshot")
    answer = json.loads(fleet.wait_message(lambda m: m.topic == topic).payload)
    assert answer["error"]["code"] == "privacy"
    report = fleet.wait(DEVICE, lambda report: camera_of(report)["starts"] == starts + 1)
    assert phase_of(report, "r-1") == "committed"


def test_restart_agent_begins_a_new_run_of_the_same_install(proven: Site) -> None:
    fleet = proven.fleet
    install, _, run = str(fleet.reported[DEVICE]["run"]).rpartition("-")

    topic = fleet.topics.device(DEVICE, "request/restart-agent")
    fleet.put(topic, request("q-1"), retain=False)

    fleet.wait(DEVICE, lambda report: report["run"] == f"{install}-{int(run) + 1}")
    fleet.wait(DEVICE, lambda report: camera_of(report)["state"] == "streaming")
    answer = fleet.topics.device(DEVICE, "response/restart-agent")
    assert json.loads(fleet.wait_message(lambda m: m.topic == answer).payload)["status"] == "ok"


def test_a_state_directory_of_another_device_is_refused(proven: Site) -> None:
    agent = proven.agents[0]
    agent.stop()
    card = proven.fleet.enrol("gate-02")

    agent.card = card
    agent.start()

    assert agent.process is not None
    assert agent.process.wait(30) == 1
    assert "belongs to gate-01" in agent.last_words()


def test_a_new_install_with_an_old_devices_id_starts_from_the_plan(proven: Site) -> None:
    fleet, old = proven.fleet, proven.agents[0]
    install = str(fleet.reported[DEVICE]["run"]).partition("-")[0]
    assert old.process is not None
    old.process.send_signal(signal.SIGKILL)
    old.process.wait()
    old.state = old.state.with_name("new-card")

    old.start()

    def is_new(report: Reported) -> bool:
        return not str(report["run"]).startswith(install) and phase_of(report, "r-1") == "committed"

    assert camera_of(fleet.wait(DEVICE, is_new))["release"] == "tiny@1"
