"""``python -m tests.dying_card N PATH... -- enroll ...``: killed at the N-th touch of these paths.

A touch is an audit event of Python (open, rename, remove, chmod, chown and the like) that names one
of the paths; the kill comes before its effect. Without so many touches it ends as it would anyway.
"""

import os
import signal
import sys

from agent.__main__ import main


def die_at(number: int, paths: list[str]) -> None:
    """End this process with SIGKILL at a touch, counted from 1."""
    left = number

    def hear(_event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        said = str(arguments[:2])
        if any(path in said for path in paths):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


if __name__ == "__main__":
    at = sys.argv.index("--")
    count, *named = sys.argv[1:at]
    sys.argv = [sys.argv[0], *sys.argv[at + 1 :]]
    die_at(int(count), named)
    main()
