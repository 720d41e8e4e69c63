"""Say how a rollout looks, as plain data for people and dashboards. Pure; nothing decides on it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

import msgspec

from controller import planning
from controller.planning import Rollout
from controller.rollout import (
    BAD,
    CameraSeen,
    DeviceState,
    Judged,
    camera_seen,
    camera_state,
    count_states,
)
from controller.status import CameraStatus, DeviceInRollout, RolloutStatus, WaveStatus
from controller.steering import Site, cameras_now, wave_of
from controller.store import Record
from shared.assignment import Camera, admits
from shared.errors import LimitError
from shared.limits import ROLLOUT_BYTES
from shared.messages import (
    CameraReported,
    FailedDevice,
    RolloutReported,
    WaveReported,
    encode,
    time_text,
)

FAILED_MAX = 50  # In `rollout/<id>`, which has a limit; the CLI shows all.
_BAD_WORDS = frozenset(
    {state.value for state in BAD} | {DeviceState.CAMERA_FAULT.value, DeviceState.INTERRUPTED.value}
)


def rollout_status(site: Site, rollout: Rollout, judged: Judged) -> RolloutStatus:
    """Return how a rollout of the book looks now."""
    record = site.records[rollout.entry.rollout]
    devices = tuple(_devices(site, rollout, record, judged))
    counts = count_states(judged.standings.values())
    return replace(
        record_status(record),
        attempt=rollout.entry.attempt,
        wave=rollout.wave,
        waves=tuple(_waves(record, rollout, devices, judged)),
        devices=devices,
        counts=counts,
        failed=tuple(_failed(site, devices)),
        is_healthy=record.state == "completed"
        and set(counts) <= {"healthy"}
        and rollout.entry.deny <= frozenset(record.deny),  # Else a retry has left some out.
    )


def record_status(record: Record) -> RolloutStatus:
    """Return what the record alone says: of a rollout that has not begun, or is long over."""
    return RolloutStatus(
        rollout=record.rollout,
        name=record.name,
        release=record.release,
        selector=record.selector,
        strategy=record.strategy,
        attempt=record.course.attempt,
        state=record.state,
        reason=record.reason,
        text=record.text,
        wave=max(len(record.course.reaches) - 1, 0),
        waves=tuple(
            WaveStatus(pins, permille, record.rules.bake_of(index), {})
            for index, (pins, permille) in enumerate(record.waves)
        ),
        devices=(),
        counts={},
        failed=(),
        started_at=record.started_at,
        ended_at=record.ended_at,
        driven_seconds=float(round(record.course.driven_seconds)),
        not_driven_since=None,
        is_healthy=False,
        ran_before=dict(record.ran_before),
    )


def after_the_book(status: RolloutStatus, record: Record) -> RolloutStatus:
    """Return the last picture of a rollout, with what the record has learned since."""
    return replace(
        status,
        state=record.state,
        reason=record.reason,
        text=record.text,
        ended_at=record.ended_at,
    )


def rollout_message(status: RolloutStatus, at: datetime) -> bytes:
    """Return the document for ``rollout/<id>``; without what devices wrote, where that is long."""
    failed = status.failed[:FAILED_MAX]
    message = RolloutReported(
        at=time_text(at),
        rollout=status.rollout,
        release=status.release,
        state=status.state,
        reason=status.reason,
        wave=status.wave,
        waves=tuple(
            WaveReported(devices=wave.devices, verdict=wave.verdict, evidence=wave.text)
            for wave in status.waves
        ),
        failed=failed,
    )
    try:
        return encode(message, bytes_max=ROLLOUT_BYTES)
    except LimitError:
        silent = tuple(FailedDevice(one.device, one.cause, "") for one in failed)
        return encode(msgspec.structs.replace(message, failed=silent), bytes_max=ROLLOUT_BYTES)


def _devices(
    site: Site, rollout: Rollout, record: Record, judged: Judged
) -> Iterator[DeviceInRollout]:
    cameras = [camera for camera in cameras_now(site) if admits(rollout.entry, camera)]
    mine = set(map(_key, planning.members(site.book, rollout, site.listed, cameras)))
    by_device: dict[str, list[Camera]] = {}
    for camera in cameras:
        by_device.setdefault(camera.device, []).append(camera)
    for device, own in by_device.items():
        standing, known = judged.standings.get(device), site.devices.get(device)
        rows = tuple(_camera(site, rollout, camera, is_mine=_key(camera) in mine) for camera in own)
        yield DeviceInRollout(
            device=device,
            wave=wave_of(record, rollout.entry, own[0]),
            state=rows[0].state if standing is None else standing.state.value,
            is_online=known is not None and known.is_online,
            is_treated=device in judged.course.treated,
            cameras=rows,
        )


def _key(camera: Camera) -> tuple[str, int]:
    return camera.device, camera.number


def _camera(site: Site, rollout: Rollout, camera: Camera, *, is_mine: bool) -> CameraStatus:
    known = site.devices.get(camera.device)
    reported = None if known is None else known.camera(camera.number)
    seen = camera_seen(reported, *rollout.entry.tried)
    row = CameraStatus(
        number=camera.number,
        state=_word(seen, camera, rollout, is_mine=is_mine),
        phase=seen.phase,
        release=None if reported is None else reported.release,
        previous=None if reported is None else reported.previous,
        waiting_for=seen.waiting_for,
        cause=seen.cause,
    )
    return _with_details(row, reported, rollout)


def _word(seen: CameraSeen, camera: Camera, rollout: Rollout, *, is_mine: bool) -> str:
    if camera.device in rollout.entry.deny:
        return "denied"
    if not is_mine:
        return "superseded"
    state = camera_state(seen)
    return "reverted" if state is None else state.value


def _with_details(
    row: CameraStatus, reported: CameraReported | None, rollout: Rollout
) -> CameraStatus:
    deployment = None if reported is None else reported.deployment
    if deployment is None or (deployment.rollout, deployment.attempt) != rollout.entry.tried:
        return row
    progress, error = deployment.progress, deployment.error
    return replace(
        row,
        error=None if error is None else f"{error.code}: {error.text}",
        progress_done=None if progress is None else progress.done,
        progress_total=None if progress is None else progress.total,
        progress_unit=None if progress is None else progress.unit,
    )


def _waves(
    record: Record, rollout: Rollout, devices: Sequence[DeviceInRollout], judged: Judged
) -> Iterator[WaveStatus]:
    verdicts, gates = list(record.course.verdicts), list(record.course.gates)
    gates += [()] * (len(verdicts) - len(gates))  # Of a rollout that an earlier version began.
    # What was just judged may be the wave before: it is no word on the one that it opened.
    is_of_this_wave = not verdicts or verdicts[-1] != judged.verdict
    if len(verdicts) <= rollout.wave and is_of_this_wave:
        verdicts.append(judged.verdict)
        gates.append(judged.course.gathered.verdicts)
    words = [*(state.value for state in DeviceState), "reverted", "superseded", "denied"]
    for index, (pins, permille) in enumerate(record.waves):
        states = [device.state for device in devices if device.wave == index]
        counts = {word: states.count(word) for word in words if word in states}
        verdict = verdicts[index] if index < len(verdicts) else None
        yield WaveStatus(
            pins=pins,
            permille=permille,
            bake_seconds=record.rules.bake_of(index),
            devices=counts,
            verdict=None if verdict is None else verdict.kind.value,
            text=None if verdict is None else verdict.text,
            gates=gates[index] if index < len(gates) else (),
        )


def _failed(site: Site, devices: Sequence[DeviceInRollout]) -> Iterator[FailedDevice]:
    for device in devices:
        if device.state not in _BAD_WORDS:
            continue
        worst = next((c for c in device.cameras if c.state == device.state), device.cameras[0])
        known = site.devices.get(device.device)
        heard = "never" if known is None or known.report is None else known.report.at
        text = worst.error or (f"last heard {heard}" if device.state == "silent" else "")
        yield FailedDevice(device.device, worst.cause or device.state, text)
