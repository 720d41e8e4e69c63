"""Files that survive a power cut: written whole or not at all, read with a bound.

This module knows nothing of what the files mean. A file that is not there is a state, not an
error; a disk that is full is a StorageError.
"""

import os
from contextlib import suppress
from pathlib import Path

from shared.errors import LimitError, StorageError


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Make ``path`` hold ``data``: after a power cut it holds the old bytes or the new, whole.

    The bytes are on the disk before the name points at them, and the name is on the disk before
    this returns. One writer a path: the temporary file's name is fixed, so that a cut leaves at
    most one behind, and the next write takes it away.

    Raises:
        StorageError: The disk is full, read-only or not there. The old bytes are still in place.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        _write_durably(temporary, data, mode)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"could not write {path}: {error.strerror}") from error


def read_bounded(path: Path, bytes_max: int) -> bytes | None:
    """Return the bytes of a file, or None where there is none.

    Raises:
        LimitError: The file is longer than ``bytes_max``; no more than that was read.
        StorageError: It is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"could not read {path}: {error.strerror}") from error
    if len(data) > bytes_max:
        raise LimitError(f"expected at most {bytes_max} bytes in {path}, got more")
    return data


def _write_durably(path: Path, data: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)  # What a cut left behind may have another mode.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # The umask may have taken bits away.
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk. May raise OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
