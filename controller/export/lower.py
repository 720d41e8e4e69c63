"""Turn the quantised network into plain ONNX that a stock onnxruntime runs: the simulator graph.

Sony's operators run as Python callbacks there (half a second a frame and more); these take
milliseconds and give the same numbers:

- weights are stored as the integers that the sensor gets, and a Cast and a Mul give them back;
- each activation quantiser becomes Mul (or Div, where the step is no power of two), Round, Clip,
  Mul. Not QuantizeLinear: that is off by up to 200 px in the coordinates;
- the NMS is cut off and its parameters go into the metadata: shared/graph.py does it in numpy.

Any other operator of a foreign domain is refused, MCT's with look-up tables too: a graph that is
nearly right proves nothing. Refused, too, are coordinates with a constant that was quantised to
another value: MCT does that to anchors without a word, and boxes far from the origin go astray.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from controller.export.facts import FACTS_KEY, Facts
from shared.errors import ExportError
from shared.graph import LOWERED_KEY, NETWORK_NAME_KEY

QUANTISERS = "mct_quantizers"  # The domain of MCT's operators.
WEIGHTS = frozenset({"WeightsPOTQuantizer", "WeightsSymmetricQuantizer"})
ACTIVATIONS = frozenset({"ActivationPOTQuantizer", "ActivationSymmetricQuantizer"})
NMS_DOMAIN = "EdgeMDT"
NMS_OPERATIONS = frozenset({"MultiClassNMS", "MultiClassNMSWithIndices"})
NMS_PARAMETERS = ("score_threshold", "iou_threshold", "max_detections")
_STORED_BITS_MAX = 8  # Weights of more bits stay float32.

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Quantiser:
    """What an operator of MCT's domain says: value = clip(round(x / step)) * step."""

    steps: Floats  # One, or one for each channel.
    low: int
    high: int
    axis: int | None  # Of the channels; None for one step.

    def shaped(self, dimensions: int) -> Floats:
        """Return the steps so that they multiply a tensor of that many dimensions."""
        if self.axis is None:
            return self.steps.reshape(())
        shape = [1] * dimensions
        shape[self.axis] = -1
        return self.steps.reshape(shape)

    def levels(self, weights: NDArray[np.generic]) -> tuple[Floats, Floats]:
        """Return the whole numbers that stand for the weights, and the steps that multiply them."""
        steps = self.shaped(weights.ndim)
        rounded = np.round(weights.astype(np.float32) / steps)
        return np.clip(rounded, self.low, self.high).astype(np.float32), steps


