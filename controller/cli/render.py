"""The rollout's picture: pure functions from its status to what rich prints, and to plain lines.

No clock, no terminal, no store: the same picture is shown live, exported for the README and
compared in tests.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from controller.status import (
    CameraStatus,
    DeviceInRollout,
    FleetStatus,
    RolloutStatus,
    WaveStatus,
)

# Worst first, as the rollout machine orders them; what is not listed is shown in white.
STYLES = {
    "failed": "bold red",
    "rejected": "bold red",
    "silent": "red",
    "camera_fault": "magenta",
    "interrupted": "magenta",
    "in_progress": "cyan",
    "waiting": "yellow",
    "offline": "bright_black",
    "pending": "bright_black",
    "superseded": "bright_black",
    "reverted": "yellow",
    "healthy": "green",
}
STATE_STYLES = {
    "running": "bold cyan",
    "paused": "bold yellow",
    "reverting": "bold yellow",
    "completed": "bold green",
    "aborted": "bold red",
}
VERDICT_STYLES = {
    "pass": "green",
    "fail": "bold red",
    "inconclusive": "yellow",
    "undecided": "yellow",
}
BAR_CELLS = 20
ROWS_MAX = 12  # Devices shown at once; the others are counted.
SECONDS_A_MINUTE = 60
_RANK = {state: rank for rank, state in enumerate(STYLES)}


def picture(
    rollout: RolloutStatus, fleet: FleetStatus | None = None, *, rows_max: int = ROWS_MAX
) -> RenderableType:
    """Return the whole picture of a rollout: heading, waves, devices, and what needs attention."""
    parts: list[RenderableType] = [_heading(rollout), Text(), _waves(rollout), Text()]
    parts += _gates(rollout)
    parts.append(_devices(rollout.devices, rows_max=rows_max))
    parts += _remarks(rollout, fleet)
    title = Text.assemble(" ", (rollout.rollout, "bold"), f" {rollout.release} ")
    return Panel(Group(*parts), title=title, title_align="left", border_style="bright_black")


def lines(before: RolloutStatus | None, after: RolloutStatus) -> tuple[str, ...]:
    """Return what changed, a plain line each: states, verdicts, phases."""
    said: list[str] = []
    if before is None or before.state != after.state:
        said.append(f"{after.rollout} {after.release}: {state_words(after)}")
    said += _wave_lines(before, after)
    known = _phases(before) if before else {}
    said += [
        f"{after.rollout} {where}: {words}"
        for where, words in _phases(after).items()
        if known.get(where) != words
    ]
    return tuple(said)


def state_words(rollout: RolloutStatus) -> str:
    """Return the state of a rollout, with its reason, in words."""
    reason = f" ({rollout.reason})" if rollout.reason else ""
    text = f": {rollout.text}" if rollout.text else ""
    return f"{rollout.state}{reason}{text}"


def wave_name(wave: WaveStatus, index: int) -> str:
    """Return what a wave takes in, e.g. ``2  cam-1`` or ``3  50 %``."""
    who = ", ".join(wave.pins[:3]) + (" ..." if len(wave.pins) > 3 else "")  # noqa: PLR2004
    share = percent(wave.permille) if wave.permille or not who else ""
    return f"{index + 1}  {' + '.join(part for part in (who, share) if part)}"


def counts_words(counts: Mapping[str, int]) -> str:
    """Return devices by state in words, worst first: ``1 failed, 2 healthy``."""
    present = sorted((s for s, n in counts.items() if n), key=lambda s: _RANK.get(s, -1))
    return ", ".join(f"{counts[state]} {plain(state)}" for state in present) or "nobody"


def percent(permille: int) -> str:
    """Return a share in percent."""
    whole, tenth = divmod(permille, 10)
    return f"{whole}.{tenth} %" if tenth else f"{whole} %"


def plain(word: str) -> str:
    """Return a state or phase as people write it."""
    return word.replace("_", " ")


def _heading(rollout: RolloutStatus) -> RenderableType:
    style = STATE_STYLES.get(rollout.state, "bold")
    text = Text.assemble((rollout.state, style))
    if rollout.reason:
        text.append(f" ({rollout.reason})", style)
    text.append(f"  {rollout.selector}, strategy {rollout.strategy}, attempt {rollout.attempt}")
    text.append(f", driven {duration(rollout.driven_seconds)}", "bright_black")
    return text


def _waves(rollout: RolloutStatus) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column("wave", no_wrap=True)
    table.add_column("bar", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("text", overflow="fold")
    for index, wave in enumerate(rollout.waves):
        is_now = index == rollout.wave and not rollout.is_over
        name = Text(("> " if is_now else "  ") + wave_name(wave, index), "bold" if is_now else "")
        table.add_row(name, bar(wave.devices), _verdict(wave), Text(_wave_text(wave)))
    return table


def _gates(rollout: RolloutStatus) -> list[RenderableType]:
    """Return what the gates said of the newest wave on which they were asked."""
    asked = [index for index, wave in enumerate(rollout.waves) if wave.gates]
    if not asked:
        return []
    table = Table.grid(padding=(0, 2))
    table.add_column("gate", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("text", overflow="fold")
    for gate in rollout.waves[asked[-1]].gates:
        table.add_row(
            Text(f"  gate {gate.name}"),
            Text(plain(gate.kind), VERDICT_STYLES.get(gate.kind, "bright_black")),
            Text(gate.text),
        )
    heading = Text(f"  evidence in wave {asked[-1] + 1}", "bright_black")
    return [heading, table, Text()]


def bar(counts: Mapping[str, int], cells: int = BAR_CELLS) -> Text:
    """Return a wave's devices as a bar, healthy first; every state that occurs gets a cell."""
    total = sum(counts.values())
    if not total:
        return Text("·" * cells, "bright_black")
    states = sorted((s for s, n in counts.items() if n), key=lambda s: -_RANK.get(s, -1))
    widths = _shares([counts[state] for state in states], cells)
    text = Text()
    for state, width in zip(states, widths, strict=True):
        filled = state not in {"pending", "offline"}
        text.append(("█" if filled else "░") * width, STYLES.get(state, "white"))
    return text


