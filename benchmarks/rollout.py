"""One fleet size, measured: a release of 3 MB onto a fleet that runs another one."""

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import monotonic

from benchmarks.fleet import PROBE_SECONDS, START_SECONDS_MAX, STRATEGY, Fleet, Say, Size, running
from benchmarks.fleet import wait_for as wait_for_all
from benchmarks.frames import FrameCost
from benchmarks.memory import Memory, memory_of, only_child_of
from benchmarks.processor import permille_of_a_core
from benchmarks.release import BEFORE, MEASURED, add_releases
from benchmarks.witness import Seen, Witness
from controller.service import AT_REST
from controller.status import FleetStatus
from shared.errors import OperatorError

ROLLOUT_SECONDS_MAX = 600.0
SAY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Result:
    """What one size came to: a line of the table, a document of the JSON.

    Attributes:
        agents: All of them.
        full_agents: Those with a process of their own and a camera child that infers.
        core_processes: How many processes hold the rest.
        release_bytes: The files of the release; an agent fetches them all.
        controller_bytes_sent: In the rollout, as the broker counted the controller's messages.
        told_bytes: Of these, the documents for people in `rollout/<id>`: 400 bytes whenever a count
            in them changes, which is a matter of seconds, not of agents.
        bytes_ratio: Of all other bytes to those of the smallest fleet of this run.
        seconds_to_publish: From the start of the controller until its plan reached a subscriber.
        seconds_to_committed: From there until the last camera was reported committed.
        seconds_fixed: The part of it for which the health gate watches, however fast all else is.
        gap_seconds: Between the last frame of the old release and the first of the new one, as a
            subscriber saw it: the median over the full agents; and the longest.
        idle_permille: Of a core, what that agent's parent takes while it has nothing to run.
        busy_permille: The same while its camera streams at the release's frame rate.
        agent, camera: Memory of the first full agent's two processes after the rollout.
        frame: Microseconds from output tensors to the message.
        load_average: Of this machine's last minute, before the run: what else it had to do.
    """

    agents: int
    full_agents: int
    core_processes: int
    release_bytes: int
    controller_bytes_sent: int
    told_bytes: int
    bytes_ratio: float
    seconds_to_publish: float
    seconds_to_committed: float
    seconds_fixed: float
    gap_seconds: float
    gap_seconds_max: float
    idle_permille: float
    busy_permille: float
    agent: Memory
    camera: Memory
    frame: FrameCost
    load_average: float


def measure(size: Size, frame: FrameCost, smallest: Result | None, say: Say) -> Result:
    """Start a fleet of that size, roll out twice, and measure the second time.

    Raises:
        FleetError: Something did not start, or did not go well.
    """
    load_average = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imxfleet-bench-")))
        fleet = stack.enter_context(running(folder, size, say))
        add_releases(fleet.controller, folder / "releases")
        witness = Witness(fleet.broker.url, fleet.controller.fleet.name, size.full)
        stack.callback(witness.stop)
        wait_for_all(fleet, "started", lambda: len(witness.seen.reported), say, START_SECONDS_MAX)
        idle = permille_of_a_core(_first(fleet))
        _roll_out(fleet, witness, BEFORE, say)
        wait_for_all(fleet, "settled", lambda: _settled(witness, size), say, START_SECONDS_MAX)
        begun = monotonic()
        seen = _roll_out(fleet, witness, MEASURED, say)
        result = _result(fleet, seen, frame, smallest, begun=begun)
        return replace(
            result,
            load_average=round(load_average, 1),
            idle_permille=idle,
            busy_permille=permille_of_a_core(_first(fleet)),
        )


def _settled(witness: Witness, size: Size) -> int:
    """Return the number of agents once every full one is seen inferring what was rolled out."""
    swaps = witness.seen.swaps.values()
    inferring = sum(swap.first_new_at is not None for swap in swaps)
    return len(size.cores) + inferring


def _roll_out(fleet: Fleet, witness: Witness, release: str, say: Say) -> Seen:
    controller = fleet.controller
    rollout = controller.start_rollout(release, selector="*", strategy=STRATEGY)
    seen = witness.expect(release, rollout)
    teller = _teller(lambda: f"{release} committed by {len(seen.committed_at)}", say)

    def is_at_rest(status: FleetStatus) -> bool:
        fleet.check()
        teller()
        seen.controller = f"fleetctl-{status.driver.holder}"
        return any(one.rollout == rollout and one.state in AT_REST for one in status.rollouts)

    try:
        status = controller.drive(rollout, until=is_at_rest, timeout_seconds=ROLLOUT_SECONDS_MAX)
    except TimeoutError as error:
        text = f"{len(seen.committed_at)} of {fleet.size.agents} committed {release}: {error}"
        raise OperatorError(text) from error
    assert status is not None
    if not (status.is_healthy and len(seen.committed_at) == fleet.size.agents):
        raise OperatorError(f"{release} is {status.state} ({status.text}): {status.counts}")
    return seen


def _teller(text: Callable[[], str], say: Say) -> Callable[[], None]:
    said_at = monotonic()

    def tell() -> None:
        nonlocal said_at
        if monotonic() - said_at >= SAY_SECONDS:
            said_at = monotonic()
            say(text())

    return tell


def _result(
    fleet: Fleet, seen: Seen, frame: FrameCost, smallest: Result | None, *, begun: float
) -> Result:
    assert seen.plan_at is not None, "nobody commits what nobody published"
    gaps = [swap.seconds for swap in seen.swaps.values() if swap.seconds is not None]
    if len(gaps) < len(fleet.size.full):
        raise OperatorError(f"saw {len(gaps)} swaps of {len(fleet.size.full)}")
    manifest = fleet.controller.show_release(MEASURED)[1]
    sent = fleet.bytes_of(seen.controller)
    pid = _first(fleet)
    return Result(
        agents=fleet.size.agents,
        full_agents=len(fleet.size.full),
        core_processes=len(fleet.size.core_processes),
        release_bytes=sum(file.bytes for file in manifest.files),
        controller_bytes_sent=sent,
        told_bytes=seen.told_bytes,
        bytes_ratio=(sent - seen.told_bytes) / _untold(smallest, sent - seen.told_bytes),
        seconds_to_publish=seen.plan_at - begun,
        seconds_to_committed=max(seen.committed_at.values()) - seen.plan_at,
        seconds_fixed=float(PROBE_SECONDS),
        gap_seconds=median(gaps),
        gap_seconds_max=max(gaps),
        idle_permille=0.0,
        busy_permille=0.0,
        agent=memory_of(pid),
        camera=memory_of(only_child_of(pid)),
        frame=frame,
        load_average=0.0,
    )


def _first(fleet: Fleet) -> int:
    return fleet.processes[fleet.size.full[0]].pid


def _untold(smallest: Result | None, own: int) -> int:
    return own if smallest is None else smallest.controller_bytes_sent - smallest.told_bytes
