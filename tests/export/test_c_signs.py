"""Layers of weights of one bit over few-bit activations: the interpreter's integers, whatever codes stand for zero and for the border."""

import platform
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from karui.export import c
from karui.export.c_nearest import by_floats
from karui.export.c_signs import codes_of, planes_of
from karui.export.machines import MACHINES
from karui.program.interpreter import run
from karui.program.program import Affine, Array, Input, Op, Output, Program, Sign, SignValues, Tensor, Values
from karui.run import compiler, host
from tests.export.many import QUICK, agree, inputs_of, merged
from tests.export.test_c_layers import output_shape
from tests.program.single_op import affine, floats, int8, program, tensor, weight
from tests.program.weights import make_weight

Quant = Affine | Sign
WITHOUT = (*QUICK, "-DMODEL_PLAIN")


def bits(count: int, zero_point: int) -> Affine:
    """Codes of few bits."""
    return Affine(bits=count, scale=0.5, zero_point=zero_point)


ACTIVATIONS: dict[str, Quant] = {
    "0 and 1": bits(1, -1),
    "-1 and 0": bits(1, 0),
    "signs": Sign(scale=0.5),
    "two bits": bits(2, -2),
    "two bits, zero inside": bits(2, 1),
}


def layer(
    shape: Sequence[int],
    outputs: int,
    quant: Quant = ACTIVATIONS["signs"],
    *,
    kernel: Sequence[int] = (3, 3),
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (1, 1, 1, 1),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    y: Quant | None = None,
    seed: int = 0,
) -> Program:
    """A layer of signs; linear where the shape has no rows and columns. Some channels have a scale below the others', some have a bias."""
    rng = np.random.default_rng(seed)
    kind = {1: "linear", 2: "conv1d", 3: "conv2d"}[len(shape)]
    of = (outputs, *(kernel if kind == "conv2d" else kernel[:1] if kind == "conv1d" else ()), shape[-1] // groups)
    scale = np.exp(rng.normal(-3, 1.0, outputs)).astype(np.float32)
    w = weight("weight", SignValues(codes=(2 * rng.integers(0, 2, of) - 1).astype(np.int8), scale=scale))
    a: dict[str, Any] = {"stride": list(stride), "padding": list(padding), "dilation": list(dilation), "groups": groups}
    if kind == "conv1d":
        a |= {"stride": stride[0], "padding": list(padding[:2]), "dilation": dilation[0]}
    a = {} if kind == "linear" else a
    out = output_shape(kind, tuple(shape), of, a)
    bias = floats(rng.standard_normal(outputs).astype(np.float32))
    ends = [tensor("x", shape, quant)], [tensor("y", out, y or affine(0.02 * 4 ** rng.random(), int(rng.integers(-40, 40))))]
    clamp = None if y else [int(rng.integers(-128, -20)), int(rng.integers(20, 128))]
    p = program(kind, *ends, {"weight": bias, "bias": bias}, **a, clamp=clamp)
    return Program(**{**vars(p), "weights": {**p.weights, "weight": w}})


def sizes() -> dict[str, Program]:
    """Every geometry with every kind of activation."""
    cases: dict[str, dict[str, Any]] = {
        "64 channels": dict(shape=(5, 5, 64), outputs=64),
        "33 outputs": dict(shape=(4, 6, 40), outputs=33),
        "three blocks": dict(shape=(3, 5, 16), outputs=70),
        "17 outputs, nine pixels": dict(shape=(3, 3, 9), outputs=17),
        "a pair of blocks and a rest": dict(shape=(4, 4, 24), outputs=90),
        "two pairs, more than 31 bytes": dict(shape=(3, 3, 64), outputs=128),
        "5 outputs": dict(shape=(4, 4, 12), outputs=5),
        "long": dict(shape=(3, 3, 300), outputs=40),
        "1 x 1": dict(shape=(3, 7, 100), outputs=48, kernel=(1, 1), padding=[0, 0, 0, 0]),
        "1 x 1, padded": dict(shape=(4, 4, 33), outputs=20, kernel=(1, 1), padding=[1, 0, 2, 1], stride=(2, 2)),
        "strides": dict(shape=(9, 11, 24), outputs=32, stride=(2, 3)),
        "dilation": dict(shape=(9, 9, 16), outputs=20, dilation=(2, 3), padding=[2, 3, 2, 3]),
        "groups": dict(shape=(5, 5, 36), outputs=99, groups=3),
        "groups of 8": dict(shape=(5, 4, 32), outputs=12, groups=4),
        "wider than it is read": dict(shape=(8, 8, 16), outputs=16, kernel=(1, 1), padding=[0, 0, 0, 0], stride=(3, 3)),
        "one row of padding": dict(shape=(4, 4, 9), outputs=16, padding=[0, 2, 3, 0]),
        "one pixel": dict(shape=(3, 3, 20), outputs=40, padding=[0, 0, 0, 0]),
        "nothing but border": dict(shape=(1, 1, 8), outputs=33, padding=[3, 3, 3, 3], kernel=(2, 2)),
        "5 x 5": dict(shape=(6, 7, 11), outputs=8, kernel=(5, 5), padding=[2, 2, 2, 2]),
        "1-D": dict(shape=(12, 19), outputs=35, kernel=(5,), padding=[2, 2]),
        "linear": dict(shape=(130,), outputs=75),
        "linear, two pairs": dict(shape=(520,), outputs=97),
        "linear, short": dict(shape=(8,), outputs=3),
    }
    return {
        f"{name}, {what}": layer(**case, quant=quant, seed=17 * i + j)
        for i, (name, case) in enumerate(cases.items())
        for j, (what, quant) in enumerate(ACTIVATIONS.items())
    }


SIZES = sizes()


def same(p: Program, folder: Path, machine: str, flags: tuple[str, ...] = QUICK, compiler: str | None = None) -> None:
    inputs = inputs_of(p, seed=1)
    agree(p, host.build(c.write(p, folder, machine=machine), flags=flags, compiler=compiler).run(inputs), run(p, inputs))


@pytest.mark.parametrize("flags", [QUICK, WITHOUT, ("-O3", "-fPIC")], ids=["O1", "no sets", "O3"])
@pytest.mark.parametrize("machine", MACHINES)
def test_sizes(machine: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    same(merged(SIZES), tmp_path, machine, flags)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64")
@pytest.mark.parametrize("bears", [0, 1, 7, 9, 15])
@pytest.mark.parametrize("cases", ["sizes", "stacks"])
def test_a_processor_with_fewer_instructions(cases: str, bears: int, tmp_path: Path) -> None:
    """The one artefact of x86-64-v4 on less: plain C, AVX2, AVX-512 without its count of ones; and by that count without the rest."""
    p = merged(SIZES if cases == "sizes" else {name: p for name, (p, _) in STACKS.items()})
    artefact = c.write(p, tmp_path, machine="x86-64-v4")
    text = artefact.main.read_text()
    assert text.count("model_bears()") >= 3  # once in each function that chooses
    artefact.main.write_text(re.sub(r"(?<!uint32_t )model_bears\(\)", f"({bears}u & model_bears())", text))
    inputs = inputs_of(p, seed=1)
    agree(p, host.build(artefact, flags=QUICK).run(inputs), run(p, inputs))


def test_blocks_whose_codes_floats_would_not_make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both ways in one layer, whose last block is not full."""
    seen = []

    def some(*given: Any) -> tuple[Array, Array, Array]:
        scale, offset, exact = by_floats(*given)
        lost = np.arange(len(exact)) // 32 % 2 == len(seen) % 2  # every other block
        seen.append(exact)
        return np.where(lost, np.float32(7), scale), offset, exact & ~lost

    monkeypatch.setattr("karui.export.c_signs.by_floats", some)
    same(merged({name: p for name, p in SIZES.items() if name.startswith(("a pair", "three", "two pairs"))}), tmp_path, "x86-64-v4")
    assert len(seen) >= 15 and np.mean(np.concatenate(seen)) > 0.9  # else nothing was lost


@pytest.mark.parametrize("machine", MACHINES)
def test_another_compiler(machine: str, tmp_path: Path) -> None:
    same(merged(SIZES), tmp_path, machine, ("-O1", "-fPIC"), " ".join(compiler.ziglang()))


def test_they_are_computed_in_bits() -> None:
    for name, p in SIZES.items():
        assert "k_signs_i8" in c.model(p).kernels, name
        assert not {"k_dense_i8", "k_codes_packed"} & set(c.model(p).kernels), name


@pytest.mark.parametrize("machine", MACHINES)
def test_alone_it_brings_just_its_kernels(machine: str, tmp_path: Path) -> None:
    source = c.write(SIZES["linear, signs"], tmp_path, machine=machine).main
    compiler.compile_c(["gcc"], [*host.STRICT, "-O2", "-c", "-o", "/dev/null", source], what="it")


# ── what comes before ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def behind(kind: str, x: Tensor, quant: Quant, weights: dict[str, Values] | None = None, **attributes: Any) -> Program:
    """A layer of signs behind another op, which writes what it reads."""
    first = layer((4, 5, 16), 20, quant, seed=3)
    op = Op(
        kind=kind, name="first", inputs=("before",), outputs=("x",), weights={r: f"first.{r}" for r in weights or {}}, attributes=attributes
    )
    more = {f"first.{role}": weight(f"first.{role}", values) for role, values in (weights or {}).items()}
    return Program(
        name="two",
        tensors={**first.tensors, "before": x},
        weights={**first.weights, **more},
        ops=(op, *first.ops),
        inputs=(Input(name="before", tensor="before"),),
        outputs=first.outputs,
    )


def table(codes: Array | list[int]) -> dict[str, Values]:
    return {"table": int8(np.resize(codes, 256).astype(np.int8), 1.0)}


IMAGE, SMALLER = (4, 5, 16), (2, 3, 16)
CHAINS: dict[str, tuple[Program, int]] = {  # and the planes of what the layer reads
    "floats to signs, of which some are 0": (behind("quantize", tensor("before", IMAGE, None), Sign(scale=1.0)), 2),
    "floats to one bit": (behind("quantize", tensor("before", IMAGE, None), bits(1, -1)), 1),
    "a table of signs": (behind("lookup", tensor("before", IMAGE, affine(1.0)), Sign(scale=1.0), table([-1, 1, 1])), 1),
    "a table of two codes far apart": (behind("lookup", tensor("before", IMAGE, affine(1.0)), affine(0.1, 5), table([-7, 90])), 1),
    "a table of two codes, one zero": (behind("lookup", tensor("before", IMAGE, affine(1.0)), affine(0.1, 5), table([5, -3])), 1),
    "a table of one code": (behind("lookup", tensor("before", IMAGE, affine(1.0)), affine(0.1, 5), table([9])), 1),
    "a table of four codes": (behind("lookup", tensor("before", IMAGE, affine(1.0)), affine(0.1, -9), table([3, 0, 1, 2])), 2),
    "a clamp to four codes": (behind("clamp", tensor("before", IMAGE, affine(1.0, 4)), affine(1.0, 4), clamp=[4, 7]), 2),
    "padding with another code": (
        behind("pad", tensor("before", SMALLER, bits(1, 0)), bits(1, 0), padding=[[1, 1], [2, 0], [0, 0]], value=0),
        1,
    ),
    "padded signs": (
        behind("pad", tensor("before", SMALLER, Sign(scale=1.0)), Sign(scale=1.0), padding=[[1, 1], [2, 0], [0, 0]], value=0),
        2,
    ),
}


@pytest.mark.parametrize("machine", ["portable", "x86-64-v3", "x86-64-v4", "cortex-m4"])
def test_chains(machine: str, tmp_path: Path) -> None:
    p = merged({name: chain for name, (chain, _) in CHAINS.items()})
    same(p, tmp_path, machine)


def test_planes_follow_from_the_op_before() -> None:
    for name, (p, count) in CHAINS.items():
        planes = planes_of(p, "x")
        assert planes is not None and planes.count == count, name
        assert "k_signs_i8" in c.model(p).kernels, name


def test_what_is_not_for_bits() -> None:
    """Eight bits, codes that nothing bounds, zeros among the weights, channels that fill no byte, more inputs than 16 bits count."""
    wide = behind("lookup", tensor("before", IMAGE, affine(1.0)), affine(0.1), table(np.arange(40)))
    few = layer((5, 5, 4), 8)
    ternary, sparse = (layer((16,), 8) for _ in range(2))
    ternary = Program(
        **{**vars(ternary), "weights": {**ternary.weights, "weight": make_weight("dense", "ternary", (8, 16), seed=1, name="weight")}}
    )
    sparse = Program(
        **{**vars(sparse), "weights": {**sparse.weights, "weight": make_weight("element", "sign", (8, 16), seed=1, name="weight")}}
    )
    eight = layer((16,), 8, affine(1.0, 3))
    for p in (wide, few, ternary, sparse, eight, layer((70_000,), 2)):
        assert "k_signs_i8" not in c.model(p).kernels
    low, high = eight.ops[0].attributes["clamp"]
    assert codes_of(eight, "y") == frozenset(range(low, high + 1))


# ── bits between layers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def stacked(*layers: Program, first: Program | None = None) -> Program:
    """One behind the other; each reads what the one before wrote."""
    tensors, weights, ops = {}, {}, []
    for i, p in enumerate([*([first] if first else []), *layers]):
        tensors[f"t{i}"] = replace(p.tensors["x"], name=f"t{i}") if i == 0 else tensors[f"t{i}"]
        tensors[f"t{i + 1}"] = replace(p.tensors["y"], name=f"t{i + 1}")
        weights |= {f"{i}.{name}": replace(w, name=f"{i}.{name}") for name, w in p.weights.items()}
        named = {role: f"{i}.{name}" for role, name in p.ops[0].weights.items()}
        ops.append(replace(p.ops[0], name=f"layer{i}", inputs=(f"t{i}",), outputs=(f"t{i + 1}",), weights=named))
    last = f"t{len(ops)}"
    ends = dict(inputs=(Input(name="x", tensor="t0"),), outputs=(Output(name="y", tensor=last),))
    return Program(name="many", tensors=tensors, weights=weights, ops=tuple(ops), **ends)  # type: ignore[arg-type]


def steps(shape: Sequence[int], quant: Quant, codes: Array | list[int]) -> Program:
    """A table."""
    return program("lookup", [tensor("x", shape, affine(1.0))], [tensor("y", shape, quant)], table(codes))


ONE, MINUS = bits(1, -1), bits(1, 0)
HALVES = [-1] * 77 + [0] * 179
STACKS: dict[str, tuple[Program, tuple[str, ...]]] = {  # and the tensors between that lie as bits
    "two layers": (stacked(layer((5, 6, 16), 40, y=ONE), layer((5, 6, 40), 12, ONE)), ("t1",)),
    "33 channels": (stacked(layer((5, 6, 16), 33, MINUS, y=MINUS, seed=1), layer((5, 6, 33), 12, MINUS)), ("t1",)),
    "17 channels, without border": (
        stacked(layer((4, 5, 16), 17, y=ONE, seed=2), layer((4, 5, 17), 70, ONE, kernel=(1, 1), padding=[0] * 4)),
        ("t1",),
    ),
    "groups": (stacked(layer((5, 6, 32), 48, groups=2, y=ONE), layer((5, 6, 48), 12, ONE, groups=3)), ("t1",)),
    "groups that end within a byte": (stacked(layer((5, 6, 32), 20, groups=2, y=ONE), layer((5, 6, 20), 12, ONE)), ()),
    "groups that begin within a byte": (stacked(layer((5, 6, 32), 36, y=ONE), layer((5, 6, 36), 12, ONE, groups=3)), ()),
    "three linear layers": (stacked(layer((50,), 70, y=ONE), layer((70,), 30, ONE, y=MINUS), layer((30,), 5, MINUS)), ("t1", "t2")),
    "signs, of which some are 0": (stacked(layer((5, 6, 16), 40, y=Sign(scale=1.0)), layer((5, 6, 40), 12, Sign(scale=1.0))), ()),
    "a table": (stacked(layer((5, 6, 40), 12, ONE), first=steps((5, 6, 40), ONE, HALVES)), ("t1",)),
    "a table, 9 channels": (stacked(layer((5, 6, 9), 12, MINUS), first=steps((5, 6, 9), MINUS, HALVES)), ("t1",)),
    "a table, a linear layer": (stacked(layer((3, 100), 12, MINUS), first=steps((3, 100), MINUS, HALVES)), ("t1",)),
    "a table of signs": (stacked(layer((5, 6, 40), 12), first=steps((5, 6, 40), Sign(scale=0.5), [-1] * 200 + [1] * 56)), ("t1",)),
    "a table of one code": (stacked(layer((5, 6, 40), 12, MINUS), first=steps((5, 6, 40), MINUS, [-1])), ("t1",)),
    "a table that falls": (stacked(layer((5, 6, 40), 12, ONE), first=steps((5, 6, 40), ONE, HALVES[::-1])), ()),
    "a table that goes up and down": (stacked(layer((5, 6, 40), 12, ONE), first=steps((5, 6, 40), ONE, [-1, 0])), ()),
}


@pytest.mark.parametrize("flags", [QUICK, WITHOUT], ids=["O1", "no sets"])
@pytest.mark.parametrize("machine", MACHINES)
def test_bits_between_layers(machine: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    same(merged({name: p for name, (p, _) in STACKS.items()}), tmp_path, machine, flags)


def test_which_tensors_lie_as_bits() -> None:
    for name, (p, expected) in STACKS.items():
        text = c.model(p).source
        assert text.count(".packed = 1") == len(expected), name
        assert text.count(".least = model_") + text.count("    model_to_signs(") == len(expected), name  # layers and tables that write them


def test_a_tensor_that_others_read_stays_bytes(tmp_path: Path) -> None:
    """An output, and what another op reads."""
    two = stacked(layer((5, 6, 16), 40, y=ONE), layer((5, 6, 40), 12, ONE))
    shown = Program(**{**vars(two), "outputs": (*two.outputs, Output(name="middle", tensor="t1"))})
    assert ".packed = 1" in c.model(two).source and ".packed = 1" not in c.model(shown).source
    pool = Op(
        kind="max_pool2d", name="pool", inputs=("t1",), outputs=("p",), attributes={"kernel": [2, 2], "stride": [2, 2], "padding": [0] * 4}
    )
    more = {**two.tensors, "p": tensor("p", (2, 3, 40), ONE)}
    shared = Program(**{**vars(two), "tensors": more, "ops": (*two.ops, pool), "outputs": (*two.outputs, Output(name="pool", tensor="p"))})
    assert ".packed = 1" not in c.model(shared).source
    same(merged({"shown": shown, "shared": shared}), tmp_path, "x86-64-v3")
