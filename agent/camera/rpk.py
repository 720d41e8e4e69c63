"""What a packaged network says of itself: ``network.rpk`` as the kernel takes it apart. Pure.

Blocks of at most a mebibyte, each between its header and its footer, then a cpio archive with a
``network_info.txt``. The kernel looks at this framing and at nothing else, so what a damaged or a
foreign file would do is found out here, before the old network is stopped.
"""

import struct
from dataclasses import dataclass

from shared.errors import MalformedError
from shared.release import Manifest

MAGIC, FOOTER = b"9464", b"3695"
HEADER_BYTES, FOOTER_BYTES = 60, 4
LOCK_BYTES = 32  # Follow the footer of a block that is locked to one device.
CPIO_MAGIC, CPIO_HEADER_BYTES = b"070701", 110
INFO_NAME = "network_info.txt"
_CPIO_SIZE, _CPIO_NAME = slice(54, 62), slice(94, 102)  # Hexadecimal numbers in a cpio header.


@dataclass(frozen=True, slots=True)
class PackagedNetwork:
    """What its ``network_info.txt`` says.

    Attributes:
        blocks_bytes: Where the blocks end and the archive begins.
    """

    width: int
    height: int
    color: str
    blocks_bytes: int


def read_rpk(data: bytes) -> PackagedNetwork:
    """Return what a packaged network says of itself.

    Raises:
        MalformedError: It is cut off, or not a packaged network.
    """
    start = _skip_blocks(data)
    info = _network_info(data, start)
    try:
        return PackagedNetwork(
            width=int(info["inputTensorWidth"]),
            height=int(info["inputTensorHeight"]),
            color=info["inputTensorFormat"],
            blocks_bytes=start,
        )
    except (KeyError, ValueError) as error:
        raise MalformedError(f"expected its input in {INFO_NAME}, got {error}") from error


def check_rpk(data: bytes, manifest: Manifest) -> None:
    """See that a packaged network is one for this release.

    Raises:
        MalformedError: It is cut off, no packaged network, or takes other pictures.
    """
    packaged, wanted = read_rpk(data), manifest.input
    has = f"{packaged.width}x{packaged.height} {packaged.color}"
    if has != f"{wanted.width}x{wanted.height} {wanted.color}":
        raise MalformedError(
            f"expected a network for {wanted.width}x{wanted.height} {wanted.color}, got {has}"
        )


def _skip_blocks(data: bytes) -> int:
    start = 0
    while data[start : start + 4] == MAGIC:
        if len(data) < start + HEADER_BYTES:
            raise MalformedError(f"the packaged network ends in a header, at byte {len(data)}")
        (length,) = struct.unpack_from(">I", data, start + 4)
        footer = start + HEADER_BYTES + length
        if data[footer : footer + FOOTER_BYTES] != FOOTER:
            raise MalformedError(
                f"expected a block's end at byte {footer} of the packaged network,"
                f" it has {len(data)} bytes"
            )
        is_locked = bool(data[start + 14] & 1)
        start = footer + FOOTER_BYTES + (LOCK_BYTES if is_locked else 0)
    if start == 0:
        raise MalformedError("not a packaged network: it begins with no block")
    return start


def _network_info(data: bytes, start: int) -> dict[str, str]:
    """Return the lines ``key=value`` of the archive's description, the last of a key."""
    while data[start : start + 6] == CPIO_MAGIC:
        header = data[start : start + CPIO_HEADER_BYTES]
        try:
            size, name_size = int(header[_CPIO_SIZE], 16), int(header[_CPIO_NAME], 16)
        except ValueError as error:
            raise MalformedError(f"the archive's header at byte {start} is none") from error
        name_at = start + CPIO_HEADER_BYTES
        name = data[name_at : name_at + name_size].rstrip(b"\0").decode("ascii", "replace")
        body = name_at + name_size + -(CPIO_HEADER_BYTES + name_size) % 4
        if len(data) < body + size:
            raise MalformedError(f"the packaged network ends in its archive, at byte {len(data)}")
        if name == INFO_NAME:
            lines = data[body : body + size].decode("ascii", "replace").splitlines()
            return dict(line.strip().split("=", 1) for line in lines if "=" in line)
        start = body + size + -size % 4
    raise MalformedError(f"the packaged network has no {INFO_NAME}")
