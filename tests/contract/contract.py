"""docs/asyncapi.yaml as a judge of messages."""

import importlib.util
import json
import re
import sys
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import jsonschema
import msgspec
import yaml

from shared.packed import decode_packed

DOCS = Path(__file__).resolve().parents[2] / "docs"
JPEG = b"\xff\xd8\xff"
LEVEL = "[a-z0-9][a-z0-9-]*"


@dataclass
class Contract:
    """The document, and the schemas that it has been used for."""

    document: dict[str, object]
    used: set[str] = field(default_factory=set)

    @property
    def channels(self) -> dict[str, dict[str, object]]:
        return self.document["channels"]  # type: ignore[return-value]

    @property
    def schemas(self) -> dict[str, dict[str, object]]:
        return self.document["components"]["schemas"]  # type: ignore[index,return-value]

    def delivery(self, name: str) -> tuple[int, bool]:
        """Return QoS of a channel's publisher, and whether its messages are retained."""
        mqtt = self.document["operations"][f"send-{name}"]["bindings"]["mqtt"]  # type: ignore[index]
        return mqtt["qos"], mqtt["retain"]

    def channel_of(self, topic: str) -> str:
        for name, channel in self.channels.items():
            pattern = re.sub(r"\{[a-z0-9]+\}", LEVEL, str(channel["address"]))
            if re.fullmatch(pattern, topic):
                return name
        raise AssertionError(f"no channel of docs/asyncapi.yaml has the topic {topic}")

    def judge(self, topic: str, payload: bytes) -> str:
        """Return the channel of a message that is within the contract; else raise."""
        name = self.channel_of(topic)
        assert len(payload) <= self.channels[name]["x-bytes-max"], topic  # type: ignore[operator]
        message = self.document["components"]["messages"][name]  # type: ignore[index]
        match message["contentType"]:
            case _ if not payload:
                pass  # Nothing, on every topic.
            case "application/json":
                self.validate(name, json.loads(payload))
            case "text/plain":
                self.validate(name, payload.decode())
            case "image/jpeg":
                assert payload.startswith(JPEG)
            case "application/octet-stream" if name == "packed":
                for frame in decode_packed(payload):
                    self.validate("detections", json.loads(msgspec.json.encode(frame)))
            case "application/octet-stream":
                assert sha256(payload).hexdigest() == topic.rpartition("/")[2]
        return str(name)

    def validate(self, name: str, payload: object) -> None:
        """Hold a message's payload against its schema."""
        message = self.document["components"]["messages"][name]  # type: ignore[index]
        self.validate_as(message["payload"], payload)

    def validate_as(self, schema: dict[str, object], payload: object) -> None:
        components = {**self.document["components"], "schemas": self._closed()}  # type: ignore[dict-item]
        self._judge({**schema, "components": components}).validate(payload)

    def _closed(self) -> dict[str, dict[str, object]]:
        """Return the schemas, refusing fields that they do not name: who reads may ignore them,
        but nobody publishes what the contract does not say."""
        return {
            name: {"additionalProperties": False, **schema} if "properties" in schema else schema
            for name, schema in self.schemas.items()
        }

    def _judge(self, schema: dict[str, object]) -> jsonschema.Draft202012Validator:
        plain = jsonschema.Draft202012Validator.VALIDATORS["$ref"]

        def noting(
            validator: jsonschema.Draft202012Validator,
            reference: str,
            instance: object,
            inside: dict[str, object],
        ) -> Iterator[jsonschema.ValidationError]:
            errors = list(plain(validator, reference, instance, inside) or ())
            if not errors:
                self.used.add(reference.rpartition("/")[2])
            yield from errors

        kind = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"$ref": noting})
        return kind(schema)


def payload_of(example: dict[str, object]) -> bytes:
    """Return the bytes of a message in docs/examples.json."""
    if "base64" in example:
        return b64decode(str(example["base64"]), validate=True)
    payload = example["payload"]
    return payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()


def read_contract() -> Contract:
    """Return what docs/asyncapi.yaml says."""
    return Contract(yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8")))


def generator() -> ModuleType:
    """Return docs/asyncapi.py, which writes the file."""
    spec = importlib.util.spec_from_file_location("asyncapi_generator", DOCS / "asyncapi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
