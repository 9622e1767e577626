"""Keep your own training loop: karui's techniques come to it.

Usage: python examples/02_own_training_loop.py [EPOCHS]
"""

import sys
from pathlib import Path

import torch
from torch.nn import functional as F

import karui
from karui import datasets, zoo
from karui.export import targets
from karui.finetune.evaluate import score
from karui.lower import lower

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 4
data = datasets.load("fashion-mnist", sample=True)
train = data.train.take(9_000 if epochs > 1 else 1_000)

# Your network, as you have it: any module. Captured, it is a graph that trains like the module did.
torch.manual_seed(0)
network = karui.capture(zoo.build("lenet300"), data.example(), name="mine")

# Your loop: first it trains the network as it is …
optimizer = torch.optim.AdamW(network.train().parameters().values(), lr=1e-3)
for epoch in range(epochs):
    for batch in train.batches(100, seed=epoch):
        optimizer.zero_grad()
        F.cross_entropy(network(*batch.inputs)[0], batch.targets).backward()
        optimizer.step()
print(f"trained:    {score(network, data.validation, data.metric):.1f} %")

# … then again, with three more lines: the session, before_step, and session.loss around your own.
steps = epochs * train.steps(100)
with karui.attach(network, [karui.Prune(sparsity=0.9), karui.Quantize()], steps=steps, data=data) as session:
    optimizer = torch.optim.AdamW(session.parameters(), lr=3e-4)
    for epoch in range(epochs):
        for batch in train.batches(100, seed=epoch):
            if session.before_step():  # parameters were replaced: so must the optimizer be
                optimizer = torch.optim.AdamW(session.parameters(), lr=3e-4)
            outputs = network(*batch.inputs)
            optimizer.zero_grad()
            session.loss(batch, outputs, F.cross_entropy(outputs[0], batch.targets)).backward()
            optimizer.step()
print(f"compressed: {score(network, data.validation, data.metric):.1f} %")

folder = Path("runs/mine")
program = lower(network.eval(), pixels=data.pixels, labels=data.labels, name="mine")
targets.write_all(program, ["c", "device"], folder)
network.save(folder / "network.pt2")  # trains on another day, after karui.Network.load
print(f"in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
