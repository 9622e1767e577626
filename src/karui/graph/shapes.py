"""The shapes of a graph's values, by running it on tensors without data."""

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node


class _Shapes(Interpreter):
    """Runs a graph on fake tensors and keeps each value."""

    def __init__(self, module: GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(module)
        self.mode = mode
        self.values: dict[Node, Any] = {}
        self.tensors: dict[str, FakeTensor] = {}

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target not in self.tensors:
            self.tensors[target] = self.mode.from_tensor(self.fetch_attr(target))
        return self.tensors[target]

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        self.values[n] = value
        return value


def fake_values(module: GraphModule, inputs: tuple[torch.Tensor, ...]) -> dict[Node, Any]:
    """Each node's value as a fake tensor (shape, dtype and strides, no data) for inputs of these shapes; nothing is computed."""
    mode = FakeTensorMode()
    with mode, torch.no_grad():
        interpreter = _Shapes(module, mode)
        interpreter.run(*(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs))
    return interpreter.values
