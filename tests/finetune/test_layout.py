"""Training in channels_last: the same training, other roundings, and nothing of it left behind."""

import contextlib
from pathlib import Path

import torch

from karui.finetune.checkpoint import Checkpoints
from karui.finetune.loop import Training, finetune
from karui.finetune.progress import Progress
from karui.testing.subjects import small_data, small_network

TRAINING = Training(steps=12, batch_size=16, lr=0.02, channels_last=True)


class Stop(Progress):
    def __init__(self) -> None:
        self.left = 7

    def advance(self, facts: str = "", steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt


def test_it_trains_alike_and_leaves_plain_tensors() -> None:
    plain, laid = small_network(), small_network()
    seen = []
    finetune(plain, small_data(), Training(steps=12, batch_size=16, lr=0.02))
    hook = laid.module.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0], module.get_parameter("deep.weight"))))
    finetune(laid, small_data(), TRAINING)
    hook.remove()
    assert all(w.is_contiguous(memory_format=torch.channels_last) for _, w in seen[:12])
    for name, tensor in plain.state().items():
        assert laid.get(name).is_contiguous(), name
        assert torch.allclose(tensor.float(), laid.get(name).float(), atol=1e-3), name


def test_a_resumed_run_is_bit_equal(tmp_path: Path) -> None:
    whole, resumed = small_network(), small_network()
    finetune(whole, small_data(), TRAINING)
    checkpoint = Checkpoints(tmp_path / "checkpoint", seconds=0.0)
    with contextlib.suppress(KeyboardInterrupt):
        finetune(small_network(), small_data(), TRAINING, checkpoint=checkpoint, progress=Stop())
    assert checkpoint.path.exists()
    finetune(resumed, small_data(), TRAINING, checkpoint=checkpoint)
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, resumed.get(name)), name
