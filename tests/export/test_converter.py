"""Sony's real converter, where it says no: what we make of its words and exit codes."""

from pathlib import Path

import pytest

from controller.export.convert import convert
from shared.errors import ExportError

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]


def refusal(network: Path, folder: Path) -> str:
    with pytest.raises(ExportError) as caught:
        convert(network, folder / "converted", told=lambda _: None)
    return str(caught.value)


def test_an_operation_that_the_sensor_cannot_do_is_named(tmp_path: Path) -> None:
    from tests.export import sonys  # noqa: PLC0415 - warns of what is not ours.

    text = refusal(sonys.exported(sonys.Odd(), tmp_path), tmp_path)

    assert "an operation that the sensor cannot do" in text
    assert text.endswith("[USOP] The network contains unsupported ops: CumSum")


def test_a_file_that_is_no_network_is_not_called_too_large(tmp_path: Path) -> None:
    network = tmp_path / "n1.onnx"
    network.write_bytes(b"no network")

    text = refusal(network, tmp_path)

    assert "exit code 1" in text
    assert text.endswith(f"[EXEC] Failed to load {network}")
