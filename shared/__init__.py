"""What both sides of the wire run."""
