"""Many small Programs as one, so that C is compiled once for all of them; and the comparison with the interpreter."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from karui.export import c
from karui.program.interpreter import run
from karui.program.program import Affine, Array, Program, Sign
from karui.run import host

QUICK = ("-O1", "-fPIC")  # the compiler is most of the time of these tests


def merged(programs: Mapping[str, Program]) -> Program:
    """All of them side by side; every name begins with the program's own."""
    tensors, weights, ops, inputs, outputs = {}, {}, [], [], []
    for key, p in programs.items():
        tensors |= {f"{key}.{n}": replace(t, name=f"{key}.{n}") for n, t in p.tensors.items()}
        weights |= {f"{key}.{n}": replace(w, name=f"{key}.{n}") for n, w in p.weights.items()}
        ops += [
            replace(
                op,
                name=f"{key}.{op.name}",
                inputs=tuple(f"{key}.{n}" for n in op.inputs),
                outputs=tuple(f"{key}.{n}" for n in op.outputs),
                weights={role: f"{key}.{n}" for role, n in op.weights.items()},
            )
            for op in p.ops
        ]
        inputs += [replace(i, name=f"{key}.{i.name}", tensor=f"{key}.{i.tensor}") for i in p.inputs]
        outputs += [replace(o, name=f"{key}.{o.name}", tensor=f"{key}.{o.tensor}") for o in p.outputs]
    return Program(name="many", tensors=tensors, weights=weights, ops=tuple(ops), inputs=tuple(inputs), outputs=tuple(outputs))


def inputs_of(program: Program, count: int = 3, seed: int = 0) -> list[Array]:
    """Random inputs; integers use all codes that their quantization has, floats go beyond what int8 can hold."""
    rng = np.random.default_rng(seed)
    arrays: list[Array] = []
    for entry in program.inputs:
        t = program.tensor(entry.tensor)
        shape = (count, *t.shape)
        if isinstance(t.quant, Sign):
            arrays.append((2 * rng.integers(0, 2, shape) - 1).astype(np.int8))
            continue
        low, high = {"uint8": (0, 256), "int32": (0, 3)}.get(t.dtype, (-128, 128))
        if isinstance(t.quant, Affine) and t.quant.bits < 8:
            low, high = -(1 << t.quant.bits >> 1), 1 << t.quant.bits >> 1
        floats = t.dtype == "float32"
        arrays.append((2 * rng.standard_normal(shape)).astype(np.float32) if floats else rng.integers(low, high, shape).astype(t.dtype))
    return arrays


def check(program: Program, folder: Path, inputs: Sequence[Array] | None = None, flags: Sequence[str] = QUICK) -> host.Library:
    """Export, build, run, compare: integers exactly, floats within 1e-4 of the greatest."""
    library = host.build(c.write(program, folder), flags=flags)
    inputs = inputs_of(program) if inputs is None else inputs
    agree(program, library.run(inputs), run(program, inputs))
    return library


def agree(program: Program, found: Sequence[Array], expected: Sequence[Array]) -> None:
    """Integers exactly, floats within 1e-4 of the greatest; names the output."""
    for out, a, b in zip(program.outputs, found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, out.name
        if a.dtype != np.float32:
            assert np.array_equal(a, b), f"{out.name}: {np.sum(a != b)} of {a.size} differ"
            continue
        assert np.array_equal(np.isfinite(a), np.isfinite(b)), out.name
        finite = np.isfinite(b)
        worst = np.abs(a[finite] - b[finite]).max(initial=0) / max(np.abs(b[finite]).max(initial=0), 1e-30)
        assert worst <= 1e-4, f"{out.name}: {worst:.2e}"
