"""Distillation, measured: ``python -m benchmarks.distill``; a file for each line of what it has to show."""
