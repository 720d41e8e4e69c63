"""What is asked of devices: labels and removal with puppets, requests with real agents."""
# ruff: noqa: F811 - a fixture of another file is a parameter here

import json
import re
from collections.abc import Callable
from time import monotonic, sleep

import pytest

from controller import orders
from controller.cli.exits import Exit
from controller.devices import parse_run
from controller.orders import Wish
from shared.errors import OperatorError
from shared.inbox import Received
from shared.topics import Topics
from tests.integration.conftest import MakeClient
from tests.integration.test_controller import Bed, bed, on_nats  # noqa: F401
from tests.integration.test_controller_agents import Site, site  # noqa: F401
from tests.integration.test_orders import fleetctl

pytestmark = on_nats
OWN_LINES = "\n  ".join(f"cam-{n}: {{labels: {{role: door}}}}  # number {n}" for n in range(1, 5))


def with_own_lines(bed: Bed) -> None:
    path = bed.project / "fleet.yaml"
    path.write_text(path.read_text().replace("cam-[1:4]: {labels: {role: door}}", OWN_LINES))
    bed.controller.close()
    bed.controller = bed.again()


def eventually(is_so: Callable[[], bool]) -> None:
    end = monotonic() + 60.0
    while not is_so():
        assert monotonic() < end, "it never came"
        sleep(0.1)


def runs_of(site: Site, device: str) -> int:
    """Return how often the agent was started, as it reports it."""
    reported = site.controller.show_device(device).reported
    assert reported is not None
    return parse_run(reported.run)[1]


def test_a_label_changes_the_file_the_identity_and_whom_a_plan_takes(bed: Bed) -> None:
    with_own_lines(bed)
    bed.join("cam-1", "cam-2")
    bed.roll_out(1)
    release = bed.release(2)

    versions = orders.label(bed.controller, ["cam-1"], {"role": "gate"})
    bed.controller.drive(
        until=lambda _: not orders.unheard(bed.controller, versions), timeout_seconds=40
    )
    (found,) = orders.plan(bed.controller, [Wish(release, "role=gate", "all")])

    assert versions == {"cam-1": 2}
    assert "cam-1: {labels: {role: gate}}  # number 1" in (bed.project / "fleet.yaml").read_text()
    assert bed.controller.show_device("cam-1").identity_reported == 2
    assert [one.device for one in found.devices] == ["cam-1"]
    with pytest.raises(OperatorError, match="of its own"):
        orders.label(bed.controller, ["cam-2"], {"nothing": None})


def test_the_command_labels_by_selector_and_says_whom_it_did_not_reach(bed: Bed) -> None:
    with_own_lines(bed)
    bed.join("cam-1", "cam-2")
    bed.roll_out(1)
    bed.puppets["cam-2"].stop()

    labelled = fleetctl(
        bed, "device", "label", "-l", "role=door", "view=rear", "--timeout", "8s", "-o", "json"
    )
    listed = fleetctl(bed, "device", "ls", "-l", "view=rear,role!=dock", "-o", "yaml")
    wide = fleetctl(bed, "device", "ls", "-l", "view=rear", "-o", "wide")
    nobody = fleetctl(bed, "device", "label", "-l", "role=dock", "view=rear")

    assert labelled.returncode == Exit.TIMEOUT, labelled.stderr
    assert json.loads(labelled.stdout) == {
        "versions": {"cam-1": 2, "cam-2": 2}, "unheard": ["cam-2"]
    }  # fmt: skip
    assert re.findall(r"^- device: (.+)$", listed.stdout, re.MULTILINE) == ["cam-1", "cam-2"]
    assert "2 of 2" in wide.stdout
    assert "1 of 2" in wide.stdout
    assert nobody.returncode == Exit.ERROR
    assert "matches no device" in nobody.stderr


def test_a_removed_device_leaves_nothing_at_the_broker(bed: Bed, make_client: MakeClient) -> None:
    bed.join("cam-1", "cam-2")
    bed.roll_out(1)
    refused = fleetctl(bed, "device", "rm", "cam-2", "--yes", "--timeout", "20s")
    asked = fleetctl(bed, "device", "rm", "cam-2")
    bed.puppets["cam-2"].stop()
    eventually(lambda: bed.controller.show_device("cam-2").state == "offline")

    removed = fleetctl(bed, "device", "rm", "cam-2", "--yes", "--timeout", "30s")

    assert refused.returncode == asked.returncode == Exit.ERROR
    assert "is online" in refused.stderr
    assert "expected --yes" in asked.stderr
    assert removed.returncode == Exit.OK, removed.stderr
    assert "fleet.yaml still declares it" in removed.stdout
    states = {one.device: one.state for one in bed.controller.list_devices()}
    assert (states["cam-1"], states["cam-2"]) == ("online", "not added")
    client = make_client(bed.broker.url, "look")
    client.bus.subscribe(f"{Topics('testbed').everything}")
    heard: set[str] = set()
    end = monotonic() + 3.0
    while monotonic() < end:
        event = client.inbox.get(0.2)
        if isinstance(event, Received) and event.payload:
            heard.add(event.topic)
    assert any("/cam-1/" in topic for topic in heard)
    assert not any("/cam-2/" in topic for topic in heard)


def test_agents_answer_what_they_are_asked(site: Site) -> None:
    site.drive(site.start(site.release(1)))
    before = runs_of(site, "cam-2")

    identified = orders.ask(site.controller, ["cam-1", "cam-2"], "identify", seconds=30)
    snapshot = orders.ask(site.controller, ["cam-1"], "snapshot", seconds=30)
    nobody = orders.ask(site.controller, ["cam-1"], "restart-camera", seconds=30, camera=3)
    camera = orders.ask(site.controller, ["cam-1"], "restart-camera", seconds=30)
    agent = orders.ask(site.controller, ["cam-2"], "restart-agent", seconds=30)

    assert [one.status for one in identified] == ["ok", "ok"]
    assert (snapshot[0].status, snapshot[0].code) == ("error", "privacy")
    assert (nobody[0].status, nobody[0].code) == ("error", "camera")
    assert (camera[0].status, agent[0].status) == ("ok", "ok")
    site.agents["cam-1"].wait_said("IDENTIFY: this is cam-1")
    eventually(lambda: runs_of(site, "cam-2") == before + 1)
    site.agents["cam-2"].kill()
    silent = orders.ask(site.controller, ["cam-2"], "identify", seconds=2)
    assert silent[0].status == "no answer"