@dataclass(slots=True)
class _Lowering:
    """The graph as it grows."""

    constants: dict[str, NDArray[np.generic]]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    added: dict[str, onnx.TensorProto] = field(default_factory=dict)
    nms: onnx.NodeProto | None = None

    def constant(self, name: str, value: NDArray[np.number]) -> str:
        self.added[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def add(self, operation: str, inputs: list[str], output: str) -> str:
        self.nodes.append(helper.make_node(operation, inputs, [output]))
        return output


def lower(
    source: Path, target: Path, *, facts: Facts, labels: Iterable[str], is_strict: bool = True
) -> None:
    """Write the simulator graph of a quantised network.

    Args:
        source: What MCT exported.
        target: The file to write.
        facts: Go into its metadata.
        labels: Names by class.
        is_strict: Refuse coordinates whose constants were quantised to other values.

    Raises:
        ExportError: The network has an operator that this module does not know.
    """
    model = onnx.load(source)
    lowering = _Lowering(_constants(model.graph))
    for node in model.graph.node:
        _lower_node(lowering, node)
    outputs, parameters = _outputs(lowering, model.graph)
    if is_strict and lowering.nms is not None:
        _check_coordinates(lowering, model.graph, outputs)
    graph = _graph(lowering, model.graph, outputs)
    opsets = [opset for opset in model.opset_import if not opset.domain]
    lowered = helper.make_model(
        graph, opset_imports=opsets, ir_version=model.ir_version, producer_name="imxfleet"
    )
    metadata = {
        FACTS_KEY: msgspec.json.encode(facts, order="deterministic").decode(),
        LOWERED_KEY: json.dumps(parameters, sort_keys=True),
        NETWORK_NAME_KEY: facts.network_name,
        "task": facts.task,
        "names": json.dumps(list(labels)),
    }
    helper.set_model_props(lowered, metadata)
    lowered = onnx.shape_inference.infer_shapes(lowered)  # The new outputs have no shape yet.
    onnx.checker.check_model(lowered)
    target.write_bytes(lowered.SerializeToString(deterministic=True))


def _lower_node(lowering: _Lowering, node: onnx.NodeProto) -> None:
    match node.domain, node.op_type:
        case "", _:
            lowering.nodes.append(node)
        case domain, name if domain == QUANTISERS and name in WEIGHTS:
            _lower_weights(lowering, node)
        case domain, name if domain == QUANTISERS and name in ACTIVATIONS:
            _lower_activation(lowering, node, _quantiser(node, None))
        case domain, name if domain == NMS_DOMAIN and name in NMS_OPERATIONS and not lowering.nms:
            lowering.nms = node
        case domain, name:
            raise ExportError(f"no plain form is known of the operator {domain}::{name}")


def _lower_weights(lowering: _Lowering, node: onnx.NodeProto) -> None:
    """Store the integers; what is computed before it is quantised stays an activation."""
    thresholds = lowering.constants.get(node.input[1]) if len(node.input) > 1 else None
    quantiser = _quantiser(node, thresholds)
    weights = lowering.constants.get(node.input[0])
    if weights is None:
        _lower_activation(lowering, node, quantiser)
        return
    output, (levels, steps) = node.output[0], quantiser.levels(weights)
    if quantiser.high - quantiser.low >= 2**_STORED_BITS_MAX:
        lowering.constant(output, (levels * steps).astype(np.float32))
        return
    stored = levels.astype(np.int8 if quantiser.low < 0 else np.uint8)
    lowering.constant(f"{output}_i", stored)
    lowering.constant(f"{output}_s", steps)
    lowering.nodes.append(
        helper.make_node("Cast", [f"{output}_i"], [f"{output}_f"], to=onnx.TensorProto.FLOAT)
    )
    lowering.add("Mul", [f"{output}_f", f"{output}_s"], output)


def _lower_activation(lowering: _Lowering, node: onnx.NodeProto, quantiser: _Quantiser) -> None:
    if quantiser.axis is not None:
        raise ExportError(f"no plain form is known of {node.name}: it has a step for each channel")
    output, step = node.output[0], quantiser.steps.reshape(())
    if float(np.frexp(step)[0]) == 0.5:  # noqa: PLR2004 - a power of two: as exact, and faster.
        inverse = _scalar(lowering, np.float32(1.0 / float(step)))
        scaled = lowering.add("Mul", [node.input[0], inverse], f"{output}_m")
    else:
        scaled = lowering.add("Div", [node.input[0], _scalar(lowering, step)], f"{output}_m")
    rounded = lowering.add("Round", [scaled], f"{output}_r")
    bounds = [_scalar(lowering, np.float32(bound)) for bound in (quantiser.low, quantiser.high)]
    clipped = lowering.add("Clip", [rounded, *bounds], f"{output}_c")
    lowering.add("Mul", [clipped, _scalar(lowering, step)], output)


def _check_coordinates(lowering: _Lowering, graph: onnx.GraphProto, outputs: list[str]) -> None:
    """See that constants between the last convolutions and what comes out kept their values.

    Those are a detector's anchors, centre and strides, and a pose network's once more for its
    keypoints. The scores have none.
    """
    makers = {output: node for node in graph.node for output in node.output}
    waiting, seen = list(outputs), set[str]()
    while waiting:
        name = waiting.pop()
        node = makers.get(name)
        if node is None or name in seen or node.op_type == "Conv":
            continue
        seen.add(name)
        waiting.extend(node.input)
        if node.op_type in WEIGHTS:
            _check_kept(lowering, node)


def _check_kept(lowering: _Lowering, node: onnx.NodeProto) -> None:
    weights = lowering.constants.get(node.input[0])
    if weights is None:
        raise ExportError(
            f"expected coordinates of plain constants, got a computed one: {node.name}"
        )
    thresholds = lowering.constants.get(node.input[1]) if len(node.input) > 1 else None
    levels, steps = _quantiser(node, thresholds).levels(weights)
    worst = float(np.abs(levels * steps - weights.astype(np.float32)).max())
    if worst > 0:
        raise ExportError(
            f"expected coordinates that eight bits hold exactly, got a constant that is off by "
            f"{worst:.3g} ({node.name}): another --imgsz may do"
        )


def _scalar(lowering: _Lowering, value: np.float32 | Floats) -> str:
    number = np.asarray(value, np.float32)
    return lowering.constant(f"scalar_{float(number)!r}", number)


def _quantiser(node: onnx.NodeProto, thresholds: NDArray[np.generic] | None) -> _Quantiser:
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    bits, is_signed = int(attributes["num_bits"]), int(bool(attributes["signed"]))
    given = attributes["threshold"] if thresholds is None else thresholds
    values = np.asarray(given, np.float32).reshape(-1)
    is_per_channel = bool(attributes.get("per_channel", 0)) and values.size > 1
    half = 2 ** (bits - is_signed)
    return _Quantiser(
        steps=values / np.float32(half) if is_per_channel else values[:1] / np.float32(half),
        low=-half * is_signed,
        high=half - 1,
        axis=int(attributes.get("channel_axis", 0)) if is_per_channel else None,
    )


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """Return every constant by name: initialisers, Constant nodes, and their Identities."""
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        values = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Constant" and "value" in values:
            constants[node.output[0]] = numpy_helper.to_array(values["value"])
        if node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    return constants


def _outputs(lowering: _Lowering, graph: onnx.GraphProto) -> tuple[list[str], dict[str, object]]:
    """Cut the graph at its NMS; return the names of its outputs and what numpy must do then."""
    nms = lowering.nms
    if nms is None:
        names = [output.name for output in graph.output]
        return names, {"nms": None, "raw_outputs": names}
    after, gathered = set(nms.output), []
    for node in lowering.nodes:
        if after.intersection(node.input):
            after.update(node.output)
            if node.op_type.startswith("Gather"):
                gathered.append(node.input[0])
    untouched = [output.name for output in graph.output if output.name not in after]
    names = [nms.input[0], nms.input[1], *gathered, *untouched]
    values = {one.name: helper.get_attribute_value(one) for one in nms.attribute}
    parameters = {name: values[name] for name in NMS_PARAMETERS}
    return names, {"nms": parameters, "raw_outputs": names}


def _graph(lowering: _Lowering, old: onnx.GraphProto, outputs: list[str]) -> onnx.GraphProto:
    """Return the graph of those outputs, without what they do not need."""
    needed, nodes = set(outputs), []
    for node in reversed(lowering.nodes):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    constants = {one.name: one for one in old.initializer} | lowering.added
    return helper.make_graph(
        nodes[::-1],
        "lowered",
        list(old.input),
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [one for name, one in constants.items() if name in needed],
    )
