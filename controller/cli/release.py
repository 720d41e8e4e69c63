"""``fleetctl release``: what the store holds, what is signed, and whether it is what was signed."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from controller.cli import completing
from controller.cli.accuracy import print_receipt, receipt_document
from controller.cli.ends import add_ends
from controller.cli.fleet import opened, passphrase_for
from controller.cli.terminal import Format, Terminal, output_option, passphrase_option
from controller.cli.watchable import Watching, watch_options

if TYPE_CHECKING:
    from controller.differences import Described, Difference, Value
    from controller.service import Controller
    from controller.status import ReleaseStatus
    from shared.release import Manifest

KIB = 1024


@click.group()
def release() -> None:
    """List, show, sign and verify releases; carry, revoke and prune them."""


@release.command()
@watch_options
@output_option
def ls(output: Format, watching: Watching) -> int:
    """List the releases in the store."""

    def show() -> None:
        with opened() as controller:
            releases = controller.list_releases()
        rows = [
            (item.release, item.task, item.state, size_words(item.bytes), str(item.running_on),
             f"{item.imported_at:%Y-%m-%d %H:%M}")
            for item in releases
        ]  # fmt: skip
        Terminal(output).table(
            ("release", "task", "signature", "size", "cameras", "imported (UTC)"), rows,
            documents=releases, empty="No release yet. Next: fleetctl model build",
            wide=("files", "manifest"),
            wide_rows=[(str(item.files), item.manifest_sha256) for item in releases],
        )  # fmt: skip

    return watching.repeat(show)


@release.command()
@click.argument("name_version", metavar="NAME@VERSION", shell_complete=completing.releases)
@output_option
def show(name_version: str, output: Format) -> None:
    """Show a release, its files, its measured accuracy and where it comes from."""
    with opened() as controller:
        status, manifest = controller.show_release(name_version)
        found = _described(controller, name_version)
    receipt = found.receipt and receipt_document(found.receipt, found.labels)
    terminal = Terminal(output)
    terminal.facts(
        _facts(status, manifest),
        document={"release": status, "manifest": manifest, "receipt": receipt},
    )
    if terminal.is_table:
        rows = [(f.role, f.name, size_words(f.bytes), f.sha256[:12]) for f in manifest.files]
        terminal.table(("role", "file", "size", "sha256"), rows, documents=(), empty="")
        if found.receipt is not None:
            print_receipt(terminal, found.receipt, found.labels)


@release.command()
@click.argument("one", metavar="NAME@VERSION", shell_complete=completing.releases)
@click.argument("other", metavar="NAME@VERSION", shell_complete=completing.releases)
@output_option
def diff(one: str, other: str, output: Format) -> None:
    """Show what differs between two releases: accuracy, sizes, memory, labels, origin."""
    from controller.differences import differences  # noqa: PLC0415 - for --help

    with opened() as controller:
        first, second = _described(controller, one), _described(controller, other)
    found = differences(first, second)
    Terminal(output).table(
        ("", "what", one, other, "change"),
        [
            (it.about, it.name, value_words(it.one), value_words(it.other), _change(it))
            for it in found
        ],
        documents=[{**asdict(it), "change": it.change} for it in found],
        empty=f"{one} and {other} have the same accuracy, sizes, labels and origin.",
    )  # fmt: skip


@release.command()
@click.argument("name_version", metavar="NAME@VERSION", shell_complete=completing.releases)
@passphrase_option
@output_option
def sign(name_version: str, passphrase_fd: int | None, output: Format) -> None:
    """Sign a release with the release key, so that devices may run it."""
    terminal = Terminal(output)
    with opened(passphrase_fd) as controller:
        passphrase = passphrase_for(controller, "release", passphrase_fd)
        with terminal.step(f"Signing {name_version}"):
            status = controller.sign_release(name_version, passphrase)
    terminal.say(f"{status.release} is signed. Next: fleetctl rollout start {status.release}")
    terminal.document(status)


@release.command()
@click.argument("name_version", metavar="NAME@VERSION", shell_complete=completing.releases)
@output_option
def verify(name_version: str, output: Format) -> None:
    """Hash every byte of a release and check its signature; exit 7 when something is wrong."""
    terminal = Terminal(output)
    with opened() as controller, terminal.step(f"Verifying {name_version}"):
        status = controller.verify_release(name_version)
    terminal.say(f"{status.release}: {status.files} files, {size_words(status.bytes)},")
    terminal.say(f"signed, every byte as signed (manifest {status.manifest_sha256[:12]}).")
    terminal.document(status)


add_ends(release)


def _described(controller: "Controller", name_version: str) -> "Described":
    from controller.differences import Described  # noqa: PLC0415 - for --help
    from controller.export.receipt import read_receipt  # noqa: PLC0415
    from shared.decode.labels import read_labels  # noqa: PLC0415

    _, manifest = controller.show_release(name_version)
    labels = controller.read_release(name_version, "labels")
    receipt = controller.read_release(name_version, "receipt")
    return Described(
        manifest=manifest,
        labels=() if labels is None else read_labels(labels),
        receipt=None if receipt is None else read_receipt(receipt),
    )


def value_words(value: "Value") -> str:
    """Return one side of a difference as people read it."""
    if value is None:
        return "-"
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else value
    )


def _change(difference: "Difference") -> str:
    change = difference.change
    return "" if change is None else f"{change:+,}"


def size_words(size_bytes: int) -> str:
    """Return bytes as people read them."""
    if size_bytes < KIB:
        return f"{size_bytes} B"
    if size_bytes < KIB * KIB:
        return f"{size_bytes / KIB:.1f} KiB"
    return f"{size_bytes / KIB / KIB:.1f} MiB"


def _facts(status: "ReleaseStatus", manifest: "Manifest") -> dict[str, str]:
    size = manifest.input
    facts = {
        "release": status.release,
        "task": f"{manifest.task}, {manifest.labels} labels",
        "input": f"{size.width} x {size.height} {size.color}, {manifest.frame_rate} frames/s",
        "network": manifest.network_name,
        "sensor memory": size_words(manifest.memory_bytes) if manifest.memory_bytes else "unknown",
        "size": f"{status.files} files, {size_words(status.bytes)}",
        "signature": status.state,
        "manifest": status.manifest_sha256,
        "runs on": f"{status.running_on} cameras",
    }
    return facts | {f"from {key}": value for key, value in manifest.provenance.items()}
