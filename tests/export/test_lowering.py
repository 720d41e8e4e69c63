"""The simulator graph against what it stands for: Sony's own operators, and two other NMS."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from controller.export.facts import Facts
from shared.errors import ExportError
from shared.graph import Graph, Nms, multiclass_nms
from shared.release import Input

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]

SIDE = 32
LABELS = ("circle", "square", "triangle")

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def sonys() -> ModuleType:
    """What imports torch: seconds, and warnings that are not ours."""
    from tests.export import sonys  # noqa: PLC0415

    return sonys


@pytest.fixture(scope="module")
def tiny_detector(sonys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sonys.exported(sonys.Detector(), tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def tiny_classifier(sonys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sonys.exported(sonys.Classifier(), tmp_path_factory.mktemp("classifier"))


def lowered(source: Path, task: str = "detect") -> bytes:
    from controller.export.lower import lower  # noqa: PLC0415 - needs onnx.

    facts = Facts(
        task=task,
        network_name=source.stem,
        input=Input(width=SIDE, height=SIDE, color="RGB"),
        outputs=(),
        threshold_permille=250,
        memory_bytes=0,
        provenance={},
    )
    target = source.with_suffix(".lowered")
    lower(source, target, facts=facts, labels=LABELS)
    return target.read_bytes()


def tensor_of(picture: Pixels) -> Floats:
    return picture.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)


def pictures() -> list[Pixels]:
    """Noise of several kinds, black, white."""
    random = np.random.default_rng(7)
    noise = [random.integers(0, 256, (SIDE, SIDE, 3)) for _ in range(8)]
    coarse = [np.kron(random.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))) for _ in range(8)]
    flat = [np.full((SIDE, SIDE, 3), level) for level in (0, 127, 255)]
    return [picture.astype(np.uint8) for picture in (*noise, *coarse, *flat)]


def test_a_detector_gives_bit_for_bit_what_sonys_operators_give(
    tiny_detector: Path, sonys: ModuleType
) -> None:
    run, graph = sonys.operators_on(tiny_detector), Graph(lowered(tiny_detector), is_exact=True)
    counts = []

    for picture in pictures():
        expected, got = run(tensor_of(picture)), graph.run(picture)
        assert len(got) == len(expected) == 4
        for ours, theirs in zip(got, expected, strict=True):
            assert np.array_equal(ours, theirs)
        counts.append(int(got[3].item()))

    assert len(set(counts)) > 2  # The pictures tell networks apart.
    assert (min(counts), max(counts)) == (0, 6)  # None found, and the limit reached.


def test_a_classifier_gives_bit_for_bit_what_sonys_operators_give(
    tiny_classifier: Path, sonys: ModuleType
) -> None:
    run = sonys.operators_on(tiny_classifier)
    graph = Graph(lowered(tiny_classifier, "classify"), is_exact=True)
    best = set()

    for picture in pictures():
        (expected,), (got,) = run(tensor_of(picture)), graph.run(picture)
        assert np.array_equal(got, expected)
        best.add(got.tobytes())

    assert len(best) > 2


def test_onnxruntimes_optimisations_move_a_score_by_steps_not_more(tiny_classifier: Path) -> None:
    data = lowered(tiny_classifier, "classify")
    exact, fast = Graph(data, is_exact=True), Graph(data)

    for picture in pictures():
        (expected,), (got,) = exact.run(picture), fast.run(picture)
        assert np.abs(got - expected).max() <= 2 / 256


def test_the_graph_is_plain_names_its_network_and_stores_bytes(tiny_detector: Path) -> None:
    data = lowered(tiny_detector)
    model = onnx.load_model_from_string(data)

    assert {node.domain for node in model.graph.node} == {""}
    assert Graph(data).network_name == tiny_detector.stem
    assert Graph(data).input_size == (SIDE, SIDE)
    properties = {one.key: one.value for one in model.metadata_props}
    assert json.loads(properties["names"]) == list(LABELS)
    nms = json.loads(properties["imx_lowered"])["nms"]
    assert nms["max_detections"] == 6
    assert nms["iou_threshold"] == pytest.approx(0.5)
    stored = {tuple(one.dims): one.data_type for one in model.graph.initializer}
    assert stored[(8, 8, 3, 3)] == onnx.TensorProto.INT8


def test_two_lowerings_of_one_network_are_the_same_bytes(tiny_detector: Path) -> None:
    assert lowered(tiny_detector) == lowered(tiny_detector)


def bits_before(model: "onnx.ModelProto", tensor: str) -> int:
    """Return the bits of the quantiser from which a tensor comes."""
    makers = {output: node for node in model.graph.node for output in node.output}
    node = makers[tensor]
    while node.domain != "mct_quantizers":
        node = makers[node.input[0]]
    return next(one.i for one in node.attribute if one.name == "num_bits")


def test_boxes_reach_the_nms_in_sixteen_bits_and_scores_in_eight(tiny_detector: Path) -> None:
    model = onnx.load(tiny_detector)
    (nms,) = [node for node in model.graph.node if node.domain == "EdgeMDT"]

    assert [bits_before(model, tensor) for tensor in nms.input] == [16, 8]


def test_anchors_that_eight_bits_do_not_hold_are_refused(sonys: ModuleType, tmp_path: Path) -> None:
    source = sonys.exported(sonys.Detector(moved_cells=0.01), tmp_path)

    with pytest.raises(ExportError, match="coordinates"):
        lowered(source)


def test_coordinates_are_found_by_structure(sonys: ModuleType) -> None:
    from controller.export.quantise import coordinate_nodes  # noqa: PLC0415 - imports torch.

    names = coordinate_nodes(sonys.Detector())

    assert {name.rstrip("_0123456789") for name in names} == {"sub", "add", "cat", "mul"}
    assert coordinate_nodes(sonys.Classifier()) == ()


# One operator at a time.
def one_operator(
    folder: Path,
    operation: str,
    *,
    weights: Floats | None = None,
    thresholds: list[float] | None = None,
    computed: bool = False,
    domain: str = "mct_quantizers",
    **attributes: object,
) -> Path:
    """Write a graph of one quantiser: of its input, or of weights that are added to its input."""
    helper = onnx.helper
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    out = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
    constants, nodes, inputs = [], [], ["images"]
    if weights is not None:
        constants.append(onnx.numpy_helper.from_array(weights, "weights"))
        inputs = ["weights"]
    if computed:
        nodes.append(helper.make_node("Transpose", ["weights"], ["turned"], perm=[0, 1, 3, 2]))
        inputs = ["turned"]
    if thresholds is not None:
        constants.append(onnx.numpy_helper.from_array(np.float32(thresholds), "thresholds"))
        inputs.append("thresholds")
    target = "out" if weights is None else "quantised"
    nodes.append(helper.make_node(operation, inputs, [target], domain=domain, **attributes))
    if weights is not None:
        nodes.append(helper.make_node("Add", ["images", "quantised"], ["out"]))
    graph = helper.make_graph(nodes, "one", [images], [out], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    path = folder / "n1.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def both(sonys: ModuleType, path: Path, values: Floats) -> tuple[Floats, Floats]:
    """Return what Sony's operator and what the lowered graph make of the values."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(lowered(path), options, providers=["CPUExecutionProvider"])
    (expected,) = sonys.operators_on(path)(values)
    (got,) = plain.run(None, {"images": values})
    return expected, got


