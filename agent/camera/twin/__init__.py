"""A sensor of software below the real modlib and picamera2: what touches silicon, and no more."""
