"""A receipt as the exporter writes it, of the release in tests/tinygraph.py."""

import msgspec

from controller.export.receipt import ClassScore, Pictures, Receipt, Score
from shared.release import SENSOR_MEMORY_BYTES
from tests.tinygraph import NETWORK_NAME


def receipt_of(
    *, float32: float | None = 0.537, quantised: float = 0.521, **changes: object
) -> Receipt:
    receipt = Receipt(
        task="detect",
        network_name=NETWORK_NAME,
        scores=(
            Score(metric="mAP50-95", float32=float32, quantised=quantised, stock=0.294),
            Score(metric="mAP50", float32=float32, quantised=0.75, stock=None),
        ),
        classes=(
            ClassScore(0, 16, 0.5, 0.4, None),
            ClassScore(2, 5, None, 1.0, 0.25),
        ),
        pictures=Pictures(
            split="test", count=20, objects=21, is_held_out=True, sha256="0" * 64
        ),
        files={"simulator.onnx": 1_276_952, "labels.txt": 23},
        memory_bytes=SENSOR_MEMORY_BYTES // 2,
    )  # fmt: skip
    return msgspec.structs.replace(receipt, **changes)
