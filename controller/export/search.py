"""How many bytes weights may take where eight bits for each are too many. Pure."""

from controller.export.wire import BuildRequest
from shared.release import Task

# As Ultralytics 8.4.190 sets them for 80 classes (ultralytics/utils/export/imx.py, MCT_CONFIG).
STOCK_BYTES: dict[tuple[str, Task], float] = {
    ("YOLO11", "detect"): 2585350.2439,
    ("YOLO11", "pose"): 2437771.67,
    ("YOLO11", "segment"): 2466604.8,
    ("YOLOv8", "detect"): 2550540.8,
    ("YOLOv8", "pose"): 2482451.85,
    ("YOLOv8", "segment"): 2580060.0,
}


def weights_budget(request: BuildRequest, *, task: Task, model: str) -> float:
    """Return the bytes that weights may take where the search is asked for in any case.

    Args:
        request: Whose ``weights_memory`` goes before everything else.
        task: Of the network.
        model: Its modules in words: only YOLO11 has C2PSA.
    """
    if request.weights_memory is not None:
        return float(request.weights_memory)
    family = "YOLO11" if "C2PSA" in model else "YOLOv8"
    return STOCK_BYTES.get((family, task), float("inf"))
