"""Names of a file's constants and ops as names of a network's."""

import re
from collections.abc import Sequence

from torch import Tensor, nn

from karui.errors import CaptureError


def path_of(name: str) -> str:
    """A name of a file as a path of layers: ``/features/features.0/Conv`` → ``features.0.Conv``."""
    parts: list[str] = []
    for part in re.split(r"[/:]", name.split(";")[0]):
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        elif part:
            parts.append(part)
    return ".".join(parts) or "constant"


def good_name(name: str) -> str:
    """A name that says something, or nothing: exporters number what has none."""
    return "" if re.fullmatch(r"(onnx::)?[A-Za-z]*_?\d+|arith\.constant\d*|\d*", name) else name


def register(root: nn.Module, name: str, tensor: Tensor, source: str) -> str:
    """Put a tensor into the tree of modules and return its name there: one like ``name`` where that can't stand."""
    parts = [re.sub(r"\W", "_", part) or "_" for part in path_of(name).split(".")]
    for i in range(1, 10_000):
        leaf = parts[-1] if i == 1 else f"{parts[-1]}_{i}"
        owner = _owner(root, parts[:-1])
        if owner is None:
            parts = ["_".join(parts)]
            continue
        if not hasattr(owner, leaf):
            if isinstance(tensor, nn.Parameter):
                owner.register_parameter(leaf, tensor)
            else:
                owner.register_buffer(leaf, tensor)
            return ".".join([*parts[:-1], leaf])
    raise CaptureError(f"'{source}': too many constants are called '{name}'")


def _owner(root: nn.Module, parts: Sequence[str]) -> nn.Module | None:
    """The module of this path, made where it lacks; None where a tensor is in the way."""
    owner = root
    for part in parts:
        if part not in owner._modules:
            if hasattr(owner, part):
                return None
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    return owner
