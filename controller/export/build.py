"""Build a package in a child process of its own. Imports no torch.

The child is a process group: its memory, its converter's Java and whatever a library leaves behind
end with it, when it is done, when it takes too long and when we are interrupted.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from controller.export import cache
from controller.export.ending import deliver, explain, why_silent
from controller.export.facts import Facts, read_facts
from controller.export.machine import check_import, memory_available
from controller.export.pack import FILE_NAMES
from controller.export.preflight import check, check_outputs
from controller.export.receipt import Receipt, check_accuracy, read_receipt
from controller.export.wire import (
    KEPT,
    LINE_BYTES,
    BuildRequest,
    Built,
    EvalRequest,
    Evaluated,
    Failed,
    ImportJob,
    Job,
    Message,
    Order,
    Progress,
)
from shared.errors import ExportError

STOP_SECONDS = 10.0
DROP_PERMILLE_MAX = 100  # Unless asked otherwise: quantised as it should be, a network loses 10.
IMPORT_SECONDS_MAX = 1_800.0  # A conversion of the largest takes two minutes, if undisturbed.

Tell = Callable[[Progress], None]


def build_package(request: BuildRequest, *, progress: Tell, is_cached: bool = True) -> Facts:
    """Build the package in ``request.out``; return what is known of it.

    Args:
        request: The model, the data and the options.
        progress: Is told how far the build is.
        is_cached: Take an earlier build of the same inputs in its place, and keep this one.

    Raises:
        ExportError: It cannot be built; the text says why and what to do.
    """
    if not request.eval_images:
        _check_accuracy(request, None)  # Refused now, not after minutes.
    key = cache.key_of(request) if is_cached else None
    earlier = cache.find(key, needs_kept=request.keep is not None)
    if earlier is not None:
        return _take(earlier, request, progress)
    # mkdtemp's name holds nothing that the converter's shell would take apart.
    work = Path(tempfile.mkdtemp(prefix="imxfleet-export-"))
    try:
        check(request, work=work)
        order = Job(request=request, folder=str(work))
        built = _run(order, work, progress, seconds_max=request.seconds_max)
        assert isinstance(built, Built)
        kept = None if request.keep is None else work / KEPT
        cache.keep(key, work / "package", kept)
        _deliver(request, work / "package", kept)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return built.facts


def _take(earlier: Path, request: BuildRequest, progress: Tell) -> Facts:
    check_outputs(request)
    progress(Progress("cache", text="the same inputs were built before"))
    kept = None if request.keep is None else earlier / cache.KEPT
    _deliver(request, earlier / cache.PACKAGE, kept)
    return read_facts(Path(request.out) / FILE_NAMES["simulator"])


def _deliver(request: BuildRequest, package: Path, kept: Path | None) -> None:
    """Hand the package over, unless it lost too much: then it stays in the cache only."""
    receipt = package / FILE_NAMES["receipt"]
    _check_accuracy(request, read_receipt(receipt.read_bytes()) if receipt.is_file() else None)
    deliver(package, Path(request.out))
    if request.keep is not None and kept is not None:
        deliver(kept, Path(request.keep))


def _check_accuracy(request: BuildRequest, receipt: Receipt | None) -> None:
    drop = request.max_drop_permille
    if drop is None and receipt is not None:
        drop = DROP_PERMILLE_MAX
    check_accuracy(receipt, min_permille=request.min_map_permille, max_drop_permille=drop)


def import_package(source: Path, out: Path, *, progress: Tell) -> Facts:
    """Make a package in ``out`` of a folder that plain Ultralytics exported.

    Args:
        source: The folder.
        out: A folder; it must not exist, or be empty.
        progress: Is told how far it is.

    Raises:
        ExportError: It cannot be imported; the text says why and what to do.
    """
    work = Path(tempfile.mkdtemp(prefix="imxfleet-import-"))
    try:
        check_import(work)
        order = ImportJob(source=str(source), folder=str(work))
        built = _run(order, work, progress, seconds_max=IMPORT_SECONDS_MAX)
        assert isinstance(built, Built)
        deliver(work / "package", out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return built.facts


def evaluate_package(request: EvalRequest, *, progress: Tell) -> Evaluated:
    """Measure the accuracy of a package that is there.

    Args:
        request: The package, the data, and what to compare with.
        progress: Is told how far it is.

    Raises:
        ExportError: It cannot be measured; the text says why and what to do.
    """
    work = Path(tempfile.mkdtemp(prefix="imxfleet-eval-"))
    try:
        evaluated = _run(request, work, progress, seconds_max=request.seconds_max)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    assert isinstance(evaluated, Evaluated)
    return evaluated


def _run(order: Order, work: Path, progress: Tell, *, seconds_max: float) -> Built | Evaluated:
    log = work / "log.txt"
    with log.open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "controller.export.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=work,
            env=_environment(work),
            start_new_session=True,
        )
    available = memory_available()
    timer = threading.Timer(seconds_max, _kill, [child])
    timer.daemon = True
    timer.start()
    try:
        outcome = _converse(child, order, progress)
        if outcome is not None:
            return outcome
        child.wait(timeout=STOP_SECONDS)
        limit = None if timer.is_alive() else seconds_max
    except ExportError as error:
        raise explain(error, work) from error
    finally:
        timer.cancel()
        _kill(child)
        child.wait(timeout=STOP_SECONDS)
    why = why_silent(child.returncode, log, limit=limit, available=available)
    raise explain(ExportError(why), work)


def _converse(
    child: subprocess.Popen[bytes], order: Order, progress: Tell
) -> Built | Evaluated | None:
    assert child.stdin is not None
    assert child.stdout is not None
    # The pipe stays open: its end tells the child that we are gone.
    with child.stdin as to_child, child.stdout as from_child:
        with suppress(BrokenPipeError):  # It died at once; its log says why.
            to_child.write(msgspec.json.encode(order) + b"\n")
            to_child.flush()
        return _outcome(from_child, progress)


def _outcome(from_child: IO[bytes], progress: Tell) -> Built | Evaluated | None:
    """Return what the child made; None: it ended before it said so."""
    while line := from_child.readline(LINE_BYTES):
        match _message(line):
            case Progress() as step:
                progress(step)
            case Built() | Evaluated() as outcome:
                return outcome
            case Failed(text):
                raise ExportError(text)
    return None


def _message(line: bytes) -> Message:
    try:
        message: Message = msgspec.json.decode(line, type=Message)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ExportError(f"expected a message of the exporter, got {line[:80]!r}") from error
    return message


def _environment(work: Path) -> dict[str, str]:
    """Return our environment, with Ultralytics kept from installing and calling home."""
    ours = {
        "YOLO_AUTOINSTALL": "False",
        "YOLO_OFFLINE": "True",
        "YOLO_CONFIG_DIR": str(work),
        "TMPDIR": str(work),  # What the converter leaves there when it is ended goes with it.
        "ULTRALYTICS_SAFE_LOAD": "1",  # Nothing but known layers: see controller.export.checkpoint.
        "PYTHONPATH": os.pathsep.join(filter(None, (_root(), os.environ.get("PYTHONPATH")))),
    }
    return {**os.environ, **ours}


def _root() -> str:
    """Return where our packages lie: the child does not start in a checkout."""
    return str(Path(__file__).resolve().parents[2])


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
