"""Every kind in float, against torch."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from karui.errors import UnsupportedOp
from karui.graph import exits as exits  # registers the op
from karui.program.interpreter import run
from karui.program.layout import to_network
from karui.program.program import Array
from tests.program.single_op import RNG, floats, normal, program, tensor
from tests.program.single_op import floating as floats_only


def t(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def nchw(array: Array) -> torch.Tensor:
    return t(to_network(array, "nhwc"))


def close(ours: Array, theirs: torch.Tensor) -> None:
    expected = theirs.detach().numpy()
    assert ours.dtype == np.float32 and ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def close_image(ours: Array, theirs: torch.Tensor) -> None:
    close(to_network(ours, "nhwc"), theirs)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [((1, 1), (0, 0), (1, 1), 1), ((2, 1), (1, 2), (1, 1), 1), ((1, 2), (2, 1), (2, 3), 2), ((2, 2), (1, 1), (1, 1), 4)],
)
def test_conv2d(stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int) -> None:
    x, w, b = normal(3, 11, 12, 4), normal(8, 3, 2, 4 // groups), normal(8)
    expected = F.conv2d(nchw(x), nchw(w), t(b), stride, padding, dilation, groups).relu()
    attributes = {
        "stride": list(stride),
        "padding": [*padding, *padding],
        "dilation": list(dilation),
        "groups": groups,
        "clamp": [0.0, None],
    }
    shape = (*expected.shape[2:], 8)
    close_image(floats_only("conv2d", [x], shape, {"weight": w, "bias": b}, **attributes), expected)


def test_conv2d_with_uneven_padding_and_no_bias() -> None:
    x, w = normal(2, 5, 6, 3), normal(4, 3, 3, 3)
    expected = F.conv2d(F.pad(nchw(x), (1, 2, 0, 1)), nchw(w))
    attributes = {"stride": [1, 1], "padding": [0, 1, 1, 2], "dilation": [1, 1], "groups": 1, "clamp": None}
    close_image(floats_only("conv2d", [x], (4, 7, 4), {"weight": w}, **attributes), expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv1d(groups: int) -> None:
    x, w, b = normal(3, 17, 4), normal(8, 5, 4 // groups), normal(8)
    expected = F.conv1d(t(to_network(x, "nlc")), t(to_network(w, "nlc")), t(b), stride=2, padding=3, dilation=2, groups=groups)
    attributes = {"stride": 2, "padding": [3, 3], "dilation": 2, "groups": groups, "clamp": None}
    ours = floats_only("conv1d", [x], (expected.shape[2], 8), {"weight": w, "bias": b}, **attributes)
    close(to_network(ours, "nlc"), expected)


@pytest.mark.parametrize(
    ("groups", "stride", "padding", "dilation", "extra"), [(1, (2, 2), (1, 1), (1, 1), (1, 1)), (2, (3, 1), (0, 2), (1, 2), (2, 0))]
)
def test_conv_transpose2d(groups: int, stride: Any, padding: Any, dilation: Any, extra: Any) -> None:
    x, w, b = normal(2, 5, 6, 4), normal(6, 3, 4, 4 // groups), normal(6)
    # torch: [C, O/groups, kh, kw]; ours: [O, kh, kw, C/groups]
    theirs = np.concatenate([part.transpose(3, 0, 1, 2) for part in np.split(w, groups)])
    expected = F.conv_transpose2d(nchw(x), t(theirs), t(b), stride, padding, extra, groups, dilation)
    attributes = {"stride": list(stride), "padding": [*padding, *padding], "dilation": list(dilation), "groups": groups, "clamp": None}
    shape = (*expected.shape[2:], 6)
    ours = floats_only("conv_transpose2d", [x], shape, {"weight": w, "bias": b}, output_padding=list(extra), **attributes)
    close_image(ours, expected)


def test_linear_over_the_last_axis() -> None:
    x, w, b = normal(3, 5, 7), normal(4, 7), normal(4)
    close(floats_only("linear", [x], (5, 4), {"weight": w, "bias": b}, clamp=None), F.linear(t(x), t(w), t(b)))


def test_matmul() -> None:
    a, b = normal(2, 3, 5, 4), normal(2, 3, 6, 4)
    close(floats_only("matmul", [a, b], (3, 5, 6), transpose_b=True, scale=0.5), 0.5 * t(a) @ t(b).transpose(-1, -2))
    shared = normal(2, 4, 6)  # one for all heads of its sample
    close(floats_only("matmul", [a, shared], (3, 5, 6), transpose_b=False, scale=1.0), t(a) @ t(shared)[:, None])


@pytest.mark.parametrize("kind", ["add", "sub", "mul", "div"])
def test_two_operands(kind: str) -> None:
    a, b, c = normal(2, 3, 4, 5), normal(2, 5), normal(2, 3, 1, 5) + 3
    operation = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div}[kind]
    close(floats_only(kind, [a, c], (3, 4, 5), clamp=[-0.5, 0.5]), operation(t(a), t(c)).clamp(-0.5, 0.5))
    close(floats_only(kind, [a, b], (3, 4, 5), clamp=None), operation(t(a), t(b)[:, None, None]))
    close(floats_only(kind, [b, a], (3, 4, 5), clamp=None), operation(t(b)[:, None, None], t(a)))


def test_affine_takes_pixels() -> None:
    pixels, scale, bias = RNG.integers(0, 256, (2, 3, 4, 3)).astype(np.uint8), normal(3), normal(3)
    weights = {"scale": floats(scale), "bias": floats(bias)}
    p = program("affine", [tensor("x", (3, 4, 3), None, "uint8")], [tensor("y", (3, 4, 3), None)], weights, clamp=None)
    np.testing.assert_array_equal(run(p, [pixels])[0], pixels.astype(np.float32) * scale + bias)


def test_mean_and_reduce() -> None:
    x = normal(2, 3, 4, 5)
    close(floats_only("mean", [x], (5,), axes=[0, 1], keepdims=False, clamp=None), t(x).mean((1, 2)))
    close(floats_only("mean", [x], (3, 1, 1), axes=[1, 2], keepdims=True, clamp=[0.0, None]), t(x).mean((2, 3), keepdim=True).relu())
    close(floats_only("reduce", [x], (4, 5), function="sum", axes=[0], keepdims=False), t(x).sum(1))
    close(floats_only("reduce", [x], (3, 1, 5), function="max", axes=[1], keepdims=True), t(x).amax(2, keepdim=True))
    close(floats_only("reduce", [x], (), function="min", axes=[0, 1, 2], keepdims=False), t(x).amin((1, 2, 3)))


@pytest.mark.parametrize("counted", [True, False])
def test_pools(counted: bool) -> None:
    x, window = normal(2, 9, 8, 3), {"kernel": [3, 2], "stride": [2, 2], "padding": [1, 1, 1, 1]}
    theirs = F.avg_pool2d(nchw(x), (3, 2), 2, 1, count_include_pad=counted)
    close_image(floats_only("avg_pool2d", [x], (5, 5, 3), **window, count_include_pad=counted, clamp=None), theirs)
    close_image(floats_only("max_pool2d", [x], (5, 5, 3), **window), F.max_pool2d(nchw(x), (3, 2), 2, 1))
    y, line = normal(2, 9, 3), {"kernel": 3, "stride": 2, "padding": [1, 1]}
    rows = t(to_network(y, "nlc"))
    average = floats_only("avg_pool1d", [y], (5, 3), **line, count_include_pad=counted, clamp=None)
    close(to_network(average, "nlc"), F.avg_pool1d(rows, 3, 2, 1, count_include_pad=counted))
    close(to_network(floats_only("max_pool1d", [y], (5, 3), **line), "nlc"), F.max_pool1d(rows, 3, 2, 1))


def test_softmax_and_norms() -> None:
    x, scale, bias = normal(2, 5, 6) * 4, normal(6), normal(6)
    close(floats_only("softmax", [x], (5, 6), axis=1), t(x).softmax(2))
    close(floats_only("softmax", [x], (5, 6), axis=0), t(x).softmax(1))
    weights = {"scale": scale, "bias": bias}
    close(floats_only("layer_norm", [x], (5, 6), weights, dims=1, eps=1e-5), F.layer_norm(t(x), (6,), t(scale), t(bias), 1e-5))
    close(floats_only("layer_norm", [x], (5, 6), dims=2, eps=1e-3), F.layer_norm(t(x), (5, 6), eps=1e-3))
    image = normal(2, 4, 3, 6)
    close_image(
        floats_only("group_norm", [image], (4, 3, 6), weights, groups=3, eps=1e-5), F.group_norm(nchw(image), 3, t(scale), t(bias), 1e-5)
    )


def test_moving_data() -> None:
    x, y = normal(2, 3, 4, 5), normal(2, 3, 2, 5)
    close(floats_only("concat", [x, y], (3, 6, 5), axis=1), torch.cat([t(x), t(y)], 2))
    close(floats_only("reshape", [x], (12, 5)), t(x).reshape(2, 12, 5))
    close(floats_only("transpose", [x], (5, 3, 4), perm=[2, 0, 1]), t(x).permute(0, 3, 1, 2))
    close(floats_only("slice", [x], (3, 4, 2), axis=2, start=1, stop=5, step=2), t(x)[..., 1:5:2])
    close(floats_only("pad", [x], (4, 4, 8), padding=[[1, 0], [0, 0], [2, 1]], value=1.5), F.pad(t(x), (2, 1, 0, 0, 1, 0), value=1.5))
    close(floats_only("clamp", [x], (3, 4, 5), clamp=[None, 0.1]), t(x).clamp(max=0.1))


@pytest.mark.parametrize("align", [True, False])
def test_upsampling(align: bool) -> None:
    x = normal(2, 4, 5, 3)
    nearest = floats_only("upsample_nearest2d", [x], (8, 15, 3), scale=[2, 3])
    close_image(nearest, F.interpolate(nchw(x), scale_factor=(2, 3), mode="nearest"))
    for size in ([7, 12], [2, 3], [1, 5]):
        ours = floats_only("upsample_bilinear2d", [x], (*size, 3), size=size, align_corners=align)
        close_image(ours, F.interpolate(nchw(x), tuple(size), mode="bilinear", align_corners=align))


def test_constant_and_embedding() -> None:
    value = normal(3, 4)
    both = program(
        "add", [tensor("x", (3, 4), None), tensor("c", (3, 4), None)], [tensor("y", (3, 4), None)], {"value": floats(value)}, clamp=None
    )
    add = both.ops[0]
    constant = replace(add, kind="constant", inputs=(), outputs=("c",), weights={"value": "value"}, attributes={})
    given = normal(5, 3, 4)
    p = replace(both, ops=(constant, replace(add, weights={})), inputs=both.inputs[:1])
    np.testing.assert_array_equal(run(p, [given])[0], given + value)
    table, codes = normal(10, 4), RNG.integers(0, 10, (2, 3)).astype(np.int32)
    lookup = program("embedding", [tensor("x", (3,), None, "int32")], [tensor("y", (3, 4), None)], {"weight": floats(table)})
    np.testing.assert_array_equal(run(lookup, [codes])[0], table[codes])
    with pytest.raises(UnsupportedOp, match="outside its table of 10 rows"):
        run(lookup, [codes + 10])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_recurrence(kind: str, reverse: bool) -> None:
    module = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[kind](3, 4, batch_first=True)
    x = normal(2, 6, 3)
    flipped = t(x).flip(1) if reverse else t(x)
    states, last = module(flipped)
    expected = [states.flip(1) if reverse else states, *(v[0] for v in (last if kind == "lstm" else (last,)))]
    weights = {name: floats(getattr(module, f"{name}_l0").detach().numpy()) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    outputs = [tensor(f"y{i}", v.shape[1:], None) for i, v in enumerate(expected)]
    for ours, theirs in zip(run(program(kind, [tensor("x", (6, 3), None)], outputs, weights, reverse=reverse), [x]), expected, strict=True):
        close(ours, theirs)


def test_exit_if() -> None:
    early, late = normal(200, 6), normal(200, 6)
    early[0, :2] = early[0].max() + 1  # two equal scores at the top: no margin at all
    for threshold in (0.0, 0.37, 5.0):
        expected = torch.ops.karui.exit_if(t(early), t(late), torch.tensor(threshold))
        assert np.array_equal(floats_only("exit_if", [early, late], (6,), threshold=threshold), expected.numpy())
