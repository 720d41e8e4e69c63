"""What the code sends and accepts is what docs/asyncapi.yaml says."""

import json

import jsonschema
import msgspec
import pytest

from shared.detections import Class, Detections, Mask, Object
from shared.identity import Identity
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
    TrackEvent,
    TrustReported,
    WaveReported,
)
from shared.plan import EntryDocument, ProbeDocument, WindowDocument
from shared.release import (
    Decode,
    File,
    Golden,
    Input,
    Manifest,
    Output,
    Receipt,
    Requires,
)
from shared.topics import Topics
from tests.contract.contract import DOCS, Contract, generator, payload_of, read_contract

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
    "event": TrackEvent(
        at=AT, release="helmet@8", event="leave", track=7, label="person", class_=0, dwell_ms=12_300
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


CLASSIFIED = Detections(
    at=AT, run="k-1", seq=0, frame=0, release="helmet@8", task="classify", dnn_ms=None,
    classes=(Class(label="cat", class_=3, score=0.8),),
)  # fmt: skip
THING = Object(label="person", class_=0, score=0.91, box=(0.12, 0.3, 0.44, 0.95))
POSED, SEGMENTED = (
    Detections(
        at=AT, run="k-1", seq=0, frame=0, release="helmet@8", task=task, dnn_ms=58.8,
        objects=(msgspec.structs.replace(THING, keypoints=keypoints, mask=mask),),
    )
    for task, keypoints, mask in (
        ("pose", ((0.2, 0.3, 0.9), (0.0, 1.0, 0.04)), None),
        ("segment", None, Mask(size=(80, 80), counts="Xk2d0R2")),
    )
)  # fmt: skip
INSIDE = (
    EntryDocument(
        rollout="r-7", attempt=2, action="hold", release="helmet@8", manifest_sha256=SHA256,
        selector="role=door", pins=("gate-01", "gate-02/1"), salt="r-7", share=2**30,
        deny=("gate-03",), window=WindowDocument(days=("mon",), begin="22:00", to="05:00"),
        probe=ProbeDocument(seconds=60, valid_rate_permille=900, activation_seconds=720),
    ),
    Manifest(
        name="helmet", version=8, task="pose", frame_rate=16, network_name="n0123456789ab",
        input=Input(width=320, height=320, color="RGB"), labels=1, memory_bytes=3_890_000,
        outputs=(Output(name="boxes", shape=(1, 300, 4), dtype="float32"),),
        decode=Decode(threshold_permille=250, keypoints=17), requires=Requires(agent="0.1.0"),
        golden=Golden(tolerance_permille=50), provenance={"licence": "AGPL-3.0"},
        receipt=Receipt(metric="map50", float_permille=800, quantised_permille=None),
        files=(File(role="labels", name="labels.txt", bytes=7, sha256=SHA256, blocks=(SHA256,)),),
    ),
)  # fmt: skip
SIGNED = (Identity, EntryDocument, Manifest)


@pytest.fixture(scope="module")
def contract() -> Contract:
    return read_contract()


@pytest.fixture(scope="module")
def heard() -> dict[str, list[dict[str, object]]]:
    return json.loads((DOCS / "examples.json").read_text(encoding="utf-8"))


def test_the_document_is_the_one_that_the_types_give() -> None:
    assert (DOCS / "asyncapi.yaml").read_text(encoding="utf-8") == generator().text()


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_the_code_encodes_is_what_the_contract_says(contract: Contract, name: str) -> None:
    contract.validate(name, msgspec.json.decode(msgspec.json.encode(EXAMPLES[name])))


@pytest.mark.parametrize("frame", [CLASSIFIED, POSED, SEGMENTED])
def test_a_frame_of_every_task_is_within_the_contract(
    contract: Contract, frame: Detections
) -> None:
    contract.validate("detections", msgspec.json.decode(msgspec.json.encode(frame)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_with_a_field_missing_is_outside_the_contract(
    contract: Contract, name: str
) -> None:
    whole = msgspec.json.decode(msgspec.json.encode(EXAMPLES[name]))
    first = next(key for key in whole if key != "v")

    with pytest.raises(jsonschema.ValidationError):
        contract.validate(name, {key: value for key, value in whole.items() if key != first})


def test_a_message_with_a_field_that_the_contract_does_not_name_is_outside_it(
    contract: Contract,
) -> None:
    whole = msgspec.json.decode(msgspec.json.encode(EXAMPLES["counts"]))

    with pytest.raises(jsonschema.ValidationError):
        contract.validate("counts", {**whole, "more": 1})


def test_every_channel_has_messages_that_were_really_heard_on_it(
    contract: Contract, heard: dict[str, list[dict[str, object]]]
) -> None:
    for name in contract.channels:
        assert heard[name]
        for message in heard[name]:
            assert contract.judge(str(message["topic"]), payload_of(message)) == name


def test_the_code_reads_every_document_that_was_really_heard(
    heard: dict[str, list[dict[str, object]]],
) -> None:
    inside = generator().heard_inside()
    kinds = {name: c.kind for name, c in generator().CHANNELS.items() if c.kind is not None}

    for name, kind in kinds.items():
        for message in heard[name]:
            msgspec.convert(message["payload"], kind, strict=True)
    for kind in SIGNED:
        assert inside[kind.__name__]
        for document in inside[kind.__name__]:
            msgspec.convert(document, kind, strict=True)


def test_no_schema_is_without_an_example(
    contract: Contract, heard: dict[str, list[dict[str, object]]]
) -> None:
    contract.used.clear()

    for name in contract.channels:
        for message in heard[name]:
            contract.judge(str(message["topic"]), payload_of(message))
    for name, example in [
        *EXAMPLES.items(),
        *(("detections", frame) for frame in (CLASSIFIED, POSED, SEGMENTED)),
    ]:
        contract.validate(name, msgspec.json.decode(msgspec.json.encode(example)))
    for kind, example in [*((type(one), one) for one in INSIDE), *heard_inside()]:
        plain = msgspec.json.decode(msgspec.json.encode(example))
        contract.validate_as({"$ref": f"#/components/schemas/{kind.__name__}"}, plain)

    assert set(contract.schemas) - contract.used == set()


def heard_inside() -> list[tuple[type, object]]:
    inside = generator().heard_inside()
    return [(kind, document) for kind in SIGNED for document in inside[kind.__name__]]


def test_every_topic_of_the_contract_is_one_that_the_code_reads() -> None:
    topics = Topics("site-a")
    filled = {"fleet": "site-a", "device": "cam-1", "sha256": SHA256, "camera": "0",
              "verb": "identify", "rollout": "r-7"}  # fmt: skip

    for channel in generator().CHANNELS.values():
        topics.parse(channel.address.format(**filled))
