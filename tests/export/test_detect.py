"""A detector from training to what comes back over MQTT: real tools, real broker, real agents."""

import re
import zipfile
from dataclasses import replace
from io import BytesIO

import pytest

from agent.camera.scene import CLASS_NAMES, draw
from agent.camera.wire import Simulation
from shared.detections import Detections
from shared.graph import Graph
from tests.export.matching import Agreement, Box, Seen, agreement, pairs_of
from tests.export.project import Built, Site, say, ultralytics_says

pytestmark = [pytest.mark.export, pytest.mark.timeout(3600)]

SEEDS = {"eye-1": 11, "eye-2": 12, "eye-3": 13}  # Scenes that nobody trained on.
FRAMES_EACH = 30
FRAMES_COMPARED = 24  # With Ultralytics' own prediction: half a second each.
PRECISION_MIN = RECALL_MIN = 0.5
IOU_MEAN_MIN = 0.75
BROKEN_MAX = 0.3  # What a decoder may reach that is wrong in one thing.
THRESHOLD = 0.25
NEAR_THRESHOLD = 0.05
# onnxruntime optimises the camera's graph, so that a number may fall on the next step; and of two
# boxes of one object that are as good, the other one may then survive the NMS.
PIXELS_APART_MAX = 1.0
SCORES_APART_MAX = 0.05
SHARE_TOGETHER_MIN = 0.95

Frames = list[tuple[str, Detections]]


@pytest.fixture(scope="session")
def frames(site: Site, detector: Built) -> Frames:
    """What three cameras with three scenes say once the release runs on them."""
    say("rolling it out")
    for device, seed in SEEDS.items():
        site.start_agent(device, Simulation(seed=seed))
    site.roll_out(detector.manifest.release, selector="task=detect")
    heard = [(device, frame) for device in SEEDS for frame in site.frames(device, FRAMES_EACH)]
    site.stop_agents()
    return heard


def test_the_command_leaves_a_whole_signed_release_in_the_store(
    site: Site, detector: Built
) -> None:
    verified = site.fleetctl("release", "verify", detector.manifest.release)

    assert verified.code == 0, verified.said
    names = {file.role: file.name for file in detector.manifest.files}
    assert names == {
        "network": "packerOut.zip",
        "dnn_params": "dnnParams.xml",
        "labels": "labels.txt",
        "memory_report": "MemoryReport.json",
        "simulator": "simulator.onnx",
        "golden": "golden.npz",
        "receipt": "receipt.json",
    }
    assert detector.files["labels"].decode().split() == list(CLASS_NAMES)
    assert b'"Fit In Chip"' in detector.files["memory_report"]
    assert 0 < detector.manifest.memory_bytes < 8_388_480


def test_the_network_carries_its_own_name_everywhere(detector: Built) -> None:
    name = detector.manifest.network_name
    with zipfile.ZipFile(BytesIO(detector.files["network"])) as archive:
        packed = {entry: archive.read(entry) for entry in archive.namelist()}

    assert re.fullmatch("n[0-9a-f]{12}", name)
    assert re.findall(rb'<network [^>]*name="([^"]+)"', detector.files["dnn_params"]) == [
        name.encode()
    ]
    assert name.encode() in packed["dnnParams.xml"]
    assert name.encode() in packed["manifest.json"]
    assert Graph(detector.files["simulator"]).network_name == name
    assert [path.name for path in detector.folder.glob("*.onnx")] == [f"{name}.onnx"]


def test_the_manifest_says_what_the_network_puts_out(detector: Built) -> None:
    picture, _ = draw(1, 0, (detector.size, detector.size))

    tensors = Graph(detector.files["simulator"]).run(picture)

    outputs = detector.manifest.outputs
    assert [output.name for output in outputs] == ["boxes", "scores", "labels", "n_valid"]
    assert [output.shape for output in outputs] == [tensor.shape for tensor in tensors]


def test_what_comes_over_mqtt_is_what_was_drawn(detector: Built, frames: Frames) -> None:
    reached = _agreement(detector, frames)

    say(f"MQTT and the truth of {len(frames)} frames: {reached}")
    assert len({(device, frame.frame) for device, frame in frames}) == len(frames)
    assert {frame.release for _, frame in frames} == {detector.manifest.release}
    assert reached.true > len(frames)
    assert reached.precision > PRECISION_MIN
    assert reached.recall > RECALL_MIN
    assert reached.iou > IOU_MEAN_MIN


