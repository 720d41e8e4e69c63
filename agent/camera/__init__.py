"""One camera: the child process that owns it and the kinds of camera it can drive."""
