"""Brokers that we start: they answer when we return, and end when we do, however we end."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.broker import (
    NATS_VERSION_MIN,
    BrokerOptions,
    RunningBroker,
    find_nats,
    nats_version,
    run_nats,
)
from shared.errors import BrokerUnreachableError

if TYPE_CHECKING:
    from tests.integration.conftest import BrokerHouse, MakeClient

DEADLINE_SECONDS = 20.0
PARENT = """
import signal, sys, time
from pathlib import Path
from controller.broker import run_mosquitto, run_nats
run = {"nats": run_nats, "mosquitto": run_mosquitto}[sys.argv[1]]
signal.signal(signal.SIGINT, signal.default_int_handler)  # A job in the background ignores it.
print(run(Path(sys.argv[2])).pid, flush=True)
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_broker_does_not_outlive_its_parent(
    house: "BrokerHouse", tmp_path: Path, ending: signal.Signals
) -> None:
    command = [sys.executable, "-c", PARENT, house.kind, str(tmp_path / "other")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)

        os.kill(parent.pid, ending)
        parent.wait(DEADLINE_SECONDS)

    deadline = time.monotonic() + DEADLINE_SECONDS
    while is_running(pid):
        assert time.monotonic() < deadline, "the broker outlived its parent"
        time.sleep(0.02)


def test_a_stopped_broker_starts_again_on_its_port_with_what_it_kept(
    house: "BrokerHouse", make_client: "MakeClient"
) -> None:
    broker = house.start()
    client = make_client(broker.url)
    client.connected()
    client.bus.publish("a/b", b"kept", 1, retain=True, token="sent")
    client.wait_for(lambda event: type(event).__name__ == "Acknowledged")
    client.bus.stop()

    broker.stop()
    assert not broker.is_alive
    again = house.start_again(broker)

    late = make_client(again.url, "late")
    late.bus.subscribe("a/b")
    assert again.port == broker.port
    assert late.message().payload == b"kept"


def test_a_broker_listens_on_loopback_only(broker: RunningBroker) -> None:
    if not Path("/proc/net/tcp").exists():
        pytest.skip("needs /proc")
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    addresses = {fields[1].split(":")[0] for fields in lines if fields[3] == "0A"
                 and int(fields[1].split(":")[1], 16) == broker.port}  # fmt: skip

    assert addresses == {"0100007F"}


def test_a_websocket_is_offered_where_it_is_asked_for(house: "BrokerHouse") -> None:
    broker = house.start(BrokerOptions(websocket_port=0))

    assert broker.websocket_url is not None
    assert re.fullmatch(r"ws://127\.0\.0\.1:\d+/(mqtt)?", broker.websocket_url)


def test_a_taken_port_is_an_error_that_says_why(house: "BrokerHouse") -> None:
    broker = house.start()

    with pytest.raises(BrokerUnreachableError, match="did not start"):
        type(house)(house.kind, house.folder.with_name("second")).start(port=broker.port)


def test_a_configuration_that_the_broker_refuses_is_shown(house: "BrokerHouse") -> None:
    with pytest.raises(BrokerUnreachableError, match="nonsense"):
        house.start(BrokerOptions(extra="nonsense { here: 1 }"))


def test_a_folder_with_spaces_and_quotes_is_no_obstacle(tmp_path: Path) -> None:
    broker = run_nats(tmp_path / 'my "fleet" here')
    try:
        assert (tmp_path / 'my "fleet" here' / "store").is_dir()
    finally:
        broker.stop()


def test_the_nats_server_that_is_found_is_new_enough() -> None:
    version = nats_version(find_nats())

    assert version is not None
    assert version >= NATS_VERSION_MIN


def test_what_is_no_nats_server_has_no_version(tmp_path: Path) -> None:
    other = tmp_path / "nats-server"
    other.write_text("#!/bin/sh\necho hello\n")
    other.chmod(0o755)

    assert nats_version(other) is None
    assert nats_version(tmp_path / "none") is None
