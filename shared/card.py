"""The card file: all that a device needs for its first trust. Written by fleetctl, read once.

It carries the root in full, because nothing is trusted on first use, and may carry a key or a
password, because of which only its owner may read it. Whatever is wrong with it is a
MalformedError that a person at a desk can act on.
"""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec
import yaml

from shared.errors import FleetError, MalformedError, RefusedError
from shared.files import read_bounded, write_atomically
from shared.limits import CARD_BYTES
from shared.topics import checked_name
from shared.trust import TrustedRoot, open_root

_HEADER = "# For one device, to be read once and wiped. It may hold a key: keep it to yourself.\n"


class Broker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the broker is, and how to get in; ``ca``, ``certificate`` and ``key`` are PEM texts."""

    url: str
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    username: str | None = None
    password: str | None = None

    @property
    def credentials(self) -> str | None:
        """Return certificate and key as one text, or None without them."""
        return None if not (self.certificate and self.key) else self.certificate + self.key


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the card says; ``root`` is the exact text of the newest root."""

    version: Literal[1] = 1
    fleet: str
    device: str
    broker: Broker
    root: str

    @property
    def trusted_root(self) -> TrustedRoot:
        """Return the facts of the root, e.g. whether it is a demo's."""
        return open_root(self.root.encode(), fleet=self.fleet)


def write_card(path: Path, card: Card) -> None:
    """Write the card so that only its owner may read it.

    Raises:
        MalformedError: No agent could read it.
        StorageError: It cannot be written.
    """
    _check(card)
    text = _HEADER + yaml.safe_dump(msgspec.to_builtins(card), sort_keys=False, width=CARD_BYTES)
    if len(text.encode()) > CARD_BYTES:
        raise MalformedError(
            f"card: expected at most {CARD_BYTES} bytes; is the CA one certificate?"
        )
    write_atomically(path, text.encode(), mode=0o600)


def read_card(path: Path) -> Card:
    """Return the card in a file.

    Raises:
        MalformedError: It cannot be read, or is not a card that one can start from.
    """
    try:
        data = read_bounded(path, CARD_BYTES)
    except FleetError as error:
        raise MalformedError(f"card: {error}") from error
    if data is None:
        raise MalformedError(f"card: there is no {path}")
    return parse_card(data)


def parse_card(data: bytes) -> Card:
    """Return the card in ``data``.

    Raises:
        MalformedError: It is not a card that one can start from.
    """
    try:
        card = msgspec.convert(yaml.safe_load(data.decode()), Card)
    except msgspec.ValidationError as error:
        raise MalformedError(f"card: {error}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        # Not only YAMLError: PyYAML's constructors raise ValueError for a date like 2026-99-99.
        raise MalformedError(f"card: not YAML: {str(error)[:200]}") from error
    _check(card)
    return card


def _check(card: Card) -> None:
    try:
        checked_name(card.fleet)
        checked_name(card.device)
        _check_url(card.broker.url)
        open_root(card.root.encode(), fleet=card.fleet)
    except (RefusedError, UnicodeEncodeError) as error:
        raise MalformedError(f"card: {error}") from error


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in {"mqtt", "mqtts"} and bool(parts.hostname)
        is_plain = parts.path in {"", "/"} and parts.username is None and parts.port != 0
    except ValueError:  # A port that is none.
        is_right = is_plain = False
    if not (is_right and is_plain):
        raise MalformedError(f"expected mqtt://host:port or mqtts://host:port, got {url[:80]!r}")
