"""Take out what does nothing: dead ops, repeated work, identities, transposes and reshapes that cancel."""

from dataclasses import replace

from karui.program.passes.editor import Editor
from karui.program.program import Op

_ONE_TO_ONE = ("reshape", "transpose", "dequantize", "clamp")  # pure functions of one tensor whose twins may be shared


def tidy(editor: Editor) -> None:
    """Run all the clean-ups until nothing changes."""
    while remove_identities(editor) | merge_moves(editor) | share_twins(editor) | remove_dead(editor) | free_outputs(editor):
        pass


def remove_dead(editor: Editor) -> bool:
    """Drop ops of which no output is read."""
    live = {o.tensor for o in editor.outputs} | {name for name, _ in editor.states}
    kept: list[Op] = []
    for op in reversed(editor.ops):
        if live & set(op.outputs):
            kept.append(op)
            live |= set(op.inputs)
    changed = len(kept) != len(editor.ops)
    editor.ops = kept[::-1]
    return changed


def remove_identities(editor: Editor) -> bool:
    """Drop moves that move nothing; an output keeps its tensor where removing the op would hand it the program's input."""
    changed = False
    inputs = {i.tensor for i in editor.source.inputs}
    for op in editor.each():
        if op.kind not in ("reshape", "transpose", "clamp", "slice", "concat", "pad") or len(op.inputs) != 1:
            continue
        x, y = editor.tensors[op.inputs[0]], editor.tensors[op.outputs[0]]
        same = x.shape == y.shape
        perm = op.attributes.get("perm", ())
        nothing = {
            "reshape": same,
            "transpose": list(perm) == sorted(perm),
            "clamp": op.attributes.get("clamp") in (None, [None, None]),
            "slice": same,
            "concat": True,
            "pad": not any(sum(op.attributes.get("padding", []), [])),
        }[op.kind]
        seen = x.name in inputs or (x.layout != y.layout and editor.is_visible(x.name))
        if nothing and not (seen and editor.is_visible(y.name)):
            editor.move_readers(y.name, x.name)
            editor.remove(op)
            changed = True
    return changed


def merge_moves(editor: Editor) -> bool:
    """Join reshape after reshape and transpose after transpose; a transpose that only moves axes of size one is a reshape."""
    changed = False
    for op in editor.each():
        if op.kind == "transpose":
            shape = editor.tensors[op.inputs[0]].shape
            real = [axis for axis in op.attributes["perm"] if shape[axis] != 1]
            if real == sorted(real):
                op = editor.replace(op, replace(op, kind="reshape", attributes={}))
                changed = True
        if op.kind not in ("reshape", "transpose"):
            continue
        before = editor.producer(op.inputs[0])
        if before is None or before.kind != op.kind:
            continue
        attributes = dict(op.attributes)
        if op.kind == "transpose":
            attributes["perm"] = [before.attributes["perm"][axis] for axis in op.attributes["perm"]]
        editor.replace(op, replace(op, inputs=before.inputs, attributes=attributes))
        changed = True
    return changed


def share_twins(editor: Editor) -> bool:
    """Two equal moves of one tensor become one."""
    changed = False
    seen: dict[tuple[object, ...], Op] = {}
    for op in editor.each():
        if op.kind not in _ONE_TO_ONE:
            continue
        y = editor.tensors[op.outputs[0]]
        key = (op.kind, op.inputs, str(sorted(op.attributes.items())), y.shape, y.dtype, y.quant)
        twin = seen.setdefault(key, op)
        if twin is not op and not editor.is_visible(y.name):
            editor.move_readers(y.name, twin.outputs[0])
            editor.remove(op)
            changed = True
    return changed


def free_outputs(editor: Editor) -> bool:
    """An output that is only dequantized leaves as int8: who reads it has its scale, and a device need not touch floats."""
    changed = False
    for i, output in enumerate(editor.outputs):
        op = editor.producer(output.tensor)
        if op is None or op.kind != "dequantize" or editor.readers(output.tensor):
            continue
        if any(output.tensor in pair for pair in editor.states) or op.inputs[0] in {o.tensor for o in editor.outputs}:
            continue
        editor.tensors[op.inputs[0]] = replace(editor.tensors[op.inputs[0]], layout=editor.tensors[output.tensor].layout)
        editor.outputs[i] = replace(output, tensor=op.inputs[0])
        editor.remove(op)
        changed = True
    return changed
