"""What a dashboard is told of a rollout stays within its limit, whatever devices wrote."""

from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from controller.picture import FAILED_MAX, record_status, rollout_message
from controller.store import Record
from controller.strategies import DEFAULT
from shared.assignment import Probe
from shared.limits import ROLLOUT_BYTES
from shared.messages import FailedDevice, RolloutReported

NOW = datetime(2026, 11, 24, tzinfo=UTC)
RECORD = Record(
    rollout="r-1", name="doors", release="helmet@8", selector="*", strategy="default",
    waves=((frozenset(), 1000),), rules=DEFAULT.rules(), probe=Probe(), deny=(), started_at=NOW,
)  # fmt: skip


def told(text: str) -> RolloutReported:
    failed = tuple(FailedDevice(f"cam-{n}", "release", text) for n in range(FAILED_MAX + 1))
    message = rollout_message(replace(record_status(RECORD), failed=failed), NOW)
    assert len(message) <= ROLLOUT_BYTES
    return msgspec.json.decode(message, type=RolloutReported)


def test_texts_of_devices_that_do_not_fit_are_left_out() -> None:
    assert told("expected 1x4").failed[0] == FailedDevice("cam-0", "release", "expected 1x4")
    long = told("\x00" * 2_000).failed
    assert (len(long), long[0]) == (FAILED_MAX, FailedDevice("cam-0", "release", ""))
