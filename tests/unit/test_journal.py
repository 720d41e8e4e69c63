"""What survives a power cut, and what is not believed after one."""

from pathlib import Path

import msgspec
import pytest

from agent import journal
from agent.journal import Answered, JournalFile, LastStart, Saved, from_text, to_text
from shared.errors import MalformedError


def test_what_was_written_is_read_back_by_the_next_run(tmp_path: Path) -> None:
    first = JournalFile(tmp_path)
    first.change(lambda saved: msgspec.structs.replace(saved, runs=7, identity_floor=3))

    again = JournalFile(tmp_path)

    assert again.saved == first.saved
    assert again.saved.runs == 7
    assert again.trouble is None


@pytest.mark.parametrize("kept", [0, 1, 64, 65, 100])
def test_a_truncated_journal_is_refused_and_the_version_before_it_believed(
    tmp_path: Path, kept: int
) -> None:
    file = JournalFile(tmp_path)
    file.change(lambda saved: msgspec.structs.replace(saved, runs=1, identity_floor=5))
    file.change(lambda saved: msgspec.structs.replace(saved, is_clean=False))
    path = tmp_path / "journal.json"
    path.write_bytes(path.read_bytes()[:kept])

    again = JournalFile(tmp_path)

    assert again.trouble is not None
    assert again.saved.install == file.saved.install
    assert again.saved.identity_floor == 5


def test_after_a_damaged_journal_no_run_is_given_out_twice(tmp_path: Path) -> None:
    file = JournalFile(tmp_path)
    file.change(lambda saved: msgspec.structs.replace(saved, runs=1))
    given_out = file.change(lambda saved: msgspec.structs.replace(saved, runs=2)).runs
    (tmp_path / "journal.json").write_bytes(b"")

    next_run = JournalFile(tmp_path).saved.runs + 1

    assert next_run > given_out


def test_every_changed_byte_is_found() -> None:
    text = to_text(Saved(install="abc", runs=3))

    for position in range(len(text)):
        changed = bytearray(text)
        changed[position] ^= 1
        with pytest.raises(MalformedError):
            from_text(bytes(changed))


def test_with_no_readable_version_the_device_is_a_new_install(tmp_path: Path) -> None:
    file = JournalFile(tmp_path)
    file.change(lambda saved: msgspec.structs.replace(saved, runs=1))
    file.change(lambda saved: msgspec.structs.replace(saved, runs=2))
    for name in ("journal.json", "journal.previous.json"):
        (tmp_path / name).write_bytes(b"not a journal")

    again = JournalFile(tmp_path)

    assert again.saved.install != file.saved.install
    assert again.trouble is not None
    assert again.change(lambda saved: saved) == JournalFile(tmp_path).saved


def test_a_write_that_fails_leaves_the_old_document_in_memory_and_on_disk(tmp_path: Path) -> None:
    file = JournalFile(tmp_path)
    before = file.change(lambda saved: msgspec.structs.replace(saved, runs=1))
    (tmp_path / "journal.json.part").mkdir()  # Nothing can be written under that name.

    with pytest.raises(Exception, match="journal"):
        file.change(lambda saved: msgspec.structs.replace(saved, runs=2))

    (tmp_path / "journal.json.part").rmdir()
    assert file.saved == before
    assert JournalFile(tmp_path).saved == before


def test_starts_are_counted_for_each_camera_and_boot() -> None:
    saved = Saved(install="abc")
    start = LastStart(manifest_sha256="0" * 64, at="2026-11-24T03:00:00.000Z")
    for _ in range(3):
        saved = journal.started(saved, boot="one", camera=0, start=start)
    saved = journal.started(saved, boot="one", camera=1, start=start)

    assert journal.starts_of(saved, boot="one", camera=0) == 3
    assert journal.starts_of(saved, boot="one", camera=1) == 1
    assert journal.starts_of(saved, boot="two", camera=0) == 0
    again = journal.started(saved, boot="two", camera=0, start=start)
    assert journal.starts_of(again, boot="two", camera=0) == 1


def test_the_last_64_answers_are_remembered() -> None:
    saved = Saved(install="abc")
    for number in range(70):
        answer = Answered(id=f"q-{number}", verb="identify", response="{}")
        saved = journal.remembered(saved, answer)

    assert [answer.id for answer in saved.answered] == [f"q-{n}" for n in range(6, 70)]


def test_only_the_owner_may_read_the_journal(tmp_path: Path) -> None:
    JournalFile(tmp_path).change(lambda saved: saved)

    assert (tmp_path / "journal.json").stat().st_mode & 0o077 == 0
