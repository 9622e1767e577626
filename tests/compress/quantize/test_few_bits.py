"""Activations of few bits, weights of one, and both together."""

import pytest
import torch
from torch import nn

from karui.compress.prune.weights import Prune
from karui.compress.quantize.binarize import Binarize
from karui.compress.quantize.binaryconnect import BinaryConnect
from karui.compress.quantize.int8 import Quantize
from karui.compress.quantize.points import is_narrowing
from karui.compress.quantize.ranges import affine
from karui.compress.technique import Technique
from karui.finetune.phases import Phase, run_phases
from karui.finetune.training import Training
from karui.graph import edit
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.program import codec, interpreter
from karui.program.program import AffineValues, SignValues
from karui.search import scores
from tests.compress.tiny import context, data, small, train

MIDDLE = ("deep", "conv2", "fc1")
ENDS = Quantize(exclude=MIDDLE)


def put(network: Network, *techniques: Technique, on=None) -> list[dict]:
    return [each.attach(network, context(network, on=on)).finish() for each in techniques]


def widths(network: Network) -> dict[str, int]:
    """Node whose value a quantizer takes → its codes."""
    forms = [edit.form_of(n) for n in network.module.graph.nodes if n.target is torch.ops.karui.fake_quantize.default and n.args[5] is None]
    return {form.node.args[0].name: form.constants["qmax"] - form.constants["qmin"] + 1 for form in forms}


def test_layers_read_few_bits_and_the_shortcut_keeps_its_own() -> None:
    network, on = small(), data()
    put(network, ENDS, Quantize(bits=2, activation_bits=2, include=MIDDLE, weight_range="mse", observer="mse"), on=on)
    few = widths(network)
    narrowing = [n for n in network.module.graph.nodes if is_narrowing(n)]
    assert len(narrowing) == 1  # of the value that 'deep' and the add read; what only chosen layers read has few bits at once
    assert [user.target for user in narrowing[0].users] == [torch.ops.aten.conv2d.default]
    assert sorted(few.values()) == [4, 4, 4, 256, 256, 256, 256, 256]
    assert few["x"] == 256
    seen = {}
    runner = torch.fx.Interpreter(network.module)
    runner.run_node_ = runner.run_node

    def look(node):
        seen[node.name] = runner.run_node_(node)
        return seen[node.name]

    runner.run_node = look
    runner.run(*on.example(16))
    for node in network.module.graph.nodes:
        if node.target is torch.ops.aten.conv2d.default and network.layer_of(node) in MIDDLE:
            assert len(seen[node.args[0].name].unique()) <= 4
    add = next(n for n in network.module.graph.nodes if n.target is torch.ops.aten.add.Tensor)
    assert all(len(seen[each.name].unique()) > 16 for each in add.all_input_nodes)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_ranges_of_few_codes(bits: int) -> None:
    scale, zero_point = affine(0.0, 3.0, bits)
    codes = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).float()
    torch.testing.assert_close((codes - zero_point) * scale, torch.linspace(0, 3, 2**bits))


@pytest.mark.parametrize(
    "techniques",
    [
        (Binarize(include=MIDDLE), Quantize(activation_bits=1, include=MIDDLE, observer="mse"), ENDS),
        (Binarize(include=MIDDLE), ENDS, Quantize(activation_bits=2, include=MIDDLE, observer="mse")),
        (BinaryConnect(include=MIDDLE), Quantize(activation_bits=2)),
        (Quantize(bits=2, activation_bits=4, weight_range="mse"),),
        (Prune(sparsity=0.5), Binarize(include=MIDDLE), Quantize(activation_bits=2)),
    ],
    ids=["1w1a", "1w2a", "binaryconnect", "ternary", "masked"],
)
def test_the_program_answers_as_the_network(techniques: tuple[Technique, ...]) -> None:
    on, network = data(), small()
    put(network, *techniques, on=on)
    program = codec.decode(codec.encode(lower(network)))  # as a device's file has it
    batch = next(on.test.batches(32))
    ours = scores.outputs_of(program, interpreter.run(program, scores.feeds(program, batch)))[0]
    theirs = network(*batch.inputs)[0]
    step = program.tensors[program.outputs[0].tensor].quant.scale
    assert (ours - theirs).abs().max() <= 2.01 * step  # a tie that falls the other way
    assert (ours - theirs).abs().gt(0.01 * step).float().mean() < 0.1
    assert not any(op.kind in ("quantize", "affine") for op in program.ops[1:])  # all in integers
    kinds = {type(program.weights[op.weights["weight"]].values) for op in program.ops if "weight" in op.weights}
    assert kinds <= {AffineValues, SignValues}


