"""What `serve` tells Prometheus and whoever asks for its health: numbers, no decisions.

Numbers come from the status that the driver said last and from the store, so a scrape costs the
driver nothing. Labels are names of the fleet's own releases and rollouts, never what a device says
of itself: a device must not be able to make up series.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.status import FleetStatus

ROLLOUTS_MAX = 16  # Only what moves has series of its own.


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true at one moment.

    Attributes:
        status: As the driver said last; None before it said anything.
        devices: How many there are of each state.
        releases: How many cameras run each release of the store.
        plan_expires: When the controller's signature ends, in seconds since 1970.
        sent: Bytes and messages published since we took the wheel.
        is_ticking: Somebody holds the lease and renews it.
    """

    status: FleetStatus | None
    devices: Counter[str]
    releases: Counter[str]
    plan_expires: float
    sent: tuple[int, int]
    is_ticking: bool


@dataclass(frozen=True, slots=True)
class Health:
    """Whether all is well, and what is not."""

    is_ok: bool
    reasons: tuple[str, ...]


def health_of(facts: Facts) -> Health:
    """Return what a load balancer, systemd or a person needs to know."""
    status = facts.status
    wrong = {
        "nobody renews the lease": not facts.is_ticking,
        "nothing was said yet": status is None,
        "the broker is not connected": status is not None and not status.is_broker_connected,
    }
    if status is not None and status.driver.is_us and status.is_broker_connected:
        wrong["the broker does not hand the plan back"] = not status.is_plan_echoed
    reasons = tuple(text for text, is_wrong in wrong.items() if is_wrong)
    return Health(not reasons, reasons)


class FleetCollector(Collector):
    """Turns facts into metrics, anew for each scrape."""

    def __init__(self, read: Callable[[], Facts]) -> None:
        """Say where the facts come from."""
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Return nothing: registering needs no store."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        facts = self._read()
        yield _gauge("healthy", "1: all is well", health_of(facts).is_ok)
        yield _gauge("plan_expires_timestamp_seconds", "End of the signature", facts.plan_expires)
        yield _labelled("devices", "Devices by state", "state", facts.devices)
        yield _labelled("cameras", "Cameras by what they run", "release", facts.releases)
        yield _counter("published_bytes", "Bytes sent to the broker", facts.sent[0])
        yield _counter("published_messages", "Messages sent to the broker", facts.sent[1])
        if facts.status is not None:
            yield from _of_status(facts.status)


def _of_status(status: FleetStatus) -> Iterator[Metric]:
    yield _gauge("plan_version", "Version of the plan", status.plan_version)
    yield _gauge("driving", "1: this process holds the lease", status.driver.is_us)
    yield _gauge("broker_connected", "1: connected", status.is_broker_connected)
    yield _gauge("plan_echoed", "1: the broker handed the plan back", status.is_plan_echoed)
    yield _gauge("frozen", "1: nothing may change", status.frozen is not None)
    yield _gauge("alerts", "What an operator should hear of", len(status.alerts))
    states = Counter(rollout.state for rollout in status.rollouts)
    yield _labelled("rollouts", "Rollouts by state", "state", states)
    moving = [rollout for rollout in status.rollouts if not rollout.is_over][:ROLLOUTS_MAX]
    metric = GaugeMetricFamily(
        "imxfleet_rollout_devices", "Devices of a rollout", labels=["rollout", "state"]
    )
    wave = GaugeMetricFamily("imxfleet_rollout_wave", "Its wave, from 0", labels=["rollout"])
    for rollout in moving:
        wave.add_metric([rollout.rollout], rollout.wave)
        for state, count in rollout.counts.items():
            metric.add_metric([rollout.rollout, state], count)
    yield metric
    yield wave


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"imxfleet_{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"imxfleet_{name}", text, value=float(value))


def _labelled(name: str, text: str, label: str, counts: Counter[str]) -> Metric:
    metric = GaugeMetricFamily(f"imxfleet_{name}", text, labels=[label])
    for key, count in sorted(counts.items()):
        metric.add_metric([key], count)
    return metric
