"""`yolo export format=imx` as it comes, in a process of its own.

    python -m benchmarks.export.stock WEIGHTS DATA PIXELS

Leaves the folder WEIGHTS without its suffix, ``_imx_model``. Nothing of ours is in it but that
Ultralytics is kept from installing packages and from calling home.
"""

import sys


def main() -> None:
    """Export."""
    from ultralytics import YOLO  # noqa: PLC0415 - the caller sets the environment first.

    weights, data, pixels = sys.argv[1:]
    YOLO(weights).export(format="imx", data=data, imgsz=int(pixels))


if __name__ == "__main__":
    main()
