"""``fleetctl broker run``: the embedded MQTT broker, in the foreground."""

from urllib.parse import urlsplit

import click

from controller.cli.exits import Exit
from controller.cli.fleet import opened
from controller.cli.terminal import Format, Terminal, output_option

MQTT_PORT = 1883


@click.group()
def broker() -> None:
    """Run the embedded MQTT broker."""


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


def _announce(terminal: Terminal, url: str, websocket_url: str | None, folder: str) -> None:
    terminal.say(f"Broker on {url}, its store in {folder}. Ctrl-C stops it.")
    if websocket_url:
        terminal.say(f"Over WebSocket: {websocket_url}")
    terminal.document({"url": url, "websocket_url": websocket_url, "folder": folder})
