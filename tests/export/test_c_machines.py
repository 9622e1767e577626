"""Kernels for chosen machines: the same integers as the interpreter's, with each instruction set that this processor has."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from karui.errors import RecipeError
from karui.export import c, c_text
from karui.export.c_plan import Planner
from karui.export.machines import MACHINES
from karui.program.interpreter import run
from karui.program.program import AffineValues, Element, Program
from karui.run import compiler, host
from tests.export.many import QUICK, agree, inputs_of, merged
from tests.export.test_c_layers import LAYERS, all_pairs, one_layer, output_shape
from tests.program.single_op import affine, int8, program, tensor, weight
from tests.program.weights import SUPPORTS, make_weight

FAST = [name for name, machine in MACHINES.items() if machine.sets or machine.duos]
PANELS = [name for name in FAST if MACHINES[name].sets]
WITHOUT = (*QUICK, "-DMODEL_PLAIN")  # what a processor does that has none of the sets

WIDE = {"avx512bw", "avx512vl"}


def same(p: Program, folder: Path, machine: str, flags: tuple[str, ...] = QUICK) -> None:
    inputs = inputs_of(p, seed=1)
    agree(p, host.build(c.write(p, folder, machine=machine), flags=flags).run(inputs), run(p, inputs))


@pytest.mark.parametrize("machine", FAST)
@pytest.mark.parametrize("support", SUPPORTS)
def test_every_pair(support: str, machine: str, tmp_path: Path) -> None:
    same(all_pairs(support, integer=True), tmp_path, machine)


def convolution(
    height: int,
    width: int,
    channels: int,
    outputs: int,
    *,
    kernel: Sequence[int] = (3, 3),
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (1, 1, 1, 1),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    seed: int = 0,
) -> Program:
    """A convolution of any size whose codes, multipliers and clamps use all that they may."""
    rng = np.random.default_rng(seed)
    shape = (outputs, *kernel, channels // groups)
    codes = rng.integers(-127, 128, shape).astype(np.int8)
    scale = np.exp(rng.normal(-6, 1.5, outputs)).astype(np.float32)
    w = weight("weight", AffineValues(bits=8, codes=codes, scale=scale, zero_point=np.zeros(outputs, np.int32)))
    a = {"stride": list(stride), "padding": list(padding), "dilation": list(dilation), "groups": groups}
    oh, ow, _ = output_shape("conv2d", (height, width, channels), shape, a)
    x, y = affine(0.05, int(rng.integers(-128, 128))), affine(0.2, int(rng.integers(-100, 100)))
    clamp = [int(rng.integers(-128, -20)), int(rng.integers(20, 128))]
    p = program("conv2d", [tensor("x", (height, width, channels), x)], [tensor("y", (oh, ow, outputs), y)], {}, **a, clamp=clamp)
    return Program(**{**vars(p), "weights": {"weight": w}, "ops": tuple(replace(op, weights={"weight": "weight"}) for op in p.ops)})


SIZES = {
    "a panel and a half": convolution(5, 5, 8, 24, seed=1),
    "three panels": convolution(4, 7, 3, 48, seed=2),
    "33 channels": convolution(6, 6, 5, 33, seed=3),
    "nine pixels": convolution(3, 3, 16, 32, seed=4),
    "one pixel": convolution(3, 3, 20, 40, padding=[0, 0, 0, 0], seed=5),
    "two pixels": convolution(3, 4, 7, 17, padding=[0, 0, 0, 0], seed=6),
    "strides": convolution(9, 11, 6, 20, stride=[2, 3], seed=7),
    "wider than it is read": convolution(8, 8, 4, 16, stride=[3, 3], padding=[0, 0, 0, 0], kernel=(1, 1), seed=8),
    "dilation": convolution(9, 9, 6, 20, dilation=[2, 3], padding=[2, 3, 2, 3], seed=9),
    "groups": convolution(5, 5, 12, 54, groups=3, seed=10),
    "one row of padding": convolution(4, 4, 9, 16, padding=[0, 2, 3, 0], seed=11),
    "depthwise": convolution(6, 7, 20, 20, groups=20, stride=[1, 2], seed=13),
    "depthwise, 5 x 5": convolution(9, 5, 33, 33, groups=33, kernel=(5, 5), padding=[2, 2, 2, 2], seed=14),
    "depthwise, lines of 19": convolution(4, 19, 40, 40, groups=40, seed=15),
    "depthwise, 1 x 4": convolution(4, 12, 17, 17, groups=17, kernel=(1, 4), padding=[0, 1, 0, 2], seed=16),
    "depthwise, 5 x 5, lines": convolution(9, 17, 33, 33, groups=33, kernel=(5, 5), padding=[2, 2, 2, 2], seed=17),
    "depthwise, strides of two": convolution(9, 12, 8, 8, groups=8, stride=[2, 2], seed=18),
    "depthwise, strides, along columns": convolution(19, 5, 12, 12, groups=12, stride=[1, 2], padding=[2, 0, 1, 1], seed=19),
    "depthwise, wide borders": convolution(3, 4, 4, 4, groups=4, padding=[3, 2, 5, 4], seed=25),
    "depthwise, a border of one side": convolution(7, 11, 8, 8, groups=8, stride=[3, 2], padding=[0, 1, 0, 0], seed=26),
    "depthwise, without": convolution(10, 10, 8, 8, groups=8, padding=[0, 0, 0, 0], seed=27),
    "depthwise, three pixels": convolution(1, 3, 4, 4, groups=4, seed=28),
    "depthwise, six and five pixels": convolution(2, 11, 4, 4, groups=4, seed=30),
    "depthwise, twelve and four, strides": convolution(31, 4, 8, 8, groups=8, stride=[2, 2], seed=31),
    "depthwise, five pixels, strides": convolution(10, 9, 4, 4, groups=4, stride=[2, 2], padding=[1, 0, 0, 2], seed=32),
    "depthwise, 100 channels": convolution(5, 6, 100, 100, groups=100, stride=[1, 2], seed=34),
    "depthwise, 5 x 7": convolution(6, 8, 150, 150, groups=150, kernel=(5, 7), dilation=[1, 2], padding=[1, 3, 2, 6], seed=35),
    "depthwise, one pixel": convolution(1, 1, 4, 4, groups=4, seed=33),
    "five pixels, odd channels": convolution(1, 5, 30, 7, kernel=(1, 1), padding=[0, 0, 0, 0], seed=29),
    "many inputs": convolution(2, 2, 130, 34, seed=12),
    "one four of inputs": convolution(5, 4, 3, 18, kernel=(1, 1), padding=[0, 0, 0, 0], seed=30),
    "one pixel, a four": convolution(1, 1, 4, 8, kernel=(1, 1), padding=[0, 0, 0, 0], seed=33),
    "one pixel, seven fours": convolution(1, 1, 28, 5, kernel=(1, 1), padding=[0, 0, 0, 0], seed=34),
    "one pixel, sixteen fours": convolution(1, 1, 64, 9, kernel=(1, 1), padding=[0, 0, 0, 0], seed=35),
    "a first layer": convolution(20, 10, 1, 64, kernel=(10, 4), stride=[2, 2], padding=[4, 1, 5, 1], seed=31),
    "a first layer, read in part": convolution(14, 14, 3, 40, stride=[4, 4], padding=[1, 0, 0, 0], seed=32),
}


def blocks(p: Program, share: float, seed: int) -> Program:
    """The same layer with so many of its blocks of 16 output channels × 4 inputs taken out."""
    w = p.weights["weight"]
    rows, inputs = w.shape[0], int(np.prod(w.shape[1:-1])) * w.shape[-1]
    stay = np.random.default_rng(seed).random((-(-rows // 16), -(-inputs // 4))) >= share
    mask = np.repeat(np.repeat(stay, 16, 0)[:rows], 4, 1)[:, :inputs].reshape(w.shape)
    values = replace(w.values, codes=np.where(mask, w.values.codes, 0).astype(np.int8))
    return Program(**{**vars(p), "weights": {"weight": replace(w, support=Element(mask=mask), values=values)}})


BLOCKS = {
    "1 x 1": blocks(convolution(7, 5, 32, 48, kernel=(1, 1), padding=[0, 0, 0, 0], seed=20), 0.8, 1),
    "3 x 3": blocks(convolution(6, 6, 16, 40, seed=21), 0.7, 2),
    "nothing left": blocks(convolution(4, 4, 16, 16, seed=22), 1.0, 3),
    "odd channels": blocks(convolution(5, 5, 6, 20, dilation=[2, 2], padding=[2, 2, 2, 2], seed=23), 0.6, 4),
    "groups": blocks(convolution(5, 5, 16, 32, groups=2, seed=24), 0.7, 5),
    "sixteen at a time": blocks(convolution(9, 13, 70, 56, kernel=(1, 1), padding=[0, 0, 0, 0], seed=25), 0.8, 6),
    "every other": blocks(convolution(9, 13, 20, 36, kernel=(1, 1), stride=[2, 1], padding=[0, 0, 0, 0], seed=26), 0.7, 7),
    "groups of 1 x 1": blocks(convolution(6, 6, 24, 80, kernel=(1, 1), padding=[0, 0, 0, 0], groups=2, seed=27), 0.6, 8),
    "1 x 1 in a border": blocks(convolution(6, 6, 12, 32, kernel=(1, 1), seed=28), 0.6, 9),
    "a wide line": blocks(convolution(3, 37, 8, 32, seed=29), 0.6, 10),
}


def sums(shape: tuple[int, ...], seed: int) -> Program:
    """Two tensors of one shape, added."""
    tensors = [tensor(name, shape, affine(0.05 * (1 + i), 7 * i - 9)) for i, name in enumerate(("a", "b"))]
    return program("add", tensors, [tensor("y", shape, affine(0.08, seed))], {}, clamp=[-100, 90])


SIZES |= {f"add {shape}": sums(shape, seed) for seed, shape in enumerate([(3,), (16,), (5, 7, 9)])}
SIZES |= {f"blocks, {name}": p for name, p in BLOCKS.items()}


@pytest.mark.parametrize("flags", [QUICK, WITHOUT, ("-O3", "-fPIC")], ids=["O1", "no sets", "O3"])
@pytest.mark.parametrize("machine", FAST)
def test_sizes(machine: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    same(merged(SIZES), tmp_path, machine, flags)


@pytest.mark.parametrize("machine", FAST)
def test_another_compiler(machine: str, tmp_path: Path) -> None:
    p = merged(SIZES)
    inputs = inputs_of(p)
    library = host.build(c.write(p, tmp_path, machine=machine), compiler=" ".join(compiler.ziglang()), flags=("-O1", "-fPIC"))
    agree(p, library.run(inputs), run(p, inputs))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("machine", FAST)
def test_compilers_that_know_a_layers_numbers_have_no_complaint(machine: str, kernel: int, tmp_path: Path) -> None:
    """In a program of one layer its sizes are in every function: what could not be is looked for, too."""
    layer = convolution(28, 28, 128, 128, kernel=(kernel, kernel), padding=[kernel // 2] * 4)
    source = c.write(layer, tmp_path, machine=machine).main
    compiler.compile_c(["gcc"], [*host.STRICT, "-O3", "-c", "-o", "/dev/null", source], what="it")


@pytest.mark.parametrize("machine", FAST)
def test_each_weight_alone_brings_just_its_kernels(machine: str, tmp_path: Path) -> None:
    for support, values in (("dense", "affine"), ("element", "affine"), ("dense", "sign")):
        p = one_layer("linear", make_weight(support, values, LAYERS["linear"][2], seed=3, name="weight"), integer=True)
        source = c.write(p, tmp_path, machine=machine).main
        compiler.compile_c(["gcc"], [*host.STRICT, "-O2", "-c", "-o", "/dev/null", source], what="it")


@pytest.mark.parametrize("flags", [QUICK, WITHOUT], ids=["O1", "no sets"])
@pytest.mark.parametrize("machine", FAST)
def test_floats_to_codes(machine: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    """Ties, what isn't finite, what lies beyond; and every code through a table."""
    x = np.concatenate([np.arange(-70, 70) / 4, [np.nan, np.inf, -np.inf, 1e30, -0.0], np.linspace(-9, 9, 130)]).astype(np.float32)[None]
    quantized = program("quantize", [tensor("x", x.shape[1:], None)], [tensor("y", x.shape[1:], affine(0.5, 3))], {})
    codes = np.arange(-128, 128).astype(np.int8)[None]
    table = np.random.default_rng(0).integers(-128, 128, 256).astype(np.int8)
    looked_up = program("lookup", [tensor("x", (256,), affine(1.0))], [tensor("y", (256,), affine(1.0))], {"table": int8(table, 1.0)})
    p = merged({"quantize": quantized, "lookup": looked_up})
    found = host.build(c.write(p, tmp_path, machine=machine), flags=flags).run([x, codes])
    agree(p, found, run(p, [x, codes]))


