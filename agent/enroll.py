"""First trust: the card is read once, kept in the state directory, and wiped where it lay.

Nothing is trusted on first use: the root is on the card. A state directory belongs to one device
of one fleet; a card of another one is refused, because journal, floors and outcomes would not be
its own. A new SD card with an old device's id is a new state directory, and so a new install.
"""

import fcntl
import logging
import os
from pathlib import Path

from agent.config import Options
from shared.card import Card, read_card, write_card
from shared.errors import MalformedError, OperatorError, StorageError
from shared.files import read_bounded
from shared.limits import CARD_BYTES

logger = logging.getLogger(__name__)

_NAME = "card.yaml"
_LOCK = "lock"


def enroll(options: Options) -> Card:
    """Return the card that this state directory was made with, or is made with now.

    Raises:
        MalformedError: There is no card, or it is not one to start from.
        OperatorError: It is another device's, or a demo's root without ``--demo``.
        StorageError: It cannot be kept.
    """
    kept_path = options.state / _NAME
    options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    card = _read(options.card, kept_path)
    if card.trusted_root.is_demo and not options.is_demo:
        raise OperatorError(f"fleet {card.fleet} has the root of a demo: that needs --demo")
    if options.card is not None and options.card.exists():
        write_card(kept_path, card)
        _give_away(kept_path)
        if options.wipes_card:
            wipe(options.card)
    return card


def claim(state: Path) -> int:
    """Take the state directory for this process, until it ends; return what holds it.

    Two agents on one journal would each undo what the other wrote.

    Raises:
        OperatorError: Another agent runs on it.
        StorageError: It cannot be locked.
    """
    try:
        descriptor = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OperatorError(f"another fleet-agent runs on {state}; stop it first") from error
    except OSError as error:
        raise StorageError(f"could not lock {state}: {error.strerror}") from error
    return descriptor


def _read(given: Path | None, kept_path: Path) -> Card:
    kept = read_card(kept_path) if kept_path.exists() else None
    if given is None or (kept is not None and not given.exists()):
        return kept or read_card(kept_path)  # Without either, the error says what is missing.
    if _is_wiped(given):
        if kept is None:
            raise MalformedError(f"card: {given} was wiped; expected one that was never read")
        return kept  # The power failed between overwriting and removing it.
    card = read_card(given)
    if kept is not None and (kept.fleet, kept.device) != (card.fleet, card.device):
        raise OperatorError(
            f"{kept_path.parent} belongs to {kept.device} of {kept.fleet}; expected its card, got"
            f" that of {card.device} of {card.fleet}: use another --state"
        )
    return card


def _is_wiped(path: Path) -> bool:
    data = read_bounded(path, CARD_BYTES) if path.is_file() else None
    return data is not None and not data.strip(b"\0")


def _give_away(path: Path) -> None:
    """Let the owner of the state read what root enrolled; a cut before it is another enrolment."""
    if os.geteuid() != 0:
        return
    owner = path.parent.stat()
    try:
        os.chown(path, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise StorageError(f"could not give {path} to its owner: {error.strerror}") from error


def wipe(path: Path) -> None:
    """Overwrite a card that may hold a password, and remove it."""
    try:
        length = path.stat().st_size
        with path.open("r+b") as file:
            file.write(b"\0" * length)
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    except OSError as error:
        logger.error("the card %s could not be wiped: %s; do it by hand", path, error.strerror)  # noqa: TRY400
    else:
        logger.info("the card %s was read, kept and wiped", path)
