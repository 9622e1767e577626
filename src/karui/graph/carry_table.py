"""Which rule carries channels through which op: one row per op. An op without a row fixes what flows into it."""

import operator
from collections.abc import Mapping

from torch import fx

from karui.graph import carry_layers as layers
from karui.graph import carry_shapes as shapes
from karui.graph.carry import Rule, no_tensor, same, unknown


def _table(rows: Mapping[str, Rule]) -> Mapping[str, Rule]:
    return {name: rule for names, rule in rows.items() for name in names.split()}


# by the op's name, without ``aten.`` and ``.default``
RULES: Mapping[str, Rule] = _table(
    {
        "relu relu6 hardtanh hardswish hardsigmoid sigmoid tanh silu gelu elu selu leaky_relu softplus mish softsign logit": same,
        "abs neg exp log sqrt rsqrt reciprocal square sin cos erf sign clamp clamp_min clamp_max pow.Tensor_Scalar": same,
        "celu log_sigmoid expm1 log1p": same,
        "dropout feature_dropout contiguous clone alias detach to.dtype to.dtype_layout to.device": same,
        "add.Tensor sub.Tensor mul.Tensor div.Tensor add.Scalar sub.Scalar mul.Scalar div.Scalar": layers.binary,
        "rsub.Tensor rsub.Scalar maximum minimum": layers.binary,
        "conv1d conv2d conv1d.padding conv2d.padding conv_transpose1d conv_transpose2d.input": layers.convolution,
        "linear": layers.linear,
        "embedding": layers.embedding,
        "batch_norm instance_norm": layers.batch_norm,
        "group_norm": layers.group_norm,
        "layer_norm": layers.layer_norm,
        "prelu": layers.prelu,
        "matmul bmm": layers.matmul,
        "einsum": layers.einsum,
        "scaled_dot_product_attention": layers.attention,
        "max_pool2d avg_pool2d adaptive_avg_pool2d upsample_nearest2d upsample_nearest2d.vec upsample_bilinear2d.vec": layers.spatial(2),
        "adaptive_max_pool2d": layers.spatial(2),
        "max_pool1d avg_pool1d adaptive_avg_pool1d upsample_nearest1d upsample_nearest1d.vec upsample_linear1d.vec": layers.spatial(1),
        "adaptive_max_pool1d": layers.spatial(1),
        "mean.dim sum.dim_IntList amax amin max.dim min.dim linalg_vector_norm": layers.reduce,
        "std.dim std.correction var.dim var.correction": layers.reduce,
        "cat": layers.concat,
        "glu": layers.glu,
        "flatten.using_ints unflatten.int view reshape _unsafe_view": shapes.reshape,
        "permute transpose.int": shapes.permute,
        "unsqueeze": shapes.unsqueeze,
        "squeeze squeeze.dim squeeze.dims": shapes.squeeze,
        "expand": shapes.expand,
        "expand_as": shapes.expand_as,
        "slice.Tensor": shapes.slice_,
        "select.int": shapes.select,
        "split.Tensor split_with_sizes chunk tensor_split.sections tensor_split.indices": shapes.split,
        "unbind.int": shapes.unbind,
        "pad constant_pad_nd": shapes.pad,
        "flip roll": shapes.turn,
        "softmax.int log_softmax.int cumsum": shapes.elsewhere("dim"),
        "channel_shuffle": shapes.shuffle,
        "pixel_shuffle": shapes.pixel_shuffle,
        "pixel_unshuffle": shapes.pixel_unshuffle,
        "sym_size.int": no_tensor,
        "karui.fake_quantize": layers.fake_quantize,
        "karui.binarize": same,
        "karui.exit_if": layers.exit_if,
    }
)


def rule_of(node: fx.Node) -> Rule:
    """The op's row; ``unknown`` for one without."""
    if not hasattr(node.target, "_schema"):
        return shapes.item if node.target is operator.getitem else no_tensor  # arithmetic of sizes
    return RULES.get(str(node.target).removeprefix("aten.").removesuffix(".default"), unknown)
