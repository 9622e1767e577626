"""Integer layers of ternary weights with two scales a channel: how their numbers lie for c_runtime/pairs.c."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from karui.export.c_few import Few, few_of, near
from karui.export.c_geometry import Geometry
from karui.export.c_panels import DEEP, SLACK, WIDE, Numbers, fields_of, in_panels
from karui.export.c_source import Source, structure
from karui.export.c_weights import Coded
from karui.program.arithmetic import bounds, requantization, terms
from karui.program.program import Op, TernaryValues

RAISE = {"k_set_v3": "k_raise_x86", "k_set_v4": "k_raise_x86"}  # where a compiler's own vectors wouldn't do


def pairs(source: Source, op: Op, g: Geometry, w: Coded, weight: Callable[[], str]) -> bool:
    """Write such a layer, in panels. weight: writes its ``k_weight``, row by row, and gives its name.

    False, and nothing is written, where its sums could take too many bits.
    """
    found = _numbers(source, op, g)
    if found is None:
        return False
    positive, negative = found
    low, high = bounds(op, source.tensor(op.outputs[0]))
    fields = {name: source.table(f"{op.name}.panel.{name}", each) for name, each in in_panels(negative, negative.folded).items()}
    inner = source.constant(f"{op.name}.panel", "k_panel_weight", structure(**fields, quick=int(negative.quick), low=low, high=high))
    ours = source.table(f"{op.name}.panel.positive", in_panels(positive, positive.folded)["multiplier"])
    how = source.use(RAISE.get(source.machine.sets or "", "k_raise_plain"))
    whole = replace(negative, codes=positive.codes - negative.codes)
    smaller = None if g.depthwise else few_of(whole)
    opened = smaller if smaller is not None and near(smaller, w) else None
    rows = {} if opened else {"coded": weight()}
    text = structure(**rows, positive=ours, weight=f"&{inner}", **{"raise": how})
    pair = source.constant(f"{op.name}.pair", "k_pair_weight", text)
    lay = source.constant(f"{op.name}.panels", "k_panels", structure(**negative.fields))
    x, y = source.place(op.inputs[0]), source.place(op.outputs[0])
    if opened:
        size = opened.codes.shape[1] * WIDE * DEEP
        scratch = [source.take("uint8_t", negative.copy + SLACK), source.take("int8_t", 2 * size) if g.pixels > 1 else "NULL"]
        meanings = [_meaning(source, op, opened, sign) for sign in ("plus", "minus")]
        few = f"{source.use(source.machine.few)}()"
        source.call("k_few_pair_i8", x, y, f"&{lay}", f"&{pair}", *meanings, source.set(), few, *scratch)
        return True
    deep, more = (1, WIDE + g["o"]) if g.depthwise else (DEEP, SLACK)
    runs = negative.fields["runs_y"] * negative.fields["runs_x"]
    size = runs * WIDE * (1 if g.depthwise else negative.fields["fours"] * DEEP)
    scratch = [source.take("uint8_t", negative.copy + more), source.take("int8_t", 2 * size), source.take("int8_t", w.inputs)]
    scratch += [source.take("k_index", w.most), source.take("int8_t", w.most)] if w.sparse else ["NULL", "NULL"]
    source.call("k_pair_i8", x, y, f"&{lay}", f"&{pair}", source.set(), deep, *scratch)
    return True


def is_pair(source: Source, op: Op) -> bool:
    """Whether an integer layer is one of these, on a machine that has panels."""
    weight = source.program.weights[op.weights["weight"]]
    return bool(source.machine.sets) and isinstance(weight.values, TernaryValues) and len(terms(weight)) == 2


def _meaning(source: Source, op: Op, few: Few, sign: str) -> str:
    """A ``k_few`` whose values are ones where those of a sign were, by its name."""
    values = (few.values > 0 if sign == "plus" else few.values < 0).astype(np.int8)
    ones = replace(few, values=values)
    tables = {"codes": source.table(f"{op.name}.few.codes", few.codes), "values": source.table(f"{op.name}.few.{sign}", values)}
    return f"&{source.constant(f'{op.name}.few.{sign}.numbers', 'k_few', structure(**tables, bits=few.bits, room=ones.room))}"


def _numbers(source: Source, op: Op, g: Geometry) -> tuple[Numbers, Numbers] | None:
    """Those of the +1 and those of the −1; the biases, with all that the border and the 128 add, and whether it is quick are of both."""
    fields, copy = fields_of(source, op, g)
    weight, requant = source.program.weights[op.weights["weight"]], requantization(source.program, op)
    codes = [term.codes.reshape(weight.shape[0], -1).astype(np.int8) for term in terms(weight)]
    ones = [each.astype(np.int64).sum(1) for each in codes]
    folded, reach = [], []
    for o, bias in enumerate(requant.bias):
        parts = [(int(n[o]), int(m)) for n, m in zip(ones, requant.multiplier[o], strict=True)]
        folded.append(int(bias) - fields["border"] * sum(n * m for n, m in parts))
        reach.append(abs(folded[-1]) + sum(255 * n * abs(m) for n, m in parts))
    if max(reach, default=0) >= 2**63 or 255 * max(int(n.max(initial=0)) for n in ones) >= 2**31:
        return None
    quick = all(int(s) >= 32 and r >> int(s) < 2**31 for r, s in zip(reach, requant.shift, strict=True))
    groups = 1 if g.depthwise else g["groups"]
    outputs = g["o"] // groups
    made = [
        Numbers(
            fields=fields,
            copy=copy,
            groups=groups,
            outputs=outputs,
            each=-(-outputs // WIDE),
            codes=each,
            requant=replace(requant, multiplier=requant.multiplier[:, t]),
            folded=np.array(folded, np.int64),
            quick=quick,
        )
        for t, each in enumerate(codes)
    ]
    return made[0], made[1]
