"""Quantization, measured: ``python -m benchmarks.quantize``; a file for each line of what it has to show."""
