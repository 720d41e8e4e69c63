"""The manifest: the signed description of one release. Pure.

It travels as a block and is named by its SHA-256 in the signed targets and in the plan. A function
here that returns a ``Manifest`` has compared its bytes with that hash first.
"""

import re
from hashlib import sha256
from typing import Literal

import msgspec

from shared.errors import LimitError, MalformedError, UntrustedError
from shared.limits import BLOCK_BYTES, FILE_BYTES, LABELS_MAX, MANIFEST_BYTES, RELEASE_BYTES
from shared.messages import SignedDocument, decode

Task = Literal["detect", "pose", "segment", "classify"]
Role = Literal[
    "network", "rpk", "dnn_params", "labels", "memory_report", "simulator", "golden", "receipt"
]
# What a kind of camera fetches; the package for the sensor is either `network` or `rpk`.
ROLES_OF_KIND: dict[str, frozenset[str]] = {
    "modlib": frozenset({"network", "rpk", "dnn_params", "labels", "golden"}),
    "picamera2": frozenset({"network", "rpk", "dnn_params", "labels", "golden"}),
    "simulated": frozenset({"simulator", "labels", "golden"}),
}
SENSOR_MEMORY_BYTES = 8_388_480  # Network and working memory of an IMX500.
INPUT_PIXELS_MIN, INPUT_PIXELS_MAX = 64, 640  # Each side of the sensor's input tensor.
OUTPUTS_MAX = 15  # The sensor takes fewer than 16 output tensors.
_RELEASE = re.compile(r"([a-z0-9][a-z0-9-]{0,63})@([1-9][0-9]{0,8})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_AGENT = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Input(SignedDocument, frozen=True, kw_only=True):
    """What the network takes: pixels and colour order."""

    width: int
    height: int
    color: Literal["RGB", "BGR"]


class Output(SignedDocument, frozen=True, kw_only=True):
    """One output tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Decode(SignedDocument, frozen=True, kw_only=True):
    """How output tensors become detections; keypoints = points an object has, for pose."""

    threshold_permille: int
    keypoints: int | None = None


class Requires(SignedDocument, frozen=True, kw_only=True):
    """The oldest agent that can run the release."""

    agent: str


class Golden(SignedDocument, frozen=True, kw_only=True):
    """How many of the golden objects may be missed."""

    tolerance_permille: int


class Receipt(SignedDocument, frozen=True, kw_only=True):
    """Measured accuracy of the float and of the quantised model."""

    metric: str
    float_permille: int | None
    quantised_permille: int | None


class File(SignedDocument, frozen=True, kw_only=True):
    """One file of the release, cut into blocks of at most ``BLOCK_BYTES``."""

    role: Role
    name: str
    bytes: int
    sha256: str
    blocks: tuple[str, ...]


class Manifest(SignedDocument, frozen=True, kw_only=True):
    """One release. ``memory_bytes`` is what the network needs on the sensor."""

    v: Literal[1] = 1
    name: str
    version: int
    task: Task
    frame_rate: int
    network_name: str
    input: Input
    outputs: tuple[Output, ...]
    decode: Decode
    labels: int
    requires: Requires
    memory_bytes: int
    golden: Golden | None
    receipt: Receipt | None
    provenance: dict[str, str]
    files: tuple[File, ...]

    @property
    def release(self) -> str:
        """Return ``name@version``."""
        return f"{self.name}@{self.version}"

    def file(self, role: Role) -> File | None:
        """Return the file of that role, if the release has one."""
        return next((file for file in self.files if file.role == role), None)

    def files_for(self, kind: str) -> tuple[File, ...]:
        """Return the files that a kind of camera needs; a ready rpk takes the package's place."""
        roles = ROLES_OF_KIND[kind]
        if self.file("rpk") is not None:
            roles -= {"network"}
        return tuple(file for file in self.files if file.role in roles)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the one text of a manifest: its hash is the release's address."""
    return msgspec.json.encode(manifest, order="deterministic")


def open_manifest(data: bytes, *, sha256_expected: str, release: str) -> Manifest:
    """Return the manifest in ``data``, which a signed document names by its hash.

    Raises:
        LimitError: It, a file or the release is too large.
        UntrustedError: The bytes have another hash, or another name or version than was signed.
        UnsupportedError: It has a field that this version does not know.
        MalformedError: It contradicts itself or its schema.
    """
    if len(data) > MANIFEST_BYTES:
        raise LimitError(f"expected a manifest of at most {MANIFEST_BYTES} bytes, got {len(data)}")
    if sha256(data).hexdigest() != sha256_expected:
        raise UntrustedError(f"{release}: the manifest's bytes have another hash", code="hash")
    manifest = decode(data, Manifest, bytes_max=MANIFEST_BYTES)
    if manifest.release != release:
        raise UntrustedError(
            f"expected the manifest of {release}, got {manifest.release}", code="name"
        )
    _check(manifest)
    return manifest


def parse_release(text: str) -> tuple[str, int]:
    """Return name and version of ``name@version``.

    Raises:
        MalformedError: It is not that.
    """
    match = _RELEASE.fullmatch(text)
    if match is None:
        raise MalformedError(f"expected name@version, e.g. helmet@8, got {text[:80]!r}")
    return match[1], int(match[2])


def is_sha256(text: str) -> bool:
    """Say whether the text is a SHA-256 as we write it: 64 digits of lower-case hex."""
    return _SHA256.fullmatch(text) is not None


def block_lengths(file_bytes: int) -> tuple[int, ...]:
    """Return the length of each block of a file of that many bytes."""
    full, rest = divmod(file_bytes, BLOCK_BYTES)
    return (BLOCK_BYTES,) * full + ((rest,) if rest else ())


def _check(manifest: Manifest) -> None:
    parse_release(manifest.release)
    _check_needs(manifest)
    for file in manifest.files:
        _check_file(file)
    roles = [file.role for file in manifest.files]
    names = [file.name for file in manifest.files]
    _expect(len(set(roles)) == len(roles), "each file role once")
    _expect(len(set(names)) == len(names), "each file name once")
    if sum(file.bytes for file in manifest.files) > RELEASE_BYTES:
        raise LimitError(f"{manifest.release}: expected at most {RELEASE_BYTES} bytes in all")
    _expect(1 <= manifest.labels <= LABELS_MAX, f"1 to {LABELS_MAX} labels")
    _expect(1 <= len(manifest.outputs) <= OUTPUTS_MAX, f"1 to {OUTPUTS_MAX} outputs")
    _expect(all(o.shape for o in manifest.outputs), "outputs with a shape")
    _expect(all(0 < side < 2**31 for o in manifest.outputs for side in o.shape), "positive shapes")
    _expect(1 <= manifest.frame_rate <= 120, "a frame rate of 1 to 120")  # noqa: PLR2004
    _expect(0 <= manifest.decode.threshold_permille <= 1000, "a threshold of 0 to 1000 permille")  # noqa: PLR2004
    _expect(manifest.task != "pose" or bool(manifest.decode.keypoints), "keypoints for pose")
    _expect(manifest.memory_bytes >= 0, "memory_bytes of at least 0")
    _expect(_FILE_NAME.fullmatch(manifest.network_name) is not None, "a network name")


def _check_needs(manifest: Manifest) -> None:
    """See that the agent can compare what it must; what fits the sensor, its health gate says."""
    _expect(_AGENT.fullmatch(manifest.requires.agent) is not None, "an agent version like 0.1.0")
    tolerance = 0 if manifest.golden is None else manifest.golden.tolerance_permille
    _expect(0 <= tolerance <= 1000, "a golden tolerance of 0 to 1000 permille")  # noqa: PLR2004


def _check_file(file: File) -> None:
    _expect(
        _FILE_NAME.fullmatch(file.name) is not None, f"a plain file name, got {file.name[:80]!r}"
    )
    if not 0 < file.bytes <= FILE_BYTES:
        raise LimitError(f"{file.name}: expected 1 to {FILE_BYTES} bytes, got {file.bytes}")
    _expect(
        len(file.blocks) == len(block_lengths(file.bytes)), f"{file.name}: blocks for its bytes"
    )
    _expect(
        all(_SHA256.fullmatch(digest) for digest in (file.sha256, *file.blocks)),
        f"{file.name}: SHA-256 in lower-case hex",
    )


def _expect(is_so: bool, what: str) -> None:  # noqa: FBT001
    if not is_so:
        raise MalformedError(f"manifest: expected {what}")
