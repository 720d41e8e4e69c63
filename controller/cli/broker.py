"""``fleetctl broker``: run the embedded MQTT broker, or configure a site's."""

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from controller.cli.exits import Exit
from controller.cli.fleet import opened
from controller.cli.terminal import Format, Terminal, output_option, passphrase_option
from shared.errors import OperatorError

if TYPE_CHECKING:
    from controller.authority import Account
    from controller.broker_config import Kind, Plan
    from controller.broker_site import Written

MQTT_PORT = 1883
KINDS = ("mosquitto", "nats")
NAMES = ("reader", "operator", "homeassistant", "controller")


@click.group()
def broker() -> None:
    """Run the embedded MQTT broker, or configure a site's."""


@broker.command()
@click.option("--server", type=click.Choice(["nats", "mosquitto"]), default="nats",
              show_default=True, help="Which broker to run; it must be installed.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535),
              help="On 127.0.0.1; 0 picks a free one. Default: fleet.yaml's.")  # fmt: skip
@click.option("--websocket-port", type=click.IntRange(0, 65535),
              help="MQTT over WebSocket, too.")  # fmt: skip
@output_option
def run(server: str, port: int | None, websocket_port: int | None, output: Format) -> int:
    """Run a broker on this machine until Ctrl-C.

    It has neither TLS nor passwords, so it listens on 127.0.0.1 only: for development. Its store
    is kept in the fleet's folder.
    """
    from controller.broker import BrokerOptions, run_mosquitto, run_nats  # noqa: PLC0415

    terminal = Terminal(output)
    with opened() as controller:
        folder = controller.folder / "broker" / server
        chosen = port if port is not None else urlsplit(controller.broker_url).port or MQTT_PORT
    start = run_nats if server == "nats" else run_mosquitto
    running = start(folder, chosen, BrokerOptions(websocket_port=websocket_port))
    try:
        _announce(terminal, running.url, running.websocket_url, str(folder))
        code = running.wait()
    except KeyboardInterrupt:
        terminal.say("Stopping the broker; it keeps what it stored.")
        return Exit.OK
    finally:
        if running.is_alive:
            running.stop()
    terminal.error(f"the broker ended by itself with code {code}; its log is in {folder}")
    return Exit.BROKER


@broker.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--host", "hosts", multiple=True,
              help="Name or address of its machine; once a node of a cluster.")  # fmt: skip
@click.option("--nodes", type=click.IntRange(1, 5),
              help="NATS: a cluster of so many; with one --host all of them on it.")  # fmt: skip
@click.option("--to", "folder", type=click.Path(file_okay=False, path_type=Path),
              help="Where to write. Default: ./broker-KIND")  # fmt: skip
@click.option("--installed-at", metavar="DIR",
              help="Where the files will lie on its machine. Default: where they are.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65000), default=8883, show_default=True,
              help="For devices; NATS's accounts, too.")  # fmt: skip
@click.option("--account-port", type=click.IntRange(1, 65000), default=8884, show_default=True,
              help="Mosquitto: for fleetctl and dashboards.")  # fmt: skip
@click.option("--websocket-port", type=click.IntRange(1, 65000), default=8084, show_default=True,
              help="For browsers.")  # fmt: skip
@click.option("--cluster-port", type=click.IntRange(1, 65000), default=6222, show_default=True,
              help="NATS: for the other nodes.")  # fmt: skip
@click.option("--bind", default="0.0.0.0", show_default=True, help="Address to listen on.")  # noqa: S104
@click.option("--user", default="mosquitto", show_default=True, help="Who Mosquitto runs as.")
@click.option("--server-version", default="2.11.0", show_default=True,
              help="NATS: the oldest version that will read it (2.9.10 or later).")  # fmt: skip
