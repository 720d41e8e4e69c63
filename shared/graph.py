"""Run a release's simulator graph: the sensor's network, quantised alike, in onnxruntime.

The graph ends before the network's NMS, a Sony operator that onnxruntime does not know; its
parameters lie in the graph's metadata and the NMS is done here, so that what comes out is what the
sensor would put out: fixed shapes, zeros after the valid rows. Where the sensor could only put out
a number and the graph puts out none (NaN), it stays visible: it must fail the gate.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from shared.decode.results import Tensor, Tensors, are_finite
from shared.errors import MalformedError
from shared.limits import OBJECTS_PER_FRAME_MAX

LOWERED_KEY = "imx_lowered"  # Metadata of the graph, written by controller/export.
NETWORK_NAME_KEY = "imx_network_name"
CANDIDATES_MAX = 30_000  # Best-scored ones that enter the NMS; 300 of them survive at most.

ROWS_DIMENSIONS = 3  # Keypoints and coefficients: batch x boxes x values. Prototypes have four.

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Nms(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the network's non-maximum suppression."""

    score_threshold: float
    iou_threshold: float
    max_detections: int


class Lowered(msgspec.Struct, frozen=True, kw_only=True):
    """How the graph was cut; without ``nms`` its outputs are the network's."""

    nms: Nms | None = None
    raw_outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suppressed:
    """What survives a multiclass NMS, best first; ``rows`` index the boxes that went in."""

    boxes: Floats
    scores: Floats
    labels: NDArray[np.int32]
    rows: NDArray[np.intp]


