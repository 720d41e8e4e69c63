from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Snapshot, Timestamp

from agent.journal import JournalFile
from agent.trusting import Trust
from shared.card import Broker, Card
from shared.errors import StorageError
from tests.making import FLEET, Site, bundle_of, forged

FAST_FORWARD = 10**9
NOW = datetime.now(UTC)


def far(signed: Timestamp | Snapshot) -> None:
    signed.version = FAST_FORWARD


def opened(site: Site, state: Path) -> Trust:
    card = Card(
        fleet=FLEET,
        device="gate-01",
        broker=Broker(url="mqtt://127.0.0.1:1883"),
        root=site.card_root.decode(),
    )
    return Trust(card, state, JournalFile(state))


def test_a_rotation_that_a_power_cut_caught_before_its_floor_locks_nobody_out(
    tmp_path: Path,
) -> None:
    site = Site.make(now=NOW - timedelta(hours=1))
    old = opened(site, tmp_path)
    stolen = forged(site.files, site.keys, timestamp=far, snapshot=far)
    assert old.accept(bundle_of(stolen), NOW)
    floor = (tmp_path / "journal.json").read_bytes()
    rotated = site.rotate()
    assert old.accept(rotated, NOW)
    (tmp_path / "journal.json").write_bytes(floor)  # The cut came between the two writes.

    again = opened(site, tmp_path)

    assert again.bundle is not None
    assert again.bundle.data == rotated
    assert again.accept(site.plan(), NOW)


def test_a_trust_journal_older_than_its_floor_is_not_believed(tmp_path: Path) -> None:
    site = Site.make(now=NOW - timedelta(hours=1))
    first, second = site.plan(), site.plan()
    trust = opened(site, tmp_path)
    assert trust.accept(first, NOW)
    assert trust.accept(second, NOW)
    (tmp_path / "trust.json").write_bytes(first)

    again = opened(site, tmp_path)

    assert again.bundle is None
    assert again.refused_trust is not None
    assert not again.accept(first, NOW)
    assert again.accept(second, NOW)


def test_a_bundle_whose_floor_no_disk_could_take_is_news_when_it_comes_again(
    tmp_path: Path,
) -> None:
    site = Site.make(now=NOW - timedelta(hours=1))
    first, second = site.plan(), site.plan()
    trust = opened(site, tmp_path)
    assert trust.accept(first, NOW)
    in_the_way = tmp_path / "journal.previous.spare"
    in_the_way.mkdir()  # The bundle can be written, the journal cannot.
    with pytest.raises(StorageError):
        trust.accept(second, NOW)
    assert trust.bundle is not None
    assert trust.bundle.data == first

    in_the_way.rmdir()

    assert trust.accept(second, NOW)
    assert trust.bundle.data == second
