"""A packaged network is taken apart as the kernel does, and refused where it is damaged."""

import msgspec
import pytest

from agent.camera.rpk import LOCK_BYTES, check_rpk, read_rpk
from agent.camera.twin.packager import BLOCK_BYTES, rpk_of
from shared.errors import MalformedError
from shared.release import Input
from tests.tinygraph import SIDE, Tiny, manifest_of, tiny

MANIFEST = manifest_of({})
RPK = rpk_of(tiny().graph(), color="RGB")


def test_a_package_says_for_which_pictures_it_is() -> None:
    packaged = read_rpk(RPK)

    assert (packaged.width, packaged.height, packaged.color) == (SIDE, SIDE, "RGB")
    check_rpk(RPK, MANIFEST)


def test_a_package_of_several_blocks_is_read_whole() -> None:
    large: Tiny = tiny()
    large.metadata["padding"] = "x" * (2 * BLOCK_BYTES)

    assert read_rpk(rpk_of(large.graph(), color="BGR")).color == "BGR"


def test_a_block_that_is_locked_to_a_device_is_longer() -> None:
    end = read_rpk(RPK).blocks_bytes
    locked = bytearray(RPK[:end] + bytes(LOCK_BYTES) + RPK[end:])
    locked[14] |= 1

    assert read_rpk(bytes(locked)).blocks_bytes == end + LOCK_BYTES


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9, 0.99])
def test_a_package_that_is_cut_off_is_refused(share: float) -> None:
    end = read_rpk(RPK).blocks_bytes
    for kept in (int(end * share), end, end + 40, end + 130):
        with pytest.raises(MalformedError):
            read_rpk(RPK[:kept])


@pytest.mark.parametrize("data", [b"", b"PK\3\4", RPK[64:], b"9464" + bytes(100), b"9464\xff\xff"])
def test_what_is_no_package_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read_rpk(data)


@pytest.mark.parametrize(
    "wanted",
    [
        Input(width=SIDE, height=SIDE, color="BGR"),
        Input(width=SIDE * 2, height=SIDE, color="RGB"),
        Input(width=SIDE, height=SIDE // 2, color="RGB"),
    ],
)
def test_a_package_for_other_pictures_is_refused(wanted: Input) -> None:
    with pytest.raises(MalformedError, match="expected a network for"):
        check_rpk(RPK, msgspec.structs.replace(MANIFEST, input=wanted))


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        (b"inputTensorWidth=64", b"inputTensorWidth=6x"),
        (b"inputTensorFormat", b"inputTensorFormal"),
    ],
)
def test_a_package_whose_description_says_no_size_is_refused(line: bytes, instead: bytes) -> None:
    assert line in RPK
    with pytest.raises(MalformedError, match="expected its input"):
        read_rpk(RPK.replace(line, instead))
