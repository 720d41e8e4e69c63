"""Strategies in fleet.yaml: how a rollout goes wave by wave, and what ends it.

All keys are parsed and checked here; ``controller/steering.py`` acts on them, and devices keep the
windows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from yaml.nodes import Node, ScalarNode

from controller.document import (
    PERMILLE_ALL,
    Fields,
    Key,
    Problems,
    Reader,
    Section,
    boolean,
    choice,
    duration,
    entries,
    integer,
    items,
    list_of,
    matching,
    percentage,
)
from controller.gates import reading
from controller.gates.rules import Gates
from controller.rollout import Allowed, Retry, Rules, percent
from shared.assignment import Probe, Window
from shared.limits import HEARTBEAT_SECONDS

WAVES_MAX = 32
DAYS: tuple[str, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DEFAULT_CAUSES: tuple[str, ...] = (
    "camera",
    "interrupted",
)  # Never the release: it would fail again.
CAUSES = ("release", "camera", "transport", "disk", "trust", "interrupted", "unknown")
COUNT_MAX = 100_000
_NONE: tuple[str, ...] = ()
PIN = r"[a-z0-9][a-z0-9-]{0,63}(/[0-9])?"

STRATEGY = Section(
    "a strategy",
    (
        Key("waves", "list", "the steps, each larger than the one before; the last is 100%"),
        Key("max_failed", "count or percentage", "more than so many, of the devices treated so "
            "far, fail the rollout at once", "0"),
        Key("min_healthy", "percentage", "of the wave's devices that are not offline; fewer is "
            "inconclusive", "90%"),
        Key("probe", "mapping", "how a release is proved on the device"),
        Key("deadlines", "mapping", "how long a device may take"),
        Key("gates", "mapping", "conditions on what cameras report of the release; docs/gates.md"),
        Key("retry", "mapping", "which bad ends are tried again by themselves"),
        Key("on_failure", "revert, stop", "what a failed wave does to devices that run the "
            "release", "revert"),
        Key("on_inconclusive", "pause, continue", "what a wave without an answer does", "pause"),
        Key("window", "mapping", "when activations may begin, in the device's time zone"),
    ),
)  # fmt: skip
WAVE = Section(
    "a wave",
    (
        Key("pins", "list", "devices, or cameras as `gate-01/1`, by name"),
        Key("fraction", "percentage", "of all devices that the selector matches, from the first "
            "wave on"),
        Key("ramp", "mapping", "several waves: `from` a fraction, times `factor` each"),
        Key("bake", "duration", "how long the wave must hold once its devices have ended", "0s"),
        Key("approve", "true, false", "once it has passed, wait for `rollout promote`",
            "false"),
    ),
)  # fmt: skip
RAMP = Section(
    "ramp",
    (
        Key("from", "percentage", "the first wave's fraction"),
        Key("factor", "number", "2 to 10: how much larger each next wave is"),
    ),
)
PROBE = Section(
    "probe",
    (
        Key("seconds", "duration", "how long a release must run before it is kept", "60s"),
        Key("valid_rate", "percentage", "of expected frames with a valid output", "90%"),
    ),
)
DEADLINES = Section(
    "deadlines",
    (
        Key("activation", "duration", "from the start of activation to the first valid output",
            "12m"),
        Key("progress", "duration", "for everything before that", "30m"),
    ),
)  # fmt: skip
GATES = reading.GATES
RETRY = Section(
    "retry",
    (
        Key("attempts", "count", "in all, the first one counted", "2"),
        Key("after", "duration", "wait before the next one, once all devices have ended", "0s"),
        Key("causes", "list", ", ".join(CAUSES), ", ".join(DEFAULT_CAUSES)),
    ),
)
WINDOW = Section(
    "window",
    (
        Key("days", "list", ", ".join(DAYS), "every day"),
        Key("from", "time", 'begin, e.g. "22:00"'),
        Key("to", "time", "end; before `from`: on the next day"),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wave:
    """One wave as declared; ``permille`` is of all devices, from the first wave on."""

    permille: int
    pins: tuple[str, ...] = ()
    bake_seconds: int = 0
    is_approved_by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a rollout goes.

    Attributes:
        pin_nodes: Where each pin was written, for errors.
    """

    name: str
    waves: tuple[Wave, ...] = (Wave(100), Wave(PERMILLE_ALL))
    max_failed: Allowed = field(default_factory=lambda: Allowed(count=0))
    min_healthy_permille: int = 900
    probe: Probe = field(default_factory=Probe)
    progress_seconds: int = 1800
    on_failure: Literal["revert", "stop"] = "revert"
    on_inconclusive: Literal["pause", "continue"] = "pause"
    gates: Gates | None = None
    retry: Retry = field(default_factory=Retry)
    window: Window | None = None
    pin_nodes: tuple[tuple[str, Node], ...] = field(default=(), compare=False, repr=False)

    @property
    def pins(self) -> frozenset[str]:
        """Return all that are named."""
        return frozenset(pin for wave in self.waves for pin in wave.pins)

    def rules(
        self, *, heartbeat_seconds: float = HEARTBEAT_SECONDS, silence_seconds_min: float = 600.0
    ) -> Rules:
        """Return what verdicts are judged by."""
        return Rules(
            bake_seconds=tuple(float(wave.bake_seconds) for wave in self.waves),
            max_failed=self.max_failed,
            min_healthy_permille=self.min_healthy_permille,
            activation_seconds=float(self.probe.activation_seconds),
            progress_seconds=float(self.progress_seconds),
            probe_seconds=float(self.probe.seconds),
            silence_seconds_min=silence_seconds_min,
            quiet_seconds=2 * heartbeat_seconds,
            on_failure=self.on_failure,
            on_inconclusive=self.on_inconclusive,
            gates=self.gates,
            approvals=tuple(wave.is_approved_by_hand for wave in self.waves),
            retry=self.retry,
        )


