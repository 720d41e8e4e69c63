"""What an agent tells beside detections: packed frames, images on request, tracked objects."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from PIL import Image

from controller.broker import RunningBroker
from shared.detections import Detections
from shared.identity import Bounds, PrivacySettings, TelemetrySettings
from shared.inbox import Received
from shared.limits import IMAGE_BYTES, PACKED_FRAMES_MAX
from shared.messages import time_text
from shared.packed import decode_packed
from tests.fleet import Release, make_release
from tests.integration.agents import Site, is_streaming, open_site
from tests.integration.conftest import on_nats
from tests.tinygraph import LABELS

pytestmark = on_nats
DEVICE = "cam-1"


@pytest.fixture
def site(broker: RunningBroker, tmp_path: Path) -> Iterator[Site]:
    yield from open_site(broker, tmp_path)


def started(site: Site, release: Release | None = None, **settings: object) -> None:
    site.agent(DEVICE, **settings)
    site.fleet.offer(release or make_release())
    site.fleet.wait_phase(DEVICE, "committed")
    site.fleet.wait(DEVICE, is_streaming)


def topic(site: Site, what: str) -> str:
    return site.fleet.topics.camera(DEVICE, 0, what)


def message(site: Site, what: str) -> Received:
    return site.fleet.wait_message(lambda event: event.topic == topic(site, what))


def happened(site: Site, what: str, label: str) -> dict[str, object]:
    def is_it(event: Received) -> bool:
        if event.topic != topic(site, "event"):
            return False
        document = json.loads(event.payload)
        return (document["event"], document["label"]) == (what, label)

    found = site.fleet.wait_message(is_it)
    assert not found.is_retained
    return json.loads(found.payload)


def ask(site: Site, identifier: str, verb: str = "snapshot", **wish: object) -> dict[str, object]:
    now = datetime.now(UTC)
    request = {"v": 1, "id": identifier, "at": time_text(now), **wish}
    request["expires"] = time_text(now + timedelta(seconds=60))
    site.fleet.put(
        site.fleet.topics.device(DEVICE, f"request/{verb}"),
        json.dumps(request).encode(),
        retain=False,
    )
    answer = site.fleet.wait_message(
        lambda event: (
            event.topic.endswith(f"response/{verb}")
            and json.loads(event.payload)["id"] == identifier
        )
    )
    return json.loads(answer.payload)


def test_frames_go_out_packed_where_the_signed_settings_say_so_and_in_no_other_form(
    site: Site,
) -> None:
    telemetry = TelemetrySettings(encoding="packed", rate_hz=2, threshold_permille=300)
    started(site, telemetry=telemetry)

    site.fleet.messages.clear()
    first = message(site, "packed")
    site.fleet.messages.clear()
    second = message(site, "packed")

    frames = [one for payload in (first, second) for one in decode_packed(payload.payload)]
    assert not second.is_retained
    assert 1 < len(decode_packed(second.payload)) <= PACKED_FRAMES_MAX
    assert all({o.label for o in one.objects or ()} == {"circle", "triangle"} for one in frames)  # type: ignore[union-attr]
    assert [one.seq for one in frames] == sorted({one.seq for one in frames})
    assert site.fleet.reported[DEVICE]["settings"]["encoding"] == "packed"  # type: ignore[index]
    assert not [m for m in site.fleet.messages if m.topic == topic(site, "detections")]


def test_an_image_is_refused_where_the_signed_settings_do_not_allow_it(site: Site) -> None:
    started(site)

    answer = ask(site, "q-1")

    assert answer["error"]["code"] == "privacy"  # type: ignore[index]
    assert site.fleet.reported[DEVICE]["settings"]["images"] == "off"  # type: ignore[index]
    ask(site, "q-2", "identify")
    assert not [m for m in site.fleet.messages if m.topic == topic(site, "image")]


def test_an_image_with_boxes_is_sent_once_for_each_request_where_it_is_allowed(site: Site) -> None:
    started(site, privacy=PrivacySettings(images="on-request"))

    answer = ask(site, "q-1")
    image = message(site, "image")

    assert answer["status"] == "ok"
    assert site.fleet.reported[DEVICE]["settings"]["images"] == "on-request"  # type: ignore[index]
    picture = np.asarray(Image.open(io.BytesIO(image.payload)))
    assert picture.shape == (64, 64, 3)
    assert not image.is_retained
    assert 0 < len(image.payload) <= IMAGE_BYTES
    left_edge = picture[20:40, 31:34].astype(int)  # Of the triangle's box: from 32, 16 to 64, 48.
    assert (np.ptp(left_edge, axis=2).max(axis=1) > 90).mean() > 0.8
    site.fleet.messages.clear()
    ask(site, "q-1")  # A duplicate: answered from memory, and nothing is done again.
    ask(site, "q-2")
    message(site, "image")
    ask(site, "q-3", "identify")
    assert len([m for m in site.fleet.messages if m.topic == topic(site, "image")]) == 1


def test_tracked_objects_are_told_where_the_signed_settings_ask_for_it(site: Site) -> None:
    telemetry = TelemetrySettings(threshold_permille=300, events=True)
    started(site, telemetry=telemetry)

    entered = [happened(site, "enter", label) for label in ("circle", "triangle")]
    ask(site, "q-1", "restart-camera")
    left = [happened(site, "leave", label) for label in ("circle", "triangle")]

    assert {event["track"] for event in entered} == {1, 2}
    assert [event["track"] for event in left] == [event["track"] for event in entered]
    for event in (*entered, *left):
        assert event["class"] == LABELS.index(str(event["label"]))
        assert event["dwell_ms"] >= 500  # type: ignore[operator]
    assert site.fleet.reported[DEVICE]["settings"]["events"] == "on"  # type: ignore[index]


def test_nothing_is_tracked_unless_it_is_asked_for(site: Site) -> None:
    started(site)
    for _ in range(5):
        site.fleet.messages.clear()
        message(site, "detections")
    ask(site, "q-1", "restart-camera")
    site.fleet.wait(DEVICE, is_streaming)

    assert site.fleet.reported[DEVICE]["settings"]["events"] == "off"  # type: ignore[index]
    assert not [m for m in site.fleet.messages if m.topic == topic(site, "event")]


@pytest.mark.parametrize(("encoding", "what"), [("json", "detections"), ("packed", "packed")])
def test_a_threshold_set_at_run_time_changes_what_is_sent_inside_the_signed_bounds_only(
    site: Site, encoding: Literal["json", "packed"], what: str
) -> None:
    telemetry = TelemetrySettings(encoding=encoding, threshold_permille=300)
    started(site, telemetry=telemetry, bounds=Bounds(threshold_permille=(200, 800)))
    assert labels_of(message(site, what)) == {"circle", "triangle"}

    beyond = ask(site, "q-1", "set", threshold_permille=1000)
    inside = ask(site, "q-2", "set", threshold_permille=800)
    report = site.fleet.wait(DEVICE, lambda report: bool(report["overrides"]))
    site.fleet.messages.clear()
    fewer = site.fleet.wait_message(
        lambda event: event.topic == topic(site, what) and labels_of(event) == {"triangle"}
    )

    assert beyond["error"]["code"] == "bounds"  # type: ignore[index]
    assert inside["status"] == "ok"
    assert [one["threshold_permille"] for one in report["overrides"]] == [800]  # type: ignore[attr-defined]
    assert fewer.payload


def labels_of(event: Received) -> set[str]:
    """Return what is named in the last frame of a message."""
    if event.topic.endswith("/packed"):
        frame = decode_packed(event.payload)[-1]
    else:
        frame = msgspec.json.decode(event.payload, type=Detections)
    assert isinstance(frame.objects, tuple)
    return {thing.label for thing in frame.objects}
