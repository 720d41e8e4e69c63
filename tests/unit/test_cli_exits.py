"""Exit codes and error texts of fleetctl."""

import subprocess
import sys
from pathlib import Path

import pytest

from controller.cli.app import NOUNS, run
from controller.cli.exits import Exit, exit_of, text_of
from controller.cli.reference import reference
from controller.inventory import load_fleet
from shared.errors import (
    BrokerUnreachableError,
    FleetError,
    NotEchoedError,
    OperatorError,
    StorageError,
    UnsignedError,
    UntrustedError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OperatorError("x"), Exit.ERROR),
        (StorageError("x"), Exit.ERROR),
        (OSError(13, "Permission denied", "fleet.yaml"), Exit.ERROR),
        (BrokerUnreachableError("x"), Exit.BROKER),
        (NotEchoedError("x"), Exit.BROKER),
        (UntrustedError("x"), Exit.UNTRUSTED),
        (UnsignedError("x"), Exit.UNTRUSTED),
    ],
)
def test_each_error_has_its_exit_code(error: FleetError | OSError, code: Exit) -> None:
    assert exit_of(error) is code


def test_an_operating_system_error_names_its_file() -> None:
    assert (
        text_of(OSError(13, "Permission denied", "fleet.yaml")) == "fleet.yaml: Permission denied"
    )


def test_an_unknown_command_is_a_usage_error_that_lists_the_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = run(["rolout", "start"])

    assert code == Exit.USAGE
    assert "rollout" in capsys.readouterr().err


def test_every_noun_can_be_imported_and_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for noun in NOUNS:
        assert run([noun, "--help"]) == Exit.OK
        assert "Usage: fleetctl" in capsys.readouterr().out


def test_help_imports_neither_numpy_nor_tuf_nor_rich() -> None:
    script = (
        "import sys; from controller.cli.app import run; run(['rollout', 'start', '--help']);"
        "print([m for m in ('numpy', 'torch', 'tuf', 'rich', 'onnxruntime') if m in sys.modules])"
    )

    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

    assert shown.stdout.decode().splitlines()[-1] == "[]"


def test_a_fleet_without_keys_is_told_to_run_init(
    tmp_path: Path,
) -> None:
    (tmp_path / "fleet.yaml").write_text("version: 1\nfleet: a\nbroker: {embedded: true}\n"
                                         "devices: {cam-1: {}}\n")  # fmt: skip

    ran = _fleetctl(tmp_path, "device", "ls")

    assert ran.returncode == Exit.ERROR
    assert b"fleetctl init" in ran.stderr
    assert b"Traceback" not in ran.stderr


def test_a_missing_fleet_yaml_is_an_error_in_a_line(tmp_path: Path) -> None:
    ran = _fleetctl(tmp_path, "device", "ls")

    assert ran.returncode == Exit.ERROR
    assert b"fleet.yaml" in ran.stderr
    assert b"Traceback" not in ran.stderr


def test_without_a_terminal_init_asks_for_a_descriptor(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("version: 1\nfleet: a\nbroker: {embedded: true}\n"
                                         "devices: {cam-1: {}}\n")  # fmt: skip

    ran = _fleetctl(tmp_path, "init")

    assert ran.returncode == Exit.UNTRUSTED
    assert b"--passphrase-fd" in ran.stderr


def test_the_example_that_init_writes_is_a_fleet_that_init_takes(tmp_path: Path) -> None:
    written = _fleetctl(tmp_path, "init")
    taken = _fleetctl(tmp_path, "init")

    assert written.returncode == Exit.OK
    assert load_fleet(tmp_path / "fleet.yaml").devices.keys() == {"cam-1"}
    assert taken.returncode == Exit.UNTRUSTED, "it asks for a passphrase: the file was read"


def _fleetctl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "controller", *arguments],
        cwd=folder,
        env={"XDG_DATA_HOME": str(folder / "data"), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def test_the_reference_is_what_the_commands_say() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/fleetctl.md").read_text()

    assert page == reference(), "python -m controller.cli.reference > docs/reference/fleetctl.md"
