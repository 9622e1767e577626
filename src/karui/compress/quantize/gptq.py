"""Rounding that repairs itself: what one weight loses the others of its output channel take over."""

import torch
from torch import Tensor

from karui.compress.quantize.layer import Layer
from karui.compress.solver import solve


def gptq(layer: Layer) -> Tensor:
    """Input by input, those first that matter most; those still to come repair the error.

    Frantar et al. 2022, "GPTQ: accurate post-training quantization for generative pre-trained transformers", alg. 1, with the order of its
    "act-order"; the target is that of Frantar & Alistarh 2022, "Optimal Brain Compression", §4.
    """
    found = torch.zeros_like(layer.weight)
    for group, (weight, hessian) in enumerate(zip(layer.aimed, layer.hessian, strict=True)):
        order = hessian.diagonal().argsort(descending=True)
        keep, step = (layer.weight[group] != 0)[:, order], layer.step[group][:, 0]

        def column(k: int, w: Tensor, keep: Tensor = keep, step: Tensor = step) -> Tensor:
            return (w / step).round().clamp(-layer.top, layer.top) * step * keep[:, k]

        solved = solve(weight[:, order].float(), hessian[order][:, order], column, damping=0.0)
        found[group, :, order] = (solved / layer.step[group]).round()
    return found