def hard_values(step: float) -> Floats:
    """Values between two steps, on a step, just beside, and far out of range."""
    random = np.random.default_rng(3)
    values = random.normal(0, 300 * step, (1, 3, SIDE, SIDE)).astype(np.float32)
    halves = (np.arange(-300, 300) + 0.5) * step
    near = np.nextafter(halves.astype(np.float32), np.float32(np.inf))
    flat = values.reshape(-1)
    flat[:600], flat[600:1200] = halves, near
    flat[1200:1204] = [0.0, -0.0, 1e30, -1e30]
    return values


@pytest.mark.parametrize("is_signed", [0, 1])
@pytest.mark.parametrize(
    ("operation", "bits", "threshold"),
    [
        ("ActivationPOTQuantizer", 8, 1.0),
        ("ActivationPOTQuantizer", 8, 0.0625),
        ("ActivationPOTQuantizer", 16, 512.0),
        ("ActivationPOTQuantizer", 2, 4.0),
        ("ActivationSymmetricQuantizer", 8, 3.7),
        ("ActivationSymmetricQuantizer", 16, 0.3),
    ],
)
def test_an_activation_is_quantised_as_sonys_operator_does(
    operation: str, bits: int, threshold: float, is_signed: int, sonys: ModuleType, tmp_path: Path
) -> None:
    path = one_operator(tmp_path, operation, threshold=threshold, num_bits=bits, signed=is_signed)

    expected, got = both(sonys, path, hard_values(threshold / 2 ** (bits - is_signed)))

    assert len(np.unique(expected)) > 3
    assert np.array_equal(got, expected)