DEFAULT = Strategy("default")  # Where fleet.yaml declares none: a tenth first, then everyone.


def read_strategies(node: Node, problems: Problems) -> Mapping[str, Strategy]:
    """Return the strategies by name."""
    found: dict[str, Strategy] = {}
    for key, value in entries(node, problems):
        name = _name(key, problems)
        strategy = _strategy(str(key.value), value, problems)
        if name is not None:
            found[name] = strategy
    return found


_name = matching(r"[a-z0-9][a-z0-9-]{0,63}", "a name of a-z, 0-9 and '-'")


def _strategy(name: str, node: Node, problems: Problems) -> Strategy:
    fields = Fields(node, problems, STRATEGY)
    waves, pin_nodes = _waves(fields, problems)
    on_failure: Reader[Literal["revert", "stop"]] = choice("revert", "stop")
    on_inconclusive: Reader[Literal["pause", "continue"]] = choice("pause", "continue")
    probe, progress = _probe(fields, problems)
    return Strategy(
        name=name,
        waves=waves,
        max_failed=fields.take("max_failed", allowed, Allowed(count=0)),
        min_healthy_permille=fields.take("min_healthy", percentage, 900),
        probe=probe,
        progress_seconds=progress,
        on_failure=fields.take("on_failure", on_failure, "revert"),
        on_inconclusive=fields.take("on_inconclusive", on_inconclusive, "pause"),
        gates=_gates(fields, problems, probe),
        retry=_retry(fields, problems),
        window=_window(fields, problems),
        pin_nodes=pin_nodes,
    )


def _gates(fields: Fields, problems: Problems, probe: Probe) -> Gates | None:
    if "gates" not in fields:
        return None
    rate = probe.valid_rate_permille
    return reading.read_gates(fields.at("gates"), problems, valid_rate_permille=rate)


def allowed(node: Node, problems: Problems) -> Allowed | None:
    """Read a count, or a percentage."""
    if isinstance(node, ScalarNode) and node.value.endswith("%"):
        permille = percentage(node, problems)
        return None if permille is None else Allowed(permille=permille)
    count = integer(0, COUNT_MAX)(node, problems)
    return None if count is None else Allowed(count=count)


def _probe(fields: Fields, problems: Problems) -> tuple[Probe, int]:
    probe = Fields(fields.at("probe"), problems, PROBE) if "probe" in fields else None
    deadlines = (
        Fields(fields.at("deadlines"), problems, DEADLINES) if "deadlines" in fields else None
    )
    default = Probe()
    return Probe(
        seconds=probe.take("seconds", duration, default.seconds) if probe else default.seconds,
        valid_rate_permille=probe.take("valid_rate", percentage, default.valid_rate_permille)
        if probe
        else default.valid_rate_permille,
        activation_seconds=deadlines.take("activation", duration, default.activation_seconds)
        if deadlines
        else default.activation_seconds,
    ), (deadlines.take("progress", duration, 1800) if deadlines else 1800)


