"""A site's broker configuration, as text: who may come in, who may say what, how much. Pure.

Mosquitto tells devices from accounts by their listener, each with an authority of its own:

    devices   TLS, the devices' authority; the certificate's name is user AND client id
    accounts  TLS, the site's authority; fleetctl and dashboards, several connections a name
    browsers  TLS and WebSocket; name and password, because few browsers bring a certificate

NATS has one listener for all and looks each certificate's name up in a list, so devices that come
later need `fleetctl broker config nats` again and a reload; its WebSocket takes certificates only.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from controller.authority import ACCOUNTS, Account, account_name
from shared.topics import Topics

Kind = Literal["mosquitto", "nats"]
PAYLOAD_BYTES_MAX = 1_000_000  # A bundle is a quarter of it, a block an eighth.
QUEUED_MESSAGES_MIN = 100_000  # Mosquitto's own 1,000 lost a third of a fleet's messages.
QUEUED_A_DEVICE = 4
CONSUMERS_MAX = 100_000  # NATS's own 1,000 are two or three hundred QoS 1 subscribers.
HANDSHAKE_SECONDS = 30  # A whole fleet comes back at once after a power cut.
NATS_FULL_VERSION = (2, 11, 0)  # Knows a lowest version of TLS, and how many consumers may be.
NATS_CLUSTER_PORT = 6222
NODES_MAX = 5  # NATS keeps a message on at most five.
BROWSERS: tuple[Account, ...] = ("reader", "operator")


@dataclass(frozen=True, slots=True)
class Access:
    """What one name may do, in MQTT's filters."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a broker listens."""

    devices: int = 8883
    accounts: int = 8884  # Mosquitto's only.
    browsers: int = 8084
    cluster: int = NATS_CLUSTER_PORT  # NATS's only.


@dataclass(frozen=True, slots=True)
class Plan:
    """What a configuration is to say.

    Attributes:
        fleet: Whose topics these are.
        devices: Who is declared.
        folder: Where the files will lie on the broker's machine.
        bind: The address to listen on.
        user: Who Mosquitto becomes when root starts it.
        passwords: What Mosquitto's file holds of each browser account: the hashed password.
        hosts: NATS: one a node; more than one are a cluster.
        version: NATS: the server that will read it.
    """

    fleet: str
    devices: tuple[str, ...]
    folder: str
    ports: Ports = Ports()
    bind: str = "0.0.0.0"  # noqa: S104 - behind TLS and certificates
    user: str = "mosquitto"
    passwords: Mapping[Account, str] = field(default_factory=dict["Account", str])
    hosts: tuple[str, ...] = ()
    version: tuple[int, int, int] = NATS_FULL_VERSION


def device_access(fleet: str, device: str) -> Access:
    """Return what a device may do; ``device`` may be Mosquitto's ``%u``.

    Not its own ``identity``: a stolen key could erase it, or replay an old one.
    """
    root = f"fleet/v1/{fleet}"
    own = f"{root}/device/{device}"
    return Access(
        reads=(
            f"{root}/trust",
            f"fleet-blocks/v1/{fleet}/+",
            f"{own}/identity",
            f"{own}/request/+",
            "homeassistant/status",
        ),
        writes=(
            f"{own}/status",
            f"{own}/reported",
            f"{own}/health",
            f"{own}/camera/#",
            f"{own}/response/#",
            f"homeassistant/device/{fleet}-{device}/config",
        ),
    )


def account_access(fleet: str, account: Account) -> Access:
    """Return what an account may do."""
    root = f"fleet/v1/{fleet}"
    everything = (f"{root}/#",)
    requests = (f"{root}/device/+/request/#", f"{root}/device/+/install")
    match account:
        case "controller":
            both = (*everything, f"fleet-blocks/v1/{fleet}/#")
            return Access(both, (*both, "homeassistant/device/+/config"))  # `device rm` clears it.
        case "reader":
            return Access(everything, ())
        case "operator":
            return Access(everything, requests)
        case "homeassistant":
            return Access((*everything, "homeassistant/#"), (*requests, "homeassistant/#"))


