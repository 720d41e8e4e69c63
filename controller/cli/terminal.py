"""What commands print: tables for people, JSON for programs, progress for both.

Results go to standard output; in JSON everything else goes to standard error, so that a pipe sees
documents only. Not a terminal: plain lines, no colours, nothing that moves.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import IO, TYPE_CHECKING, Literal, TypeVar, get_args

import click
import msgspec

from shared.errors import OperatorError, UnsignedError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

Format = Literal["table", "wide", "json", "jsonl", "yaml"]
FORMATS: tuple[str, ...] = get_args(Format)
PLAIN_COLUMNS = 200  # Lines in a file are not folded at 80.
PASSPHRASE_BYTES_MAX = 1_024
SECONDS_WORTH_SAYING = 2.0
_Command = TypeVar("_Command", bound=Callable[..., object])


def output_option(command: _Command) -> _Command:
    """Give a command ``-o``."""
    option = click.option(
        "-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True,
        help="How results are printed.",
    )  # fmt: skip
    return option(command)


def passphrase_option(command: _Command) -> _Command:
    """Give a command ``--passphrase-fd``."""
    option = click.option(
        "--passphrase-fd", type=click.IntRange(min=0), metavar="N",
        help="Read the passphrase from file descriptor N instead of asking.",
    )  # fmt: skip
    return option(command)


class Terminal:
    """Where one command prints to."""

    def __init__(self, output: Format, *, is_terminal: bool | None = None) -> None:
        """Say how results are printed; ``is_terminal`` None: look."""
        from rich.console import Console  # noqa: PLC0415 - rich costs a tenth of a second.

        self.format = output
        self.results = _console(Console, sys.stdout, is_terminal)
        self.notes = _console(Console, sys.stderr, is_terminal)

    @classmethod
    def from_streams(cls) -> "Terminal":
        """Return a terminal for what is said outside of any command."""
        return cls("table")

    @property
    def is_table(self) -> bool:
        """Say whether a person reads the results."""
        return self.format in {"table", "wide"}

    @property
    def is_live(self) -> bool:
        """Say whether a picture may move: a person watches, and wants no JSON."""
        return self.is_table and self.results.is_terminal

    def say(self, text: str = "", *, style: str = "") -> None:
        """Print a sentence for people."""
        where = self.results if self.is_table else self.notes
        where.print(
            text, style=style, markup=False, highlight=False, soft_wrap=not where.is_terminal
        )

    def error(self, text: str) -> None:
        """Print what went wrong."""
        self.notes.print(f"fleetctl: {text}", style="bold red", markup=False, highlight=False,
                         soft_wrap=True)  # fmt: skip

    def show(self, renderable: "RenderableType") -> None:
        """Print a table or picture; nothing in JSON."""
        if self.is_table:
            self.results.print(renderable)

    def document(self, document: object) -> None:
        """Print one document for programs; nothing in a table's place."""
        if not self.is_table:
            self._write(document)

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        documents: Sequence[object],
        empty: str,
        wide: Sequence[str] = (),
        wide_rows: Sequence[Sequence[str]] = (),
    ) -> None:
        """Print rows for people, or their documents for programs; ``wide``: more columns."""
        if self.format in {"json", "yaml"}:
            self._write(list(documents))
        elif self.format == "jsonl":
            for document in documents:
                self._write(document)
        elif not rows:
            self.say(empty)
        elif self.format == "wide" and wide:
            joined = [(*row, *more) for row, more in zip(rows, wide_rows, strict=True)]
            self.show(grid((*columns, *wide), joined))
        else:
            self.show(grid(columns, rows))

    def facts(self, facts: Mapping[str, str], *, document: object) -> None:
        """Print names and values, or their document."""
        if self.is_table:
            self.show(grid((), [(name, value) for name, value in facts.items()]))
        self.document(document)

    @contextmanager
    def step(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show that a long step is under way, and how long it took; the callable adds a word."""
        begun = monotonic()
        if self.is_live:
            with self.results.status(text) as status:
                yield lambda word: status.update(f"{text}: {word}")
        else:
            self.say(f"{text} ...")
            yield _PlainSteps(self, text).say
        seconds = monotonic() - begun
        if seconds >= SECONDS_WORTH_SAYING:
            self.say(f"{text}: done in {seconds:.1f} s")

    @contextmanager
    def live(self) -> Iterator["Live | None"]:
        """Give a picture that moves, or None where it must not."""
        if not self.is_live:
            yield None
            return
        from rich.live import Live  # noqa: PLC0415

        with Live(console=self.results, auto_refresh=False, vertical_overflow="crop") as live:
            yield live

    def _write(self, document: object) -> None:
        if self.format == "yaml":
            sys.stdout.write(_yaml(document))
            sys.stdout.flush()
            return
        data = msgspec.json.encode(document)
        if self.format == "json":
            data = msgspec.json.format(data, indent=2)
        sys.stdout.write(data.decode() + "\n")
        sys.stdout.flush()


def _yaml(document: object) -> str:
    """Return the JSON document as YAML: the same names, values and order."""
    import yaml  # noqa: PLC0415 - only this format needs it.

    plain = msgspec.json.decode(msgspec.json.encode(document))
    return f"---\n{yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)}"


class _PlainSteps:
    """Says each new word of a step once, a line each."""

    def __init__(self, terminal: Terminal, text: str) -> None:
        self._terminal = terminal
        self._text = text
        self._said = ""

    def say(self, word: str) -> None:
        if word != self._said:
            self._said = word
            self._terminal.say(f"{self._text}: {word}")


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "RenderableType":
    """Return rows under headings, without lines, so that they read well in a narrow window."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(
        box=box.SIMPLE_HEAD if columns else None,
        pad_edge=False,
        show_header=bool(columns),
        header_style="bold",
    )
    for column in columns or ("name", "value"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


class PassphraseReader:
    """Asks for a passphrase once, by descriptor or by prompt, and keeps it for this command."""

    def __init__(self, descriptor: int | None, *, is_new: bool = False) -> None:
        """Read from the descriptor where there is one; ``is_new``: ask twice."""
        self._descriptor = descriptor
        self._is_new = is_new
        self._known: str | None = None

    def __call__(self, role: str) -> str:
        """Return the passphrase of a role's key.

        Raises:
            UnsignedError: There is no terminal to ask at, and no descriptor.
            OperatorError: What the descriptor gave is empty or too long.
        """
        if self._known is None:
            self._known = self._ask(role) if self._descriptor is None else self._read()
        return self._known

    def _ask(self, role: str) -> str:
        if not sys.stdin.isatty():
            raise UnsignedError(
                f"expected the passphrase of the {role} key: this is no terminal to ask at; use"
                " --passphrase-fd N, e.g. --passphrase-fd 3 3<file"
            )
        answer = click.prompt(
            f"Passphrase of the {role} key", hide_input=True, err=True,
            confirmation_prompt=self._is_new,
        )  # fmt: skip
        return str(answer)

    def _read(self) -> str:
        assert self._descriptor is not None
        with os.fdopen(self._descriptor, "rb", closefd=False) as file:
            line = file.readline(PASSPHRASE_BYTES_MAX + 1)
        if not line.strip() or len(line) > PASSPHRASE_BYTES_MAX:
            raise OperatorError(
                f"expected a passphrase of 1 to {PASSPHRASE_BYTES_MAX} bytes on descriptor"
                f" {self._descriptor}, got {len(line)} bytes"
            )
        return line.rstrip(b"\r\n").decode(errors="surrogateescape")


def _console(kind: "type[Console]", stream: IO[str], is_terminal: bool | None) -> "Console":  # noqa: FBT001
    looks = stream.isatty() if is_terminal is None else is_terminal
    return kind(
        file=stream, force_terminal=looks, width=None if looks else PLAIN_COLUMNS,
        no_color=None if looks else True,
    )  # fmt: skip
