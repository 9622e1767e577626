"""Compress the LeNet-5 that comes with karui by a recipe of one's own, and look at what came of it.

Usage: python examples/01_compress_lenet.py [EFFORT]

EFFORT: a part of the training and of the pictures; 1 takes some minutes, 0.02 a few seconds, for a much worse network.
"""

import sys
from dataclasses import replace
from pathlib import Path

import karui
from karui import datasets

effort = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0

# The data set that comes with karui: 9,000 pictures to train on, 3,000 to choose by, 10,000 to tell the result on.
data = datasets.load("fashion-mnist", sample=True)
data = replace(data, validation=data.validation.take(round(3_000 * effort)), test=data.test.take(round(10_000 * effort)))

# First nine of ten weights go, bit by bit, while the network learns from its own original; then what is left becomes int8.
recipe = [
    karui.Phase(
        techniques=(karui.Prune(sparsity=0.9, schedule="cubic"), karui.Distill()),
        training=karui.Training(steps=round(1_500 * effort), optimizer="adamw", lr=5e-4),
    ),
    karui.Phase(
        techniques=(karui.Quantize(), karui.Distill()),
        training=karui.Training(steps=round(500 * effort), optimizer="adamw", lr=1e-4),
    ),
]
budget = karui.Budget(drop=0.5 if effort >= 1 else 50, bytes=100_000)  # points lost; bytes of compiled C
result = karui.compress("zoo:lenet5", data, budget, recipe, out="runs/lenet")

for when, side in (("before", result.record.baseline), ("after", result.record.final)):
    print(f"{when:<7} {side.accuracy:6.2f} %  {side.bytes['c']:>9,} bytes of C  {side.latency_ms:.3f} ms")
for layer in result.record.layers:
    if layer.bits:
        print(f"  {layer.name:<8} {layer.sparsity:4.0%} zeros, {layer.bits:g} bits")

# A few pictures to try the device folder with: its program reads PGM and PPM files.
batch = next(iter(data.test.batches(3)))
for i, picture in enumerate(batch.stored[0]):
    path = Path(result.folder) / f"{data.labels[batch.targets[i]].replace('/', ' or ')}.pgm"
    path.write_bytes(b"P5 28 28 255\n" + bytes(picture.flatten().tolist()))
print(f"the proof: {result.folder / 'report.html'}")
print(f"on a device: cd {result.folder / 'export' / 'device'} && make && ./model ../../*.pgm")