@passphrase_option
@output_option
def config(  # noqa: PLR0913 - one parameter an option
    *,
    kind: "Kind",
    hosts: tuple[str, ...],
    nodes: int | None,
    folder: Path | None,
    installed_at: str | None,
    port: int,
    account_port: int,
    websocket_port: int,
    cluster_port: int,
    bind: str,
    user: str,
    server_version: str,
    passphrase_fd: int | None,
    output: Format,
) -> None:
    """Write the configuration of a site's broker: TLS, certificates, who may say what, limits.

    Run it again when fleet.yaml has new devices: NATS keeps a list of them.
    """
    from controller.broker_config import Plan, Ports  # noqa: PLC0415
    from controller.broker_site import write_site  # noqa: PLC0415

    where = (folder or Path(f"broker-{kind}")).absolute()
    plan = Plan(
        fleet="",
        devices=(),
        folder=(installed_at or str(where)).rstrip("/"),
        ports=Ports(port, account_port, websocket_port, cluster_port),
        bind=bind,
        user=user,
        hosts=_nodes(kind, hosts, nodes),
        version=_version(server_version),
    )
    with opened(passphrase_fd) as controller:
        written = write_site(controller, kind, where, plan)
    _tell(Terminal(output), written, plan)


@broker.command()
@click.argument("name", type=click.Choice(NAMES))
@click.option("--to", "path", type=click.Path(dir_okay=False, path_type=Path),
              help="Where to write certificate and key. Default: ./NAME.pem")  # fmt: skip
@click.option("--p12", is_flag=True, help="As PKCS#12, for a browser; asks for no password.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@passphrase_option
@output_option
def account(
    *,
    name: "Account",
    path: Path | None,
    p12: bool,
    force: bool,
    passphrase_fd: int | None,
    output: Format,
) -> None:
    """Issue the certificate of an account, for a dashboard or another program."""
    from controller.authority import pkcs12  # noqa: PLC0415
    from controller.broker_config import BROWSERS  # noqa: PLC0415
    from controller.broker_site import browser_passwords, issue  # noqa: PLC0415
    from shared.files import write_atomically  # noqa: PLC0415

    where = path or Path(f"{name}.{'p12' if p12 else 'pem'}")
    if where.exists() and not force:
        raise OperatorError(f"{where} exists; expected --force, or another --to")
    with opened(passphrase_fd) as controller:
        issued = issue(controller, name)
        password = browser_passwords(controller)[name] if name in BROWSERS else None
    write_atomically(where, pkcs12(issued, name) if p12 else issued.both.encode(), mode=0o600)
    terminal = Terminal(output)
    terminal.say(f"{name}: wrote {where}, a certificate with its key. Keep it to yourself.")
    if password is not None:
        terminal.say(f"In a browser, at Mosquitto: user {name}, password {password}")
    terminal.document({"account": name, "file": str(where), "password": password})


def _nodes(kind: "Kind", hosts: tuple[str, ...], nodes: int | None) -> tuple[str, ...]:
    """Return one host a node."""
    if not hosts:
        raise OperatorError("expected --host, the name by which devices reach the broker")
    wanted = nodes or len(hosts)
    if kind == "mosquitto" and wanted > 1:
        raise OperatorError("Mosquitto has no cluster; expected one --host, or nats")
    if len(hosts) not in {1, wanted}:
        raise OperatorError(f"expected one --host or {wanted}, got {len(hosts)}")
    return hosts * wanted if len(hosts) == 1 else hosts


def _version(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        raise OperatorError(f"expected a version such as 2.11.0, got {text!r}")
    return (int(match[1]), int(match[2]), int(match[3]))


def _tell(terminal: Terminal, written: "Written", plan: "Plan") -> None:
    host, ports = plan.hosts[0], plan.ports
    url = f"mqtts://{host}:{ports.devices}"
    line = f'broker: {{url: "{url}", ca: {written.folder.name}/ca.pem'
    if written.kind == "mosquitto":
        line += f', controller_url: "mqtts://{host}:{ports.accounts}"'
    program = "mosquitto" if written.kind == "mosquitto" else "nats-server"
    terminal.say(f"Wrote {len(written.files)} files to {written.folder}. On the broker's machine:")
    for name in written.starts:
        terminal.say(f"  {program} -c {plan.folder}/{name}")
    terminal.say("In fleet.yaml:")
    terminal.say(f"  {line}}}")
    terminal.document(
        {
            "folder": str(written.folder),
            "files": written.files,
            "starts": written.starts,
            "fleet_yaml": line + "}",
        }
    )


def _announce(terminal: Terminal, url: str, websocket_url: str | None, folder: str) -> None:
    terminal.say(f"Broker on {url}, its store in {folder}. Ctrl-C stops it.")
    if websocket_url:
        terminal.say(f"Over WebSocket: {websocket_url}")
    terminal.document({"url": url, "websocket_url": websocket_url, "folder": folder})