def test_another_technique_leaves_the_bits_of_layers_that_it_doesnt_choose() -> None:
    one, two, on = small(), small(), data()
    few = Quantize(activation_bits=2, include=MIDDLE)
    put(one, few, ENDS, on=on)
    put(two, ENDS, few, on=on)
    assert widths(one) == widths(two)
    put(one, few, Quantize(include=MIDDLE), on=on)
    assert set(widths(one).values()) == {256}
    assert not [n for n in one.module.graph.nodes if is_narrowing(n)]


@pytest.mark.parametrize("learn", [False, True])
def test_training_keeps_the_bits_and_binary_scales_follow(learn: bool) -> None:
    phase = Phase(
        techniques=(Binarize(include=MIDDLE), Quantize(activation_bits=2, observer="mse", learn_scales=learn, include=MIDDLE), ENDS),
        training=Training(steps=40, batch_size=16, lr=0.02),
    )
    network = run_phases(small(), data(), [phase]).network
    assert sorted(widths(network).values()) == [4, 4, 4, 256, 256, 256, 256, 256]
    for name in ("deep.weight", "conv2.weight", "fc1.weight"):
        assert torch.allclose(network.get(f"{name}_scale"), network.get(name).abs().flatten(1).mean(1))


def test_binary_weights_are_the_nearest() -> None:
    """Eq. 6: no other α and signs are nearer to the weights."""
    network = small()
    latent = network.get("fc1.weight").detach().clone()
    put(network, Binarize())
    value = edit.value_of(network, "fc1.weight")
    assert all(len(row.abs().unique()) == 1 for row in value)
    least = (value - latent).square().sum(1)
    for factor in (0.9, 1.1):
        assert ((factor * value - latent).square().sum(1) > least).all()
    flipped = value.clone()
    flipped[:, 0] *= -1
    assert ((flipped - latent).square().sum(1) >= least).all()


@pytest.mark.parametrize("technique", [Binarize(), BinaryConnect(H=0.5)])
def test_what_a_mask_took_stays_zero(technique: Technique) -> None:
    network = small()
    put(network, Prune(sparsity=0.6), technique)
    kept = network.get("fc2.weight_mask") != 0
    value = edit.value_of(network, "fc2.weight")
    assert (value[~kept] == 0).all() and (value[kept] != 0).all()
    real = lower(network).weights["fc2.weight"].real()
    assert (real == value.detach().numpy()).all()
    if isinstance(technique, Binarize):
        row = network.get("fc2.weight").detach()[0][kept[0]]
        assert torch.allclose(network.get("fc2.weight_scale")[0], row.abs().mean())


def test_a_transposed_convolution_has_one_scale_and_lowers() -> None:
    torch.manual_seed(0)
    network = capture(nn.Sequential(nn.ConvTranspose2d(1, 3, 2, 2)), torch.randn(2, 1, 4, 4)).eval()
    put(network, Binarize(), on=data())
    assert network.get("0.weight_scale").dim() == 0
    x = torch.randn(2, 1, 4, 4)
    program = lower(network)
    ours = interpreter.run(program, [x.permute(0, 2, 3, 1).numpy()])[0]
    torch.testing.assert_close(torch.from_numpy(ours).permute(0, 3, 1, 2), network(x)[0].detach(), atol=1e-5, rtol=1e-5)


def test_it_learns() -> None:
    network, on = small(), data()
    attached = Binarize(include=MIDDLE).attach(network, context(network, steps=60, on=on))
    loss = [float(on.loss(network(*b.inputs), b.targets)) for b in on.train.batches(64)][0]
    train(network, attached, on, steps=60)
    attached.finish()
    assert [float(on.loss(network(*b.inputs), b.targets)) for b in on.train.batches(64)][0] < 0.7 * loss