def _waves(
    fields: Fields, problems: Problems
) -> tuple[tuple[Wave, ...], tuple[tuple[str, Node], ...]]:
    """Return the waves, and where pins were written."""
    if "waves" not in fields:
        return DEFAULT.waves, ()
    waves: list[Wave] = []
    pins: list[tuple[str, Node]] = []
    nodes = items(fields.at("waves"), problems)
    for node in nodes[:WAVES_MAX]:
        wave = Fields(node, problems, WAVE)
        new = _wave(wave, waves[-1] if waves else Wave(0), problems, is_last=node is nodes[-1])
        if "pins" in wave:
            pins += [(str(pin.value), pin) for pin in _scalars(wave.at("pins"))]
        _check_growth(node, waves, new, problems)
        waves += new
    _check_end(fields.at("waves"), waves, len(nodes), problems)
    return tuple(waves), tuple(pins)


def _scalars(node: Node) -> tuple[ScalarNode, ...]:
    return tuple(n for n in items(node, Problems("")) if isinstance(n, ScalarNode))


def _wave(fields: Fields, before: Wave, problems: Problems, *, is_last: bool) -> list[Wave]:
    """Return the waves that one item stands for: several, where it is a ramp."""
    if sum(key in fields for key in ("fraction", "ramp")) > 1:
        problems.expected(fields.node, "fraction or ramp, not both")
    if not any(key in fields for key in ("pins", "fraction", "ramp")):
        problems.add(fields.node, "expected pins, fraction or ramp in a wave, got none of them")
    pins = fields.take("pins", list_of(matching(PIN, "a device, or gate-01/1")), _NONE)
    bake = fields.take("bake", duration, 0)
    approve = fields.take("approve", boolean, default=False)
    if "ramp" in fields:
        steps = _ramp(Fields(fields.at("ramp"), problems, RAMP))
        return [Wave(step, pins, bake, approve) for step in steps]
    fraction = fields.take("fraction", percentage, PERMILLE_ALL if is_last else before.permille)
    if is_last and "fraction" not in fields:
        fraction = before.permille
    return [Wave(fraction, pins, bake, approve)]


def _ramp(fields: Fields) -> list[int]:
    step = fields.require("from", percentage, PERMILLE_ALL)
    factor = fields.require("factor", integer(2, 10), 2)
    steps: list[int] = []
    while 0 < step < PERMILLE_ALL:
        steps.append(step)
        step *= factor
    return steps or [PERMILLE_ALL]


def _check_growth(node: Node, waves: list[Wave], new: list[Wave], problems: Problems) -> None:
    known = {pin for wave in waves for pin in wave.pins}
    reached = waves[-1].permille if waves else 0
    is_new_pin = any(pin not in known for wave in new for pin in wave.pins)
    grows = new[0].permille > reached or (is_new_pin and new[0].permille == reached)
    if not grows and not problems.found:
        what = f"more than {percent(reached)}, or new pins: each wave must grow"
        problems.add(node, f"expected {what}, got {percent(new[0].permille)}")


def _check_end(node: Node, waves: list[Wave], count: int, problems: Problems) -> None:
    if count > WAVES_MAX:
        problems.add(node, f"expected at most {WAVES_MAX} waves, got {count}")
    elif not waves or (waves[-1].permille != PERMILLE_ALL and not problems.found):
        got = percent(waves[-1].permille) if waves else "no wave"
        problems.add(node, f"expected a last wave of {{fraction: 100%}}, got {got}")


def _retry(fields: Fields, problems: Problems) -> Retry:
    if "retry" not in fields:
        return Retry()
    own = Fields(fields.at("retry"), problems, RETRY)
    causes = own.take("causes", list_of(choice(*CAUSES)), DEFAULT_CAUSES)
    return Retry(
        attempts=own.take("attempts", integer(1, 10), 2),
        after_seconds=float(own.take("after", duration, 0)),
        causes=frozenset(causes),
    )


def _window(fields: Fields, problems: Problems) -> Window | None:
    if "window" not in fields:
        return None
    own = Fields(fields.at("window"), problems, WINDOW)
    days = own.take("days", list_of(choice(*DAYS)), DAYS)
    time = matching(r"([01][0-9]|2[0-3]):[0-5][0-9]", 'a time, "22:00"')
    begin, end = (own.require(key, time, "00:00") for key in ("from", "to"))
    if begin == end and not problems.found:
        problems.add(own.node, f"expected a window of some length, got from {begin} to {end}")
    if not days and not problems.found:
        problems.add(own.at("days"), "expected at least one day in a window")
    return Window(frozenset(days), _minute(begin), _minute(end))


def _minute(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)
