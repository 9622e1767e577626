"""Arguments: how a rule reads its node."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from karui.lower.builder import Builder, Constant, Shaped, Value


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of one node, by position or by the op's own argument names, with the op's defaults filled in."""

    builder: Builder
    node: torch.fx.Node
    env: dict[torch.fx.Node, Any]

    def raw(self, name: str) -> Any:
        """The argument as it stands in the graph (nodes as nodes)."""
        for i, argument in enumerate(self.node.target._schema.arguments):  # type: ignore[union-attr]
            if argument.name == name:
                if i < len(self.node.args):
                    return self.node.args[i]
                return self.node.kwargs.get(name, argument.default_value if argument.has_default_value() else None)
        raise KeyError(name)

    def get(self, name: str) -> Any:
        """The argument with nodes replaced by their values (Value, Constant, a size, or lists of these)."""
        return torch.fx.map_arg(self.raw(name), lambda n: self.env[n])

    def value(self, name: str) -> Value:
        """An argument that must be a tensor which depends on the input, its batch the first axis."""
        value = self.anywhere(name)
        if not value.ordinary:
            self.builder.refuse(
                f"{self.node.target} on a tensor whose batch is not its first axis", "move the batch to the front before it"
            )
        return value

    def anywhere(self, name: str) -> Value:
        """As ``value``, wherever its batch stands."""
        value = self.get(name)
        if not isinstance(value, Value):
            self.builder.refuse(f"{self.node.target} with a constant '{name}'", "swap the operands or precompute the result")
        return value

    def constant(self, name: str) -> torch.Tensor | None:
        """An argument that is known now, as a tensor; None if the network gave none."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, Constant):
            self.builder.refuse(f"{self.node.target} with a computed '{name}'", "only constants can stand there")
        return value.data

    @property
    def shaped(self) -> Shaped:
        """The shape of the node's own value."""
        shape = self.builder.shapes[self.node]
        if not isinstance(shape, Shaped):
            self.builder.refuse(f"{self.node.target} that mixes the batch into other axes", "let samples not depend on each other")
        return shape

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the node's own value, without the batch."""
        return self.shaped.shape

    @property
    def name(self) -> str:
        """The node's name: that of the tensor it makes."""
        return self.node.name


Rule = Callable[[Builder, Arguments], Any]
