"""What real files and a whole installation are refused for: each ends with one line, exit code 1.

What needs no torch is tested in tests/unit (test_checkpoint, test_preflight, test_building) and in
tests/integration/test_cli_build.py.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from controller.cli.exits import Exit
from controller.export.checkpoint import read_checkpoint
from controller.export.structure import read_structure
from tests.export.project import PASSPHRASE, SHAPES, Done, Site

pytestmark = [pytest.mark.export, pytest.mark.timeout(600)]
OURS = {"YOLO_OFFLINE": "True", "YOLO_AUTOINSTALL": "False", "ULTRALYTICS_SAFE_LOAD": "1"}
KINDS = (
    "yolo11n", "yolo11n-pose", "yolo11n-seg", "yolo11n-cls", "yolo11s", "yolo11m", "yolo26n",
    "yolov8n", "yolov8n-pose", "yolov8n-seg", "yolov8n-cls", "yolov8n-obb",
)  # fmt: skip
FITTING = {kind for kind in KINDS if kind.startswith(("yolo11n", "yolov8n")) and "obb" not in kind}
SCRIPT = """\
import sys, torch
from ultralytics import YOLO
for kind in sys.argv[2:]:
    YOLO(f'{kind}.yaml').save(f'{sys.argv[1]}/{kind}.pt')
    model = YOLO(f'{sys.argv[1]}/{kind}.pt')  # With known layers only.
    print(kind, model.task, sum(each.numel() for each in model.model.parameters()))
torch.save({'weights': torch.zeros(3)}, sys.argv[1] + '/tensors.pt')
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    subprocess.run(
        [sys.executable, str(SHAPES / "draw.py"), str(folder), "--images", "20"],
        check=True, env={**os.environ, "PYTHONPATH": str(SHAPES.parents[1])},
    )  # fmt: skip
    return folder / "shapes.yaml"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real files of Ultralytics and torch, one a kind."""
    return {path.stem: path for path in _made(tmp_path_factory)[0].glob("*.pt")}


@pytest.fixture(scope="module")
def as_torch_counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """Task and number of parameters of each kind, as Ultralytics and torch know them."""
    lines = (line.split() for line in _made(tmp_path_factory)[1].splitlines())
    return {kind: (task, int(count)) for kind, task, count in lines}


_MADE: list[tuple[Path, str]] = []


def _made(factory: pytest.TempPathFactory) -> tuple[Path, str]:
    if not _MADE:
        folder = factory.mktemp("untrained")
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(folder), *KINDS], check=True, cwd=folder,
            capture_output=True, text=True,
            env={**os.environ, **OURS, "YOLO_CONFIG_DIR": str(folder), "YOLO_VERBOSE": "False"},
        )  # fmt: skip
        known = "\n".join(line for line in done.stdout.splitlines() if line.startswith(KINDS))
        _MADE.append((folder, known))
    return _MADE[0]


def build(site: Site, model: Path, data: Path, *more: str, path: str | None = None) -> Done:
    done = site.fleetctl(
        "model", "build", str(model), "--data", str(data), "--name", "refused", "--version", "1",
        "--imgsz", "64", *more, path=path,
    )  # fmt: skip
    shown = site.fleetctl("release", "ls", "-o", "json")
    assert "refused" not in shown.out
    assert "Traceback" not in done.said
    assert done.code == Exit.ERROR
    return done


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_of_a_real_file_is_what_torch_finds(
    untrained: dict[str, Path], as_torch_counts: dict[str, tuple[str, int]], kind: str
) -> None:
    network = read_checkpoint(untrained[kind])

    assert (network.task, network.parameters) == as_torch_counts[kind]
    assert network.named == f"{kind}.yaml"
    assert (network.family is not None) is (kind in FITTING | {"yolo11s"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_structure_that_ultralytics_ships_is_the_network_that_it_makes(
    untrained: dict[str, Path], kind: str
) -> None:
    file, structure = read_checkpoint(untrained[kind]), read_structure(f"{kind}.yaml")

    assert (structure.family, structure.called) == (file.family, file.called)
    assert (structure.labels, structure.keypoints) == (file.labels, file.keypoints)
    if file.family is not None:
        assert (structure.layers, structure.channels) == (file.layers, file.channels)
        assert structure.parameters == file.parameters


def test_a_file_that_passes_but_is_none_is_refused_by_the_loader(
    site: Site, data: Path, untrained: dict[str, Path], tmp_path: Path
) -> None:
    """The description is right, and the numbers that it describes are not there."""
    model = tmp_path / "best.pt"
    with zipfile.ZipFile(untrained["yolo11n"]) as whole, zipfile.ZipFile(model, "w") as part:
        for entry in whole.infolist():
            if "/data/" not in entry.filename:
                part.writestr(entry, whole.read(entry))

    done = build(site, model, _eighty(data))

    assert f"{model} does not load as a YOLO model" in done.said
    assert "imxfleet-export-" not in done.said  # Our copy's name means nothing to its owner.


def test_the_loader_itself_takes_known_layers_only(tmp_path: Path) -> None:
    """What our reading would miss, Ultralytics' restricted loader still refuses."""
    ran, model = tmp_path / "ran", tmp_path / "evil.pt"
    torch.save({"model": _Evil(ran)}, model, pickle_module=pickle)
    script = "import sys; from ultralytics import YOLO; YOLO(sys.argv[1])"
    command = [sys.executable, "-c", script, str(model)]
    env = {**os.environ, "YOLO_OFFLINE": "True", "YOLO_CONFIG_DIR": str(tmp_path)}

    subprocess.run(command, env=env, capture_output=True, check=False)
    assert ran.exists()  # Left alone, it runs.
    ran.unlink()
    done = subprocess.run(command, env=env | OURS, capture_output=True, text=True, check=False)

    assert not ran.exists()
    assert "references types outside the supported Ultralytics checkpoint format" in done.stderr


