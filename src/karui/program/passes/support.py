"""The pattern in a mask: blocks or n of m where the zeros lie so and the file gets smaller by it; else single weights (docs/adr/0006)."""

from dataclasses import replace

import numpy as np

from karui.program.check_weight import block_mask, spread_blocks
from karui.program.coding.weight import index_bytes
from karui.program.passes.editor import Editor
from karui.program.program import Array, Block, Dense, Element, NofM, Support

BLOCKS = ((1, 4), (4, 1), (2, 4), (4, 4))  # output channels × inputs
RUNS = ((1, 4), (2, 4))  # n of m
GAIN = 32  # bytes that a pattern has to save: its words in the header take some
_FIRST = 32  # rows that are looked at first: a mask without a pattern shows it there


def name_supports(editor: Editor) -> None:
    """Give every weight of single elements the support that its mask has."""
    for name, weight in editor.weights.items():
        if isinstance(weight.support, Element):
            editor.weights[name] = replace(weight, support=support_of(weight.support.mask))


def support_of(mask: Array) -> Support:
    """The smallest support that stores exactly this mask: bool in the weight's shape."""
    if mask.all():
        return Dense()
    found: Support = Element(mask=mask)
    patterns = [support for support in _candidates(mask) if _holds(support, mask)]
    if not patterns:
        return found
    least = index_bytes(found) - GAIN
    for support in patterns:
        if (size := index_bytes(support)) < least:
            found, least = support, size
    return found


def _candidates(mask: Array) -> list[Block | NofM]:
    if mask.ndim < 2 or not mask.any():
        return []
    runs: list[Block | NofM] = [NofM(n=n, m=m, mask=mask) for n, m in RUNS]
    return [*runs, *(Block(rows=rows, columns=columns, mask=mask) for rows, columns in BLOCKS)]


def _holds(support: Block | NofM, mask: Array) -> bool:
    """Whether the mask has the pattern: its first rows, then all of it."""
    return all(_has(support, part) for part in (mask[:_FIRST], mask))


def _has(support: Block | NofM, mask: Array) -> bool:
    if isinstance(support, NofM):  # every run exactly full: fewer would be no pattern, but chance
        return mask.shape[-1] % support.m == 0 and bool((mask.reshape(-1, support.m).sum(1, dtype=np.uint8) == support.n).all())
    blocks = block_mask(mask, support.rows, support.columns)
    return bool(np.array_equal(spread_blocks(blocks, support.rows, support.columns, mask.shape), mask))
