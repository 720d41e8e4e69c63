"""What runs on the Pi: verify, deploy, prove, fall back, stream."""
