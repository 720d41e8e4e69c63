"""What is new in what a device says, a sentence each. Pure; `fleetctl logs` prints them."""

from collections.abc import Iterator

from controller.devices import Known
from shared.messages import CameraReported, Reported


def news(before: Known, after: Known) -> tuple[str, ...]:
    """Return what a device tells that it did not tell before."""
    said: list[str] = []
    if before.is_status_online != after.is_status_online:
        said.append("online" if after.is_status_online else "offline")
    if after.report is not None and after.report is not before.report:
        said += _of_report(before.report, after.report)
    return tuple(said)


def _of_report(before: Reported | None, after: Reported) -> Iterator[str]:
    if before is None or before.run != after.run:
        yield f"agent {after.agent_version} runs as {after.run}, boot {after.boot}"
    if before is None or before.plan_version != after.plan_version:
        yield f"follows plan {after.plan_version}"
    if before is not None and before.identity_version != after.identity_version:
        yield f"has identity {after.identity_version}"
    if after.refused.trust is not None and (before is None or before.refused != after.refused):
        yield f"refused the plan: {after.refused.trust.code}: {after.refused.trust.text}"
    for number, camera in after.cameras.items():
        old = before.cameras.get(number) if before else None
        for words in _of_camera(old, camera):
            yield f"camera {number}: {words}"


def _of_camera(before: CameraReported | None, after: CameraReported) -> Iterator[str]:
    if before is None or (before.state, before.release) != (after.state, after.release):
        yield f"{after.state}, {after.release or 'nothing runs'}"
    if (phase := _phase(after)) and (before is None or _phase(before) != phase):
        yield phase
    for end in after.ended:
        if before is not None and end not in before.ended:
            cause = f", cause {end.cause}" if end.cause else ""
            yield f"{end.rollout} attempt {end.attempt} ended: {end.phase}{cause}"


def _phase(camera: CameraReported) -> str | None:
    deployment = camera.deployment
    if deployment is None:
        return None
    words = f"{deployment.rollout} {deployment.phase}"
    if deployment.waiting_for:
        words += f", waits for {deployment.waiting_for}"
    if deployment.error:
        words += f": {deployment.error.code}: {deployment.error.text}"
    return words.replace("_", " ")