@pytest.mark.parametrize(
    ("operation", "bits", "thresholds", "computed"),
    [
        ("WeightsSymmetricQuantizer", 8, [0.7, 1.3, 0.011], False),
        ("WeightsSymmetricQuantizer", 4, [0.7, 1.3, 0.011], False),
        ("WeightsSymmetricQuantizer", 16, [0.7, 1.3, 0.011], False),
        ("WeightsSymmetricQuantizer", 8, [0.7], False),
        ("WeightsSymmetricQuantizer", 8, [0.7], True),
        ("WeightsPOTQuantizer", 8, [0.5, 1.0, 2.0], False),
        ("WeightsPOTQuantizer", 8, [0.5], True),
    ],
)
def test_weights_are_quantised_as_sonys_operator_does(
    operation: str,
    bits: int,
    thresholds: list[float],
    computed: bool,  # noqa: FBT001
    sonys: ModuleType,
    tmp_path: Path,
) -> None:
    weights = np.random.default_rng(5).normal(0, 0.6, (1, 3, SIDE, SIDE)).astype(np.float32)
    path = one_operator(
        tmp_path,
        operation,
        weights=weights,
        thresholds=thresholds,
        computed=computed,
        num_bits=bits,
        signed=1,
        per_channel=int(len(thresholds) > 1),
        channel_axis=1,
    )

    expected, got = both(sonys, path, np.zeros((1, 3, SIDE, SIDE), np.float32))

    assert len(np.unique(expected)) > 3
    assert np.array_equal(got, expected)


@pytest.mark.parametrize(
    ("operation", "domain"),
    [
        ("WeightsLUTSymmetricQuantizer", "mct_quantizers"),
        ("ActivationLutPOTQuantizer", "mct_quantizers"),
        ("ActivationUniformQuantizer", "mct_quantizers"),
        ("MultiClassNMSOBB", "EdgeMDT"),
        ("FasterRCNNBoxDecode", "EdgeMDT"),
        ("Gelu", "com.microsoft"),
    ],
)
def test_an_operator_without_a_plain_form_is_refused(
    operation: str, domain: str, tmp_path: Path
) -> None:
    path = one_operator(tmp_path, operation, domain=domain, threshold=1.0, num_bits=8, signed=1)

    with pytest.raises(ExportError, match=operation):
        lowered(path)


def test_a_step_for_each_channel_of_computed_weights_is_refused(tmp_path: Path) -> None:
    path = one_operator(
        tmp_path,
        "WeightsSymmetricQuantizer",
        weights=np.ones((1, 3, SIDE, SIDE), np.float32),
        thresholds=[1.0, 2.0, 3.0],
        computed=True,
        num_bits=8,
        signed=1,
        per_channel=1,
        channel_axis=1,
    )

    with pytest.raises(ExportError, match="each channel"):
        lowered(path)


# The NMS, which a lowered graph leaves to shared/graph.py.
def crowd(seed: int, *, classes: int, rows: int) -> tuple[Floats, Floats]:
    """Boxes around few centres, on the sensor's grid; scores as coarse as its own: many ties."""
    random = np.random.default_rng(seed)
    centres = random.integers(40, 280, (max(1, rows // 8), 2))
    middle = centres[random.integers(0, len(centres), rows)] + random.normal(0, 4, (rows, 2))
    half = random.uniform(8, 20, (rows, 2))
    boxes = np.round(np.hstack([middle - half, middle + half]) * 64) / 64
    scores = random.integers(0, 257, (rows, classes)) / 256
    return boxes.astype(np.float32), scores.astype(np.float32)


FEW = Nms(score_threshold=0.25, iou_threshold=0.7, max_detections=300)
ALL = Nms(score_threshold=0.0, iou_threshold=0.3, max_detections=300)
CUT = Nms(score_threshold=0.5, iou_threshold=0.5, max_detections=50)
NONE = Nms(score_threshold=1.0, iou_threshold=0.5, max_detections=300)
TOUCH = Nms(score_threshold=0.1, iou_threshold=0.0, max_detections=300)


@pytest.mark.parametrize(
    ("rows", "classes", "nms", "kept"),
    [
        pytest.param(80, 3, FEW, range(2, 300), id="few"),
        pytest.param(300, 1, ALL, range(2, 300), id="one class"),
        pytest.param(300, 16, CUT, range(50, 51), id="more than may stay"),
        pytest.param(5, 3, NONE, range(1), id="none above the threshold"),
        pytest.param(64, 3, TOUCH, range(2, 300), id="no overlap allowed"),
    ],
)
def test_suppression_keeps_what_sony_and_ultralytics_keep(
    rows: int, classes: int, nms: Nms, kept: range, sonys: ModuleType
) -> None:
    for seed in range(20):
        boxes, scores = crowd(seed, classes=classes, rows=rows)
        expected = sonys.suppressed_by_sony(boxes, scores, nms)
        rows_expected = sonys.suppressed_by_ultralytics(boxes, scores, nms)

        result = multiclass_nms(boxes, scores, nms)

        for name in ("boxes", "scores", "labels", "rows"):
            assert np.array_equal(getattr(result, name), getattr(expected, name))
        found = np.column_stack([result.boxes, result.scores, result.labels])
        assert np.array_equal(found.astype(np.float32), rows_expected)
        assert len(result.rows) in kept
