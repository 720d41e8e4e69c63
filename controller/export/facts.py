"""What the exporter learned about a package, kept inside its simulator graph.

The graph is the one file of a package that our own code writes, so it carries the facts in its
metadata: a release can be made from graph and labels alone (as the demo does), and no file beside
them can contradict them.
"""

from pathlib import Path

import msgspec
import onnxruntime

from controller.export.convert import read_file
from shared.errors import ExportError
from shared.limits import FILE_BYTES
from shared.release import Input, Output, Task

# What the sensor puts out, in the order of the network's outputs.
OUTPUTS: dict[Task, tuple[str, ...]] = {
    "detect": ("boxes", "scores", "labels", "n_valid"),
    "pose": ("boxes", "scores", "labels", "keypoints"),
    "segment": ("boxes", "scores", "labels", "coefficients", "protos"),
    "classify": ("scores",),
}
FACTS_KEY = "imx_facts"  # Metadata of the simulator graph, beside those that shared.graph reads.


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the manifest says about the network itself.

    Attributes:
        keypoints: How many points an object has; None unless the task is pose.
        threshold_permille: The lowest score that the network's own NMS lets through.
        memory_bytes: What the network takes of the sensor's memory; 0 where it is unknown.
        provenance: Weights, data, tools and licence, in words.
    """

    task: Task
    network_name: str
    input: Input
    outputs: tuple[Output, ...]
    threshold_permille: int
    memory_bytes: int
    provenance: dict[str, str]
    keypoints: int | None = None


def read_facts(graph: Path) -> Facts:
    """Return the facts in a simulator graph.

    Raises:
        ExportError: It is not a graph that this exporter wrote.
    """
    data = read_file(graph, bytes_max=FILE_BYTES)
    text = _metadata(data, graph).get(FACTS_KEY)
    if text is None:
        raise ExportError(f"expected a graph that `fleetctl model build` wrote, got {graph}")
    try:
        return msgspec.json.decode(text, type=Facts)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ExportError(f"the facts in {graph} do not read: {error}") from error


def _metadata(data: bytes, graph: Path) -> dict[str, str]:
    # onnxruntime's exceptions share no public base class, so this is the one broad catch.
    try:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            data, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ExportError(f"{graph} is not an ONNX graph: {str(error)[:200]}") from error
    metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return metadata
