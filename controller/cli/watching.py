"""Show a rollout while it is driven, and turn its end into an exit code."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from controller.cli.exits import Exit
from controller.cli.render import counts_words, lines, picture, state_words
from controller.cli.terminal import Terminal
from controller.status import FleetStatus, RolloutStatus

if TYPE_CHECKING:
    from rich.live import Live

    from controller.service import Controller

FRAME_ROWS = 12  # Lines of a picture that are not devices.
AT_REST = frozenset({"completed", "aborted", "paused"})


class Watcher:
    """Shows each status: as a picture that moves, as plain lines, or as JSON documents."""

    def __init__(self, terminal: Terminal, rollout: str, live: "Live | None") -> None:
        """Show one rollout; ``live`` None: in lines."""
        self._terminal = terminal
        self._rollout = rollout
        self._live = live
        self._shown: RolloutStatus | None = None
        self._remarks: tuple[str, ...] = ()

    def show(self, fleet: FleetStatus) -> None:
        """Show what is new."""
        status = find(fleet, self._rollout)
        if status is None:
            return
        if self._live is not None:
            rows = max(3, self._terminal.results.height - FRAME_ROWS - len(status.waves))
            self._live.update(picture(status, fleet, rows_max=rows), refresh=True)
        elif self._terminal.is_table:
            self._say(status, fleet)
        elif self._terminal.format == "jsonl" and status != self._shown:
            self._terminal.document(status)
        self._shown = status

    def _say(self, status: RolloutStatus, fleet: FleetStatus) -> None:
        for line in lines(self._shown, status):
            self._terminal.say(f"{datetime.now(UTC):%H:%M:%S} {line}")
        remarks = (*fleet.alerts, *(one for one in (fleet.frozen, fleet.note) if one))
        for remark in remarks:
            if remark not in self._remarks:
                self._terminal.say(f"{datetime.now(UTC):%H:%M:%S} {remark}")
        self._remarks = remarks


def live_picture(terminal: Terminal) -> "Live | None":
    """Return a picture that moves once it is started, or None where it must not."""
    if not terminal.is_live:
        return None
    from rich.live import Live  # noqa: PLC0415

    return Live(console=terminal.results, auto_refresh=False, vertical_overflow="crop")


def watch_rollout(
    controller: "Controller",
    rollout: str,
    terminal: Terminal,
    *,
    timeout_seconds: float | None = None,
    is_done: Callable[[RolloutStatus], bool] | None = None,
) -> int:
    """Drive or watch until the rollout is done, and show it; return the exit code."""
    name = controller.status(rollout).rollout
    done = is_done or (lambda status: status.state in AT_REST)

    def until(fleet: FleetStatus) -> bool:
        status = find(fleet, name)
        return status is not None and done(status)

    try:
        with terminal.live() as live:
            watcher = Watcher(terminal, name, live)
            controller.drive(
                name, until=until, on_change=watcher.show, timeout_seconds=timeout_seconds
            )
    except KeyboardInterrupt:
        return _detached(controller, name, terminal)
    except TimeoutError:
        terminal.error(f"{name} is not at rest after {timeout_seconds:.0f} s; it is not stopped."
                       f" `fleetctl rollout watch {name}` goes on")  # fmt: skip
        return Exit.TIMEOUT
    return _ended(controller.status(name), terminal)


def find(fleet: FleetStatus, rollout: str) -> RolloutStatus | None:
    """Return one rollout of the fleet."""
    return next((item for item in fleet.rollouts if item.rollout == rollout), None)


def exit_of_rollout(status: RolloutStatus) -> Exit:
    """Return the exit code that a rollout's state stands for."""
    if status.state == "completed":
        return Exit.OK if status.is_healthy else Exit.NOT_HEALTHY
    if status.state == "aborted" and status.reason == "gate":
        return Exit.ABORTED_BY_GATE
    return Exit.NOT_HEALTHY


def _ended(status: RolloutStatus, terminal: Terminal) -> int:
    terminal.say(f"{status.rollout} {status.release} is {state_words(status)};"
                 f" {counts_words(status.counts)}.")  # fmt: skip
    for failed in status.failed:
        terminal.say(f"  {failed.device}: cause {failed.cause}: {failed.text}")
    if status.state == "paused":
        terminal.say(f"Next: fleetctl rollout resume, promote or abort {status.rollout}")
    if terminal.format in {"json", "yaml"}:
        terminal.document(status)
    return exit_of_rollout(status)


def _detached(controller: "Controller", rollout: str, terminal: Terminal) -> int:
    holder = controller.driver().holder
    if holder is None:
        terminal.say(f"Detached. {rollout} is not stopped: devices go on with the wave that they")
        terminal.say(f"have; nobody starts the next one. `fleetctl rollout watch {rollout}` does.")
    else:
        terminal.say(f"Detached. {rollout} goes on: {holder} drives it.")
    return Exit.INTERRUPTED
