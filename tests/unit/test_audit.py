"""The audit log: whatever is done to one entry afterwards is found."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from controller import audit
from controller.store import Store

SIGNER = CryptoSigner.generate_ed25519()
KEYS = (SIGNER.public_key,)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three entries and a seal over them, and one since."""
    made = Store(tmp_path)
    with made.transaction():
        audit.note(made, "order", "r-1", verb="start")
        audit.note(made, "plan", "2", entries=["r-1.1 run helmet@8"])
        audit.note(made, "verdict", "r-1", kind="pass", text="4 of 4 devices healthy")
        audit.seal(made, SIGNER)
        audit.note(made, "outcome", "cam-1/0", phase="committed")
    return made


def edit(store: Store, *statements: str) -> None:
    """Do what a person with sqlite3 would do."""
    with closing(sqlite3.connect(store._path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def test_a_log_that_nobody_touched_is_whole(store: Store) -> None:
    found = audit.verify(store, KEYS)

    assert found.problems == ()
    assert (found.entries, found.sealed) == (4, 3)
    assert [entry.what for entry in audit.entries(store)] == [
        "order", "plan", "verdict", "outcome"
    ]  # fmt: skip
    assert all(entry.who.count("@") == 1 for entry in audit.entries(store))


EDITED = "UPDATE audit SET entry = replace(entry, '4 of 4', '3 of 4') WHERE number = 3"


@pytest.mark.parametrize(
    ("statements", "text"),
    [
        ([EDITED], "entry 3 was edited"),
        (["DELETE FROM audit WHERE number = 2"], "entry 2 is missing"),
        (["DELETE FROM audit WHERE number IN (1, 2)"], "entry 1 to 2 is missing"),
        (["DELETE FROM audit WHERE number > 2"], "entry 3 is not the one"),
        (["DELETE FROM audit"], "entry 3 is not the one"),
        (["DELETE FROM meta WHERE key = 'audit_seal'"], "the seal is missing"),
        (
            [
                "UPDATE audit SET number = 90 WHERE number = 1",
                "UPDATE audit SET number = 1 WHERE number = 2",
                "UPDATE audit SET number = 2 WHERE number = 90",
            ],
            "entry 1 says that it is entry 2",
        ),
        (
            [
                "DELETE FROM audit WHERE number = 2",
                "UPDATE audit SET number = number - 1 WHERE number > 2",
            ],
            "entry 2 does not follow the one before it",
        ),
    ],
)  # fmt: skip
def test_what_is_done_to_an_entry_is_found(store: Store, statements: list[str], text: str) -> None:
    edit(store, *statements)

    assert any(text in problem for problem in audit.verify(store, KEYS).problems)


def test_a_chain_that_was_written_anew_is_not_what_was_sealed(store: Store) -> None:
    edit(store, "DELETE FROM audit")
    with store.transaction():
        for rollout in ("r-1", "r-2", "r-3"):
            audit.note(store, "order", rollout, verb="start")

    (problem,) = audit.verify(store, KEYS).problems

    assert "cut off or written anew" in problem


def test_a_seal_of_another_key_counts_for_nothing(store: Store) -> None:
    with store.transaction():
        audit.seal(store, CryptoSigner.generate_ed25519())

    (problem,) = audit.verify(store, KEYS).problems

    assert "not signed by the controller's key" in problem
