"""From a YOLO model to an IMX500 package: the only place that imports torch."""
