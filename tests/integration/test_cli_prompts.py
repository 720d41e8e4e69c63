"""Ctrl-C at every prompt: exit 130, and nothing was written down, signed or sent."""

import os
import pty
import re
import select
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep

import pytest

from controller.cli.exits import Exit
from tests.integration.test_cli import (  # noqa: F401
    PASSPHRASE,
    broker,
    fleet,
    fleetctl,
    project,
    signed,
)

INTERRUPT = "\x03"
PATIENCE_SECONDS = 120.0
SETSID = shutil.which("setsid") or "setsid"  # A terminal of its own, as a window has.


def typed(project: Path, arguments: list[str], *answers: str) -> tuple[int, str]:  # noqa: F811
    """Run fleetctl at a terminal of its own, and type an answer at each prompt."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [SETSID, "--ctty", sys.executable, "-m", "controller", *arguments],
        cwd=project, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "XDG_DATA_HOME": str(project.parent / "data"), "TERM": "dumb"},
    )  # fmt: skip
    os.close(theirs)
    said = ""
    for answer in answers:
        said += read_until(ours, r"(?:Passphrase of|Repeat for confirmation|\?).*:\s*$")
        sleep(0.5)  # Python may not read yet when the prompt is out: Ctrl-C would be lost.
        os.write(ours, (answer if answer == INTERRUPT else f"{answer}\n").encode())
    said += read_until(ours, None)
    os.close(ours)
    return process.wait(PATIENCE_SECONDS), said


def read_until(terminal: int, prompt: str | None) -> str:
    said, end = "", monotonic() + PATIENCE_SECONDS
    while monotonic() < end:
        readable, _, _ = select.select([terminal], [], [], 0.5)
        if not readable:
            continue
        try:
            data = os.read(terminal, 4096)
        except OSError:  # Linux says so when the other end is closed.
            return said
        if not data:
            return said
        said += data.decode(errors="replace")
        if prompt is not None and re.search(prompt, said):
            return said
    raise AssertionError(f"no prompt came: {said}")


def everything(project: Path) -> dict[str, object]:  # noqa: F811
    """Return all that a command could have changed."""
    (folder,) = (project.parent / "data" / "imxfleet").iterdir()
    with closing(sqlite3.connect(folder / "store.sqlite")) as store:
        tables = {
            table: store.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608
            for table in ("meta", "releases", "rollouts", "intentions", "identities", "audit")
        }
    keys = {path.name: path.read_bytes() for path in (folder / "keys").iterdir()}
    files = {path.name: path.read_bytes() for path in project.iterdir()}
    return {**tables, "keys": keys, "files": files}


COMMANDS = {
    "device add": (["device", "add", "cam-2"], ()),
    "device label": (["device", "label", "cam-1", "role=gate"], ()),
    "device rm": (["device", "rm", "cam-1"], ()),
    "device rm, at the question": (["device", "rm", "cam-1"], (PASSPHRASE,)),
    "release sign": (["release", "sign", "shapes@1"], ()),
    "release revoke": (["release", "revoke", "shapes@1"], ()),
    "release revoke, at the question": (["release", "revoke", "shapes@1"], (PASSPHRASE,)),
    "rollout start": (["rollout", "start", "shapes@1"], ()),
    "apply": (["apply"], ()),
    "freeze": (["freeze"], ()),
    "keys rotate": (["keys", "rotate"], ()),
    "keys rotate, at the passphrase": (["keys", "rotate"], ("y",)),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_at_a_prompt_changes_nothing(fleet: Path, name: str) -> None:  # noqa: F811
    arguments, answers = COMMANDS[name]
    path = fleet / "fleet.yaml"
    path.write_text(
        path.read_text()
        + "  cam-2: {}\nstrategies: {all: {waves: [{fraction: 100%}]}}\n"
        + 'rollouts: {doors: {release: shapes@1, selector: "*", strategy: all}}\n'
    )
    signed(fleet)
    before = everything(fleet)

    code, said = typed(fleet, arguments, *answers, INTERRUPT)

    assert code == Exit.INTERRUPTED, said
    assert "Traceback" not in said
    assert everything(fleet) == before


@pytest.mark.parametrize("answers", [(), (PASSPHRASE,)])
def test_ctrl_c_while_keys_are_asked_for_makes_none(
    project: Path,  # noqa: F811
    answers: tuple[str, ...],
) -> None:
    code, said = typed(project, ["init"], *answers, INTERRUPT)

    assert code == Exit.INTERRUPTED, said
    assert not (project.parent / "data").exists()


def test_who_says_no_or_mistypes_changes_nothing_either(fleet: Path) -> None:  # noqa: F811
    signed(fleet)
    before = everything(fleet)

    no, _ = typed(fleet, ["release", "revoke", "shapes@1"], PASSPHRASE, "n")
    wrong, said = typed(fleet, ["rollout", "start", "shapes@1"], "not the passphrase")

    assert no == Exit.ERROR
    assert wrong == Exit.UNTRUSTED, said
    assert everything(fleet) == before


def test_a_passphrase_is_asked_for_once_a_command(fleet: Path) -> None:  # noqa: F811
    """The controller's and the release key need one each; it comes over a pipe only once."""
    signed(fleet)

    labelled = fleetctl(
        fleet, "device", "label", "cam-1", "role=gate", "--detach", passphrase=PASSPHRASE
    )
    started = fleetctl(
        fleet, "rollout", "start", "shapes@1", "--timeout", "1s", passphrase=PASSPHRASE
    )
    revoked = fleetctl(
        fleet, "release", "revoke", "shapes@1", "--yes", "--timeout", "60s", passphrase=PASSPHRASE
    )
    rotated = fleetctl(fleet, "keys", "rotate", "--yes", "--timeout", "60s", passphrase=PASSPHRASE)
    pruned = fleetctl(fleet, "release", "prune", passphrase=PASSPHRASE)
    verified = fleetctl(fleet, "audit", "verify")

    assert labelled.returncode == Exit.OK, labelled.stderr
    assert started.returncode == Exit.TIMEOUT, started.stderr
    assert revoked.returncode == Exit.OK, revoked.stderr
    assert rotated.returncode == Exit.OK, rotated.stderr
    assert pruned.returncode == Exit.OK, pruned.stderr
    assert verified.returncode == Exit.OK, verified.stderr
