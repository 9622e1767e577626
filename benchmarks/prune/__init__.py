"""Pruning, measured: ``python -m benchmarks.prune``; a file for each line of what it has to show."""