def mosquitto_files(plan: Plan) -> dict[str, str]:
    """Return Mosquitto's files by their names, but for certificates and keys."""
    Topics(plan.fleet)  # Raises where the name could say something else in a filter.
    accounts = {account_name(name): account_access(plan.fleet, name) for name in ACCOUNTS}
    browsers = {str(name): account_access(plan.fleet, name) for name in BROWSERS}
    return {
        "mosquitto.conf": _lines(_mosquitto(plan)),
        "devices.acl": _lines(_pattern_acl(device_access(plan.fleet, "%u"))),
        "accounts.acl": _lines(_user_acl(accounts)),
        "browsers.acl": _lines(_user_acl(browsers)),
        "browsers.passwords": _lines(f"{name}:{text}" for name, text in plan.passwords.items()),
    }


def nats_files(plan: Plan) -> dict[str, str]:
    """Return NATS's files by their names, but for certificates and keys."""
    Topics(plan.fleet)
    nodes = len(plan.hosts)
    if nodes <= 1:
        return {"nats.conf": _lines(_nats(plan, 0)), "users.conf": _lines(_nats_users(plan))}
    files = {f"nats-{n + 1}.conf": _lines(_nats(plan, n)) for n in range(nodes)}
    return {**files, "users.conf": _lines(_nats_users(plan))}


def ports_of(plan: Plan, node: int) -> Ports:
    """Return where a node listens: nodes of one machine need ports of their own."""
    step = plan.hosts[:node].count(plan.hosts[node]) if plan.hosts else 0
    p = plan.ports
    return Ports(p.devices + step, p.accounts + step, p.browsers + step, p.cluster + step)


def _mosquitto(plan: Plan) -> Iterable[str]:
    queued = max(QUEUED_MESSAGES_MIN, QUEUED_A_DEVICE * len(plan.devices))
    yield f"# Mosquitto for fleet {plan.fleet}, written by `fleetctl broker config mosquitto`."
    yield "per_listener_settings true"
    yield f"user {plan.user}"
    yield "persistence true"
    yield f"persistence_location {plan.folder}/store/"
    yield "# Its own 30 minutes lost every acknowledged message on kill -9."
    yield "autosave_on_changes true"
    yield "autosave_interval 1"
    yield f"max_queued_messages {queued}"
    yield "max_inflight_messages 20"
    yield f"message_size_limit {PAYLOAD_BYTES_MAX}"
    yield "set_tcp_nodelay true"
    yield "log_dest stderr"
    yield from (f"log_type {kind}" for kind in ("error", "warning", "notice"))
    yield "connection_messages false"
    yield from _mosquitto_listeners(plan)


def _mosquitto_listeners(plan: Plan) -> Iterable[str]:
    at, ports, bind = plan.folder, plan.ports, plan.bind
    yield "\n# Devices: the certificate's name is user and client id."
    yield from _listener(plan, f"{ports.devices} {bind}", "devices-ca.pem", "devices.acl")
    yield "# Else one device kicks another off by its client id."
    yield "use_username_as_clientid true"
    yield "\n# Accounts: fleetctl and dashboards. No device's certificate gets in here."
    yield from _listener(plan, f"{ports.accounts} {bind}", "ca.pem", "accounts.acl")
    yield "\n# Browsers: MQTT over WebSocket, name and password."
    yield f"listener {ports.browsers} {bind}"
    yield "protocol websockets"
    yield f"certfile {at}/server.pem"
    yield f"keyfile {at}/server.key"
    yield "tls_version tlsv1.2"
    yield "allow_anonymous false"
    yield f"password_file {at}/browsers.passwords"
    yield f"acl_file {at}/browsers.acl"


def _listener(plan: Plan, where: str, authority: str, acl: str) -> Iterable[str]:
    at = plan.folder
    yield f"listener {where}"
    yield f"cafile {at}/{authority}"
    yield f"certfile {at}/server.pem"
    yield f"keyfile {at}/server.key"
    yield "tls_version tlsv1.3"
    yield "require_certificate true"
    yield "use_identity_as_username true"
    yield "allow_anonymous false"
    yield f"acl_file {at}/{acl}"


def _pattern_acl(access: Access) -> Iterable[str]:
    yield "# %u is the name in the device's certificate. What is not here is denied."
    yield from (f"pattern read {topic}" for topic in access.reads)
    yield from (f"pattern write {topic}" for topic in access.writes)


def _user_acl(accesses: Mapping[str, Access]) -> Iterable[str]:
    for name, access in accesses.items():
        yield f"user {name}"
        yield from (f"topic read {topic}" for topic in access.reads)
        yield from (f"topic write {topic}" for topic in access.writes)
        yield ""


