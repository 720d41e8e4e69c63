"""What a thief or a broken broker may send to an agent: it keeps running and says so.

One agent with a proven release takes all messages of a test; what it runs must not change.
"""

import base64
import json
import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from securesystemslib.dsse import Envelope
from tuf.api.metadata import Snapshot, Timestamp

from agent.requests import VERBS
from controller.broker import RunningBroker
from controller.repository import bundle_bytes, create, sign_plan
from shared.identity import PAYLOAD_TYPE
from shared.limits import BLOCK_BYTES, BUNDLE_BYTES
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
from tests.integration.conftest import on_nats
from tests.making import bundle_of, forged, new_keys, sign_again

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


def wait_all_refused(site: Site, what: str, count: int) -> list[str]:
    """Wait until the agent has refused so many, still runs tiny@1, and return the codes."""
    agent = site.agents[0]
    agent.wait_said(f"WARNING {what} refused", count)
    assert agent.is_alive
    return re.findall(rf"WARNING {what} refused \(([a-z]+)\)", agent.log.read_text())


def test_bundles_that_nobody_honest_sent_are_refused_and_the_model_stays(proven: Site) -> None:
    fleet = proven.fleet
    honest = bundle_bytes(fleet.repository)
    files: dict[str, str] = json.loads(honest)["files"]
    trust = fleet.topics.trust
    changed = [  # Bytes changed in each metadata file.
        bundle_of({**files, name: text.replace("2", "3", 1)}, FLEET) for name, text in files.items()
    ]
    other = create(new_keys("other", is_demo=True), now=datetime.now(UTC))
    thief = create(new_keys(FLEET, is_demo=True), now=datetime.now(UTC))

    for bundle in (*changed, bundle_bytes(other), bundle_bytes(thief)):
        fleet.put(trust, bundle)

    wait_all_refused(proven, "bundle", len(changed) + 2)
    fleet.put(trust, b"x" * (BUNDLE_BYTES + 1))
    wait_refused(proven, "trust", "limit")
    wait_accepted(proven, honest)
    assert camera_of(fleet.reported[DEVICE])["starts"] == 1


@on_nats
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
    later = now + timedelta(seconds=5)
    fork = sign_plan(before, (entry, entry_of(release, "r-9")), fleet.keys.controller, later)
    files: dict[str, str] = json.loads(newer)["files"]

    def expire(signed: Timestamp) -> None:
        signed.expires = now - timedelta(days=1)
        signed.version += 1

    def add_field(signed: Timestamp) -> None:
        signed.unrecognized_fields["x-imxfleet"]["plan"][0]["hurry"] = True
        signed.version += 1

    controller = [fleet.keys.controller]
    for bundle in (
        older,
        bundle_bytes(fork),
        bundle_of(
            {**files, "timestamp.json": sign_again(files["timestamp.json"], controller, expire)},
            FLEET,
        ),
        bundle_of(
            {**files, "timestamp.json": sign_again(files["timestamp.json"], controller, add_field)},
            FLEET,
        ),
    ):
        fleet.put(fleet.topics.trust, bundle)

    codes = wait_all_refused(proven, "bundle", 4)
    assert codes == ["replayed", "equivocation", "expired", "unsupported"]
    wait_accepted(proven, newer)
    assert camera_of(fleet.reported[DEVICE])["starts"] == 1


@on_nats
def test_a_rotated_away_key_is_refused_though_the_new_root_is_left_out(proven: Site) -> None:
    fleet, old_keys = proven.fleet, proven.fleet.keys
    files: dict[str, str] = json.loads(bundle_bytes(fleet.repository))["files"]
    fleet.rotate()
    rotated = bundle_bytes(fleet.repository)
    fleet.put(fleet.topics.trust, rotated)
    version = fleet.repository.version
    fleet.wait(DEVICE, lambda report: report["plan_version"] == version)

    def far(signed: Timestamp | Snapshot) -> None:
        signed.version += 100

    stolen = forged(files, old_keys, timestamp=far, snapshot=far)
    fleet.put(fleet.topics.trust, bundle_of(stolen, FLEET))

    wait_all_refused(proven, "bundle", 1)
    fleet.plan(*fleet.repository.plan)  # By the new key.
    version = fleet.repository.version
    fleet.wait(DEVICE, lambda report: report["plan_version"] == version)


