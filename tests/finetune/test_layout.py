"""Training in channels_last: the same training, other roundings, and nothing of it left behind."""

import contextlib
from pathlib import Path

import torch
from torch import Tensor, nn

from karui.data import Data
from karui.finetune.checkpoint import Checkpoints
from karui.finetune.loop import Training, finetune
from karui.finetune.progress import Progress
from karui.graph.doors.torch import capture
from karui.testing.subjects import small_data, small_network

TRAINING = Training(steps=12, batch_size=16, lr=0.02, channels_last=True)


class Stop(Progress):
    def __init__(self) -> None:
        self.left = 7

    def advance(self, facts: str = "", steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt


class Pictures(nn.Module):
    """Three channels: small_network's only one lies in memory the same way in both layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).flatten(1))


def test_it_trains_alike_and_leaves_plain_tensors() -> None:
    torch.manual_seed(0)
    plain, x = capture(Pictures(), torch.randn(2, 3, 8, 8)), torch.randn(64, 3, 8, 8)
    laid, part = plain.copy(), (x, torch.arange(64) % 4)
    data = Data.of(train=part, validation=part, test=part)
    seen: list[bool] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            seen.extend(t.is_contiguous(memory_format=torch.channels_last) for t in (inputs[0], module.get_parameter("conv.weight")))

    finetune(plain, data, Training(steps=12, batch_size=16, lr=0.02))
    hook = laid.module.register_forward_pre_hook(look)
    finetune(laid, data, TRAINING)
    hook.remove()
    assert seen == [True] * 24
    for name, tensor in plain.state().items():
        assert laid.get(name).is_contiguous(), name
        assert torch.allclose(tensor, laid.get(name), atol=1e-4), name


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
