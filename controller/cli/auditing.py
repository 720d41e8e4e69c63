"""``fleetctl audit``: who ordered what and what came of it, and whether that log is whole."""

from typing import TYPE_CHECKING

import click
import msgspec

from controller.cli.exits import Exit
from controller.cli.fleet import opened
from controller.cli.terminal import Format, Terminal, output_option

if TYPE_CHECKING:
    from controller.audit import Entry

DETAIL_CHARACTERS_MAX = 160


@click.group()
def audit() -> None:
    """Show the audit log, and verify it."""


@audit.command()
@click.option("--about", help="Only of this rollout, release, device (or camera: cam-1/0).")
@click.option("--what", help="Only: order, release, device, keys, plan, verdict, state, outcome.")
@click.option("-n", "--last", type=click.IntRange(1), help="Only the last so many.")
@output_option
def ls(about: str | None, what: str | None, last: int | None, output: Format) -> None:
    """List what happened, oldest first."""
    from controller.audit import entries  # noqa: PLC0415 - --help needs no TUF.

    with opened() as controller:
        found = [
            entry
            for entry in entries(controller.store)
            if (about is None or entry.about.partition("/")[0] == about or entry.about == about)
            and (what is None or entry.what == what)
        ]
    found = found[-last:] if last else found
    Terminal(output).table(
        ("no.", "time (UTC)", "who", "what", "about", "detail"),
        [row(entry) for entry in found],
        documents=found,
        empty="Nothing yet.",
    )


@audit.command()
@click.option("--head", help="The digest that an earlier `verify` printed: it must be in the log.")
@output_option
def verify(head: str | None, output: Format) -> int:
    """Find an entry that was edited, removed or put elsewhere; exit 7 when there is one."""
    from controller import orders  # noqa: PLC0415

    terminal = Terminal(output)
    with opened() as controller:
        found = orders.verify_audit(controller, head)
    for problem in found.problems:
        terminal.error(problem)
    if not found.problems:
        terminal.say(f"{found.entries} entries, each follows the one before it; the controller's")
        terminal.say(f"key vouches for the first {found.sealed}. Newest: {found.head or '-'}")
    terminal.document(found)
    return Exit.UNTRUSTED if found.problems else Exit.OK


def row(entry: "Entry") -> tuple[str, ...]:
    """Return an entry as a row."""
    time = entry.at[:19].replace("T", " ")
    return str(entry.number), time, entry.who, entry.what, entry.about, _detail(entry.detail)


def _detail(detail: dict[str, object]) -> str:
    words = ", ".join(
        f"{key} {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        for key, value in detail.items()
        if value not in (None, "", [], {})
    )
    is_long = len(words) > DETAIL_CHARACTERS_MAX
    return words[: DETAIL_CHARACTERS_MAX - 3] + "..." if is_long else words
