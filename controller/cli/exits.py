"""What an error means for whoever called fleetctl: one line of text and an exit code.

Exit codes: 0 ok; 1 error; 2 usage; 3 aborted by a gate; 4 paused, aborted for any other reason, or
completed but not all healthy; 5 timeout; 6 broker; 7 verification, or an unsigned release;
8 ``plan`` with changes; 130 Ctrl-C.
"""

from enum import IntEnum

from shared.errors import BrokerError, FleetError, RefusedError, UnsignedError


class Exit(IntEnum):
    """The exit codes of fleetctl."""

    OK = 0
    ERROR = 1
    USAGE = 2
    ABORTED_BY_GATE = 3
    NOT_HEALTHY = 4
    TIMEOUT = 5
    BROKER = 6
    UNTRUSTED = 7
    CHANGES = 8
    INTERRUPTED = 130


def exit_of(error: FleetError | OSError) -> Exit:
    """Return the exit code of an error."""
    match error:
        case BrokerError():
            return Exit.BROKER
        case RefusedError() | UnsignedError():
            return Exit.UNTRUSTED
        case _:
            return Exit.ERROR


def text_of(error: FleetError | OSError) -> str:
    """Return what to tell the operator: what was expected and what came, never a traceback."""
    if isinstance(error, OSError):
        what = error.strerror or str(error) or type(error).__name__
        return f"{error.filename}: {what}" if error.filename else what
    return str(error) or type(error).__name__
