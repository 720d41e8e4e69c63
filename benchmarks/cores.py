"""Many agents in one process: real ones in all but the camera, which a stand-in takes the place of.

    python -m benchmarks.cores FOLDER DEVICE ...

Each has its own thread, MQTT connection, card, trust, journal and releases on disk, and the real
deployment machine. The end of standard input ends them all: whoever started us is gone.
"""

import faulthandler
import logging
import os
import sys
import threading
import time
from pathlib import Path

from agent.camera.wire import CameraExited, FrameSeen, FromCamera, Job, Message, Streaming
from agent.cameras import Inbox as CameraInbox
from agent.config import Options
from agent.enroll import enroll
from agent.service import Agent, OwnEvent
from benchmarks.fleet import HEARTBEAT_SECONDS, card_of, state_of
from shared.detections import Object
from shared.inbox import Inbox
from shared.limits import MANIFEST_BYTES
from shared.messages import decode
from shared.release import Manifest

OBJECTS = tuple(
    Object(label="circle", class_=0, score=0.9, box=(x / 10, 0.2, x / 10 + 0.1, 0.4))
    for x in range(3)
)
JOIN_SECONDS = 20.0
NICE = 5  # Each would have a processor of its own; here they must not starve the full agents.


class StandIn:
    """In the place of a camera child: a thread that says at once what a healthy child says."""

    def __init__(self, job: Job, inbox: CameraInbox, token: int) -> None:
        """Prepare; ``start`` begins."""
        self.token = token
        self.pid = None  # It is no process.
        self._job, self._inbox = job, inbox
        self._manifest = decode(job.manifest, Manifest, bytes_max=MANIFEST_BYTES)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start to produce frames."""
        self._thread.start()

    def look(self, threshold_permille: int) -> None:
        """There is nothing to be seen."""

    def stop(self) -> None:
        """Stop; nothing comes afterwards."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        self._say(Streaming())
        began, frame = time.monotonic(), 0
        while not self._is_over.wait(began + frame / self._job.frame_rate - time.monotonic()):
            self._say(self._frame(frame))
            frame += 1
        self._inbox.put(CameraExited(self._job.camera, self.token, 0))

    def _frame(self, number: int) -> FrameSeen:
        return FrameSeen(
            frame=number,
            at=time.time(),
            is_valid=True,
            network_name=self._manifest.network_name,
            shapes=tuple(output.shape for output in self._manifest.outputs),
            dnn_ms=1.0,
            objects=OBJECTS,
        )

    def _say(self, message: Message) -> None:
        self._inbox.put(FromCamera(self._job.camera, self.token, message))


def main() -> int:
    """Run the agents until standard input ends."""
    faulthandler.enable()  # 50 agents in a process: a crash in native code must say where.
    os.nice(NICE)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(threadName)s %(message)s")
    folder = Path(sys.argv[1])
    agents = [_open(folder, device) for device in sys.argv[2:]]
    threads = [
        threading.Thread(target=agent.run, name=device, daemon=True)
        for device, agent in zip(sys.argv[2:], agents, strict=True)
    ]
    for thread in threads:
        thread.start()
    sys.stdin.buffer.read()
    for agent in agents:
        agent.stop()
    deadline = time.monotonic() + JOIN_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return 0


def _open(folder: Path, device: str) -> Agent:
    options = Options(
        state=state_of(folder, device),
        card=card_of(folder, device),
        is_demo=True,
        is_clock_assumed=True,
        heartbeat_seconds=HEARTBEAT_SECONDS,
    )
    inbox: Inbox[OwnEvent] = Inbox()
    return Agent(options, enroll(options), inbox, child=StandIn)


if __name__ == "__main__":
    sys.exit(main())
