"""docs/reference/fleetctl.md, written from the commands themselves.

python -m controller.cli.reference > docs/reference/fleetctl.md
"""

import inspect
import sys
from collections.abc import Iterator

import click

from controller.cli.app import NOUNS, fleetctl

_HEAD = """\
# fleetctl: every command

Written by `python -m controller.cli.reference` from the commands; a test holds the two equal.

Commands read `./fleet.yaml`. Every command takes `--help`; results come as a table, or with
`-o wide`, `json`, `jsonl` or `yaml`. Selectors are `k=v` and `k!=v`, joined by commas; `*` is all.

Exit codes: 0 ok; 1 error; 2 usage; 3 aborted by a gate; 4 paused, aborted for any other reason, or
completed but not all healthy; 5 timeout; 6 broker unreachable, refused or not echoing; 7
verification, or an unsigned release; 8 `--detailed-exitcode` with changes; 130 Ctrl-C.
"""


def reference() -> str:
    """Return the page."""
    context = click.Context(fleetctl, info_name="fleetctl")
    parts = [_HEAD]
    for name in NOUNS:
        command = fleetctl.get_command(context, name)
        assert command is not None, name
        parts += _sections(command, f"fleetctl {name}", context)
    return "\n".join(parts)


def _sections(command: click.Command, path: str, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=path.rsplit(maxsplit=1)[-1], parent=parent)
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _sections(command.commands[name], f"{path} {name}", context)
        return
    words = " ".join(command.collect_usage_pieces(context))
    yield f"## {path}\n\n    {path} {words}\n\n{inspect.cleandoc(command.help or '')}\n"
    rows = [row for parameter in command.params if (row := _row(parameter, context))]
    if rows:
        yield "| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n"


def _row(parameter: click.Parameter, context: click.Context) -> str | None:
    record = parameter.get_help_record(context)
    if record is None or not isinstance(parameter, click.Option):
        return None
    names, meaning = (part.replace("|", "\\|") for part in record)
    return f"| `{names}` | {' '.join(meaning.split())} |"


if __name__ == "__main__":
    sys.stdout.write(reference())
