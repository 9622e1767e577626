"""What an op gives, told by its shapes."""

from typing import Any

import torch

aten = torch.ops.aten
_RECURRENT = (aten.lstm.input, aten.gru.input)


def made_by(op: Any, *args: Any, **kwargs: Any) -> Any:
    """``op(*args)``; of a recurrent layer on tensors without data, found from one step: torch would go through all of them."""
    if op not in _RECURRENT or args[0].device.type != "meta":
        return op(*args, **kwargs)
    x, axis = args[0], 1 if args[-1] else 0
    sequence, *states = op(x.narrow(axis, 0, 1), *args[1:], **kwargs)
    sizes = [x.shape[i] if i == axis else size for i, size in enumerate(sequence.shape)]
    return (sequence.new_empty(sizes), *states)