def test_few_fours_are_listed(tmp_path: Path) -> None:
    """Bytes and time go with the blocks that are left."""
    dense = convolution(8, 8, 64, 64, kernel=(1, 1), padding=[0, 0, 0, 0])
    texts = {share: c.model(blocks(dense, share, 1), machine="x86-64-v4") for share in (0.0, 0.5, 0.9)}
    assert [("k_listed_i8" in m.kernels, "k_panels_i8" in m.kernels) for m in texts.values()] == [
        (False, True),
        (True, False),
        (True, False),
    ]
    assert len(texts[0.9].source) < len(texts[0.5].source)


def test_single_weights_keep_their_index() -> None:
    """Fours that hold one weight in sixty-four aren't stored whole: the device decodes the index that the portable program has."""
    dense = convolution(8, 8, 64, 64, kernel=(1, 1), padding=[0, 0, 0, 0])
    w = dense.weights["weight"]
    mask = np.random.default_rng(0).random(w.shape) < 0.01
    values = replace(w.values, codes=np.where(mask, w.values.codes, 0).astype(np.int8))
    p = Program(**{**vars(dense), "weights": {"weight": replace(w, support=Element(mask=mask), values=values)}})
    for name in PANELS:
        built = c.model(p, machine=name)
        assert "k_listed_i8" not in built.kernels and "k_unpack" in built.kernels
        assert "panel_weights" not in built.source  # the table of whole panels


