import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import LimitError, MalformedError, UnsupportedError
from shared.identity import Identity
from shared.limits import REPORTED_BYTES, REQUEST_BYTES
from shared.messages import (
    Counts,
    Health,
    Progress,
    Reported,
    Request,
    Response,
    RolloutReported,
    SignedDocument,
    decode,
    encode,
    parse_time,
    time_text,
)

ROOT = Path(__file__).parents[2]
KINDS = (Reported, Request, Response, Counts, Health, RolloutReported, Identity)
REQUEST = Request(id="a", at="2026-11-24T03:00:00.000Z", expires="2026-11-24T03:01:00.000Z")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["v", "at", "id", "run", "seq", "cameras", "plan_version", "expires", "x"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b'"x"', b"7", b"\xff\xfe", b'{"v":"1"}', b'{"v":null}', b"{}",
     b'{"v":1e999}', b'{"a":"\\ud800"}', b'{"v":1,"at":[]}', b"[" * 4_000],
)  # fmt: skip
def test_malformed_json_and_wrong_types_are_malformed(
    kind: type[msgspec.Struct], data: bytes
) -> None:
    with pytest.raises((MalformedError, UnsupportedError)):
        decode(data, kind, bytes_max=REQUEST_BYTES)


@given(kind=st.sampled_from(KINDS), plain=JSON)
def test_any_json_is_a_document_or_refused(kind: type[msgspec.Struct], plain: object) -> None:
    data = msgspec.json.encode(plain)

    try:
        decode(data, kind, bytes_max=REPORTED_BYTES)
    except (MalformedError, UnsupportedError, LimitError):
        return


def test_a_longer_message_is_refused_unparsed() -> None:
    with pytest.raises(LimitError):
        decode(b"{" * (REQUEST_BYTES + 1), Request, bytes_max=REQUEST_BYTES)
    with pytest.raises(LimitError):
        encode(Response(id="x" * REQUEST_BYTES, status="ok"), bytes_max=REQUEST_BYTES)


def test_an_unsigned_document_ignores_an_unknown_field() -> None:
    data = msgspec.json.encode({**msgspec.to_builtins(REQUEST), "surprise": 1})

    assert decode(data, Request, bytes_max=REQUEST_BYTES) == REQUEST


def test_a_signed_document_refuses_an_unknown_field() -> None:
    class Signed(SignedDocument, frozen=True, kw_only=True):
        a: int

    with pytest.raises(UnsupportedError):
        decode(b'{"a":1,"b":2}', Signed, bytes_max=100)


@pytest.mark.parametrize("version", ["2", "0", '"1"', "true", "1.0"])
def test_another_document_version_is_malformed(version: str) -> None:
    data = msgspec.json.encode(REQUEST).replace(b'"v":1', f'"v":{version}'.encode())

    with pytest.raises(MalformedError):
        decode(data, Request, bytes_max=REQUEST_BYTES)


def test_an_unknown_enum_value_is_malformed() -> None:
    with pytest.raises(MalformedError):
        decode(b'{"done":1,"total":2,"unit":"parsecs"}', Progress, bytes_max=100)


def test_an_error_text_is_bounded_whatever_a_message_holds() -> None:
    data = msgspec.json.encode({"v": 1, "id": 7, "x" * 3000: 1})

    with pytest.raises(MalformedError) as caught:
        decode(data, Request, bytes_max=REQUEST_BYTES)

    assert len(caught.value.text) <= 500


@given(
    at=st.datetimes(
        min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1),  # noqa: DTZ001
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
    )
)  # fmt: skip
def test_a_time_comes_back_to_the_millisecond(at: datetime) -> None:
    text = time_text(at)

    assert text.endswith("Z")
    assert abs(parse_time(text) - at) < timedelta(milliseconds=1)
    assert time_text(parse_time(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-11-24", "2026-11-24T03:00:00", "2026-13-01T00:00:00Z", "20261124T030000Z",
     "2026-W01-1T00:00:00Z", "2026-11-24 03:00:00Z", "2026-11-24T03:00Z", "2026-11-24T24:00:00Z",
     "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-24T03:00:00+25:00",
     "2026-11-24T03:00:00Z\n", "٢٠٢٦-11-24T03:00:00Z"],
)  # fmt: skip
def test_what_is_no_rfc_3339_time_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_time(text)


@pytest.mark.parametrize(
    "text",
    ["2026-11-24T03:00:00Z", "2026-11-24T03:00:00.123Z", "2026-11-24T03:00:00.123456Z",
     "2026-11-24T04:00:00+01:00"],
)  # fmt: skip
def test_rfc_3339_times_are_read(text: str) -> None:
    assert parse_time(text).replace(microsecond=0) == datetime(2026, 11, 24, 3, tzinfo=UTC)


@given(text=st.text(max_size=40))
def test_any_text_is_a_time_or_malformed(text: str) -> None:
    try:
        parse_time(text)
    except MalformedError:
        return


MEETING = """
import json, sys, threading
from shared.errors import RefusedError
from shared.identity import Identity
from shared.messages import Reported, convert, decode
from shared.release import Manifest

sys.setswitchinterval(1e-6)
PLAIN = {"v": 1, "cameras": {"0": {"deployment": {"progress": {}}}}, "files": [{"blocks": [1]}]}
WRITTEN = json.dumps(PLAIN).encode()
meeting = threading.Barrier(50)

def meet():
    meeting.wait()
    for kind in (Reported, Manifest, Identity):
        for read in (
            lambda: decode(WRITTEN, kind, bytes_max=999),
            lambda: convert(PLAIN, kind, kind.__name__),
        ):
            try:
                read()
            except RefusedError:
                refused.append(kind)

refused = []
threads = [threading.Thread(target=meet) for _ in range(50)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(refused))
"""


def test_threads_that_meet_a_kind_for_the_first_time_at_once_end_no_process() -> None:
    for _ in range(4):  # Without the lock, five of six such processes ended with SIGSEGV.
        done = subprocess.run(
            [sys.executable, "-c", MEETING], capture_output=True, check=False, cwd=ROOT
        )

        assert (done.returncode, done.stdout) == (0, b"300\n"), done.stderr.decode()
