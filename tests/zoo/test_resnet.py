import pytest
import torch
from torch import nn

from karui.zoo.resnet import resnet18, resnet20, resnet50


@pytest.mark.parametrize(("builder", "count"), [(resnet18, 11_689_512), (resnet50, 25_557_032)])
def test_imagenet_shapes_have_the_published_parameters(builder: type[nn.Module], count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in builder().parameters()) == count


def test_the_resolution_is_halved_twice() -> None:
    module = resnet20(10, 1).eval()
    seen: list[int] = []
    module.blocks.register_forward_hook(lambda layer, inputs, output: seen.extend([inputs[0].shape[-1], output.shape[-1]]))
    module(torch.randn(1, 1, 28, 28))
    assert seen == [28, 7]
