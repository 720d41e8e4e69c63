"""How a build in a child process ends when it does not end well. No torch: tqdm is ours here.

The child imports tqdm before it does anything else, so a module of that name is where a test says
what happens inside the child.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controller.export import build, ending
from controller.export.ending import deliver, explain
from controller.export.wire import BuildRequest, Job, Progress
from shared.errors import ExportError

SECONDS = 60.0


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def inside(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Have the child run this before it imports any tool."""
    (folder / "tqdm.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def run(work: Path, *, seconds_max: float = SECONDS, told: list[Progress] | None = None) -> str:
    order = Job(request=BuildRequest(model="m.pt", data="d", out="o"), folder=str(work))
    told = [] if told is None else told
    with pytest.raises(ExportError) as caught:
        build._run(order, work, told.append, seconds_max=seconds_max)
    return str(caught.value)


def test_a_child_that_the_memory_killer_ended_is_reported_as_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Path
) -> None:
    inside(monkeypatch, tmp_path, "import os\nos.kill(os.getpid(), 9)")

    text = run(work)

    assert "was killed (signal 9), as Linux does when memory is short: it held up to " in text
    assert " MB were available before it. Close other programs" in text


def test_a_child_that_took_too_long_is_not_blamed_on_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Path
) -> None:
    inside(monkeypatch, tmp_path, "import time\ntime.sleep(600)")

    assert "it took longer than 2 s and was ended" in run(work, seconds_max=2.0)


def test_a_child_that_crashed_shows_its_last_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Path
) -> None:
    inside(monkeypatch, tmp_path, "import os\nos.write(2, b'core dumped')\nos._exit(3)")

    assert run(work).endswith("ended without a word. Its last lines:\ncore dumped")


def test_any_librarys_error_is_one_line_and_its_traceback_stays_in_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Path
) -> None:
    inside(monkeypatch, tmp_path, "raise OSError(28, 'No space left on device', '/tmp/x.onnx')")

    text = run(work)

    assert text == (
        "the exporter failed: OSError: [Errno 28] No space left on device: '/tmp/x.onnx'"
    )
    assert "Traceback" in (work / "log.txt").read_text()


def test_a_full_disk_is_named_whatever_the_library_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Path
) -> None:
    inside(monkeypatch, tmp_path, "raise RuntimeError('PytorchStreamWriter failed')")
    monkeypatch.setattr(ending, "DISK_BYTES_FULL", 1 << 60)  # Every disk is full.

    text = run(work)

    assert text.startswith(f"the disk with {tmp_path} is full (")
    assert "set TMPDIR to a folder with room. What failed: the exporter failed: " in text


def test_an_error_on_a_disk_with_room_stays_what_it_is(tmp_path: Path) -> None:
    error = ExportError("something else")

    assert explain(error, tmp_path) is error


def test_an_interrupted_build_ends_what_its_tools_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Path
) -> None:
    pid = tmp_path / "pid"
    code = (
        "import subprocess, time, pathlib\n"
        "java = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(java.pid))\n"
        "time.sleep(600)"
    )
    inside(monkeypatch, tmp_path, code)

    def interrupt(_: Progress) -> None:
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.01)
        raise KeyboardInterrupt

    order = Job(request=BuildRequest(model="m.pt", data="d", out="o"), folder=str(work))
    with pytest.raises(KeyboardInterrupt):
        build._run(order, work, interrupt, seconds_max=SECONDS)

    assert _is_gone(int(pid.read_text()))


def test_a_package_is_delivered_whole_over_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "labels.txt").write_text("circle\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "left").write_text("by a run that was killed")

    deliver(tmp_path / "package", tmp_path / "out")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["labels.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "package"]


def test_a_package_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "labels.txt").write_text("circle\n")
    (package / "packerOut.zip").write_bytes(bytes(1_000_000))
    script = (
        "import resource, signal, pathlib\n"
        "from controller.export.ending import deliver\n"
        "from shared.errors import ExportError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        f"try: deliver(pathlib.Path({str(package)!r}), pathlib.Path({str(tmp_path / 'out')!r}))\n"
        "except ExportError as error: print(error)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip

    assert f"{tmp_path / 'out'} could not be written: " in done.stdout
    assert "File too large" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def _is_gone(pid: int) -> bool:
    """Return whether the process ended: it is no more, or only its entry is left."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False
