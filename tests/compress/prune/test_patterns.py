import pytest
import torch

from karui.compress.prune.patterns import Layout, Pattern, Units, layout_of, pattern_of
from karui.errors import RecipeError
from karui.graph.doors.torch import capture
from karui.lower import lower
from karui.program.check_weight import block_mask, spread_blocks
from karui.zoo.lenet import lenet5

CONV = Layout(shape=(6, 5, 3, 3), order=(0, 2, 3, 1))
LINEAR = Layout(shape=(4, 24), order=(0, 1), pixels=6)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [("element", Pattern()), ("1x4", Pattern(columns=4)), ("8x4", Pattern(rows=8, columns=4)), ("2:4", Pattern(n=2, m=4))],
)
def test_names(text: str, pattern: Pattern) -> None:
    assert pattern_of(text) == pattern


@pytest.mark.parametrize("text", ["", "4", "0x4", "4:4", "0:4", "4:2", "1x", "x4", "1 x 4", "-1x4"])
def test_wrong_names_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="is no pattern: use 'element'"):
        pattern_of(text)


@pytest.mark.parametrize("layout", [CONV, LINEAR, Layout(shape=(3, 4, 2, 2), order=(1, 2, 3, 0))])
def test_a_matrix_comes_back(layout: Layout) -> None:
    weight = torch.randn(layout.shape)
    assert torch.equal(layout.weight(layout.matrix(weight)), weight)


def test_columns_run_along_the_input_channels() -> None:
    weight = torch.arange(6 * 5 * 9).reshape(6, 5, 3, 3)
    assert torch.equal(CONV.matrix(weight)[2, :5], weight[2, :, 0, 0])
    picture = torch.arange(24).reshape(4, 6)  # 4 channels of 6 places, flattened as torch does it
    assert torch.equal(LINEAR.matrix(picture.flatten().repeat(4, 1))[0, :4], picture[:, 0])


@pytest.mark.parametrize("text", ["1x4", "4x1", "8x4", "2x3"])
def test_blocks_are_those_of_the_program(text: str) -> None:
    pattern = pattern_of(text)
    units = Units(layout=CONV, pattern=pattern)
    weight = torch.rand(CONV.shape)
    stays = units.scores(weight) > 0.5
    assert units.sizes.sum() == weight.numel()
    mask = CONV.matrix(units.mask(stays, weight)).numpy()
    blocks = block_mask(mask, pattern.rows, pattern.columns)
    assert (spread_blocks(blocks, pattern.rows, pattern.columns, mask.shape) == mask).all()
    assert blocks.flatten().tolist() == stays.tolist()


def test_a_cut_off_block_counts_what_it_has() -> None:
    units = Units(layout=Layout(shape=(1, 5), order=(0, 1)), pattern=pattern_of("1x4"))
    assert units.scores(torch.tensor([[1.0, 1, 1, 1, 3]])).tolist() == [1.0, 3.0]
    assert units.sizes.tolist() == [4, 1]


def test_n_of_m_keeps_the_best_of_each_run() -> None:
    units = Units(layout=Layout(shape=(1, 8), order=(0, 1)), pattern=pattern_of("2:4"))
    weight = torch.tensor([[1.0, 4, 3, 2, 9, 8, 7, 6]])
    assert units.scores(weight).tolist() == [1.5, 6.5]
    assert units.mask(torch.tensor([False, False]), weight).tolist() == [[False, True, True, False, True, True, False, False]]
    assert units.mask(torch.tensor([True, False]), weight).int().sum() == 6
    assert units.misfit() == ""
    assert "5 input channels are no multiple of 4" in Units(layout=CONV, pattern=pattern_of("2:4")).misfit()


def test_a_flattened_picture_is_seen_as_the_program_sees_it() -> None:
    """LeNet-5's first linear layer: the Program's weight is the layout's matrix."""
    torch.manual_seed(0)
    network = capture(lenet5(), torch.randn(2, 1, 28, 28)).eval()
    program = lower(network)
    stored = {weight.name: weight for weight in program.weights.values()}
    for node in network.module.graph.nodes:
        if str(node.target) in ("aten.linear.default", "aten.conv2d.default"):
            name = str(node.args[1].target)
            layout = layout_of(network, node, name)
            found = stored[name].values.data
            assert torch.equal(layout.matrix(network.get(name)), torch.from_numpy(found).reshape(len(found), -1)), name
