"""Durable files, in a real folder."""

import os
import stat
from pathlib import Path

import pytest

from shared.errors import LimitError, StorageError
from shared.files import read_bounded, write_atomically


def test_what_is_written_is_read_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "state"

    write_atomically(path, b"old")
    write_atomically(path, b"new")

    assert read_bounded(path, 3) == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_file_is_private_unless_said_otherwise_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "private", b"")
        write_atomically(tmp_path / "public", b"", mode=0o644)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644


def test_what_a_power_cut_left_half_written_is_never_read_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomically(path, b"whole")
    (tmp_path / "state.part").write_bytes(b"ha")

    assert read_bounded(path, 100) == b"whole"
    write_atomically(path, b"next")

    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_write_that_fails_leaves_the_old_bytes(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir()
    (path / "child").write_bytes(b"old")

    with pytest.raises(StorageError):
        write_atomically(path, b"new")  # A file cannot replace a folder that is not empty.

    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
    assert (path / "child").read_bytes() == b"old"


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        write_atomically(tmp_path / "gone" / "state", b"x")


def test_a_file_that_is_not_there_is_none_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert read_bounded(path, 10) is None
    write_atomically(path, b"12345678901")

    with pytest.raises(LimitError):
        read_bounded(path, 10)
