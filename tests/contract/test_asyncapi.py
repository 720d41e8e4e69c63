"""What the code sends and accepts is what docs/asyncapi.yaml says."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import jsonschema
import msgspec
import pytest
import yaml

from shared.detections import Class, Detections, Object
from shared.messages import (
    CameraHealth,
    CameraReported,
    Counts,
    DeploymentReported,
    EndReported,
    EntryRefused,
    ErrorText,
    Evidence,
    EvidencePair,
    FailedDevice,
    Health,
    Progress,
    Quantiles,
    Refused,
    Reported,
    Request,
    Response,
    RolloutReported,
    TrustReported,
    WaveReported,
)
from shared.topics import Topics

DOCS = Path(__file__).resolve().parents[2] / "docs"
AT = "2026-11-24T03:00:00.123Z"
SHA256 = "a" * 64

EVIDENCE = Evidence(
    release="helmet@8", seconds=60, frames=960, valid=958, objects=1210,
    score_histogram=(0, 0, 3, 9, 20, 55, 101, 222, 400, 400), dnn_ms=Quantiles(58.2, 61.0),
)  # fmt: skip
DEPLOYMENT = DeploymentReported(
    rollout="r-7", attempt=1, manifest_sha256=SHA256, phase="probing", since=AT,
    progress=Progress(40, 60, "seconds"), missing_blocks=(SHA256,), cause="release",
    error=ErrorText("shapes", "expected 1x4, got 1x5"), waiting_for="turn",
)  # fmt: skip
CAMERA = CameraReported(
    kind="simulated", state="streaming", release="helmet@8", manifest_sha256=SHA256,
    previous="helmet@7", starts=4, deployment=DEPLOYMENT, owners=(("r-7", 1),),
    ended=(EndReported(rollout="r-6", attempt=1, phase="rolled_back", cause="release"),),
    evidence=EvidencePair(running=EVIDENCE, before=EVIDENCE),
)  # fmt: skip
EXAMPLES = {
    "reported": Reported(
        at=AT, clock="synced", boot="1c9f03ab", run="k3v9q2-17", seq=412, agent_version="0.1.0",
        plan_version=42, plan_sha256=SHA256, identity_version=3, serial="10000000abcd1234",
        trust=TrustReported(AT),
        refused=Refused(
            trust=ErrorText("expired", "x"), entries=(EntryRefused("r-1", "unlisted", "x"),)
        ),
        settings={"images": "off", "rate_hz": 5}, overrides=({"verb": "set", "value": 3},),
        cameras={"0": CAMERA},
    ),
    "health": Health(
        at=AT, run="k3v9q2-17", temperature_c=51.2, throttled=False, under_voltage=None,
        memory_bytes=1,
        cameras={"0": CameraHealth(fps=16, dps=5, dnn_ms=58.2, dsp_ms=None, dropped=0)},
    ),
    "detections": Detections(
        at=AT, run="k3v9q2-17", seq=1, frame=87, release="helmet@8", task="detect", dnn_ms=58.8,
        objects=(Object(label="person", class_=0, score=0.91, box=(0.12, 0.3, 0.44, 0.95)),),
    ),
    "counts": Counts(at=AT, release="helmet@8", total=3, counts={"person": 3, "car": 0}),
    "request": Request(id="1", at=AT, expires=AT, threshold_permille=500),
    "response": Response(id="1", status="error", error=ErrorText("privacy", "images are off")),
    "rollout": RolloutReported(
        at=AT, rollout="r-7", release="helmet@8", state="running", reason=None, wave=0,
        waves=(WaveReported(devices={"healthy": 2}, verdict="pass", evidence="2 of 2"),),
        failed=(FailedDevice("cam-1", "release", "x"),),
    ),
}  # fmt: skip


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("asyncapi_generator", DOCS / "asyncapi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def contract() -> dict[str, object]:
    loaded = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def validate(contract: dict[str, object], name: str, payload: object) -> None:
    components = contract["components"]
    assert isinstance(components, dict)
    schema = components["messages"][name]["payload"]
    jsonschema.Draft202012Validator({**schema, "components": components}).validate(payload)


def test_the_document_is_the_one_that_the_types_give() -> None:
    assert (DOCS / "asyncapi.yaml").read_text(encoding="utf-8") == generator().text()


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_the_code_encodes_is_what_the_contract_says(
    contract: dict[str, object], name: str
) -> None:
    validate(contract, name, msgspec.json.decode(msgspec.json.encode(EXAMPLES[name])))


def test_a_classified_frame_is_within_the_contract(contract: dict[str, object]) -> None:
    frame = Detections(
        at=AT, run="k-1", seq=0, frame=0, release="helmet@8", task="classify", dnn_ms=None,
        classes=(Class(label="cat", class_=3, score=0.8),),
    )  # fmt: skip

    validate(contract, "detections", msgspec.json.decode(msgspec.json.encode(frame)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_with_a_field_missing_is_outside_the_contract(
    contract: dict[str, object], name: str
) -> None:
    whole = msgspec.json.decode(msgspec.json.encode(EXAMPLES[name]))
    first = next(key for key in whole if key != "v")

    with pytest.raises(jsonschema.ValidationError):
        validate(contract, name, {key: value for key, value in whole.items() if key != first})


def test_every_topic_of_the_contract_is_one_that_the_code_reads() -> None:
    topics = Topics("site-a")
    filled = {"fleet": "site-a", "device": "cam-1", "sha256": SHA256, "camera": "0",
              "verb": "identify", "rollout": "r-7"}  # fmt: skip

    for channel in generator().CHANNELS.values():
        topics.parse(channel.address.format(**filled))
