import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.coupling import coupling, remove_channels
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.zoo.lenet import lenet5
from karui.zoo.resnet import resnet8
from tests.graph.cutting import X4, cut_by_zero, groups, net


def test_lenet() -> None:
    network = capture(lenet5(), torch.randn(2, 1, 28, 28)).eval()
    assert groups(network) == {
        "conv1": ({"conv1"}, ""),
        "conv2": ({"conv2"}, ""),
        "fc1": ({"fc1"}, ""),
        "fc2": ({"fc2"}, "it is an output of the network"),
    }
    cut_by_zero(network)
    assert network.get("fc1.weight").shape == (250, 400)


def test_resnet_joins_what_meets_in_a_shortcut() -> None:
    network = capture(resnet8(), torch.randn(2, 3, 16, 16)).eval()
    found = groups(network)
    assert found["conv1"] == ({"conv1", "blocks.0.conv2"}, "")
    assert found["blocks.1.conv2"] == ({"blocks.1.conv2", "blocks.1.shortcut.0"}, "")
    assert len(found) == 7
    cut_by_zero(network)


def separable() -> Network:
    return net(
        lambda m, x: m.head(F.adaptive_avg_pool2d(F.relu6(m.point(F.relu6(m.bn(m.deep(F.relu6(m.stem(x))))))), 1).flatten(1)),
        X4,
        stem=nn.Conv2d(3, 8, 3, bias=False),
        deep=nn.Conv2d(8, 16, 3, groups=8, padding=1),
        bn=nn.BatchNorm2d(16),
        point=nn.Conv2d(16, 12, 1, bias=False),
        head=nn.Linear(12, 5),
    )


def test_depthwise_follows_its_input_even_with_a_multiplier() -> None:
    network = separable()
    assert groups(network)["stem"] == ({"stem"}, "")
    assert "deep" not in groups(network)
    cut_by_zero(network)
    deep = next(n for n in network.module.graph.nodes if n.name == "conv2d_1")
    assert deep.args[6] == 4
    assert network.get("deep.weight").shape == (8, 1, 3, 3)


def test_one_dimension() -> None:
    network = net(
        lambda m, x: m.head(F.max_pool1d(F.relu(m.bn(m.deep(m.a(x)))), 2).mean(2)),
        torch.randn(2, 3, 16),
        a=nn.Conv1d(3, 8, 3),
        deep=nn.Conv1d(8, 8, 3, groups=8),
        bn=nn.BatchNorm1d(8),
        head=nn.Linear(8, 4),
    )
    cut_by_zero(network)


def test_concat_keeps_the_order_of_its_parts() -> None:
    def forward(m, x):
        return m.head(torch.flatten(m.deep(F.relu(m.bn(torch.cat([m.a(x), m.b(x), x], 1)))), 1))

    network = net(
        forward,
        X4,
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(3, 6, 1),
        bn=nn.BatchNorm2d(13),
        deep=nn.Conv2d(13, 13, 3, groups=13, bias=False),
        head=nn.Linear(13 * 36, 4),
    )
    assert groups(network)["a"] == ({"a"}, "")
    assert groups(network)["b"] == ({"b"}, "")
    cut_by_zero(network)
    assert network.get("head.weight").shape == (4, (2 + 3 + 3) * 36)


def test_mul_sub_and_a_gate() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        gate = torch.sigmoid(m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))))
        return m.head((y * gate - m.b(x)).mean((2, 3)))

    network = net(
        forward,
        X4,
        a=nn.Conv2d(3, 8, 3),
        b=nn.Conv2d(3, 8, 3),
        down=nn.Conv2d(8, 4, 1),
        up=nn.Conv2d(4, 8, 1),
        head=nn.Linear(8, 4),
    )
    assert groups(network)["a"] == ({"a", "up", "b"}, "")
    assert groups(network)["down"] == ({"down"}, "")
    cut_by_zero(network)


