"""What goes into a report that must fit, and what makes one news. Pure."""

import logging
from collections.abc import Iterator

import msgspec

from shared.errors import LimitError
from shared.limits import REPORTED_BYTES
from shared.messages import CameraReported, ErrorText, EvidencePair, Refused, Reported, encode

ENDED_MAX = 24  # Outcomes a camera in a report that is too long: 4 x 24 x 90 bytes.

logger = logging.getLogger(__name__)


def encoded(document: Reported) -> bytes:
    """Return a report as it goes out; what does not fit is left out, what matters least first."""
    for shorter in _ever_shorter(document):
        try:
            return encode(shorter, bytes_max=REPORTED_BYTES)
        except LimitError as error:
            logger.warning("the report is left shorter: %s", error)
    # Never the end of the agent: whoever looks sees that the device lives, and why it says no more.
    said = Refused(message=ErrorText("limit", "the report is too long to be sent"))
    bare = msgspec.structs.replace(document, cameras={}, overrides=(), refused=said)
    return encode(bare, bytes_max=REPORTED_BYTES)


def essence(document: Reported) -> tuple[object, ...]:
    """Return what makes a report news: not its time, nor progress and counters that always grow."""
    cameras = tuple(
        (
            number,
            camera.state,
            camera.release,
            camera.previous,
            camera.starts,
            camera.ended,
            camera.owners,
            camera.is_settled,
            None
            if camera.deployment is None
            else msgspec.structs.replace(
                camera.deployment,
                progress=None,  # It goes out every few seconds by itself.
            ),
        )
        for number, camera in document.cameras.items()
    )
    plan = (document.plan_version, document.plan_sha256, document.identity_version)
    return (plan, document.clock, document.refused, document.settings, document.overrides, cameras)


def _ever_shorter(document: Reported) -> Iterator[Reported]:
    yield document
    for leave_out in (_evidence, _words, _owners):
        cameras = {number: leave_out(camera) for number, camera in document.cameras.items()}
        document = msgspec.structs.replace(document, cameras=cameras)
        yield document


def _evidence(camera: CameraReported) -> CameraReported:
    """Leave out numbers and old ends: outcomes matter more."""
    return msgspec.structs.replace(camera, evidence=EvidencePair(), ended=camera.ended[-ENDED_MAX:])


def _words(camera: CameraReported) -> CameraReported:
    """Leave out what went wrong in words, and which blocks are missed: the repair takes longer."""
    if camera.deployment is None:
        return camera
    deployment = msgspec.structs.replace(camera.deployment, missing_blocks=(), error=None)
    return msgspec.structs.replace(camera, deployment=deployment)


def _owners(camera: CameraReported) -> CameraReported:
    return msgspec.structs.replace(camera, owners=())
