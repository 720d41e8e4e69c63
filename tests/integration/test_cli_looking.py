"""Commands that look: logs, the support bundle, completion, formats, and bad input of each."""
# ruff: noqa: F811 - a fixture of another file is a parameter here

import json
import os
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from controller.cli.exits import Exit
from tests.integration.test_cli import (  # noqa: F401
    PASSPHRASE,
    broker,
    fleet,
    fleetctl,
    project,
    signed,
)


def completed(project: Path, *words: str) -> list[str]:
    """Return what TAB offers for the last word."""
    answer = subprocess.run(
        [sys.executable, "-m", "controller"], cwd=project, capture_output=True, text=True,
        check=False, stdin=subprocess.DEVNULL,
        env={
            **os.environ, "XDG_DATA_HOME": str(project.parent / "data"),
            "_FLEETCTL_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("fleetctl", *words)),
            "COMP_CWORD": str(len(words)),
        },
    )  # fmt: skip
    assert "Traceback" not in answer.stderr
    return [line.partition(",")[2] for line in answer.stdout.splitlines()]


def test_tab_offers_commands_options_and_the_names_of_this_fleet(fleet: Path) -> None:
    signed(fleet)
    started = fleetctl(fleet, "rollout", "start", "shapes@1", "--detach", passphrase=PASSPHRASE)

    assert started.returncode == Exit.OK, started.stderr
    assert completed(fleet, "ro") == ["rollout"]
    assert completed(fleet, "rollout", "pro") == ["promote"]
    assert completed(fleet, "rollout", "abort", "") == ["r-1", "shapes"]
    assert completed(fleet, "release", "show", "sh") == ["shapes@1"]
    assert completed(fleet, "device", "show", "") == ["cam-1"]
    assert "--selector" in completed(fleet, "plan", "--sel")
    completed(fleet, "no-such-command", "x")  # Nothing to offer, and no traceback.
    for shell in ("bash", "zsh", "fish"):
        script = fleetctl(fleet, "completion", shell)
        assert "_FLEETCTL_COMPLETE" in script.stdout


def test_the_same_list_in_every_format(fleet: Path) -> None:
    signed(fleet)

    shown = {
        name: fleetctl(fleet, "release", "ls", "-o", name).stdout
        for name in ("table", "wide", "json", "jsonl", "yaml")
    }

    documents = json.loads(shown["json"])
    assert documents == yaml.safe_load(shown["yaml"]) == [json.loads(shown["jsonl"])]
    assert documents[0]["state"] == "signed"
    assert documents[0]["manifest_sha256"] in shown["wide"]
    assert documents[0]["manifest_sha256"] not in shown["table"]
    watched = fleetctl(fleet, "release", "ls", "--watch", "--timeout", "25s", "-o", "jsonl")
    assert watched.returncode == Exit.TIMEOUT
    assert len(watched.stdout.splitlines()) >= 2


def test_a_support_bundle_has_what_helps_and_no_secret(fleet: Path) -> None:
    signed(fleet)
    (folder,) = (fleet.parent / "data" / "imxfleet").iterdir()
    path = fleet / "fleet.yaml"
    path.write_text(path.read_text() + "# password: hunter22\n")

    made = fleetctl(fleet, "support-bundle", "help.zip")
    again = fleetctl(fleet, "support-bundle", "help.zip")

    assert made.returncode == Exit.OK, made.stderr
    assert again.returncode == Exit.ERROR
    with zipfile.ZipFile(fleet / "help.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert {"fleet.yaml", "audit.jsonl", "devices.json", "plan.json", "store.json"} <= set(texts)
    assert json.loads(texts["store.json"])["check"] == "ok"
    assert "hunter22" not in texts["fleet.yaml"]
    everything = "".join(texts.values())
    for key in (folder / "keys").iterdir():
        body = [line for line in key.read_text().splitlines() if len(line) > 20 and "-" not in line]
        assert body
        assert not any(line in everything for line in body)
    assert PASSPHRASE not in everything


def test_what_cannot_be_is_told_in_a_line_with_its_exit_code(fleet: Path) -> None:
    signed(fleet)
    text = (fleet / "fleet.yaml").read_text()

    for arguments, code, words in (
        (("plan", "shapes@1", "-l", "role=nobody"), Exit.ERROR, "matches no device"),
        (("plan", "shapes@1", "-l", ""), Exit.ERROR, "expected 1 to 256 characters"),
        (("plan", "shapes@1", "--strategy", "bold"), Exit.ERROR, "expected a strategy"),
        (("plan", "shapes@9"), Exit.ERROR, "not in the store"),
        (("rollout", "undo", "r-1", "--detach"), Exit.ERROR, "expected a rollout"),
        (("device", "restart", "cam-9"), Exit.ERROR, "expected a device that was added"),
        (("device", "restart"), Exit.ERROR, "expected a device, or -l"),
        (("device", "restart", "cam-1", "--reboot", "--camera", "0"), Exit.USAGE, "not both"),
        (("device", "label", "cam-1", "--detach"), Exit.USAGE, "expected a label"),
        (("release", "import", "fleet.yaml"), Exit.ERROR, "is no file of"),
        (("audit", "verify", "--head", "0" * 64), Exit.UNTRUSTED, "no entry has the digest"),
    ):
        ended = fleetctl(fleet, *arguments)
        assert ended.returncode == code, (arguments, ended.stderr)
        assert words in ended.stderr, arguments
        assert "Traceback" not in ended.stderr
    for waves, words in (
        ("[{fraction: 0%}, {fraction: 100%}]", "expected more than 0 %"),
        ("[{fraction: 250%}]", "expected a percentage"),
    ):
        (fleet / "fleet.yaml").write_text(f"{text}strategies: {{s: {{waves: {waves}}}}}\n")
        ended = fleetctl(fleet, "plan", "shapes@1")
        assert ended.returncode == Exit.ERROR
        assert words in ended.stderr


@pytest.mark.parametrize("damage", ["newer", "corrupt"])
def test_a_store_that_cannot_be_used_is_told(fleet: Path, damage: str) -> None:
    (folder,) = (fleet.parent / "data" / "imxfleet").iterdir()
    path = folder / "store.sqlite"
    if damage == "newer":
        database = sqlite3.connect(path)
        database.execute("PRAGMA user_version = 99")
        database.close()
    else:
        path.write_bytes(b"\0" * 8192)

    ended = fleetctl(fleet, "device", "ls")

    assert ended.returncode == Exit.ERROR
    assert ("newer fleetctl" if damage == "newer" else "not a database") in ended.stderr
    assert "Traceback" not in ended.stderr