def test_a_linear_gate_that_is_expanded() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        gate = torch.sigmoid(m.up(F.relu(m.down(F.adaptive_avg_pool2d(y, 1).view(x.shape[0], 8)))))
        return m.head(torch.amax(y * gate.view(x.shape[0], 8, 1, 1).expand_as(y), (2, 3)))

    network = net(forward, X4, a=nn.Conv2d(3, 8, 3), down=nn.Linear(8, 4), up=nn.Linear(4, 8), head=nn.Linear(8, 4))
    assert groups(network)["a"] == ({"a", "up"}, "")
    cut_by_zero(network)


def test_what_is_expanded_to_channels_that_may_go() -> None:
    network = net(
        lambda m, x: m.head((m.a(x) + x.mean(1, keepdim=True)[:, :, 2:, 2:].expand_as(m.a(x))).mean((2, 3))),
        X4,
        a=nn.Conv2d(3, 8, 3),
        head=nn.Linear(8, 4),
    )
    found = coupling(network)
    assert not found.groups[0].fixed
    remove_channels(network, found, {0: torch.arange(8) < 5})
    stuck = net(
        lambda m, x: m.head((m.a(x) + x.flatten(1)[:, :8, None, None].expand_as(m.a(x))).mean((2, 3))),
        X4,
        a=nn.Conv2d(3, 8, 3),
        head=nn.Linear(8, 4),
    )
    assert "expand_as" in groups(stuck)["a"][1]


def test_the_greatest_along_another_axis() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = torch.relu(m.a(x)).flip(2)
        return m.head(torch.cat([y.max(-1)[0], y.std(2), F.adaptive_max_pool1d(y, 1).squeeze(2)], 1))

    network = net(forward, torch.randn(2, 3, 16), a=nn.Conv1d(3, 8, 3), head=nn.Linear(24, 4))
    assert groups(network)["a"] == ({"a"}, "")
    cut_by_zero(network)


def test_transposed_convolution_and_prelu() -> None:
    network = net(
        lambda m, x: m.out(m.act(m.up(F.relu(m.a(x))))).mean((1, 2)),
        X4,
        a=nn.Conv2d(3, 8, 3),
        up=nn.ConvTranspose2d(8, 6, 2, 2),
        act=nn.PReLU(6),
        out=nn.Conv2d(6, 4, 1),
    )
    found = groups(network)
    assert found["up"] == ({"up"}, "")
    assert "mean" in found["out"][1]
    cut_by_zero(network)


def test_parameters_that_meet_channels() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3)
            self.gamma = nn.Parameter(torch.randn(8, 1, 1))
            self.one = nn.Parameter(torch.randn(1))
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.a(x) * self.gamma * self.one).mean((2, 3)))

    network = capture(Scaled(), X4).eval()
    cut_by_zero(network)
    assert network.get("gamma").shape == (4, 1, 1)


def test_a_shared_layer_ties_its_inputs_and_outputs() -> None:
    network = net(
        lambda m, x: m.head((m.shared(F.relu(m.a(x))) + m.shared(F.relu(m.b(x)))).mean((2, 3))),
        X4,
        a=nn.Conv2d(3, 8, 3),
        b=nn.Conv2d(3, 8, 3),
        shared=nn.Conv2d(8, 6, 1),
        head=nn.Linear(6, 4),
    )
    found = groups(network)
    assert found["a"] == ({"a", "b"}, "")
    assert found["shared"] == ({"shared"}, "")
    cut_by_zero(network)


def test_a_shared_layer_on_the_input_is_fixed() -> None:
    network = net(
        lambda m, x: m.head(m.same(F.relu(m.same(x))).mean((2, 3))),
        X4,
        same=nn.Conv2d(3, 3, 1),
        head=nn.Linear(3, 4),
    )
    assert "shares its weight" in groups(network)["same"][1]


