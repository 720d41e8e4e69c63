"""A report always fits, and what it loses for that is what matters least."""

import msgspec

from agent.reporting import encoded
from shared.limits import REPORTED_BYTES
from shared.messages import (
    CameraReported,
    DeploymentReported,
    EndReported,
    ErrorText,
    EvidencePair,
    Reported,
    decode,
)

BLOCKS = tuple(f"{number:064x}" for number in range(16))
ENDS = tuple(
    EndReported(rollout=f"r-{number:020d}", attempt=1, phase="rolled_back", cause="release")
    for number in range(24)
)


def camera(*, text: str, owners: int = 24, ends: int = 24) -> CameraReported:
    return CameraReported(
        kind="simulated",
        state="streaming",
        release="shapes@1",
        deployment=DeploymentReported(
            rollout="r-1",
            attempt=1,
            manifest_sha256="0" * 64,
            phase="fetching",
            since="2026-01-01T00:00:00.000Z",
            missing_blocks=BLOCKS,
            error=ErrorText("stalled", text),
        ),
        ended=ENDS[:ends],
        owners=tuple((f"r-{number:020d}", 1) for number in range(owners)),
    )


def report(cameras: int, **given: object) -> Reported:
    one = camera(**given)  # type: ignore[arg-type]
    return Reported(
        at="2026-01-01T00:00:00.000Z",
        clock="synced",
        boot="b",
        run="abc-1",
        seq=1,
        agent_version="0.1.0",
        plan_version=7,
        plan_sha256=None,
        identity_version=1,
        cameras={str(number): one for number in range(cameras)},
    )


def sent(document: Reported) -> Reported:
    return decode(encoded(document), Reported, bytes_max=REPORTED_BYTES)


def test_a_report_that_fits_goes_out_whole() -> None:
    document = report(1, text="x")

    assert sent(document) == document


def test_four_cameras_in_trouble_keep_their_outcomes_and_what_runs() -> None:
    document = report(4, text="x" * 500)

    heard = sent(document)

    for number, one in document.cameras.items():
        assert heard.cameras[number].ended == one.ended
        assert heard.cameras[number].release == one.release
        assert heard.cameras[number].evidence == EvidencePair()
        assert heard.cameras[number].owners == one.owners
        deployment = heard.cameras[number].deployment
        assert deployment is not None
        assert (deployment.phase, deployment.missing_blocks) == ("fetching", ())


def test_what_fits_in_no_way_is_said_and_never_ends_the_agent() -> None:
    document = msgspec.structs.replace(report(4, text="x"), settings={})
    huge = msgspec.structs.replace(document.cameras["0"], release="r" * REPORTED_BYTES)

    heard = sent(msgspec.structs.replace(document, cameras={"0": huge}))

    assert heard.cameras == {}
    assert heard.plan_version == document.plan_version
    assert heard.refused.message == ErrorText("limit", "the report is too long to be sent")
