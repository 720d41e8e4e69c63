# ruff: noqa: INP001 - a script beside the file that it writes
"""Write docs/asyncapi.yaml from the types that encode and decode the messages.

    .venv/bin/python docs/asyncapi.py            # writes the file; a test says when it is stale

Topics and owners are docs/protocol.md's; the schemas are msgspec's own, so they cannot disagree
with what the code accepts. The examples in docs/examples.json were heard on the broker of a real
`fleetctl demo` or of the run in tests/contract/test_capture.py. Topics that are reserved for later
are not here: nothing is published on them.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from shared import limits
from shared.detections import Detections
from shared.identity import Identity
from shared.messages import (
    Counts,
    Health,
    Reported,
    Request,
    Response,
    RolloutReported,
    TrackEvent,
)
from shared.plan import EntryDocument
from shared.release import Manifest
from shared.trust import BundleDocument, EnvelopeDocument

PATH = Path(__file__).with_name("asyncapi.yaml")
HEARD = Path(__file__).with_name("examples.json")
BYTES = {"type": "string", "format": "binary"}
CONTROLLER, AGENT, OPERATOR = "controller", "agent", "operator"
SCHEMA_TEMPLATE = "#/components/schemas/{name}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a message is published."""

    qos: int
    is_retained: bool


KEPT = Delivery(qos=1, is_retained=True)
LAST = Delivery(qos=0, is_retained=True)
SURE = Delivery(qos=1, is_retained=False)
ONCE = Delivery(qos=0, is_retained=False)


@dataclass(frozen=True, slots=True)
class Channel:
    """One topic: who owns it, how it is published, and what it carries."""

    address: str
    owner: str
    delivery: Delivery
    bytes_max: int
    text: str
    kind: type[msgspec.Struct] | None = None
    schema: dict[str, object] | None = None
    content: str = "application/octet-stream"  # Where there is a schema and no kind.


CHANNELS = {
    "block": Channel(
        "fleet-blocks/v1/{fleet}/{sha256}", CONTROLLER, KEPT, limits.BLOCK_BYTES,
        "One block of a release, named by the SHA-256 of its bytes; empty means cleared.",
        schema=BYTES,
    ),
    "trust": Channel(
        "fleet/v1/{fleet}/trust", CONTROLLER, KEPT, limits.BUNDLE_BYTES,
        "The bundle: all metadata of the fleet's TUF repository, the plan inside its timestamp.",
        BundleDocument,
    ),
    "identity": Channel(
        "fleet/v1/{fleet}/device/{device}/identity", CONTROLLER, KEPT, limits.IDENTITY_BYTES,
        "A DSSE envelope (application/vnd.imxfleet.identity+json); its payload is an Identity.",
        EnvelopeDocument,
    ),
    "status": Channel(
        "fleet/v1/{fleet}/device/{device}/status", AGENT, KEPT, limits.STATUS_BYTES,
        "Plain text; offline is also the last will.",
        schema={"type": "string", "enum": ["online", "offline"]},
    ),
    "reported": Channel(
        "fleet/v1/{fleet}/device/{device}/reported", AGENT, KEPT, limits.REPORTED_BYTES,
        "All that the controller decides on; at least every five minutes.", Reported,
    ),
    "health": Channel(
        "fleet/v1/{fleet}/device/{device}/health", AGENT, ONCE, limits.HEALTH_BYTES,
        "For people and graphs; nothing is decided on it.", Health,
    ),
    "detections": Channel(
        "fleet/v1/{fleet}/device/{device}/camera/{camera}/detections", AGENT, ONCE,
        limits.DETECTIONS_BYTES, "One frame; exactly one of objects and classes is there.",
        Detections,
    ),
    "packed": Channel(
        "fleet/v1/{fleet}/device/{device}/camera/{camera}/packed", AGENT, ONCE,
        limits.DETECTIONS_BYTES,
        "Up to 16 frames in the binary form of docs/protocol.md, in the place of detections.",
        schema=BYTES,
    ),
    "image": Channel(
        "fleet/v1/{fleet}/device/{device}/camera/{camera}/image", AGENT, ONCE,
        limits.IMAGE_BYTES,
        "A JPEG with what was found drawn into it, on request; empty: there is none.",
        schema=BYTES, content="image/jpeg",
    ),
    "event": Channel(
        "fleet/v1/{fleet}/device/{device}/camera/{camera}/event", AGENT, SURE,
        limits.EVENT_BYTES, "What happened to a tracked object.", TrackEvent,
    ),
    "counts": Channel(
        "fleet/v1/{fleet}/device/{device}/camera/{camera}/counts", AGENT, LAST,
        limits.DETECTIONS_BYTES, "Objects per class, on change.", Counts,
    ),
    "request": Channel(
        "fleet/v1/{fleet}/device/{device}/request/{verb}", OPERATOR, SURE,
        limits.REQUEST_BYTES, "Asks a device for something; expires within a minute.", Request,
    ),
    "response": Channel(
        "fleet/v1/{fleet}/device/{device}/response/{verb}", AGENT, SURE,
        limits.RESPONSE_BYTES, "The answer to a request, published before its effect.", Response,
    ),
    "rollout": Channel(
        "fleet/v1/{fleet}/rollout/{rollout}", CONTROLLER, KEPT, limits.ROLLOUT_BYTES,
        "State of one rollout, for dashboards.", RolloutReported,
    ),
}  # fmt: skip
# Signed documents that travel inside others: no message of their own, but of the contract.
INSIDE: tuple[type[msgspec.Struct], ...] = (Identity, EntryDocument, Manifest)
PARAMETERS = {
    "fleet": "The fleet's name.",
    "device": "The device's id.",
    "sha256": "SHA-256 of the block, in lower-case hex.",
    "camera": "The camera's number, from 0.",
    "verb": "restart-agent, restart-camera, reboot, snapshot, identify or set.",
    "rollout": "The rollout's id, e.g. r-7.",
}


