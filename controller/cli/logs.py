"""``fleetctl logs``: what was ordered, judged and reported, and what comes from now on."""

from collections.abc import Iterator
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

import click

from controller.cli import completing
from controller.cli.auditing import row
from controller.cli.exits import Exit
from controller.cli.fleet import Duration, opened, selector_option
from controller.cli.terminal import Format, Terminal, output_option
from shared.errors import RefusedError
from shared.inbox import Received
from shared.limits import REPORTED_BYTES, STATUS_BYTES
from shared.topics import DeviceTopic

if TYPE_CHECKING:
    from controller.audit import Entry
    from controller.service import Controller

LAST = 20


@click.command()
@click.argument("devices", metavar="[DEVICE]...", nargs=-1, shell_complete=completing.devices)
@selector_option()
@click.option("-n", "--last", type=click.IntRange(0), default=LAST, show_default=True,
              help="So many entries of the audit log first.")  # fmt: skip
@click.option("-f", "--follow", "--watch", "follow", is_flag=True, help="Go on with what comes.")
@click.option("--timeout", type=Duration(), help="End --follow after, e.g., 30m: exit 5.")
@output_option
def logs(
    *,
    devices: tuple[str, ...],
    selector: str | None,
    last: int,
    follow: bool,
    timeout: float | None,
    output: Format,
) -> int:
    """Show what happened to devices, of all or of some; -f: what they report from now on.

    With -o json or jsonl: a document a line.
    """
    from controller import orders  # noqa: PLC0415 - --help needs no TUF.
    from controller.audit import entries  # noqa: PLC0415

    terminal = Terminal("jsonl" if output == "json" else output)
    with opened() as controller:
        wanted = (
            frozenset(orders.devices_of(controller, devices, selector))
            if devices or selector is not None
            else None
        )
        found = [one for one in entries(controller.store) if _is_about(one, wanted)]
        for entry in found[len(found) - min(last, len(found)) :]:
            _show(terminal, entry)
        if not follow:
            return Exit.OK
        return _follow(controller, wanted, terminal, timeout)


def _is_about(entry: "Entry", wanted: frozenset[str] | None) -> bool:
    if wanted is None:
        return entry.what not in {"plan", "driver"}
    return entry.what in {"device", "outcome"} and entry.about.partition("/")[0] in wanted


def _show(terminal: Terminal, entry: "Entry") -> None:
    _, time, who, what, about, detail = row(entry)
    by = f" by {who}" if what in {"order", "device", "release", "keys"} else ""
    if terminal.is_table:
        terminal.say(f"{time} {what} {about}: {detail}{by}")
    terminal.document(entry)


def _follow(
    controller: "Controller",
    wanted: frozenset[str] | None,
    terminal: Terminal,
    timeout_seconds: float | None,
) -> int:
    end = None if timeout_seconds is None else monotonic() + timeout_seconds
    for device, text in _news(controller, wanted, end):
        now = datetime.now(UTC)
        if terminal.is_table:
            terminal.say(f"{now:%Y-%m-%d %H:%M:%S} device {device}: {text}")
        terminal.document({"at": now, "device": device, "text": text})
    return Exit.TIMEOUT


def _news(
    controller: "Controller", wanted: frozenset[str] | None, end: float | None
) -> Iterator[tuple[str, str]]:
    """Yield device and sentence for what is new since the store was written."""
    from controller.asking import Line  # noqa: PLC0415
    from controller.devices import Known, fold  # noqa: PLC0415
    from controller.news import news  # noqa: PLC0415

    devices: dict[str, Known] = controller.store.known(Known)
    with Line(controller.fleet.name, controller.address) as line:
        topics = line.topics
        line.subscribe(
            {topics.any_device("status"): STATUS_BYTES,
             topics.any_device("reported"): REPORTED_BYTES}
        )  # fmt: skip
        while end is None or monotonic() < end:
            event = line.take()
            if not isinstance(event, Received) or not event.payload:
                continue
            try:
                topic = topics.parse(event.topic)
                if not isinstance(topic, DeviceTopic):
                    continue
                before = devices.get(topic.device, Known(topic.device))
                after = fold(before, topic.rest, event.payload, is_retained=event.is_retained)
            except RefusedError:
                continue
            devices[topic.device] = after
            if wanted is None or topic.device in wanted:
                yield from ((topic.device, text) for text in news(before, after))
