"""docs/protocol.md says what the code says, where both say it in words that can be compared."""

import re

from agent.requests import VERBS
from shared import limits
from shared.bus import PAYLOAD_BYTES_MAX
from shared.desk import TELEMETRY_BYTES_MAX
from shared.inbox import INBOX_BYTES
from tests.contract.contract import DOCS, read_contract

PAGE = (DOCS / "protocol.md").read_text(encoding="utf-8")
MIB = 1024 * 1024


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {title}.*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def cells(text: str) -> list[list[str]]:
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


def test_the_table_of_topics_is_the_one_of_the_contract() -> None:
    contract = read_contract()
    table = {}
    for topic, owner, delivery, _what in cells(section("Topics")):
        address = re.sub(r"<(\w+)>", r"{\1}", topic.split("`")[-2])
        qos, kept, *_will = delivery.split(", ")
        table[address] = (owner, int(qos), kept == "yes")

    written = {}
    for name, channel in contract.channels.items():
        address = str(channel["address"]).removeprefix("fleet/v1/{fleet}/")
        address = address.replace("{device}", "{id}").replace("{camera}", "{n}")
        owner = re.findall(r"Owner: (\w+)", str(channel["description"]))[0]
        written[address] = (owner, *contract.delivery(name))
    assert table == written


def test_the_reserved_topics_are_in_no_channel() -> None:
    contract = read_contract()
    reserved = re.findall(r"`[^`]*?/(\w+)`", section("Topics").rpartition("Reserved")[2])

    addresses = [str(channel["address"]) for channel in contract.channels.values()]
    assert {"update", "install", "config"} <= set(reserved)
    assert not [a for a in addresses if a.rpartition("/")[2] in reserved]


def test_the_table_of_limits_is_the_one_of_the_code() -> None:
    pairs = [pair for row in cells(section("Limits")) for pair in (row[:2], row[2:])]
    table = {what.replace("`", ""): limit for what, limit in pairs}

    assert table == {
        "block, manifest": f"{limits.BLOCK_BYTES:,} B",
        "file of a release": f"{limits.FILE_BYTES // MIB} MiB",
        "release": f"{limits.RELEASE_BYTES // MIB} MiB",
        "bundle": f"{limits.BUNDLE_BYTES:,} B",
        "timestamp with its plan": f"{limits.TIMESTAMP_BYTES:,} B, {limits.ENTRIES_MAX} entries",
        "listed releases": f"{limits.RELEASES_LISTED_MAX} (doctor warns from 400)",
        "identity": f"{limits.IDENTITY_BYTES:,} B",
        "reported": f"{limits.REPORTED_BYTES:,} B",
        "detections, packed": f"{limits.DETECTIONS_BYTES:,} B",
        "image": f"{limits.IMAGE_BYTES:,} B",
        "event": f"{limits.EVENT_BYTES:,} B",
        "frames in a packed message": f"{limits.PACKED_FRAMES_MAX}",
        "telemetry that waits for a slow line": f"{TELEMETRY_BYTES_MAX // 1024} KiB",
        "objects in a frame": f"{limits.OBJECTS_PER_FRAME_MAX}",
        "health": f"{limits.HEALTH_BYTES:,} B",
        "rollout/*": f"{limits.ROLLOUT_BYTES:,} B",
        "request, response": f"{limits.REQUEST_BYTES:,} B, {limits.RESPONSE_BYTES:,} B",
        "inbox of a process": f"{limits.INBOX_MESSAGES:,} messages, {INBOX_BYTES // MIB} MiB",
        "blocks in flight to a device": f"{limits.BLOCKS_IN_FLIGHT}",
        "messages in flight from the controller": "20",
    }
    assert f"Nothing above {PAYLOAD_BYTES_MAX:,} bytes is queued" in PAGE


def test_the_table_of_requests_is_the_one_of_the_code() -> None:
    verbs = [row[0].strip("`") for row in cells(section("Requests"))]

    assert sorted(verbs) == sorted(VERBS)
