"""Output tensors to detections, one module a task. Pure."""
