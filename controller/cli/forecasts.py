"""How a forecast is printed (controller/forecast.py)."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from controller.cli.release import size_words
from controller.cli.terminal import Terminal

if TYPE_CHECKING:
    from controller.forecast import DeviceForecast, Forecast, Span

SECONDS_A_MINUTE, SECONDS_AN_HOUR = 60, 3600


def show_forecasts(terminal: Terminal, found: "tuple[Forecast, ...]") -> None:
    """Print what rollouts would do."""
    if not found:
        terminal.say("Nothing would change: every declared rollout was started.")
    for one in found:
        _say_forecast(terminal, one)
    documents = [{**asdict(one), "risk": one.risk} for one in found]
    if terminal.format == "jsonl":
        for document in documents:
            terminal.document(document)
    else:
        terminal.document(documents)


def _say_forecast(terminal: Terminal, one: "Forecast") -> None:
    if not terminal.is_table:
        return
    terminal.say(f"{one.name}: {one.release} to {one.selector}, strategy {one.strategy}")
    terminal.table(
        ("device", "wave", "state", "runs", "fetches", "sees nothing for", "takes"),
        [_row(device) for device in one.devices],
        documents=(),
        empty="  No device would change.",
    )
    waves = ", ".join(str(count) for count in one.waves)
    terminal.say(f"  {len(one.devices)} would change (by wave: {waves}), {one.unchanged} cameras"
                 f" would go on as they are; {len(one.offline)} cannot be heard now.")  # fmt: skip
    terminal.say(f"  This machine sends {size_words(one.broker_bytes)} once; all online devices"
                 f" are healthy after {span_words(one.seconds)}.")  # fmt: skip
    terminal.say(f"  Risk {one.risk}" + ("" if one.risks else ": nothing found"))
    for risk in one.risks:
        terminal.say(f"    {risk.level}: {risk.text}")


def _row(device: "DeviceForecast") -> tuple[str, ...]:
    runs = ", ".join(
        (f"{number}: " if len(device.runs) > 1 else "") + (release or "nothing")
        for number, release in device.runs.items()
    )
    return (
        device.device,
        str(device.wave + 1),
        device.state,
        runs,
        size_words(device.bytes),
        span_words(device.gap_seconds),
        span_words(device.seconds),
    )


def span_words(span: "Span") -> str:
    """Return a shortest and a longest time: ``2 to 15 s``, ``3 to 20 min``."""
    low, high = span
    for unit, seconds in (("h", SECONDS_AN_HOUR), ("min", SECONDS_A_MINUTE)):
        if high >= 2 * seconds:
            return f"{low / seconds:.1f} to {high / seconds:.1f} {unit}"
    return f"{low:.0f} to {high:.0f} s"
