"""Put what an early exit needs before everything else, so that a target which stops at it has computed no more than that."""

from karui.program.passes.editor import Editor
from karui.program.program import Op


def order_exits(editor: Editor) -> None:
    """What the first exit's scores are made of, then what the second's are, …, then the rest; each part in the order that it had.

    The first is the outermost: ``exit_if(e1, exit_if(e2, late))`` asks e1 first. A program without exits stays as it is.
    """
    exits = [op for op in editor.ops if op.kind == "exit_if"]
    first: list[Op] = []
    for each in reversed(exits):  # an exit within another's ``late`` stands before it
        needed = ancestors(editor, each.inputs[0])
        first += [op for op in needed if not any(op is other for other in first)]
    editor.ops = first + [op for op in editor.ops if not any(op is other for other in first)]


def ancestors(editor: Editor, tensor: str) -> list[Op]:
    """The ops that ``tensor`` is computed by, in order."""
    wanted, found = {tensor}, []
    for op in reversed(editor.ops):
        if wanted & set(op.outputs):
            found.append(op)
            wanted |= set(op.inputs)
    return found[::-1]
