"""What the command line may say, and the card that is read once."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from agent.camera.wire import Simulation
from agent.config import Options, options_of, read_simulations
from agent.enroll import claim, enroll
from shared.card import Broker, Card, write_card
from shared.errors import MalformedError, OperatorError
from tests.making import Site


def card_at(path: Path, *, device: str = "gate-01", is_demo: bool = True) -> Path:
    root = Site.make(is_demo=is_demo).card_root.decode()
    broker = Broker(url="mqtt://127.0.0.1:1883", password="secret-of-this-device")
    write_card(path, Card(fleet="site-a", device=device, broker=broker, root=root))
    return path


def options(tmp_path: Path, card: Path | None, **more: bool) -> Options:
    return Options(state=tmp_path / "state", card=card, **{"is_demo": True, **more})


def test_a_card_is_kept_wiped_and_not_needed_again(tmp_path: Path) -> None:
    path = card_at(tmp_path / "card.yaml")

    first = enroll(options(tmp_path, path, wipes_card=True))

    assert not path.exists()
    assert enroll(options(tmp_path, None)) == first
    assert enroll(options(tmp_path, path)) == first
    assert (tmp_path / "state" / "card.yaml").stat().st_mode & 0o077 == 0


def test_a_demo_root_needs_the_option(tmp_path: Path) -> None:
    path = card_at(tmp_path / "card.yaml")

    with pytest.raises(OperatorError, match="--demo"):
        enroll(options(tmp_path, path, is_demo=False, wipes_card=True))

    assert path.exists()


def test_the_state_of_one_device_is_not_another_ones(tmp_path: Path) -> None:
    enroll(options(tmp_path, card_at(tmp_path / "one.yaml")))

    with pytest.raises(OperatorError, match="belongs to gate-01"):
        enroll(options(tmp_path, card_at(tmp_path / "two.yaml", device="gate-02")))


def test_without_a_card_the_error_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match=r"card\.yaml"):
        enroll(options(tmp_path, None))


def test_a_simulation_is_for_all_cameras_or_for_each(tmp_path: Path) -> None:
    path = tmp_path / "simulation.yaml"
    path.write_text("seed: 3\n")
    assert read_simulations(path) == dict.fromkeys(range(4), Simulation(seed=3))

    path.write_text('{"cameras": {"1": {"seed": 7}}}')
    assert read_simulations(path) == {1: Simulation(seed=7)}


@pytest.mark.parametrize("text", ["seeds: 3", "cameras: [1]", "{", "faults: [{kind: explode}]"])
def test_a_settings_file_with_a_mistake_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "simulation.yaml"
    path.write_text(text)

    with pytest.raises(MalformedError, match="--simulate"):
        read_simulations(path)


def test_a_card_on_the_boot_partition_is_wiped(tmp_path: Path) -> None:
    given = Namespace(
        state=tmp_path,
        card=Path("/boot/firmware/fleet-agent.yaml"),
        demo=False,
        assume_clock=False,
        simulate=None,
        heartbeat=300.0,
        disk_budget=1,
        inject_golden=False,
        allow_reboot=False,
        wipe_card=False,
    )

    assert options_of(given).wipes_card


def test_a_state_directory_has_one_agent_until_its_process_ends(tmp_path: Path) -> None:
    script = (
        f"from pathlib import Path; from agent.enroll import claim; claim(Path({str(tmp_path)!r}))"
    )
    other = [sys.executable, "-c", f"{script}; print('held', flush=True); input()"]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OperatorError, match="another fleet-agent runs on"):
            claim(tmp_path)
        process.kill()

    assert claim(tmp_path) >= 0


def test_the_parent_starts_where_numpy_is_not_installed() -> None:
    script = (
        "import sys; sys.modules['numpy'] = None; sys.argv = ['fleet-agent', '--version'];"
        " from agent.__main__ import main; main()"
    )

    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