def test_zeros_of_a_depthwise_layer_are_stored() -> None:
    """To decode it took longer than to compute it."""
    p = blocks(convolution(8, 8, 32, 32, groups=32, seed=40), 0.8, 1)
    for name in PANELS:
        assert not {"k_unpack", "k_where_bitmask", "k_where_gaps"} & set(c.model(p, machine=name).kernels)
    kept = Planner(keep_forms=True)
    assert "k_unpack" in c.model(p, machine="x86-64-v3", planner=kept).kernels


def test_an_unknown_machine(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="machine 'z80' is unknown; choose from portable, x86-64-v3"):
        c.write(SIZES["groups"], tmp_path, machine="z80")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs an x86-64")
@pytest.mark.parametrize("command", [["gcc"], compiler.ziglang()], ids=["gcc", "zig"])
def test_what_the_processor_bears_is_found_without_a_list(command: list[str], tmp_path: Path) -> None:
    """Programs that zig links have no list of what the processor can: their AVX2 kernels would never run."""
    chunk = c_text.chunks()["k_bears"]
    asked = chunk.replace('__builtin_cpu_supports("sse2")', "0").replace("k_bears", "k_asked")
    body = 'int main(void) { printf("%d %d\\n", (int)k_bears(), (int)k_asked()); return 0; }\n'
    (tmp_path / "x.c").write_text(f"#include <stdint.h>\n#include <stdio.h>\n{c_text.includes('K_X86')}{chunk}\n{asked}\n{body}")
    compiler.compile_c(command, [*host.STRICT, "-O1", "-o", tmp_path / "x", tmp_path / "x.c"], what="x")
    told = subprocess.run([tmp_path / "x"], capture_output=True, text=True, check=True).stdout.split()
    known = set(Path("/proc/cpuinfo").read_text().split("\nflags")[1].split("\n")[0].split())
    needs = [{"avx2", "fma"}, WIDE | {"avx512_vnni", "avx512dq"}, WIDE | {"avx512vbmi"}, WIDE | {"avx512_bitalg", "avx512dq"}]
    expected = sum((each <= known) << i for i, each in enumerate(needs))
    assert told == [str(expected)] * 2
