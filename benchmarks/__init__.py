"""Benchmarks: ``python -m benchmarks.NAME [--quick] --json FILE``; every figure is measured again, never quoted."""
