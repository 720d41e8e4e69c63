"""The card of the boot partition: whenever the power fails, it is read once and never lost."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import Options
from agent.enroll import enroll
from shared.card import Broker, Card, read_card, write_card
from shared.errors import MalformedError
from tests.fleet import ROOT
from tests.making import FLEET, Site

TOUCHES_MAX = 60
CARD = Card(
    fleet=FLEET,
    device="gate-01",
    broker=Broker(url="mqtt://127.0.0.1:1883", password="secret-of-this-device"),
    root=Site.make(is_demo=True).card_root.decode(),
)


def killed_at(touch: int, folder: Path) -> bool:
    """Enrol while the power fails at a touch; False: there was no such touch."""
    boot, state = folder / "boot" / "fleet-agent.yaml", folder / "state"
    boot.parent.mkdir(parents=True)
    write_card(boot, CARD)
    arguments = ["enroll", "--demo", "--wipe-card", "--state", str(state), str(boot)]
    paths = [str(boot), f"{state}/card.yaml", str(state)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.dying_card", str(touch), *paths, "--", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in {0, -9}, done.stderr
    return done.returncode == -9


def whole(path: Path) -> bool:
    try:
        return read_card(path) == CARD
    except MalformedError:
        return False


def kills(folder: Path) -> Iterator[Path]:
    for touch in range(1, TOUCHES_MAX):
        after = folder / f"touch-{touch}"
        if not killed_at(touch, after):
            return
        yield after
    raise AssertionError(f"more than {TOUCHES_MAX} touches")


def test_wherever_the_power_fails_the_card_is_whole_somewhere_and_the_next_start_finishes(
    tmp_path: Path,
) -> None:
    seen = set()
    for after in kills(tmp_path):
        boot, state = after / "boot" / "fleet-agent.yaml", after / "state"
        seen.add((whole(boot), whole(state / "card.yaml"), boot.exists()))
        assert whole(boot) or whole(state / "card.yaml"), after.name

        card = enroll(Options(state=state, card=boot, is_demo=True, wipes_card=True))

        assert card == CARD
        assert not boot.exists(), after.name
        assert whole(state / "card.yaml")

    # Only on the partition; on both; kept, and overwritten but not yet removed; and removed.
    assert seen >= {(True, False, True), (True, True, True), (False, True, True)}


@pytest.mark.parametrize("left", [b"", b"\0" * 900])
def test_a_card_that_was_half_wiped_is_removed_and_the_kept_one_counts(
    tmp_path: Path, left: bytes
) -> None:
    given = tmp_path / "fleet-agent.yaml"
    write_card(given, CARD)
    enroll(Options(state=tmp_path / "state", card=given, is_demo=True, wipes_card=True))
    given.write_bytes(left)

    card = enroll(Options(state=tmp_path / "state", card=given, is_demo=True, wipes_card=True))

    assert card == CARD
    assert not given.exists()


def test_a_wiped_card_without_a_kept_one_is_told(tmp_path: Path) -> None:
    given = tmp_path / "fleet-agent.yaml"
    given.write_bytes(b"\0" * 900)

    with pytest.raises(MalformedError, match="wiped"):
        enroll(Options(state=tmp_path / "state", card=given, is_demo=True, wipes_card=True))
