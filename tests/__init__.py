"""Tests are claims; what several of them make is in ``making.py``."""
