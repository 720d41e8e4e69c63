"""Measures the exporter: `make bench-export` beside stock, `make export-matrix` for every task."""