def test_a_real_pickle_that_would_run_code_is_refused_by_name(
    site: Site, data: Path, tmp_path: Path
) -> None:
    ran, model = tmp_path / "ran", tmp_path / "evil.pt"
    torch.save({"model": _Evil(ran)}, model, pickle_module=pickle)

    done = build(site, model, data)

    assert "would run foreign code: it would load and run 'posix.system'" in done.said
    assert not ran.exists()


def test_tensors_without_a_network_are_refused(
    site: Site, data: Path, untrained: dict[str, Path]
) -> None:
    assert "holds tensors but no network" in build(site, untrained["tensors"], data).said


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("yolo11s", "YOLO11s does not fit the sensor: it needs about 9,"),
        ("yolo11m", "the model is YOLO11m, which cannot be exported: its layers are not those"),
        ("yolo26n", "the model is YOLO26n, which cannot be exported: its head chooses"),
        ("yolov8n-obb", "expected a model for detect, pose, segment, classify, got one for obb"),
    ],
)
def test_another_model_is_refused_with_the_remedy(
    site: Site, data: Path, untrained: dict[str, Path], kind: str, why: str
) -> None:
    done = build(site, untrained[kind], data)

    assert why in done.said
    assert "yolo11n or yolov8n" in done.said


def test_a_missing_java_is_said_before_minutes_are_spent(
    site: Site, data: Path, untrained: dict[str, Path], tmp_path: Path
) -> None:
    done = build(site, untrained["yolo11n"], _eighty(data), path=str(tmp_path))

    assert "there is no Java on this machine" in done.said
    assert "apt install openjdk-17-jre-headless" in done.said


def test_an_old_java_is_said_with_its_version(
    site: Site, data: Path, untrained: dict[str, Path], tmp_path: Path
) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.21\" 2023-10-17' >&2\n")
    java.chmod(0o755)

    done = build(site, untrained["yolo11n"], _eighty(data), path=f"{tmp_path}:/usr/bin:/bin")

    assert "expected Java 17 or newer, found 11" in done.said


def test_an_interrupted_build_leaves_nothing_behind(
    site: Site, data: Path, untrained: dict[str, Path], tmp_path: Path
) -> None:
    scratch, secret = tmp_path / "scratch", tmp_path / "passphrase"
    scratch.mkdir()
    secret.write_text(f"{PASSPHRASE}\n")
    kept = tmp_path / "refused_imx_model"
    with secret.open("rb") as file:
        command = [
            str(Path(sys.executable).with_name("fleetctl")), "model", "build",
            str(untrained["yolo11n"]), "--data", str(_eighty(data)), "--name", "refused",
            "--version", "1", "--imgsz", "64", "--keep", str(kept),
            "--passphrase-fd", str(file.fileno()),
        ]  # fmt: skip
        process = subprocess.Popen(
            command, cwd=site.project, env={**site._environment, "TMPDIR": str(scratch)},
            pass_fds=(file.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    with process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "quantise" in line)
        group = _child_group(process.pid)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()

    assert process.returncode == Exit.INTERRUPTED, said + rest
    assert "interrupted" in rest
    assert list(scratch.glob("imxfleet*")) == []
    assert not kept.exists()
    assert _ended(group)
    assert "refused" not in site.fleetctl("release", "ls", "-o", "json").out


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def _eighty(data: Path) -> Path:
    """Return the same pictures as data of 80 classes, as the shipped structures have them."""
    other = data.with_name("eighty.yaml")
    head = data.read_text().partition("names:")[0]
    other.write_text(f"{head}names: {[str(number) for number in range(80)]}\n")
    return other


def _child_group(pid: int) -> int:
    """Return the process group of the exporter's child: it leads one of its own."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (group,) = [int(child) for child in children if os.getpgid(int(child)) == int(child)]
    return group


def _ended(group: int) -> bool:
    for _ in range(1000):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False
