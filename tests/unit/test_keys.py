from pathlib import Path

import pytest

from controller.keys import (
    create_keys,
    load_signer,
    needs_passphrase,
)
from shared.errors import OperatorError, UnsignedError

PASSPHRASE = "correct horse"


def test_keys_come_back_as_they_were_made(tmp_path: Path) -> None:
    keys = create_keys(tmp_path / "keys", fleet="site-a", passphrase=PASSPHRASE)

    release = load_signer(tmp_path / "keys", "release", PASSPHRASE)
    controller = load_signer(tmp_path / "keys", "controller", PASSPHRASE)
    roots = [load_signer(tmp_path / "keys", "root", PASSPHRASE, number=n) for n in (1, 2, 3)]

    assert release.public_key == keys.release.public_key
    assert controller.public_key == keys.controller.public_key
    assert [r.public_key for r in roots] == [r.public_key for r in keys.root]
    assert not keys.is_demo


def test_only_their_owner_may_read_keys(tmp_path: Path) -> None:
    create_keys(tmp_path / "keys", fleet="site-a", passphrase=PASSPHRASE)

    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys"]


def test_keys_are_encrypted_unless_they_are_a_demo_s(tmp_path: Path) -> None:
    create_keys(tmp_path / "real", fleet="site-a", passphrase=PASSPHRASE)
    demo = create_keys(tmp_path / "demo", fleet="site-a", passphrase=None)

    assert all(b"ENCRYPTED" in path.read_bytes() for path in (tmp_path / "real").iterdir())
    assert needs_passphrase(tmp_path / "real", "release")
    assert demo.is_demo
    assert not needs_passphrase(tmp_path / "demo", "release")


@pytest.mark.parametrize("passphrase", ["", "eleven char", "x" * 1_001])
def test_a_passphrase_that_is_soon_guessed_makes_no_keys(tmp_path: Path, passphrase: str) -> None:
    with pytest.raises(OperatorError, match="at least 12 characters"):
        create_keys(tmp_path / "keys", fleet="site-a", passphrase=passphrase)

    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("passphrase", [None, "open sesame", "", PASSPHRASE.upper()])
def test_a_wrong_passphrase_is_refused_and_never_repeated(
    tmp_path: Path, passphrase: str | None
) -> None:
    create_keys(tmp_path / "keys", fleet="site-a", passphrase=PASSPHRASE)

    with pytest.raises(UnsignedError) as caught:
        load_signer(tmp_path / "keys", "release", passphrase)

    assert "release key" in str(caught.value)
    assert not passphrase or passphrase not in str(caught.value)
    assert PASSPHRASE not in str(caught.value)


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    create_keys(tmp_path / "keys", fleet="site-a", passphrase=PASSPHRASE)
    before = (tmp_path / "keys" / "root-1.pem").read_bytes()

    with pytest.raises(OperatorError):
        create_keys(tmp_path / "keys", fleet="site-a", passphrase=PASSPHRASE)

    assert (tmp_path / "keys" / "root-1.pem").read_bytes() == before


@pytest.mark.parametrize(("threshold", "roots"), [(0, 3), (4, 3), (1, 0), (1, 10)])
def test_a_threshold_that_nobody_can_meet_is_refused(
    tmp_path: Path, threshold: int, roots: int
) -> None:
    with pytest.raises(OperatorError):
        create_keys(
            tmp_path / "keys",
            fleet="site-a",
            passphrase=None,
            root_threshold=threshold,
            roots=roots,
        )


@pytest.mark.parametrize("content", [b"", b"no key", b"\xff" * 100, b"x" * 10_000])
def test_a_file_that_is_no_key_is_refused_in_kind_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "release.pem").write_bytes(content)
    (tmp_path / "release.pem").chmod(0o600)

    with pytest.raises(UnsignedError, match="release key"):
        load_signer(tmp_path, "release", PASSPHRASE)


def test_a_missing_key_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UnsignedError, match="fleetctl init"):
        load_signer(tmp_path, "controller", PASSPHRASE)
    with pytest.raises(UnsignedError):
        load_signer(tmp_path, "root", PASSPHRASE)


def test_a_key_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    create_keys(tmp_path / "keys", fleet="site-a", passphrase=PASSPHRASE)
    (tmp_path / "keys" / "release.pem").chmod(0o644)

    with pytest.raises(UnsignedError, match="everybody"):
        load_signer(tmp_path / "keys", "release", PASSPHRASE)
