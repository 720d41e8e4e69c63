import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from controller.repository import sign_identity
from shared.errors import OperatorError, RefusedError
from shared.identity import (
    PAYLOAD_TYPE,
    Bounds,
    CameraIdentity,
    Identity,
    Settings,
    TelemetrySettings,
    camera_of,
)
from shared.limits import IDENTITY_BYTES
from shared.messages import time_text
from shared.trust import identity_floor, judge_identity
from tests.making import FLEET, NOW, Site

SITE = Site.make()
GATE = Identity(
    fleet=FLEET,
    device="gate-01",
    version=3,
    at=time_text(NOW),
    timezone="Europe/Berlin",
    labels={"role": "door"},
    cameras={
        "0": CameraIdentity(kind="auto"),
        "1": CameraIdentity(kind="simulated", labels={"view": "rear"}),
    },
    settings=Settings(bounds=Bounds(threshold_permille=(200, 800), rate_hz=(1, 10))),
)  # fmt: skip


def judge(data: bytes, **changes: object) -> Identity:
    asked = {
        "trusted_root": SITE.card_root,
        "fleet": FLEET,
        "device": "gate-01",
        "floor": 2,
        **changes,
    }
    return judge_identity(data, **asked)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as caught:
        act()
    return caught.value.code


def enveloped(
    payload: object, *, kind: str = PAYLOAD_TYPE, signer: CryptoSigner | None = None
) -> bytes:
    envelope = Envelope(msgspec.json.encode(payload), kind, {})
    envelope.sign(signer or SITE.keys.controller)
    return msgspec.json.encode(envelope.to_dict())


def test_a_signed_identity_comes_back() -> None:
    identity = judge(sign_identity(GATE, SITE.keys.controller))

    assert identity == GATE
    assert camera_of(identity, 1).labels == {"role": "door", "view": "rear", "camera": "1"}


def test_an_identity_by_another_key_is_refused() -> None:
    for signer in (CryptoSigner.generate_ed25519(), SITE.keys.release, SITE.keys.root[0]):
        data = sign_identity(GATE, signer)
        assert refusal(lambda data=data: judge(data)) == "signature"


def test_an_identity_of_another_fleet_or_device_is_refused() -> None:
    data = sign_identity(GATE, SITE.keys.controller)

    assert refusal(lambda: judge(data, fleet="site-b")) == "fleet"
    assert refusal(lambda: judge(data, device="gate-02")) == "device"


def test_a_stolen_old_identity_is_refused_below_the_floor() -> None:
    old = sign_identity(GATE, SITE.keys.controller)

    assert refusal(lambda: judge(old, floor=3)) == "replayed"
    assert refusal(lambda: judge(old, floor=4)) == "replayed"


def test_the_floor_is_the_kept_identity_until_its_key_is_rotated_away() -> None:
    site = Site.make()
    kept = sign_identity(msgspec.structs.replace(GATE, version=10**9), site.keys.controller)

    assert identity_floor(None, trusted_root=site.card_root) == 0
    assert identity_floor(kept, trusted_root=site.card_root) == 10**9
    site.rotate()
    assert identity_floor(kept, trusted_root=site.repository.root) == 0
    assert refusal(
        lambda: judge(kept, trusted_root=site.repository.root, floor=0)
    ) == "signature"  # fmt: skip


def test_an_envelope_of_another_type_is_refused() -> None:
    assert refusal(lambda: judge(enveloped(GATE, kind="application/json"))) == "type"


def test_an_unknown_field_is_unsupported_at_any_depth() -> None:
    plain = msgspec.to_builtins(GATE)

    for changed in (
        {**plain, "surprise": 1},
        {**plain, "settings": {**plain["settings"], "surprise": 1}},
        {**plain, "cameras": {"0": {"kind": "auto", "surprise": 1}}},
    ):
        assert refusal(lambda changed=changed: judge(enveloped(changed))) == "unsupported"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": 2**53 + 1},
        {"at": "yesterday"},
        {"timezone": "../../etc/passwd"},
        {"timezone": ""},
        {"labels": {"Role": "door"}},
        {"labels": {"role": "a,b=c"}},
        {"labels": {f"k{n}": "v" for n in range(65)}},
        {"cameras": {}},
        {"cameras": {"-1": {"kind": "auto"}}},
        {"cameras": {"00": {"kind": "auto"}}},
        {"cameras": {"0": {"kind": "webcam"}}},
        {"cameras": {str(n): {"kind": "auto"} for n in range(9)}},
        {"settings": {"telemetry": {"rate_hz": 0}}},
        {"settings": {"telemetry": {"threshold_permille": 1001}}},
        {"settings": {"telemetry": {"rate_hz": 5.5}}},
        {"settings": {"bounds": {"rate_hz": [10, 1]}}},
        {"settings": {"bounds": {"threshold_permille": [0, 2000]}}},
        {"settings": {"frame_rate": 0}},
        {"v": 2},
    ],
)
def test_a_signed_identity_out_of_its_bounds_is_refused(change: dict[str, object]) -> None:
    data = enveloped({**msgspec.to_builtins(GATE), **change})

    assert refusal(lambda: judge(data, floor=-1)) == "malformed"


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"{}", b"[", b"\xff", b'{"payload":"!","payloadType":"x","signatures":[]}'],
)
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    assert refusal(lambda: judge(data)) in {"malformed", "type"}


def test_an_envelope_over_its_limit_is_refused_unparsed() -> None:
    assert refusal(lambda: judge(b"{" * (IDENTITY_BYTES + 1))) == "limit"


def test_an_envelope_without_signatures_is_refused() -> None:
    document = json.loads(sign_identity(GATE, SITE.keys.controller))
    document["signatures"] = []

    assert refusal(lambda: judge(json.dumps(document).encode())) == "signature"


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0), flip=st.integers(1, 255))
def test_no_single_changed_byte_yields_another_identity(at: int, flip: int) -> None:
    data = bytearray(sign_identity(GATE, SITE.keys.controller))
    data[at % len(data)] ^= flip

    try:
        identity = judge(bytes(data))
    except RefusedError:
        return

    assert identity == GATE


def test_the_controller_signs_no_identity_that_an_agent_would_refuse() -> None:
    fast = replace_settings(TelemetrySettings(rate_hz=1000))
    crowded = msgspec.structs.replace(GATE, labels={f"k{n}": "v" * 64 for n in range(64)})

    for identity in (fast, msgspec.structs.replace(crowded, timezone="x y")):
        with pytest.raises(OperatorError, match="gate-01"):
            sign_identity(identity, SITE.keys.controller)


def replace_settings(telemetry: TelemetrySettings) -> Identity:
    return msgspec.structs.replace(GATE, settings=Settings(telemetry=telemetry))