def test_reshapes_that_spell_channels_out() -> None:
    network = net(
        lambda m, x: m.head(m.c(m.a(x).view(x.shape[0], 8, 6, 6).reshape(x.shape[0], 8, 3, 12)).transpose(1, 3).flatten(1)),
        X4,
        a=nn.Conv2d(3, 8, 3),
        c=nn.Conv2d(8, 6, 1),
        head=nn.Linear(6 * 36, 4),
    )
    assert [reason for _, reason in groups(network).values()][:2] == ["", ""]
    cut_by_zero(network)


def test_channels_last_features() -> None:
    """Patches → tokens → linear: the channel axis moves, and a flatten behind it repeats the runs."""
    network = net(
        lambda m, x: m.head(F.gelu(m.fc(m.patch(x).flatten(2).transpose(1, 2))).flatten(1)),
        X4,
        patch=nn.Conv2d(3, 6, 4, 4),
        fc=nn.Linear(6, 10),
        head=nn.Linear(40, 4),
    )
    found = groups(network)
    assert found["patch"] == ({"patch"}, "") and found["fc"] == ({"fc"}, "")
    cut_by_zero(network)
    assert network.get("head.weight").shape == (4, 20)


@pytest.mark.parametrize(
    ("forward", "layers", "word"),
    [
        (lambda m, x: m.head(torch.softmax(m.a(x).mean((2, 3)), 1)), {}, "softmax"),
        (lambda m, x: m.head(m.a(x).cumsum(1).mean((2, 3))), {}, "cumsum"),
        (lambda m, x: m.head(m.a(x)[:, ::2].repeat(1, 2, 1, 1).mean((2, 3))), {}, "slice"),
        (lambda m, x: m.head((m.a(x) + m.a(x).mean(1, keepdim=True)).mean((2, 3))), {}, "mean"),
        (lambda m, x: m.head((m.a(x) * x.mean(1, keepdim=True)[:, :, :6, :6] + F.pad(x, (0, -2, 0, -2, 0, 5))).mean((2, 3))), {}, "stay"),
        (lambda m, x: m.head((m.a(x) + m.deep(x[:, :2, 2:, 2:])).mean((2, 3))), {"deep": nn.Conv2d(2, 8, 1, groups=2)}, "stay"),
    ],
)
def test_fixed_with_a_reason(forward, layers, word) -> None:
    network = net(forward, X4, a=nn.Conv2d(3, 8, 3), head=nn.Linear(8, 4), **layers)
    found = coupling(network)
    number, group = next((n, g) for n, g in found.groups.items() if g.name == "a.weight")
    assert word in group.fixed
    before = network(X4)[0]
    remove_channels(network, found, {})
    assert torch.equal(before, network(X4)[0])
    with pytest.raises(RecipeError, match=r"'a\.weight': its channels must stay"):
        remove_channels(network, found, {number: torch.arange(8) < 4})


def test_masks_are_checked() -> None:
    network = separable()
    found = coupling(network)
    for mask in (torch.ones(5, dtype=torch.bool), torch.zeros(8, dtype=torch.bool)):
        with pytest.raises(RecipeError, match="a mask over 8 channels"):
            remove_channels(network, found, {0: mask})


def test_forms_and_their_state_shrink_too() -> None:
    network = separable()
    weight = network.get("point.weight")
    mask = (torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    edit.put_on_parameter(network, "point.weight", torch.ops.karui.mask.default, state={"mask": mask})
    scale = torch.rand(12) + 0.1
    edit.put_on_parameter(
        network,
        "point.weight",
        torch.ops.karui.fake_quantize.default,
        state={"scale": scale, "zero_point": torch.zeros(12)},
        args=("scale", "zero_point", -127, 127, 0),
    )
    found = coupling(network)
    assert not found.groups[0].fixed
    keep = {0: torch.arange(8) % 2 == 0, 1: torch.arange(12) < 5}
    remove_channels(network, found, keep)
    inner = keep[0].repeat_interleave(2)
    assert torch.equal(network.get("point.weight_mask"), mask[:5][:, inner])
    assert torch.equal(network.get("point.weight_scale"), scale[:5])
    assert network.get("point.weight").shape == (5, 8, 1, 1)
