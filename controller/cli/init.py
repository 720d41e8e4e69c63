"""``fleetctl init``: keys and store for the fleet that ./fleet.yaml declares."""

from pathlib import Path

import click

from controller.cli.terminal import (
    Format,
    PassphraseReader,
    Terminal,
    output_option,
    passphrase_option,
)

EXAMPLE = """\
version: 1
fleet: my-fleet
broker: {embedded: true} # `fleetctl broker run`; a site writes {url: "mqtt://broker.lan:1883"}

defaults: {camera: simulated} # on a Raspberry Pi: auto

devices:
  cam-1: {labels: {role: door}}

strategies:
  careful:
    waves:
      - {pins: [cam-1], bake: 1m}
      - {fraction: 100%}
    max_failed: 0
"""


@click.command()
@passphrase_option
@output_option
def init(passphrase_fd: int | None, output: Format) -> None:
    """Make keys and store for the fleet of ./fleet.yaml.

    Writes an example fleet.yaml where there is none, and stops there. Keys are encrypted with the
    passphrase that this command asks for, and kept outside the project; there is no other copy.
    """
    from controller.service import Controller  # noqa: PLC0415

    terminal = Terminal(output)
    path = Path("fleet.yaml")
    if not path.exists():
        path.write_text(EXAMPLE, encoding="utf-8")
        terminal.say("Wrote an example fleet.yaml. Name your fleet and devices in it, then run")
        terminal.say("`fleetctl init` again.")
        terminal.document({"written": str(path), "fleet": None})
        return
    passphrase = PassphraseReader(passphrase_fd, is_new=True)("new")
    with terminal.step("Making keys"):
        controller = Controller.init_fleet(Path.cwd(), passphrase=passphrase)
    try:
        name, folder = controller.fleet.name, controller.folder
    finally:
        controller.close()
    terminal.say(f"Fleet {name} has keys and a store in {folder}.")
    terminal.say("Back up that folder: without its root keys no device can be moved to new keys.")
    terminal.say("Next: fleetctl broker run, then fleetctl device add DEVICE")
    terminal.document({"fleet": name, "folder": str(folder)})
