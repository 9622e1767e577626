"""Passes: Program → Program. Each keeps what the program computes, and ``optimise`` runs them in the one order that works."""

from karui.program.passes.editor import Editor
from karui.program.passes.exits import order_exits
from karui.program.passes.fold import fold_affine, fold_pads
from karui.program.passes.fuse import fuse_clamps
from karui.program.passes.integerize import integerize
from karui.program.passes.support import name_supports
from karui.program.passes.tidy import tidy
from karui.program.passes.transposes import absorb_transposes
from karui.program.program import Program


def optimise(program: Program) -> Program:
    """Fold, fuse, move to integers, tidy, order, name the patterns. The result is smaller and computes the same up to float rounding."""
    editor = Editor(program)
    tidy(editor)
    absorb_transposes(editor)
    fold_affine(editor)
    fold_pads(editor)
    fuse_clamps(editor)
    integerize(editor)
    tidy(editor)
    order_exits(editor)
    name_supports(editor)
    return editor.program()
