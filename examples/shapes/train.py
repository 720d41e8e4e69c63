"""Train a small network of shapes with Ultralytics (needs the export extra).

    python examples/shapes/train.py FOLDER/shapes.yaml --epochs 60 --size 160 --out best.pt
    python examples/shapes/train.py FOLDER/shapes.yaml --task pose --start best.pt --out pose.pt

The detector is YOLO11n at half its width: 0.7 million parameters are enough for three shapes, and
keep the simulator graph under a megabyte. What Ultralytics trains is under AGPL-3.0.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import yaml

WIDTH = 0.125  # Of YOLO11n and YOLOv8n at half their width.
STRUCTURES = {"detect": "", "segment": "-seg", "pose": "-pose", "classify": "-cls"}
KEYPOINTS = [4, 3]  # Of draw.py: four points, each with x, y and whether it is seen.
THREADS = 2
# Drawn pictures come in any number and are all alike: little needs to be made up around them.
DETECTOR = {"batch": 16, "lr0": 0.006, "cls": 1.5, "mosaic": 0.0, "scale": 0.1, "translate": 0.05}
CLASSIFIER = {"batch": 32, "lr0": 0.004, "scale": 0.1, "erasing": 0.0, "auto_augment": None}


def main() -> None:
    """Read the arguments, train, and keep the best weights."""
    parser = argparse.ArgumentParser(description="Train a small model of shapes.")
    parser.add_argument("data", type=Path, help="shapes.yaml, or a folder of crops to classify")
    parser.add_argument("--task", choices=STRUCTURES)
    parser.add_argument("--family", choices=("yolo11", "yolov8"), default="yolo11")
    parser.add_argument("--width", type=float, default=WIDTH, help="YOLO11n and YOLOv8n have 0.25")
    parser.add_argument("--start", type=Path, help="weights to start from, of any task")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("best.pt"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imxfleet-train-") as folder:
        best = _train(arguments, Path(folder))
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(best, arguments.out)
    print(arguments.out)


def _train(arguments: argparse.Namespace, folder: Path) -> Path:
    os.environ |= {"YOLO_AUTOINSTALL": "False", "YOLO_OFFLINE": "True"}
    os.environ["YOLO_CONFIG_DIR"] = str(folder)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # Threads that spin starve a machine in use.
    import torch  # noqa: PLC0415 - the environment above must be set first.
    from ultralytics import YOLO  # noqa: PLC0415

    torch.set_num_threads(THREADS)
    is_labelled = arguments.data.suffix in {".yaml", ".yml"}
    task = arguments.task or ("detect" if is_labelled else "classify")
    model = YOLO(_narrow(folder, arguments.family, task, arguments.width), task=task)
    model.train(
        data=str(arguments.data.resolve()),
        epochs=arguments.epochs,
        imgsz=arguments.size,
        seed=arguments.seed,
        project=str(folder),
        device="cpu",
        workers=1,
        plots=False,
        val=False,  # The rate falls to nothing by a plan, so the last weights are the best.
        pretrained=False if arguments.start is None else str(arguments.start),
        amp=False,
        optimizer="AdamW",
        cos_lr=True,
        warmup_epochs=0.3,
        **(CLASSIFIER if task == "classify" else DETECTOR),
    )
    return Path(str(model.trainer.last))


def _narrow(folder: Path, family: str, task: str, width: float) -> str:
    """Write an installed structure with one scale of that width; the file's name says which."""
    import ultralytics  # noqa: PLC0415

    models = Path(ultralytics.__file__).parent / "cfg" / "models"
    source = models / family.removeprefix("yolo") / f"{family}{STRUCTURES[task]}.yaml"
    structure = yaml.safe_load(source.read_text(encoding="utf-8"))
    depth, _, channels = structure["scales"]["n"]
    structure["scales"] = {"n": [depth, width, channels]}
    if task == "pose":
        structure["kpt_shape"] = KEYPOINTS
    target = folder / source.name.replace(family, f"{family}n")
    target.write_text(yaml.safe_dump(structure), encoding="utf-8")
    return str(target)


if __name__ == "__main__":
    main()