class Graph:
    """A loaded simulator graph."""

    def __init__(
        self,
        data: bytes,
        *,
        threads: int = 1,
        is_exact: bool = False,
        score_threshold: float | None = None,
    ) -> None:
        """Load it.

        Args:
            data: The file's bytes.
            threads: Of one inference; a camera child must not take the whole machine.
            is_exact: Without onnxruntime's optimisations: bit for bit Sony's operators, slower.
            score_threshold: In place of the one that is baked into the NMS: who measures accuracy
                wants the doubtful objects, too.

        Raises:
            MalformedError: It is not a simulator graph.
        """
        self._session = _open(data, threads=threads, is_exact=is_exact)
        metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._nms, self._wanted = _lowered(metadata.get(LOWERED_KEY, "{}"))
        if self._nms is not None and score_threshold is not None:
            self._nms = msgspec.structs.replace(self._nms, score_threshold=score_threshold)
        self._input = self._session.get_inputs()[0]
        self.network_name = metadata.get(NETWORK_NAME_KEY, "")

    @property
    def nms(self) -> Nms | None:
        """Return how the outputs are suppressed, or None where nothing is."""
        return self._nms

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Return width and height of the input, or None where the graph leaves them open."""
        shape = self._input.shape
        if len(shape) != 4 or not all(isinstance(side, int) for side in shape[2:]):  # noqa: PLR2004
            return None
        return int(shape[3]), int(shape[2])

    def run(self, image: Pixels) -> Tensors:
        """Return the network's output tensors for one image (uint8, height x width x 3).

        Raises:
            MalformedError: The graph cannot take this image, or its outputs cannot be suppressed.
        """
        tensor = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        # onnxruntime's exceptions share no public base class, so this is a broad catch.
        try:
            outputs = self._session.run(self._wanted or None, {self._input.name: tensor})
        except Exception as error:
            raise MalformedError(f"the simulator graph failed: {str(error)[:200]}") from error
        raw = tuple(np.asarray(output) for output in outputs)
        return raw if self._nms is None else _finish(raw, self._nms)


def multiclass_nms(boxes: Floats, scores: Floats, nms: Nms) -> Suppressed:
    """Return what Sony's NMS keeps of N boxes (N x 4) with scores by class (N x C).

    A box counts once for each class above the score threshold; within a class, one that overlaps a
    better one by more than the IoU threshold goes; the best ``max_detections`` of all stay.
    """
    rows, labels = np.nonzero(scores > nms.score_threshold)
    found = scores[rows, labels]
    order = np.argsort(-found, kind="stable")[:CANDIDATES_MAX]
    rows, labels, found = rows[order], labels[order], found[order]
    kept = _keep(boxes[rows], labels, nms)
    return Suppressed(
        boxes[rows[kept]], found[kept], labels[kept].astype(np.int32), np.asarray(rows[kept])
    )


def _keep(boxes: Floats, labels: NDArray[np.intp], nms: Nms) -> NDArray[np.intp]:
    """Return the indices that survive; at most ``max_detections`` passes over what is left."""
    left = np.arange(len(boxes))
    kept: list[int] = []
    while len(left) and len(kept) < min(nms.max_detections, OBJECTS_PER_FRAME_MAX):
        best, left = left[0], left[1:]
        kept.append(int(best))
        is_rival = labels[left] == labels[best]
        overlaps = _iou(boxes[best], boxes[left]) > nms.iou_threshold
        left = left[~(is_rival & overlaps)]
    return np.array(kept, np.intp)


def _iou(box: Floats, others: Floats) -> Floats:
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    with np.errstate(divide="ignore", invalid="ignore"):
        iou: Floats = shared / union  # 0 / 0 is NaN, which is above no threshold.
    return iou


def _finish(raw: Tensors, nms: Nms) -> Tensors:
    """Return what the sensor puts out: suppressed, gathered, padded."""
    boxes, scores = _checked(raw)
    result = multiclass_nms(boxes, scores, nms)
    count, rows_max = len(result.rows), min(nms.max_detections, OBJECTS_PER_FRAME_MAX)
    tensors = [
        _padded(result.boxes, rows_max),
        _padded(result.scores, rows_max),
        _padded(result.labels, rows_max),
    ]
    if not are_finite(boxes, scores):
        tensors[0] = np.full_like(tensors[0], np.nan)
        tensors[1] = np.full_like(tensors[1], np.nan)
    extra = [
        _gathered(tensor, result.rows, rows_max) if tensor.ndim == ROWS_DIMENSIONS else tensor
        for tensor in raw[2:]
    ]
    return (*tensors, *(extra or [np.array([[count]], np.float32)]))


def _gathered(tensor: Tensor, rows: NDArray[np.intp], rows_max: int) -> Tensor:
    """Return the rows that survived; a NaN of any other row would be seen nowhere."""
    gathered = _padded(tensor[0][rows], rows_max)
    return gathered if are_finite(tensor) else np.full_like(gathered, np.nan)


def _checked(raw: Tensors) -> tuple[Floats, Floats]:
    """Return boxes N x 4 and scores N x C without their batch."""
    missing: Tensor = np.zeros((0, 0), np.float32)
    boxes, scores, *extra = raw if len(raw) > 1 else (missing, missing)
    is_right = (
        boxes.ndim == scores.ndim == ROWS_DIMENSIONS
        and boxes.shape == (1, scores.shape[1], 4)
        and all(_is_extra(tensor, rows=scores.shape[1]) for tensor in extra)
    )
    if not is_right:
        shapes = [tensor.shape for tensor in raw]
        raise MalformedError(f"expected boxes 1 x N x 4 and scores 1 x N x C, got {shapes}")
    return boxes[0].astype(np.float32), scores[0].astype(np.float32)


def _is_extra(tensor: Tensor, *, rows: int) -> bool:
    """Say whether it has a row for each box, or is a map: then its sides do not count boxes."""
    if tensor.ndim == ROWS_DIMENSIONS:
        return tensor.shape[:2] == (1, rows)
    return tensor.ndim > ROWS_DIMENSIONS


def _padded(rows: Tensor, rows_max: int) -> Tensor:
    padded = np.zeros((1, rows_max, *rows.shape[1:]), rows.dtype)
    padded[0, : len(rows)] = rows
    return padded


def _lowered(text: str) -> tuple[Nms | None, list[str]]:
    try:
        lowered = msgspec.json.decode(text, type=Lowered)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise MalformedError(f"the simulator graph's metadata: {error}") from error
    if lowered.nms is not None and not 1 <= lowered.nms.max_detections <= OBJECTS_PER_FRAME_MAX:
        raise MalformedError(
            f"expected 1 to {OBJECTS_PER_FRAME_MAX} detections, got {lowered.nms.max_detections}"
        )
    return lowered.nms, list(lowered.raw_outputs)


def _open(data: bytes, *, threads: int, is_exact: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # Errors only: warnings about a signed graph help nobody.
    if is_exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # onnxruntime's exceptions share no public base class, so this is a broad catch.
    try:
        return onnxruntime.InferenceSession(
            data, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise MalformedError(f"not a simulator graph: {str(error)[:200]}") from error
