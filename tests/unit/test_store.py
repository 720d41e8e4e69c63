"""The store: all or nothing, one holder, bytes that are what they were."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from controller.planning import Book, Rollout, Wave
from controller.rollout import Allowed, Clock, Course, Reach, Rules
from controller.store import LEASE_SECONDS, MIGRATIONS, LeaseLostError, Record, Store
from shared.assignment import Action, Entry, Probe, Window, parse_selector
from shared.errors import OperatorError, StorageError
from tests.puppet import make_release


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def record(rollout: str = "r-1", name: str = "doors") -> Record:
    return Record(
        rollout=rollout,
        name=name,
        release="helmet@8",
        selector="role=door",
        strategy="careful",
        waves=((("gate-01",), 0), ((), 1000)),
        rules=Rules(max_failed=Allowed(permille=50)),
        probe=Probe(),
        started_at=datetime(2026, 11, 24, tzinfo=UTC),
        course=Course(
            reaches=(Reach(frozenset({"gate-01"}), 0),),
            clocks={"gate-01": Clock(heard=3)},
            treated=frozenset({"gate-01"}),
        ),
        ran_before={"helmet@7": 3},
    )


def book() -> Book:
    entry = Entry(
        rollout="r-1",
        attempt=2,
        action=Action.HOLD,
        release="helmet@8",
        manifest_sha256="00",
        selector=parse_selector("role=door,site!=b"),
        pins=frozenset({"gate-01/1"}),
        salt="r-1",
        share=7,
        deny=frozenset({"gate-02"}),
        window=Window(frozenset({"mon"}), 1320, 300),
    )
    return (Rollout(entry, (Wave(0, frozenset({"gate-01/1"})), Wave(1000))),)


def test_what_is_kept_comes_back_as_it_was(store: Store, tmp_path: Path) -> None:
    with store.transaction():
        store.put("book", book())
        store.save(record())
    store.close()

    again = Store(tmp_path)

    assert again.book() == book()
    assert again.records() == (record(),)


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    with pytest.raises(OperatorError), store.transaction():
        _save_and_fail(store)

    assert store.records() == ()


def test_one_drives_and_another_only_once_the_first_is_gone(store: Store) -> None:
    assert store.take_lease("one", 1000.0)
    assert not store.take_lease("two", 1000.0 + LEASE_SECONDS - 1)
    assert store.take_lease("one", 1005.0)
    assert store.take_lease("two", 1005.0 + LEASE_SECONDS)
    with pytest.raises(LeaseLostError), store.transaction("one"):
        store.save(record())
    assert store.records() == ()
    store.give_lease("two")
    assert store.take_lease("three", 1006.0 + LEASE_SECONDS)


def test_the_lease_of_a_killed_process_is_free_at_once(store: Store, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from controller.store import Store;"
        "Store(Path(sys.argv[1])).take_lease('dead', 1000.0)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)

    assert store.take_lease("next", 1000.5)


def test_a_rollout_is_found_by_id_and_by_the_name_of_the_newest(store: Store) -> None:
    with store.transaction():
        store.save(record("r-1"))
        store.save(record("r-2"))
        assert store.next_rollout() == "r-3"

    assert store.record("doors").rollout == "r-2"
    assert store.record("r-1").rollout == "r-1"
    with pytest.raises(OperatorError, match="got 'r-9'"):
        store.record("r-9")


def test_intentions_are_handed_over_in_order_and_once(store: Store) -> None:
    store.intend("pause", "r-1")
    store.intend("abort", "r-1", no_revert=True)

    first, second = store.intentions()
    store.forget(first)

    assert (first.verb, second.verb, second.arguments) == ("pause", "abort", {"no_revert": True})
    assert store.intentions() == (second,)


def test_a_name_and_version_never_change_their_content(store: Store) -> None:
    manifest, files = make_release("shapes", 1)
    store.add_release(manifest, files, 0.0)
    store.add_release(manifest, files, 0.0)
    other, _ = make_release("shapes", 2)

    with pytest.raises(OperatorError, match="other content"):
        store.add_release(msgspec.structs.replace(other, version=1), files, 0.0)
    with pytest.raises(OperatorError, match=r"simulator.onnx is not what its manifest says"):
        store.add_release(other, files, 0.0)


def test_blocks_are_read_hashed_and_a_changed_byte_is_found(store: Store, tmp_path: Path) -> None:
    manifest, files = make_release("shapes", 1)
    store.add_release(manifest, files, 0.0)
    blocks = manifest.files[0].blocks

    assert b"".join(map(store.block, blocks)) == files["simulator.onnx"]
    path = tmp_path / "blobs" / manifest.files[0].sha256
    path.write_bytes(path.read_bytes().replace(b"s", b"S", 1))
    with pytest.raises(StorageError, match="missing or changed"):
        store.block(blocks[0])
    with pytest.raises(StorageError, match="missing or changed"):
        store.blob(manifest.files[0].sha256)


def test_a_store_of_a_later_version_is_left_alone(store: Store, tmp_path: Path) -> None:
    store._database.execute("PRAGMA user_version = 99")
    store.close()

    with pytest.raises(StorageError, match="of version 99, written by a newer fleetctl"):
        Store(tmp_path)


def test_a_store_of_the_first_version_is_brought_to_the_newest_and_keeps_what_it_has(
    tmp_path: Path,
) -> None:
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as old:
        old.executescript(f"{MIGRATIONS[0]}; PRAGMA user_version = 1")
        old.execute("INSERT INTO meta VALUES ('kept', '1')")
        old.commit()

    store = Store(tmp_path)

    assert store.get("kept", int) == 1
    assert store.audit_last() == (0, "")


def test_a_store_that_cannot_be_written_is_said_and_can_be_read(store: Store) -> None:
    store.put("kept", 1)
    store._database.execute("PRAGMA query_only = 1")  # As on a disk that is mounted read-only.

    with pytest.raises(StorageError, match="readonly"):
        store.put("kept", 2)

    assert store.get("kept", int) == 1


def test_a_full_disk_is_said_and_leaves_nothing_of_what_was_begun(store: Store) -> None:
    store._database.execute("PRAGMA max_page_count = 1")  # As many as there are now.

    with pytest.raises(StorageError, match="full"), store.transaction():
        _put_two(store)

    assert store.get("small", int) is None
    with store.transaction():
        store.put("small", 2)
    assert store.get("small", int) == 2


def test_a_damaged_store_is_said_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_bytes(b"no database at all" * 100)

    with pytest.raises(StorageError, match="not a database"):
        Store(tmp_path)


def test_whoever_only_looks_writes_nothing(store: Store, tmp_path: Path) -> None:
    seen = store.version_seen()

    Store(tmp_path).close()

    assert store.version_seen() == seen


def _put_two(store: Store) -> None:
    store.put("small", 1)
    store.put("large", "x" * 1_000_000)


def _save_and_fail(store: Store) -> None:
    store.save(record())
    raise OperatorError("something went wrong")
