"""From windows of a sensor to a program on a device: train, compress to int8, make, ask it about a window.

Usage: python examples/03_sensor_to_device.py [EPOCHS]

The data is SYNTHETIC (sines in noise, whose beat is the class), so its accuracy says nothing about real sensors.
"""

import math
import subprocess
import sys

import torch
from torch import nn

import karui
from karui import zoo

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 8
LABELS = ("still", "walk", "run", "climb", "jump", "shake")


def windows(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, 6, 128] readings, two seconds of accelerometer and gyroscope, and which of six motions it was: [N]."""
    random = torch.Generator().manual_seed(seed)
    motion = torch.randint(6, (count,), generator=random)
    turns = (1 + 1.5 * motion)[:, None, None] * torch.arange(128) / 64 + torch.rand(count, 6, 1, generator=random)
    size = 0.5 + torch.rand(count, 6, 1, generator=random)
    return size * torch.sin(2 * math.pi * turns) + 0.7 * torch.randn(count, 6, 128, generator=random), motion


parts = {part: windows(1_000, seed) for seed, part in enumerate(("train", "validation", "test"))}
data = karui.Data.of(name="synthetic motion", labels=LABELS, **parts)

torch.manual_seed(0)
network = zoo.build("cnn1d")  # any torch module would do
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
for epoch in range(EPOCHS):
    for batch in data.train.batches(50, seed=epoch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(*batch.inputs), batch.targets).backward()
        optimizer.step()

# int8 after training: no step of training more, ranges from the first 512 windows.
result = karui.compress(network.eval(), data, karui.Budget(drop=2.0), [karui.Quantize()], out="runs/motion", name="motion")
before, after = result.record.baseline, result.record.final
print(f"{before.accuracy:.1f} % in {before.bytes['c']:,} bytes → {after.accuracy:.1f} % in {after.bytes['c']:,} bytes of C")

# What a logger on the device would write: a line for each reading, its six values between commas.
folder = result.folder / "export" / "device"
window, motion = next(iter(data.test.batches(1))).inputs[0][0], LABELS[data.test.targets[0]]
rows = [",".join(f"{value:.6g}" for value in reading) for reading in window.T.tolist()]
(folder / "window.csv").write_text("# ax,ay,az,gx,gy,gz\n" + "\n".join(rows) + "\n")

# Copy the folder to the device and do this there; it needs a C compiler and make, no Python.
subprocess.run(["make", "--silent"], cwd=folder, check=True)
answer = subprocess.run(["./model", "window.csv"], cwd=folder, check=True, capture_output=True, text=True).stdout
print(f"./model window.csv → {answer.strip()}   (it was: {motion})")
