from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.card import Broker, Card, parse_card, read_card, write_card
from shared.errors import MalformedError
from shared.limits import CARD_BYTES
from tests.making import FLEET, Site

SITE = Site.make(is_demo=True)
CARD = Card(
    fleet=FLEET,
    device="gate-01",
    broker=Broker(
        url="mqtts://broker.site-a.lan:8883",
        ca="-----BEGIN CERTIFICATE-----\nMIIB: #\n-----END CERTIFICATE-----\n",
        username="gate-01",
        password="off: 22:00 'no' \"yes\" \\ #",
    ),
    root=SITE.card_root.decode(),
)


def written(tmp_path: Path) -> str:
    write_card(tmp_path / "card.yaml", CARD)
    return (tmp_path / "card.yaml").read_text()


def test_a_card_comes_back_with_its_root_byte_for_byte(tmp_path: Path) -> None:
    write_card(tmp_path / "card.yaml", CARD)

    card = read_card(tmp_path / "card.yaml")

    assert card == CARD
    assert card.root.encode() == SITE.card_root
    assert card.trusted_root.is_demo


def test_only_its_owner_may_read_a_card(tmp_path: Path) -> None:
    write_card(tmp_path / "card.yaml", CARD)

    assert (tmp_path / "card.yaml").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    ["", "[]", "a: [", "fleet: 2026-99-99", "&a [*a]", "{" * 5000, "!!python/object:os.system x",
     "\t", "? {a: b}\n: c", "x: \x00"],
)  # fmt: skip
def test_what_is_no_card_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError, match="card"):
        parse_card(text.encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version: 1", "version: 2"),
        ("version: 1", "version: 1\nsurprise: 1"),
        ("device: gate-01", "device: gate/01"),
        ("device: gate-01", "device: 7"),
        ("fleet: site-a", "fleet: site-b"),
        ("mqtts://", "https://"),
        (":8883", ":port"),
        (":8883", ":70000"),
        ("mqtts://", "mqtts://user:secret@"),
        ("root: '{", "root: '"),
        ("threshold", "thresh"),
    ],
)
def test_a_card_that_nobody_can_start_from_is_malformed(tmp_path: Path, old: str, new: str) -> None:
    text = written(tmp_path)
    assert old in text

    with pytest.raises(MalformedError):
        parse_card(text.replace(old, new, 1).encode())


def test_a_card_that_is_not_there_or_too_long_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_bytes(b"#" * (CARD_BYTES + 1))

    for name in ("none.yaml", "long.yaml", "."):
        with pytest.raises(MalformedError):
            read_card(tmp_path / name)


def test_a_card_that_no_agent_could_read_is_not_written(tmp_path: Path) -> None:
    for bad in (
        msgspec.structs.replace(CARD, device="#"),
        msgspec.structs.replace(CARD, fleet="site-b"),
        msgspec.structs.replace(CARD, broker=Broker(url="mqtt://x", ca="x" * CARD_BYTES)),
    ):
        with pytest.raises(MalformedError):
            write_card(tmp_path / "card.yaml", bad)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_bytes_get_past_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_card(data)
