"""How far a network's upload is: read while the library's ``start`` blocks, where it may be read.

The kernel tells it in debugfs, which belongs to root. A service that may not read it still starts:
then nobody knows the progress, and the time limit alone judges.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NETWORK_STAGE = 2  # After the loader and the main firmware.
POLL_SECONDS = 0.5
PERMILLE = 1000

Read = Callable[[int], tuple[int, int]]  # A stage -> bytes done, bytes in all; (0, 0) in another.


@contextmanager
def watched(read: Read, report: Callable[[int], None]) -> Iterator[None]:
    """Report the progress in permille until the block ends, and that it is complete when it does.

    Args:
        read: ``get_fw_upload_progress`` of modlib's or picamera2's IMX500.
        report: Is told permille, never less than before.
    """
    over = threading.Event()
    thread = threading.Thread(target=_poll, args=(read, report, over), name="upload", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    report(PERMILLE)


def _poll(read: Read, report: Callable[[int], None], over: threading.Event) -> None:
    told = -1
    while not over.wait(POLL_SECONDS):
        try:
            done, total = read(NETWORK_STAGE)
        except (OSError, ValueError, IndexError):  # Not readable, or not of this kernel.
            return
        permille = PERMILLE * done // total if total > 0 else -1
        if told < permille < PERMILLE:
            told = permille
            report(permille)
