import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.errors import MalformedError
from shared.topics import (
    BlockTopic,
    DeviceTopic,
    RolloutTopic,
    Topics,
    TrustTopic,
    checked_name,
    is_name,
)

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,63}", fullmatch=True)
TOPICS = Topics("site-a")


@given(fleet=NAMES, device=NAMES, rollout=NAMES, digest=st.binary(min_size=32, max_size=32))
def test_what_is_built_is_parsed_back(fleet: str, device: str, rollout: str, digest: bytes) -> None:
    topics = Topics(fleet)

    assert topics.parse(topics.trust) == TrustTopic()
    assert topics.parse(topics.block(digest.hex())) == BlockTopic(digest.hex())
    assert topics.parse(topics.rollout(rollout)) == RolloutTopic(rollout)
    assert topics.parse(topics.device(device, "reported")) == DeviceTopic(device, "reported")
    assert topics.parse(topics.camera(device, 1, "detections")) == DeviceTopic(
        device, "camera/1/detections"
    )


@given(name=st.text(max_size=70))
def test_no_name_gets_a_separator_or_a_wildcard_into_a_topic(name: str) -> None:
    assume(not is_name(name))

    for build in (TOPICS.block, TOPICS.rollout, lambda n: TOPICS.device(n, "reported"), Topics):
        with pytest.raises(MalformedError):
            build(name)


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a/b", "a+", "#", "a.b", "A", "a\n", "a\x00", "ä", "a" * 65, "../a", "a b", "٣"],
)
def test_injection_by_name_is_refused(name: str) -> None:
    with pytest.raises(MalformedError):
        checked_name(name)


@given(topic=st.text(max_size=200))
def test_any_topic_is_parsed_or_malformed(topic: str) -> None:
    try:
        TOPICS.parse(topic)
    except MalformedError:
        return


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fleet/v1/site-b/trust",
        "fleet/v1/site-a/trust/",
        "fleet/v1/site-a/trust/x",
        "fleet/v1/site-a",
        "fleet/v1/site-a/",
        "fleet/v1/site-a/device",
        "fleet/v1/site-a/device/gate-01",
        "fleet/v1/site-a/device//reported",
        "fleet/v1/site-a/device/+/reported",
        "fleet/v1/site-a/device/gate-01/a/b/c/d/e",
        "fleet/v1/site-a/rollout/r-1/x",
        "fleet-blocks/v1/site-a/",
        "fleet-blocks/v1/site-a/a/b",
        "fleet-blocks/v1/site-b/00",
        "xfleet/v1/site-a/trust",
    ],
)
def test_what_is_no_topic_of_the_fleet_is_malformed(topic: str) -> None:
    with pytest.raises(MalformedError):
        TOPICS.parse(topic)


@given(fleet=NAMES, other=NAMES, device=NAMES)
def test_one_fleet_never_reads_another_s_topics(fleet: str, other: str, device: str) -> None:
    assume(fleet != other)

    with pytest.raises(MalformedError):
        Topics(fleet).parse(Topics(other).device(device, "reported"))
