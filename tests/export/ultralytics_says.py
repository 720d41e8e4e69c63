"""What Ultralytics itself predicts, in a process of its own: its warnings are not our errors.

    python ultralytics_says.py MODEL IMGSZ THRESHOLD < frames.npy

MODEL is weights or an exported folder; the frames (N x height x width x 3, RGB) come as a .npy on
standard input. Prints a JSON list with a list for each frame: label, score and, of a detector, the
normalised box; of a classifier all labels, best first.
"""

import io
import json
import os
import sys
import tempfile

import numpy as np


def main() -> None:
    model, imgsz, threshold = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    frames = np.load(io.BytesIO(sys.stdin.buffer.read()))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What the libraries print is not our answer.
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"YOLO_AUTOINSTALL": "False", "YOLO_OFFLINE": "True"}
        os.environ["YOLO_CONFIG_DIR"] = folder
        json.dump(predict(model, frames, imgsz, threshold), out)
    out.close()


def predict(
    model: str, frames: np.ndarray, imgsz: int, threshold: float
) -> list[list[dict[str, object]]]:
    from ultralytics import YOLO  # noqa: PLC0415 - the environment above must be set first.

    yolo = YOLO(model)
    options = {"imgsz": imgsz, "conf": threshold, "max_det": 300, "device": "cpu"}
    answers = []
    for number, frame in enumerate(frames):
        result = yolo.predict(np.ascontiguousarray(frame[..., ::-1]), verbose=False, **options)[0]
        answers.append(_classes(result) if result.boxes is None else _objects(result))
        if (number + 1) % 20 == 0:
            sys.stderr.write(f"Ultralytics predicts: {number + 1} of {len(frames)}\n")
    return answers


def _objects(result) -> list[dict[str, object]]:  # noqa: ANN001 - Ultralytics has no types.
    boxes = result.boxes
    rows = zip(boxes.cls.tolist(), boxes.conf.tolist(), boxes.xyxyn.tolist(), strict=True)
    return [
        {"label": result.names[int(class_)], "score": score, "box": box}
        for class_, score, box in rows
    ]


def _classes(result) -> list[dict[str, object]]:  # noqa: ANN001 - Ultralytics has no types.
    scores = result.probs.data.tolist()
    order = sorted(range(len(scores)), key=lambda class_: -scores[class_])
    return [{"label": result.names[class_], "score": scores[class_]} for class_ in order]


if __name__ == "__main__":
    main()
