"""Which weights leave together: single ones, blocks of output channels × inputs, or the weakest of each run (n of m).

A pattern is laid over a weight as the Program sees it, the matrix ``[O, K]`` whose columns run along the input channels (of a convolution:
kernel position by position), so what is pruned in a pattern is stored and skipped in that pattern. Blocks at the edges may be cut off.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from karui.errors import RecipeError
from karui.graph.carry import argument
from karui.graph.network import Network

ELEMENT, NAMES = "element", "'element', blocks such as '1x4' or '8x4' (output channels x inputs), or 'N:M' such as '2:4'"


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """rows × columns: the block that leaves as one. n, m: of every m weights along the input channels n stay (m = 0: no such rule)."""

    rows: int = 1
    columns: int = 1
    n: int = 0
    m: int = 0

    @property
    def limit(self) -> float:
        """The greatest sparsity that it can give: 1, or 1 − n/m."""
        return 1 - self.n / self.m if self.m else 1.0


def pattern_of(text: str) -> Pattern:
    """The pattern that a setting names. Raises RecipeError for an unknown one."""
    if text == ELEMENT:
        return Pattern()
    block, runs = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text), re.fullmatch(r"(\d{1,3}):(\d{1,3})", text)
    if block and (rows := int(block[1])) > 0 and (columns := int(block[2])) > 0:
        return Pattern(rows=rows, columns=columns)
    if runs and 0 < (n := int(runs[1])) < (m := int(runs[2])):
        return Pattern(n=n, m=m)
    raise RecipeError(f"pattern: {text!r} is no pattern: use {NAMES}")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a weight of the graph lies in the Program.

    shape: in the graph. order: its axes in the Program's order, output channels first, input channels last. pixels: of a linear layer
    behind a flattened picture, the places of each channel (the Program's columns run along channels first); else 1.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    pixels: int = 1

    def matrix(self, weight: Tensor) -> Tensor:
        """``[O, K]`` from a tensor of the weight's shape."""
        moved = weight.permute(self.order)
        if self.pixels > 1:
            return moved.reshape(len(moved), -1, self.pixels).transpose(1, 2).reshape(len(moved), -1)
        return moved.reshape(len(moved), -1)

    def weight(self, matrix: Tensor) -> Tensor:
        """The opposite of ``matrix``."""
        if self.pixels > 1:
            matrix = matrix.reshape(len(matrix), self.pixels, -1).transpose(1, 2).reshape(len(matrix), -1)
        moved = matrix.reshape([self.shape[axis] for axis in self.order])
        return moved.permute([self.order.index(axis) for axis in range(len(self.shape))]).contiguous()

    @property
    def last(self) -> int:
        """How many weights lie along the Program's last axis: the input channels of one kernel position."""
        return self.shape[self.order[-1]]


def layout_of(network: Network, node: fx.Node, parameter: str) -> Layout:
    """The layout of the weight that a convolution or linear layer multiplies with."""
    shape = tuple(network.get(parameter).shape)
    spatial = tuple(range(2, len(shape)))
    if "conv_transpose" in str(node.target):
        return Layout(shape=shape, order=(1, *spatial, 0))
    if len(shape) > 2:
        return Layout(shape=shape, order=(0, *spatial, 1))
    return Layout(shape=shape, order=(0, 1), pixels=_pixels(network, node.args[0]))


def _pixels(network: Network, value: Any) -> int:
    """Behind a flattened picture ``[N, C, H, W]``: H · W; else 1. Ops of one value at a time may stand between."""
    while isinstance(value, fx.Node) and value.op == "call_function" and str(value.target) != "aten.flatten.using_ints":
        if len(value.all_input_nodes) != 1:
            return 1
        value = value.all_input_nodes[0]
    if not isinstance(value, fx.Node) or value.op != "call_function":
        return 1
    found = network.values()[value.args[0]]  # type: ignore[index]
    return prod(found.shape[2:]) if found.dim() in (3, 4) and argument(value, "start_dim") == 1 else 1


@dataclass(frozen=True, kw_only=True)
class Units:
    """What can leave of one weight: the pattern laid over its matrix, unit by unit."""

    layout: Layout
    pattern: Pattern

    def misfit(self) -> str:
        """Why the pattern can't be laid over this weight; "" where it can."""
        if self.pattern.m and self.layout.last % self.pattern.m:
            return f"its {self.layout.last} input channels are no multiple of {self.pattern.m}"
        return ""

    @cached_property
    def size(self) -> int | Tensor:
        """How many weights leave with a unit: one number, or ``sizes`` where blocks at the edges are cut off."""
        rows = self.layout.shape[self.layout.order[0]]
        cut_off = rows % self.pattern.rows or (prod(self.layout.shape) // rows) % self.pattern.columns
        return self.sizes if cut_off else self.pattern.m - self.pattern.n or self.pattern.rows * self.pattern.columns

    @cached_property
    def sizes(self) -> Tensor:
        """How many weights leave with each unit: float32 ``[units]``."""
        return self._sums(torch.ones(self.layout.shape))

    def scores(self, weights: Tensor) -> Tensor:
        """``[units]``: what each unit's weights (of n:m: those that would leave) are worth on average. weights: of the weight's shape."""
        if self.pattern == Pattern():
            return weights.flatten()  # in any order: each is its own unit, and 25 million need no copy
        if self.pattern.m:
            runs = self.layout.matrix(weights).reshape(-1, self.pattern.m)
            return runs.sort(dim=1).values[:, : self.pattern.m - self.pattern.n].mean(1)
        return self._sums(weights) / self.sizes.to(weights.device)

    def mask(self, stays: Tensor, weights: Tensor) -> Tensor:
        """Which weights stay (bool, the weight's shape), given which units do (bool ``[units]``); n:m asks ``weights`` for the best n."""
        if self.pattern == Pattern():
            return stays.reshape(self.layout.shape)
        matrix = self.layout.matrix(weights)
        if self.pattern.m:
            runs = matrix.reshape(-1, self.pattern.m)
            weak = runs.argsort(dim=1, stable=True)[:, : self.pattern.m - self.pattern.n]
            kept = torch.ones_like(runs, dtype=torch.bool).scatter_(1, weak, False) | stays[:, None]
        else:
            high, wide = self._grid(matrix)
            spread = stays.reshape(high, wide).repeat_interleave(self.pattern.rows, 0).repeat_interleave(self.pattern.columns, 1)
            kept = spread[: matrix.shape[0], : matrix.shape[1]]
        return self.layout.weight(kept.reshape(matrix.shape))

    def _sums(self, weights: Tensor) -> Tensor:
        if self.pattern.m:
            count = weights.numel() // self.pattern.m
            return torch.full((count,), float(self.pattern.m - self.pattern.n))
        matrix, (rows, columns) = self.layout.matrix(weights), (self.pattern.rows, self.pattern.columns)
        high, wide = self._grid(matrix)
        padded = F.pad(matrix, (0, wide * columns - matrix.shape[1], 0, high * rows - matrix.shape[0]))
        return padded.reshape(high, rows, wide, columns).sum((1, 3)).flatten()

    def _grid(self, matrix: Tensor) -> tuple[int, int]:
        return -(-matrix.shape[0] // self.pattern.rows), -(-matrix.shape[1] // self.pattern.columns)