@pytest.mark.parametrize(
    "broken", ["swapped_axes", "half_the_scale", "shifted_labels", "centre_and_size", "old_frame"]
)
def test_a_broken_decoder_would_be_seen(detector: Built, frames: Frames, broken: str) -> None:
    reached = _agreement(detector, frames, broken=broken)

    say(f"the same, {broken}: {reached}")
    assert min(reached.recall, reached.precision) < BROKEN_MAX < RECALL_MIN


def test_ultralytics_predicts_the_same_from_its_exported_folder(
    detector: Built, frames: Frames
) -> None:
    compared = frames[:: max(1, len(frames) // FRAMES_COMPARED)]
    pictures = [_draw(detector, device, frame)[0] for device, frame in compared]
    answers = ultralytics_says(detector.folder, pictures, imgsz=detector.size, threshold=THRESHOLD)

    ours = [_seen(frame) for _, frame in compared]
    theirs = [
        [Seen(str(one["label"]), tuple(one["box"]), float(one["score"])) for one in answer]  # type: ignore[arg-type]
        for answer in answers
    ]

    pairs, alone = _paired(ours, theirs)
    apart = [(_pixels_apart(a, b) * detector.size, abs(a.score - b.score)) for a, b in pairs]
    together = [p <= PIXELS_APART_MAX and s <= SCORES_APART_MAX for p, s in apart]
    share = sum(together) / (len(pairs) + len(alone))
    say(
        f"MQTT and Ultralytics: {len(pairs)} objects in {len(compared)} frames, {len(alone)} have "
        f"no partner; {share:.3f} of all within {PIXELS_APART_MAX} px and {SCORES_APART_MAX}; the "
        f"worst {max(p for p, _ in apart):.2f} px, {max(s for _, s in apart):.3f}"
    )
    assert len(pairs) > len(compared)
    assert share > SHARE_TOGETHER_MIN


def _paired(
    ours: list[list[Seen]], theirs: list[list[Seen]]
) -> tuple[list[tuple[Seen, Seen]], list[Seen]]:
    """Return the pairs, and who has no partner though its score is clearly sent."""
    pairs, alone = list[tuple[Seen, Seen]](), list[Seen]()
    for mine, other in zip(ours, theirs, strict=True):
        here = [(a, b) for a, b, _ in pairs_of(mine, other, iou_min=0.8)]
        partners = [one for pair in here for one in pair]
        pairs += here
        alone += [one for one in (*mine, *other) if not any(one is p for p in partners)]
    return pairs, [one for one in alone if one.score > THRESHOLD + NEAR_THRESHOLD]


def _pixels_apart(one: Seen, other: Seen) -> float:
    return max(abs(x - y) for x, y in zip(one.box, other.box, strict=True))


def _agreement(detector: Built, frames: Frames, *, broken: str = "") -> Agreement:
    pairs = []
    for device, frame in frames:
        shifted = 25 if broken == "old_frame" else 0
        _, truth = draw(SEEDS[device], frame.frame + shifted, (detector.size, detector.size))
        found = [_break(one, broken) for one in _seen(frame)]
        pairs.append((found, [Seen(one.label, one.box) for one in truth]))
    return agreement(pairs)


def _break(one: Seen, how: str) -> Seen:
    left, top, right, bottom = one.box
    changed: dict[str, Box] = {
        "swapped_axes": (top, left, bottom, right),
        "half_the_scale": (left / 2, top / 2, right / 2, bottom / 2),
        "centre_and_size": (
            left - right / 2, top - bottom / 2, left + right / 2, top + bottom / 2,
        ),
    }  # fmt: skip
    label = one.label
    if how == "shifted_labels":
        label = CLASS_NAMES[(CLASS_NAMES.index(label) + 1) % len(CLASS_NAMES)]
    return replace(one, box=changed.get(how, one.box), label=label)


def _seen(frame: Detections) -> list[Seen]:
    assert isinstance(frame.objects, tuple)
    return [Seen(one.label, one.box, one.score) for one in frame.objects]


def _draw(detector: Built, device: str, frame: Detections):  # noqa: ANN202 - draw says it.
    return draw(SEEDS[device], frame.frame, (detector.size, detector.size))