def _shares(numbers: Sequence[int], cells: int) -> list[int]:
    """Divide the cells in proportion, at least one each; the largest takes what is left over."""
    total = sum(numbers)
    widths = [max(1, number * cells // total) for number in numbers]
    largest = max(range(len(numbers)), key=lambda index: numbers[index])
    widths[largest] += cells - sum(widths)
    return [max(1, width) for width in widths]


def _verdict(wave: WaveStatus) -> Text:
    if wave.verdict is None:
        return Text("", "bright_black")
    return Text(wave.verdict, VERDICT_STYLES.get(wave.verdict, ""))


def _wave_text(wave: WaveStatus) -> str:
    if wave.text is None and wave.verdict is None and not any(wave.devices.values()):
        return "not begun"
    return wave.text or counts_words(wave.devices)


def _devices(devices: Sequence[DeviceInRollout], *, rows_max: int) -> RenderableType:
    ordered = sorted(devices, key=_interest)
    rows = [
        _camera_row(device, camera) for device in ordered[:rows_max] for camera in device.cameras
    ]
    table = Table.grid(padding=(0, 2))
    for column in range(3):  # Names and states in full: only the words at the end may be cut.
        width = max((row[column].cell_len for row in rows), default=0)
        table.add_column(no_wrap=True, min_width=width)
    table.add_column(overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    hidden = Counter(device.state for device in ordered[rows_max:])
    if not hidden:
        return table
    more = f"and {hidden.total()} more: {counts_words(hidden)}"
    return Group(table, Text(more, "bright_black"))


def _interest(device: DeviceInRollout) -> tuple[bool, int, str]:
    """Order devices of earlier waves first, worst first among those that have begun."""
    is_idle = device.state in {"pending", "healthy", "superseded"}
    return is_idle, _RANK.get(device.state, -1) if not is_idle else 0, device.device


def _camera_row(device: DeviceInRollout, camera: CameraStatus) -> tuple[Text, ...]:
    name = device.device if len(device.cameras) == 1 else f"{device.device}/{camera.number}"
    dot = ("● ", "green") if device.is_online else ("○ ", "bright_black")
    return (
        Text.assemble(dot, name),
        Text(plain(camera.state), STYLES.get(camera.state, "white")),
        Text(camera.release or "nothing runs", "" if camera.release else "bright_black"),
        Text(camera_words(camera)),
    )


def camera_words(camera: CameraStatus) -> str:
    """Return the phase of a camera, how far it is, and what it waits for or failed on."""
    words = plain(camera.phase or "nothing reported")
    if camera.progress_total:
        words += " " + progress_words(camera)
    if camera.waiting_for:
        words += f", waits for {plain(camera.waiting_for)}"
    if camera.cause:
        words += f", cause {camera.cause}"
    if camera.error:
        words += f": {camera.error}"
    return words


def progress_words(camera: CameraStatus) -> str:
    """Return progress in its own unit: ``12 of 30 blocks``, ``40 %``, ``2 of 3 s``."""
    done, total = camera.progress_done or 0, camera.progress_total or 0
    match camera.progress_unit:
        case "permille":
            return percent(done)
        case "seconds":
            return f"{done} of {total} s"
        case unit:
            return f"{done} of {total} {unit or ''}".rstrip()


def duration(seconds: float) -> str:
    """Return a duration as fleet.yaml writes it, e.g. ``90 s`` or ``12 min``."""
    if seconds < 2 * SECONDS_A_MINUTE:
        return f"{seconds:.0f} s"
    minutes = seconds / SECONDS_A_MINUTE
    return f"{minutes:.0f} min" if minutes < 2 * SECONDS_A_MINUTE else f"{minutes / 60:.1f} h"


def _remarks(rollout: RolloutStatus, fleet: FleetStatus | None) -> list[RenderableType]:
    remarks: list[tuple[str, str]] = []
    if rollout.text:
        remarks.append((rollout.text, STATE_STYLES.get(rollout.state, "")))
    if rollout.not_driven_since is not None and not rollout.is_over:
        since = rollout.not_driven_since.strftime("%Y-%m-%d %H:%M:%S UTC")
        remarks.append((f"not driven since {since}: fleetctl rollout watch goes on", "yellow"))
    if fleet is not None:
        remarks += _fleet_remarks(fleet)
    return [Text(), *(Text(text, style) for text, style in remarks)] if remarks else []


def _fleet_remarks(fleet: FleetStatus) -> list[tuple[str, str]]:
    remarks = [(alert, "bold red") for alert in fleet.alerts]
    if fleet.frozen:
        remarks.append((fleet.frozen, "bold yellow"))
    if not fleet.is_broker_connected:
        remarks.append(("no connection to the broker; deadlines stand still", "yellow"))
    elif not fleet.is_plan_echoed:
        remarks.append((fleet.note or "waiting for the broker to hand the plan back", "yellow"))
    return remarks


def _wave_lines(before: RolloutStatus | None, after: RolloutStatus) -> list[str]:
    said: list[str] = []
    for index, wave in enumerate(after.waves):
        earlier = before.waves[index] if before and index < len(before.waves) else None
        is_new = earlier is None or earlier.verdict != wave.verdict
        where = f"{after.rollout} wave {index + 1} of {len(after.waves)}"
        known = earlier.gates if earlier else ()
        said += [
            f"{where}, gate {gate.name}: {plain(gate.kind)}, {gate.text}"
            for gate in wave.gates
            if gate not in known
        ]
        if wave.verdict is not None and is_new:
            said.append(f"{where}: {wave.verdict}, {_wave_text(wave)}")
    return said


def _phases(rollout: RolloutStatus) -> dict[str, str]:
    """Return each camera that has begun, with its phase and error but not its progress."""
    return {
        f"{device.device}/{camera.number}": _phase_words(device, camera)
        for device in rollout.devices
        for camera in device.cameras
        if camera.phase is not None
    }


def _phase_words(device: DeviceInRollout, camera: CameraStatus) -> str:
    words = plain(camera.phase or "")
    details = [
        f"waits for {plain(camera.waiting_for)}" if camera.waiting_for else "",
        f"cause {camera.cause}" if camera.cause else "",
        camera.error or "",
        "" if device.is_online else "offline",
    ]
    return ", ".join([words, *(detail for detail in details if detail)])