def _nats(plan: Plan, node: int) -> Iterable[str]:
    ports, is_full = ports_of(plan, node), plan.version >= NATS_FULL_VERSION
    nodes = len(plan.hosts)
    name = f"{plan.fleet}-{node + 1}" if nodes > 1 else plan.fleet
    limits = f", limits {{ default_max_consumers: {CONSUMERS_MAX} }}" if is_full else ""
    yield f"# NATS for fleet {plan.fleet}, written by `fleetctl broker config nats`."
    yield f"server_name: {json.dumps(name)}"
    yield "# Its own protocol: nobody here speaks it, and users.conf lets nobody in."
    yield 'listen: "127.0.0.1:-1"'
    yield f"max_payload: {PAYLOAD_BYTES_MAX}"
    yield 'write_deadline: "60s"  # A slow device must not be cut off in the middle of its blocks.'
    yield f"jetstream {{ store_dir: {_quoted(plan, _store(plan, node))}{limits} }}"
    yield 'include "users.conf"'
    replicas = f"\n  stream_replicas: {min(nodes, 3)}" if nodes > 1 else ""
    yield f"mqtt {{\n  listen: {json.dumps(f'{plan.bind}:{ports.devices}')}{replicas}"
    yield f"  {_nats_tls(plan, maps=True)}\n}}"
    yield "websocket {"
    yield f"  listen: {json.dumps(f'{plan.bind}:{ports.browsers}')}"
    yield f"  {_nats_tls(plan, maps=True)}\n}}"
    if nodes > 1:
        yield from _nats_cluster(plan, ports)


def _nats_cluster(plan: Plan, ports: Ports) -> Iterable[str]:
    yield "cluster {"
    yield f"  name: {json.dumps(plan.fleet)}"
    yield f"  listen: {json.dumps(f'{plan.bind}:{ports.cluster}')}"
    routes = (
        json.dumps(f"tls://{host}:{ports_of(plan, node).cluster}")
        for node, host in enumerate(plan.hosts)
    )
    yield f"  routes: [{', '.join(routes)}]"
    yield f"  {_nats_tls(plan, maps=False, authority='ca.pem')}\n}}"


def _nats_tls(plan: Plan, *, maps: bool, authority: str = "clients-ca.pem") -> str:
    verify = "verify_and_map" if maps else "verify"
    lowest = ', min_version: "1.3"' if plan.version >= NATS_FULL_VERSION else ""
    return (
        f"tls {{ cert_file: {_quoted(plan, 'server.pem')}, key_file: {_quoted(plan, 'server.key')},"
        f" ca_file: {_quoted(plan, authority)}, {verify}: true,"
        f" timeout: {HANDSHAKE_SECONDS}{lowest} }}"
    )


def _nats_users(plan: Plan) -> Iterable[str]:
    yield "# Who may come in, by the name in the certificate; made anew for new devices, then"
    yield "# `nats-server --signal reload`. MQTT only: over NATS's own protocol a name were enough."
    yield f"authorization {{\n  timeout: {HANDSHAKE_SECONDS}\n  users: ["
    names: Sequence[tuple[str, Access]] = [
        *((account_name(name), account_access(plan.fleet, name)) for name in ACCOUNTS),
        *((device, device_access(plan.fleet, device)) for device in plan.devices),
    ]
    for name, access in names:
        yield f"    {{ user: {json.dumps(f'CN={name}')}, allowed_connection_types: [MQTT, MQTT_WS],"
        yield f"      permissions: {{ subscribe: {_allow([*access.reads, '$MQTT/sub/#'])},"
        yield f"        publish: {_allow(access.writes)} }} }}"
    yield "  ]\n}"


def _allow(filters: Sequence[str]) -> str:
    if not filters:
        return '{ deny: ">" }'
    subjects = dict.fromkeys(subject for topic in filters for subject in _subjects(topic))
    return f"{{ allow: {json.dumps(list(subjects))} }}"


def _subjects(topic: str) -> tuple[str, ...]:
    """Return what an MQTT filter is in NATS; ``a/#`` is ``a`` itself, too."""
    subject = topic.replace("/", ".").replace("+", "*")
    if not subject.endswith(".#"):
        return (subject,)
    return (subject.removesuffix(".#"), subject.removesuffix("#") + ">")


def _quoted(plan: Plan, name: str) -> str:
    return json.dumps(f"{plan.folder}/{name}")


def _store(plan: Plan, node: int) -> str:
    return "store" if len(plan.hosts) <= 1 else f"store-{node + 1}"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"
