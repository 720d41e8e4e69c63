from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import LimitError, MalformedError, RefusedError, UnsupportedError, UntrustedError
from shared.limits import BLOCK_BYTES, FILE_BYTES, MANIFEST_BYTES, RELEASE_BYTES
from shared.release import (
    Manifest,
    block_lengths,
    encode_manifest,
    open_manifest,
    parse_release,
)

DIGEST = "0" * 64
PLAIN: dict[str, object] = {
    "v": 1, "name": "helmet", "version": 8, "task": "detect", "frame_rate": 16,
    "network_name": "n0123456789ab", "input": {"width": 320, "height": 320, "color": "RGB"},
    "outputs": [{"name": "boxes", "shape": [1, 300, 4], "dtype": "float32"}],
    "decode": {"threshold_permille": 250, "keypoints": None}, "labels": 80,
    "requires": {"agent": "0.1.0"}, "memory_bytes": 3_890_000, "golden": None, "receipt": None,
    "provenance": {}, "files": [
        {"role": "network", "name": "packerOut.zip", "bytes": 5, "sha256": DIGEST,
         "blocks": [DIGEST]},
        {"role": "labels", "name": "labels.txt", "bytes": 5, "sha256": DIGEST, "blocks": [DIGEST]},
    ],
}  # fmt: skip


def opened(plain: object) -> Manifest:
    data = msgspec.json.encode(plain)
    digest = sha256(data).hexdigest()
    return open_manifest(data, sha256_expected=digest, release="helmet@8")


def file_of(**changes: object) -> dict[str, object]:
    one = {"role": "network", "name": "a", "bytes": 5, "sha256": DIGEST, "blocks": [DIGEST]}
    return {**one, **changes}


def test_a_manifest_comes_back_as_one_text() -> None:
    manifest = opened(PLAIN)
    data = encode_manifest(manifest)

    again = open_manifest(data, sha256_expected=sha256(data).hexdigest(), release="helmet@8")

    assert again == manifest
    assert encode_manifest(again) == data


def test_other_bytes_than_were_signed_are_refused() -> None:
    data = encode_manifest(opened(PLAIN))

    with pytest.raises(UntrustedError) as caught:
        open_manifest(data + b" ", sha256_expected=sha256(data).hexdigest(), release="helmet@8")

    assert caught.value.code == "hash"


def test_a_manifest_of_another_release_is_refused() -> None:
    data = encode_manifest(opened(PLAIN))

    with pytest.raises(UntrustedError) as caught:
        open_manifest(data, sha256_expected=sha256(data).hexdigest(), release="helmet@9")

    assert caught.value.code == "name"


def test_a_manifest_over_its_limit_is_refused_unhashed() -> None:
    with pytest.raises(LimitError):
        open_manifest(b" " * (MANIFEST_BYTES + 1), sha256_expected=DIGEST, release="helmet@8")


def test_an_unknown_field_is_unsupported_at_any_depth() -> None:
    for changed in (
        {**PLAIN, "surprise": 1},
        {**PLAIN, "input": {"width": 320, "height": 320, "color": "RGB", "surprise": 1}},
        {**PLAIN, "files": [file_of(surprise=1)]},
    ):
        with pytest.raises(UnsupportedError):
            opened(changed)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"name": "Helmet"},
        {"name": "../helmet"},
        {"version": 0},
        {"version": 10**9},
        {"version": "8"},
        {"task": "dance"},
        {"frame_rate": 0},
        {"frame_rate": 16.5},
        {"network_name": "../n"},
        {"network_name": ""},
        {"input": {"width": 320, "height": 320, "color": "CMYK"}},
        {"outputs": []},
        {"outputs": [{"name": "a", "shape": [0], "dtype": "float32"}]},
        {"outputs": [{"name": "a", "shape": [], "dtype": "float32"}]},
        {"decode": {"threshold_permille": 1001, "keypoints": None}},
        {"task": "pose"},
        {"labels": 0},
        {"labels": 1001},
        {"memory_bytes": -1},
        {"requires": {"agent": "new"}},
        {"requires": {"agent": ""}},
        {"golden": {"tolerance_permille": 1001}},
        {"golden": {"tolerance_permille": -1}},
        {"files": [file_of(name="../a")]},
        {"files": [file_of(name="a/b")]},
        {"files": [file_of(name=".hidden")]},
        {"files": [file_of(name="")]},
        {"files": [file_of(role="virus")]},
        {"files": [file_of(sha256="0")]},
        {"files": [file_of(blocks=["../0"])]},
        {"files": [file_of(blocks=[])]},
        {"files": [file_of(blocks=[DIGEST, DIGEST])]},
        {"files": [file_of(), file_of(name="b")]},
        {"files": [file_of(), file_of(role="labels")]},
        {"files": [file_of(bytes=0, blocks=[])]},
        {"files": [file_of(bytes=-1)]},
        {"files": [file_of(bytes=FILE_BYTES + 1)]},
    ],
)
def test_a_signed_manifest_out_of_its_bounds_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((MalformedError, LimitError, UntrustedError)):
        opened({**PLAIN, **change})


def test_a_release_over_its_limit_is_refused() -> None:
    count = len(block_lengths(FILE_BYTES))
    roles = ("network", "simulator", "golden", "rpk")
    files = [
        file_of(role=role, name=role, bytes=FILE_BYTES, blocks=[DIGEST] * count) for role in roles
    ]
    assert FILE_BYTES * len(files) > RELEASE_BYTES

    with pytest.raises(LimitError):
        opened({**PLAIN, "files": files})


@given(data=st.binary(max_size=300))
def test_any_signed_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with pytest.raises(RefusedError):
        open_manifest(data, sha256_expected=sha256(data).hexdigest(), release="helmet@8")


@given(length=st.integers(0, 3 * BLOCK_BYTES))
def test_blocks_add_up_to_their_file(length: int) -> None:
    lengths = block_lengths(length)

    assert sum(lengths) == length
    assert all(0 < n <= BLOCK_BYTES for n in lengths)
    assert all(n == BLOCK_BYTES for n in lengths[:-1])


@pytest.mark.parametrize(
    "text", ["", "a", "a@", "@1", "a@0", "a@01", "a@-1", "a@1 ", "a@1\n", "A@1", "a@b@1", "a@1.0",
             "-a@1", "a@9999999999", "a/b@1", "a@٣"]
)  # fmt: skip
def test_what_is_no_release_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_release(text)


def test_a_camera_fetches_only_what_it_needs() -> None:
    both = [file_of(), file_of(role="rpk", name="r"), file_of(role="simulator", name="s")]
    manifest = opened({**PLAIN, "files": both})

    assert [file.role for file in manifest.files_for("modlib")] == ["rpk"]
    assert [file.role for file in manifest.files_for("simulated")] == ["simulator"]
    assert [file.role for file in opened(PLAIN).files_for("modlib")] == ["network", "labels"]
