"""A site's broker, started from the files that ``fleetctl broker config`` writes, over TLS."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.service import Controller
from shared.bus import (
    Acknowledged,
    ConnectionFailed,
    Disconnected,
    Received,
    Subscribed,
    SubscriptionRefused,
)
from shared.card import read_card, write_card
from shared.topics import Topics
from tests.integration.conftest import Relay, _is_there
from tests.integration.test_controller import QUICK as SHORT
from tests.puppet import Puppet, make_release
from tests.secure_site import SecureSite

if TYPE_CHECKING:
    from tests.integration.conftest import Client, MakeClient

TOPICS = Topics("site-a")
QUIET_SECONDS = 0.4


@pytest.fixture(params=["nats", "mosquitto"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SecureSite]:
    if not _is_there(request.param):
        pytest.skip("no Mosquitto here")
    made = SecureSite.make(request.param, tmp_path)
    try:
        yield made.start()
    finally:
        made.close()


def joined(
    site: SecureSite, make_client: "MakeClient", name: str, pem: str, *, is_device: bool = True
) -> "Client":
    url = site.url(is_device=is_device)
    client: Client = make_client(url, name, ca=site.ca, certificate=pem)
    client.connected()
    return client


def controller(site: SecureSite, make_client: "MakeClient") -> "Client":
    pem = site.controller.address.certificate
    assert pem is not None
    return joined(site, make_client, "fleetctl", pem, is_device=False)


def put(client: "Client", topic: str, payload: bytes, *, retain: bool = True) -> None:
    client.bus.publish(topic, payload, 1, retain=retain, token=topic)
    client.wait_for(lambda event: event == Acknowledged(topic))


def test_a_device_reads_and_writes_its_own_and_the_controller_everything(
    site: SecureSite, make_client: "MakeClient"
) -> None:
    boss = controller(site, make_client)
    boss.subscribed(TOPICS.everything)
    block = "0" * 64
    put(boss, TOPICS.trust, b"bundle")
    put(boss, TOPICS.block(block), b"x" * 122_880)
    put(boss, TOPICS.device("cam-1", "identity"), b"who")

    cam = joined(site, make_client, "cam-1", site.device("cam-1"))
    for topic in (TOPICS.trust, TOPICS.block(block), TOPICS.device("cam-1", "identity")):
        cam.subscribed(topic)
        assert cam.message(topic=topic).is_retained
    cam.subscribed(TOPICS.device("cam-1", "request/+"))
    put(boss, TOPICS.device("cam-1", "request/identify"), b"blink", retain=False)
    assert cam.message(b"blink")
    for rest in ("status", "reported", "health", "camera/0/detections", "response/identify"):
        put(cam, TOPICS.device("cam-1", rest), b"mine")
        assert boss.message(b"mine", TOPICS.device("cam-1", rest))
    put(cam, "homeassistant/device/site-a-cam-1/config", b"found")


def test_the_last_will_and_the_birth_of_a_device_pass(
    site: SecureSite, make_client: "MakeClient"
) -> None:
    boss, status = controller(site, make_client), TOPICS.device("cam-1", "status")
    boss.subscribed(TOPICS.everything)
    line = Relay(site.ports.devices)
    cam = make_client(
        f"mqtts://127.0.0.1:{line.port}", "cam-1", ca=site.ca, certificate=site.device("cam-1"),
        will=(status, b"offline"),
    )  # fmt: skip
    cam.bus.state(status, b"online")
    boss.message(b"online", status)

    line.close()

    boss.message(b"offline", status)


def test_what_a_device_writes_elsewhere_reaches_nobody(
    site: SecureSite, make_client: "MakeClient"
) -> None:
    boss = controller(site, make_client)
    boss.subscribed(TOPICS.everything)
    boss.subscribed("fleet-blocks/v1/site-a/#")
    forbidden = [
        TOPICS.trust,
        TOPICS.block("0" * 64),
        TOPICS.rollout("r-1"),
        TOPICS.device("cam-1", "identity"),
        TOPICS.device("cam-1", "request/reboot"),
        TOPICS.device("cam-2", "status"),
        TOPICS.device("cam-2", "reported"),
        TOPICS.device("cam-2", "request/reboot"),
        TOPICS.device("cam-2", "camera/0/detections"),
    ]
    pem = site.device("cam-1")
    for topic in forbidden:  # Some brokers hang up on the first of them.
        thief = joined(site, make_client, "cam-1", pem)
        thief.bus.publish(topic, b"forged", 1, retain=True)
        thief.drain(0.1)
        thief.bus.stop()

    honest = joined(site, make_client, "cam-1", pem)
    put(honest, TOPICS.device("cam-1", "status"), b"online")
    boss.message(b"online")
    late = controller(site, make_client)
    late.subscribed(TOPICS.everything)
    late.message(b"online")
    assert not [e for e in (*boss.heard, *late.heard) if getattr(e, "payload", b"") == b"forged"]


def test_what_a_device_may_not_read_never_comes(
    site: SecureSite, make_client: "MakeClient"
) -> None:
    boss = controller(site, make_client)
    others = (TOPICS.device("cam-2", "identity"), TOPICS.device("cam-2", "status"))
    for topic in others:
        put(boss, topic, b"of another")
    put(boss, TOPICS.trust, b"for all")

    thief = joined(site, make_client, "cam-1", site.device("cam-1"))
    for topic in (*others, TOPICS.everything, "#", "fleet/v1/site-a/device/+/status"):
        thief.bus.subscribe(topic)
        thief.wait_for(lambda e: isinstance(e, Subscribed | SubscriptionRefused))
    for topic in others:
        put(boss, topic, b"of another, again")
    thief.subscribed(TOPICS.trust)
    thief.message(b"for all")

    thief.drain(QUIET_SECONDS)
    assert not [e for e in thief.heard if isinstance(e, Received) and b"another" in e.payload]


@pytest.mark.parametrize("whose", ["another authority", "none", "accounts"])
def test_who_has_no_certificate_of_the_right_authority_stays_outside(
    site: SecureSite, make_client: "MakeClient", tmp_path: Path, whose: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    stranger = SecureSite.make(site.kind, other)
    stranger.write()  # A fleet of the same name with keys of its own.
    pem = stranger.device("cam-1") if whose == "another authority" else None
    stranger.close()
    if whose == "accounts":  # A device's certificate at the accounts' door.
        if site.kind == "nats":
            pytest.skip("NATS has one door, and knows names")
        url, pem = site.url(is_device=False), site.device("cam-1")
    else:
        url = site.url(is_device=True)

    client: Client = make_client(url, "cam-1", ca=site.ca, certificate=pem)

    client.wait_for(lambda event: isinstance(event, ConnectionFailed | Disconnected))
    assert "Connected()" not in map(repr, client.heard)


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broker_of_another_authority_is_not_spoken_to(
    site: SecureSite, make_client: "MakeClient", tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = SecureSite.make(site.kind, tmp_path / "other")
    stranger.write()
    stranger.close()
    url, pem = site.url(is_device=True), site.device("cam-1")

    client: Client = make_client(url, "cam-1", ca=stranger.ca, certificate=pem)

    failed = client.wait_for(lambda event: isinstance(event, ConnectionFailed))
    assert "certificate verify failed" in str(failed)


def test_a_rollout_runs_over_tls_with_the_cards_that_were_written(site: SecureSite) -> None:
    controller = Controller.open(site.folder, home=site.folder / "home", timing=SHORT)
    puppets = []
    try:
        for name in ("cam-1", "cam-2", "cam-3", "cam-4"):
            path = site.folder / f"{name}.card.yaml"
            write_card(path, controller.add_device(name))
            puppets.append(Puppet(read_card(path)).start())
        manifest, files = make_release("shapes", 1)
        controller.import_release(manifest, files)
        controller.sign_release("shapes@1", None)
        name = controller.start_rollout("shapes@1", selector="role=door", strategy="canary")
        status = controller.drive(name, timeout_seconds=60)
    finally:
        for puppet in puppets:
            puppet.stop()
        controller.close()

    assert status is not None
    assert (status.state, status.is_healthy) == ("completed", True)
    assert {puppet.runs for puppet in puppets} == {"shapes@1"}
