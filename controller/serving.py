"""``fleetctl serve``: drive for ever, whatever the broker or the disk does meanwhile.

The loop is the driver's, the same as in the foreground; this only begins it again after what would
have ended a command, and when fleet.yaml has changed. One thing ends it: another controller that
signs with our keys, because two of them would fight for ever. Killed at any point, the next start
goes on from the store.

A thread of its own answers on loopback: ``/metrics`` for Prometheus, ``/health`` with 200 or 503.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic, sleep, time

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from controller.devices import Known
from controller.driving import Driver, read_repository
from controller.inventory import Fleet, load_fleet
from controller.metrics import Facts, FleetCollector, Health, health_of
from controller.service import FLEET_YAML, Controller
from controller.status import FleetStatus
from controller.store import Store
from shared.errors import (
    AnotherControllerError,
    BrokerError,
    FleetError,
    InventoryError,
    OperatorError,
    StorageError,
)

LOOPBACK = "127.0.0.1"
METRICS_PORT = 9464
AGAIN_SECONDS, AGAIN_SECONDS_MAX = 1.0, 60.0
FACTS_SECONDS = 2.0  # A whole fleet is read from the store at most this often.

logger = logging.getLogger(__name__)


class Service:
    """One fleet that is driven until somebody stops it."""

    def __init__(self, controller: Controller, project: Path) -> None:
        """Take over an open fleet."""
        self._controller = controller
        self._yaml = project / FLEET_YAML
        self._seen = _stamp(self._yaml)
        self._driver: Driver | None = None
        self._status: FleetStatus | None = None
        self._facts: tuple[float, Facts] | None = None
        self._lock = threading.Lock()

    def run(self) -> None:
        """Drive until KeyboardInterrupt.

        Raises:
            AnotherControllerError: Somebody else signs for this fleet with our keys.
            OperatorError: A key cannot be opened, or the fleet was never initialised.
        """
        wait = AGAIN_SECONDS
        while True:
            begun = monotonic()
            try:
                self._drive()
                continue  # fleet.yaml has changed.
            except AnotherControllerError:
                raise
            except (BrokerError, StorageError) as error:
                logger.warning("%s; trying again in %.0f s", error, wait)
            if monotonic() - begun > AGAIN_SECONDS_MAX:
                wait = AGAIN_SECONDS
            sleep(wait)
            wait = min(2 * wait, AGAIN_SECONDS_MAX)

    def _drive(self) -> None:
        self._driver = self._controller.new_driver()
        self._driver.run(
            until=lambda _: self._is_declared_anew(), on_change=self._show, timeout_seconds=None
        )

    def _show(self, status: FleetStatus) -> None:
        before = self._status.alerts if self._status is not None else ()
        for alert in status.alerts:
            if alert not in before:
                logger.warning("%s", alert)
        self._status = status

    def _is_declared_anew(self) -> bool:
        """Say whether fleet.yaml has changed, and is one: a broken one changes nothing."""
        stamp = _stamp(self._yaml)
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            fleet = load_fleet(self._yaml)
        except (OperatorError, OSError) as error:
            logger.error("%s; going on with what it said before", error)  # noqa: TRY400 - no trace
            return False
        return self._take(fleet)

    def _take(self, fleet: Fleet) -> bool:
        if fleet.name != self._controller.fleet.name:
            text = f"expected fleet {self._controller.fleet.name}, got {fleet.name}"
            raise InventoryError(f"{self._yaml.name}: {text}; start another `serve` for it")
        self._controller.declare(fleet)
        logger.info("%s has changed: %d devices", self._yaml.name, len(fleet.devices))
        return True

    # For the other thread.

    def facts(self) -> Facts:
        """Return what is true now; from any thread."""
        with self._lock:
            if self._facts is None or monotonic() - self._facts[0] > FACTS_SECONDS:
                self._facts = (monotonic(), self._read_facts())
            return self._facts[1]

    def _read_facts(self) -> Facts:
        store = Store(self._controller.folder)  # SQLite's connections belong to one thread.
        try:
            known = store.known(Known)
            lease = store.lease()
            ours = {row[0] for row in store.releases()}
            expires = read_repository(store).plan_expires
        finally:
            store.close()
        declared = self._controller.fleet.devices
        running = (
            camera.release
            for one in known.values()
            if one.report is not None
            for camera in one.report.cameras.values()
        )
        states = Counter(
            "undeclared" if name not in declared else "online" if one.is_online else "offline"
            for name, one in known.items()
        )
        states["never_seen"] = len(declared.keys() - known.keys())
        return Facts(
            status=self._status,
            devices=states,
            releases=Counter(name if name in ours else "other" for name in running if name),
            plan_expires=expires.timestamp(),
            sent=(0, 0) if self._driver is None else self._driver.sent,
            is_ticking=lease is not None and lease.is_alive(time()),
        )


@contextmanager
def listening(service: Service, port: int) -> Iterator[int]:
    """Answer on loopback while the block runs; gives the port."""
    registry = CollectorRegistry()
    registry.register(FleetCollector(service.facts))
    ProcessCollector(registry=registry)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, data = _answer(self.path, service, registry)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing: a scrape every few seconds is no news."""

    try:
        server = ThreadingHTTPServer((LOOPBACK, port), Handler)
    except OSError as error:
        raise OperatorError(
            f"cannot listen on {LOOPBACK}:{port} for metrics: {error.strerror}; use --metrics-port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(
    path: str, service: Service, registry: CollectorRegistry
) -> tuple[HTTPStatus, str, bytes]:
    plain = "text/plain; version=0.0.4; charset=utf-8"
    try:
        if path == "/metrics":
            return HTTPStatus.OK, plain, generate_latest(registry)
        if path == "/health":
            health = health_of(service.facts())
            status = HTTPStatus.OK if health.is_ok else HTTPStatus.SERVICE_UNAVAILABLE
            return status, "application/json", msgspec.json.encode(health)
    except FleetError as error:
        sick = Health(is_ok=False, reasons=(str(error),))
        return HTTPStatus.SERVICE_UNAVAILABLE, "application/json", msgspec.json.encode(sick)
    return HTTPStatus.NOT_FOUND, plain, b"expected /metrics or /health\n"


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_ino)