def heard() -> dict[str, list[dict[str, object]]]:
    """Return the real messages by channel, each with topic and payload."""
    messages: dict[str, list[dict[str, object]]] = json.loads(HEARD.read_text(encoding="utf-8"))
    return messages


def heard_inside() -> dict[str, list[object]]:
    """Return the real documents that travel inside of messages, by the name of their schema."""
    (bundle,), (envelope,), (manifest,) = (
        heard()[name] for name in ("trust", "identity", "manifest")
    )
    timestamp = json.loads(bundle["payload"]["files"]["timestamp.json"])
    identity = json.loads(base64.b64decode(envelope["payload"]["payload"]))
    plan = timestamp["signed"]["x-imxfleet"]["plan"]
    return {"Identity": [identity], "EntryDocument": plan, "Manifest": [manifest["payload"]]}


def document() -> dict[str, object]:
    """Return the AsyncAPI document."""
    types = [c.kind for c in CHANNELS.values() if c.kind is not None]
    schemas = msgspec.json.schema_components([*types, *INSIDE], ref_template=SCHEMA_TEMPLATE)[1]
    for name, examples in heard_inside().items():
        schemas[name]["examples"] = examples
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "imxfleet over MQTT",
            "version": "1",
            "description": "Written by docs/asyncapi.py; docs/protocol.md holds the rules, and "
            "the topics that are reserved for later. Every message is here that anybody publishes.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {name: _channel(name, channel) for name, channel in CHANNELS.items()},
        "operations": {
            f"send-{name}": _operation(name, channel) for name, channel in CHANNELS.items()
        },
        "components": {
            "messages": {name: _message(name, channel) for name, channel in CHANNELS.items()},
            "schemas": schemas,
        },
    }


def text() -> str:
    """Return the file's text."""
    # Through JSON: tuples become lists, and what occurs twice is no YAML alias.
    plain = msgspec.json.decode(msgspec.json.encode(document()))
    head = "# Written by docs/asyncapi.py from the types in shared/: do not edit.\n"
    return head + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def _channel(name: str, channel: Channel) -> dict[str, object]:
    parameters = {key: {"description": value} for key, value in PARAMETERS.items()
                  if f"{{{key}}}" in channel.address}  # fmt: skip
    return {
        "address": channel.address,
        "description": f"{channel.text} Owner: {channel.owner}. At most {channel.bytes_max} bytes.",
        "parameters": parameters,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "x-bytes-max": channel.bytes_max,
    }


def _operation(name: str, channel: Channel) -> dict[str, object]:
    return {
        "action": "send",
        "summary": f"Published by: {channel.owner}",
        "channel": {"$ref": f"#/channels/{name}"},
        "bindings": {"mqtt": {"qos": channel.delivery.qos, "retain": channel.delivery.is_retained}},
    }


def _message(name: str, channel: Channel) -> dict[str, object]:
    content, payload = "application/json", channel.schema
    if channel.kind is not None:
        payload = {"$ref": SCHEMA_TEMPLATE.format(name=channel.kind.__name__)}
    else:
        content = "text/plain" if name == "status" else channel.content
    examples = [
        {"summary": one["topic"], "payload": one.get("payload", one.get("base64"))}
        for one in heard()[name]
    ]
    return {"name": name, "contentType": content, "payload": payload, "examples": examples}


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
