"""Weights that a layer computes from other parameters → plain parameters: torch's weight norm, spectral norm and parametrizations.

They steer training from scratch; a trained network computes the same with the weight they give in evaluation, and a plain weight can be
pruned and quantized.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import remove_spectral_norm, remove_weight_norm
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_HOOKS = (WeightNorm, SpectralNorm)


def copied(module: nn.Module) -> nn.Module:
    """A deep copy; a weight that a hook computed is no leaf of autograd, which ``deepcopy`` alone refuses."""
    memo: dict[int, Tensor] = {}
    for child, hook in _hooked(module):
        weight = getattr(child, hook.name)
        memo[id(weight)] = weight.detach().clone()
    return copy.deepcopy(module, memo)


def made_plain(module: nn.Module) -> nn.Module:
    """Replace each computed weight by its value in evaluation, in place (on a copy); returns the module."""
    module.eval()
    with torch.no_grad():
        for child, hook in _hooked(module):
            remove = remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm
            remove(child, hook.name)
        for child in list(module.modules()):
            if is_parametrized(child):
                _without_parametrizations(child)
    return module


def _hooked(module: nn.Module) -> list[tuple[nn.Module, WeightNorm | SpectralNorm]]:
    found = [(child, hook) for child in module.modules() for hook in child._forward_pre_hooks.values()]
    return [(child, hook) for child, hook in found if isinstance(hook, _HOOKS)]


def _without_parametrizations(layer: nn.Module) -> None:
    """torch's own ``remove_parametrizations`` edits the layer's class, which a copy shares with its original."""
    parametrizations: nn.ModuleDict = layer.parametrizations  # type: ignore[assignment]
    values = {name: getattr(layer, name).detach().clone() for name in parametrizations}
    trains = {name: any(p.requires_grad for p in each.parameters()) for name, each in parametrizations.items()}
    learned = {name: any(True for _ in each.parameters()) for name, each in parametrizations.items()}
    layer.__class__ = type(layer).__bases__[0]  # torch made the present class for this layer alone
    del layer.parametrizations
    for name, value in values.items():
        if learned[name]:
            layer.register_parameter(name, nn.Parameter(value, requires_grad=trains[name]))
        else:
            layer.register_buffer(name, value)
