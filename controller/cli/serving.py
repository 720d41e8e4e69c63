"""``fleetctl serve``: drive all rollouts until stopped, as a service."""

import getpass
import logging
import shutil
import sys
from pathlib import Path

import click

from controller.cli.exits import Exit
from controller.cli.fleet import opened
from controller.cli.terminal import Format, Terminal, output_option, passphrase_option

UNIT = """\
# Written by `fleetctl serve --unit`. The controller key's passphrase lies in
# /etc/imxfleet/{fleet}.passphrase, which only root may read.
[Unit]
Description=imxfleet: rollouts of fleet {fleet}
Wants=network-online.target
After=network-online.target

[Service]
User={user}
WorkingDirectory={project}
LoadCredential=passphrase:/etc/imxfleet/{fleet}.passphrase
ExecStart=/bin/sh -c 'exec "{fleetctl}" serve --passphrase-fd 3 3<"$CREDENTIALS_DIRECTORY/passphrase"'
Restart=always
RestartSec=5
# Another controller signs with our keys: somebody has to decide (`fleetctl adopt`).
RestartPreventExitStatus=1
KillSignal=SIGTERM
TimeoutStopSec=30
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={folder}
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=multi-user.target
"""  # noqa: E501 - one line of the unit


@click.command()
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=9464, show_default=True,
              help="/metrics and /health on 127.0.0.1; 0 picks a free one.")  # fmt: skip
@click.option("--unit", is_flag=True, help="Print a systemd unit for this fleet, and end.")
@passphrase_option
@output_option
def serve(metrics_port: int, *, unit: bool, passphrase_fd: int | None, output: Format) -> int:
    """Drive all rollouts of this fleet until stopped: /metrics, /health, one driver at a time.

    Other commands then only write down what they want, and this one acts. Where another process
    drives already, it waits for its turn. A changed fleet.yaml is taken over.
    """
    from controller.serving import Service, listening  # noqa: PLC0415 - --help needs no TUF.

    terminal = Terminal(output)
    with opened(passphrase_fd) as controller:
        if unit:
            click.echo(_unit(controller.fleet.name, controller.folder), nl=False)
            return Exit.OK
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s", force=True
        )
        controller.signer("controller")  # Asks for the passphrase now, not at the first plan.
        service = Service(controller, Path.cwd())
        with listening(service, metrics_port) as port:
            url = f"http://127.0.0.1:{port}"
            terminal.say(f"Driving {controller.fleet.name}. {url}/metrics, {url}/health.")
            terminal.document({"fleet": controller.fleet.name, "metrics": f"{url}/metrics"})
            try:
                service.run()
            except KeyboardInterrupt:
                terminal.say("Stopped. Devices go on with what they have.")
    return Exit.OK


def _unit(fleet: str, folder: Path) -> str:
    program = shutil.which("fleetctl") or str(Path(sys.argv[0]).absolute())
    return UNIT.format(
        fleet=fleet, user=getpass.getuser(), project=Path.cwd(), fleetctl=program, folder=folder
    )
