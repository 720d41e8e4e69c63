"""Measures the main job on this machine: `make bench`. A command, not a test."""
