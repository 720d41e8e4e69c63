"""What Ultralytics itself predicts from an exported folder, in a process of its own.

    python -m benchmarks.export.predicted MODEL THRESHOLD < pictures.npy > predictions.json

The pictures (N x height x width x 3, RGB) have the size of the network's input. Prints a list for
each of them: label, score and, but for a classifier, the box in pixels; keypoints in pixels; the
mask as rows of zeros and ones at the network's own resolution, before Ultralytics scales it up.
"""

import io
import json
import os
import sys
import tempfile

import numpy as np


def main() -> None:
    """Read pictures, predict, and write."""
    model, threshold = sys.argv[1], float(sys.argv[2])
    pictures = np.load(io.BytesIO(sys.stdin.buffer.read()))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What the libraries print is not our answer.
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"YOLO_AUTOINSTALL": "False", "YOLO_OFFLINE": "True"}
        os.environ["YOLO_CONFIG_DIR"] = folder
        json.dump(_predict(model, threshold, pictures), out)
    out.close()


def _predict(model: str, threshold: float, pictures: np.ndarray) -> list[list[dict[str, object]]]:
    from ultralytics import YOLO  # noqa: PLC0415 - the environment above must be set first.
    from ultralytics.utils import ops  # noqa: PLC0415

    process_mask = ops.process_mask
    ops.process_mask = lambda *given, **_: process_mask(*given, upsample=False)
    yolo = YOLO(model)
    options: dict[str, object] = {
        "imgsz": list(pictures.shape[1:3]),
        "conf": threshold,
        "max_det": 300,
    }
    answers = []
    for picture in pictures:
        given = np.ascontiguousarray(picture[..., ::-1])
        result = yolo.predict(given, device="cpu", verbose=False, **options)[0]
        answers.append(_classes(result) if result.boxes is None else _objects(result))
    return answers


def _objects(result) -> list[dict[str, object]]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    boxes = result.boxes
    found: list[dict[str, object]] = [
        {"label": result.names[int(class_)], "score": score, "box": box}
        for class_, score, box in zip(
            boxes.cls.tolist(), boxes.conf.tolist(), boxes.xyxy.tolist(), strict=True
        )
    ]
    if result.keypoints is not None:
        for one, points in zip(found, result.keypoints.data.tolist(), strict=True):
            one["keypoints"] = points
    if result.masks is not None:
        for one, mask in zip(found, result.masks.data.int().tolist(), strict=True):
            one["mask"] = mask
    return found


def _classes(result) -> list[dict[str, object]]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    scores = result.probs.data.tolist()
    return [{"label": result.names[class_], "score": score} for class_, score in enumerate(scores)]


if __name__ == "__main__":
    main()