@on_nats
def test_malformed_input_on_every_subscribed_topic_keeps_the_agent_running(proven: Site) -> None:
    fleet, agent = proven.fleet, proven.agents[0]
    device = fleet.topics.device
    junk = (b"not json", b"\xff", b"null", b"7", b'{"v":1,"fleet":7,"id":[]}', b"[" * 3000)

    for data in junk:
        fleet.put(fleet.topics.trust, data)
        fleet.put(device(DEVICE, "identity"), data)
        for verb in (*VERBS, "nonsense"):
            fleet.put(device(DEVICE, f"request/{verb}"), data, retain=False)

    assert set(wait_all_refused(proven, "bundle", len(junk))) == {"malformed"}
    assert set(wait_all_refused(proven, "identity", len(junk))) == {"malformed"}
    agent.wait_said("a message is refused (malformed)", len(junk) * (len(VERBS) + 1))
    fleet.put(device(DEVICE, "identity"), fleet.identity(DEVICE, version=2))
    fleet.put(fleet.topics.trust, bundle_bytes(fleet.repository))
    fleet.put(device(DEVICE, "request/identify"), b"x" * 5000, retain=False)
    wait_refused(proven, "message", "limit")
    report = fleet.wait(DEVICE, lambda report: refused(report, "trust") is None)
    assert refused(report, "identity") is None
    assert camera_of(report)["starts"] == 1


@on_nats
def test_identities_of_others_older_ones_and_ones_with_strange_fields_are_refused(
    proven: Site,
) -> None:
    fleet = proven.fleet
    topic = fleet.topics.device(DEVICE, "identity")
    fleet.put(topic, fleet.identity(DEVICE, version=3))
    fleet.wait(DEVICE, lambda report: report["identity_version"] == 3)
    signed = base64.b64decode(json.loads(fleet.identity(DEVICE, version=9))["payload"])
    strange = Envelope(signed.replace(b'"labels"', b'"hurry":1,"labels"', 1), PAYLOAD_TYPE, {})
    strange.sign(fleet.keys.controller)

    fleet.put(topic, fleet.identity(DEVICE, version=2))
    fleet.put(topic, fleet.identity("gate-02", version=9))
    fleet.put(topic, json.dumps(strange.to_dict()).encode())
    fleet.put(topic, b"")

    codes = wait_all_refused(proven, "identity", 3)
    assert codes == ["replayed", "device", "unsupported"]
    fleet.put(topic, fleet.identity(DEVICE, version=4))
    report = fleet.wait(DEVICE, lambda report: report["identity_version"] == 4)
    assert refused(report, "identity") is None


@on_nats
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


@on_nats
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

    for wrong in (b"", b"[]", b"x" * (BLOCK_BYTES + 1)):
        fleet.put(fleet.topics.block(digest), wrong)
    proven.agents[0].wait_said("a message is refused (limit)")
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


@on_nats
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


@on_nats
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


@on_nats
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


@on_nats
def test_restart_agent_begins_a_new_run_of_the_same_install(proven: Site) -> None:
    fleet = proven.fleet
    install, _, run = str(fleet.reported[DEVICE]["run"]).rpartition("-")

    topic = fleet.topics.device(DEVICE, "request/restart-agent")
    fleet.put(topic, request("q-1"), retain=False)

    fleet.wait(DEVICE, lambda report: report["run"] == f"{install}-{int(run) + 1}")
    fleet.wait(DEVICE, lambda report: camera_of(report)["state"] == "streaming")
    answer = fleet.topics.device(DEVICE, "response/restart-agent")
    assert json.loads(fleet.wait_message(lambda m: m.topic == answer).payload)["status"] == "ok"


@on_nats
def test_a_state_directory_of_another_device_is_refused(proven: Site) -> None:
    agent = proven.agents[0]
    agent.stop()
    card = proven.fleet.enrol("gate-02")

    agent.card = card
    agent.start()

    assert agent.process is not None
    assert agent.process.wait(30) == 1
    assert "belongs to gate-01" in agent.last_words()


@on_nats
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
