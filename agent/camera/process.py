"""The parent's side of one camera: a child process for one release, from start to stop.

The child reads frames and may hang, crash or be killed by a driver; the parent only listens and
can always end it. A thread of ours reads the child's messages and puts them into the inbox. It
decides nothing: time limits are judged in agent/health.py, from what arrived and what did not.

The child dies with its parent: the end of its standard input ends it, and where native code has
it in its grip the kernel does (PR_SET_PDEATHSIG, set by the child itself).
"""

import logging
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, Protocol

from agent.camera.wire import (
    CameraExited,
    CameraFailed,
    FrameSeen,
    FromCamera,
    ImageTaken,
    Job,
    Kind,
    Message,
    encode_job,
    image_word,
    read_message,
)
from shared.errors import CameraError, RefusedError

STOP_SECONDS = 5.0  # A polite stop of a real camera takes one to two.
KILL_SECONDS = 5.0  # The kernel needs milliseconds, unless the driver holds the process.
# numpy's threads wait for each other at full speed: beside other work masks took ten times as long.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")  # Debian's, of its own Python.
EVENTS_WAITING_MAX = 256  # Frames beyond that in an inbox are late news.

_log = logging.getLogger(__name__)


class Inbox(Protocol):
    """Where the reader puts what the child says; shared.inbox.Inbox is one."""

    def put(self, event: FromCamera | CameraExited, /) -> None:
        """Add an event."""

    def __len__(self) -> int:
        """Return how many events wait."""
        ...


class CameraProcess:
    """One child on one camera."""

    def __init__(self, job: Job, inbox: Inbox, token: int) -> None:
        """Prepare; nothing runs before ``start``."""
        self._job = job
        self._inbox = inbox
        self._token = token
        self._child: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._dropped = 0
        self._is_asked = False

    @property
    def token(self) -> int:
        """Return what the events of this child carry."""
        return self._token

    @property
    def pid(self) -> int | None:
        """Return the child's process id."""
        return None if self._child is None else self._child.pid

    @property
    def is_alive(self) -> bool:
        """Say whether the child runs."""
        return self._child is not None and self._child.poll() is None

    @property
    def dropped(self) -> int:
        """Return how many frames found the inbox full."""
        return self._dropped

    def start(self) -> None:
        """Start the child; what becomes of it arrives in the inbox.

        Call it from a thread that lives as long as the agent: the kernel kills the child when the
        thread that started it ends.

        Raises:
            CameraError: The machine cannot start another process.
        """
        assert self._child is None, "a CameraProcess starts once"
        try:
            with tempfile.TemporaryFile() as file:
                file.write(encode_job(self._job))
                file.seek(0)  # A file, not a pipe: a child that never reads cannot block us.
                self._child = subprocess.Popen(
                    self._command(file.fileno()),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=(file.fileno(),),
                    env=environment_of(self._job.kind),
                )
        except OSError as error:
            raise CameraError(f"camera {self._job.camera}: cannot start: {error}") from error
        self._reader = threading.Thread(
            target=self._read, name=f"camera-{self._job.camera}", daemon=True
        )
        self._reader.start()

    def ask_to_stop(self) -> None:
        """Ask the child to stop and return at once; ``CameraExited`` comes when it has."""
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()

    def look(self, threshold_permille: int) -> None:
        """Ask for an image; ``ImageTaken`` follows. Asked again before it came: still one image.

        So a child that does not read, because its camera hangs, never fills the pipe and us.
        """
        pipe = None if self._child is None else self._child.stdin
        if pipe is None or pipe.closed or self._is_asked:
            return
        with suppress(OSError):  # It is gone; that arrives in the inbox.
            pipe.write(image_word(threshold_permille))
            pipe.flush()
            self._is_asked = True

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop the child: politely, then by force. Returns when it is gone."""
        if self._child is None:
            return
        self.ask_to_stop()
        try:
            self._child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            _log.warning("camera %d: did not stop in %.0f s, killed", self._job.camera, seconds)
            self.kill()
        self._join()

    def kill(self) -> None:
        """End the child by force.

        Raises:
            CameraError: The kernel does not let go of it: only a reboot helps.
        """
        if self._child is None:
            return
        self._child.kill()
        try:
            self._child.wait(timeout=KILL_SECONDS)
        except subprocess.TimeoutExpired as error:
            text = f"camera {self._job.camera}: the driver holds process {self._child.pid}"
            raise CameraError(text) from error
        self.ask_to_stop()
        self._join()

    def _command(self, job: int) -> list[str]:
        return [sys.executable, "-m", "agent.camera.worker", str(job), str(os.getpid())]

    def _join(self) -> None:
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(timeout=KILL_SECONDS)

    def _read(self) -> None:
        child = self._child
        assert child is not None
        assert isinstance(child.stdout, BufferedReader)
        try:
            self._forward(child.stdout)
        except RefusedError as error:
            _log.warning("camera %d: %s", self._job.camera, error)
            self._put(CameraFailed(code="protocol", text=error.text))
            child.kill()
        returncode = _end_of(child, child.stdout)
        self._inbox.put(CameraExited(self._job.camera, self._token, returncode))

    def _forward(self, pipe: BufferedReader) -> None:
        while (message := read_message(pipe.read)) is not None:
            self._is_asked = self._is_asked and not isinstance(message, ImageTaken)
            if isinstance(message, FrameSeen) and len(self._inbox) >= EVENTS_WAITING_MAX:
                self._dropped += 1
            else:
                self._put(message)

    def _put(self, message: Message) -> None:
        self._inbox.put(FromCamera(self._job.camera, self._token, message))


def environment_of(kind: Kind) -> dict[str, str]:
    """Return the variables of a child: picamera2 is the system's, and so is what it needs.

    The system's come first for it: its picamera2 was built against its numpy, not against ours.
    """
    environment = {**os.environ, **ONE_THREAD}
    if kind == "picamera2" and (SYSTEM_PACKAGES / "picamera2").is_dir():
        environment["PYTHONPATH"] = str(SYSTEM_PACKAGES)
    return environment


def _end_of(child: subprocess.Popen[bytes], pipe: IO[bytes]) -> int:
    pipe.close()
    return child.wait()
