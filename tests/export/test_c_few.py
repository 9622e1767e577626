"""Weights of at most sixteen values over bytes: the interpreter's integers on every set, and which layers are stored so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from karui.export import c
from karui.export.c_few import MOST, packed
from karui.export.machines import MACHINES
from karui.program.interpreter import run
from karui.program.program import AffineValues, CodebookValues, Program, SignValues, TernaryValues, Values
from karui.run import compiler, host
from tests.export.many import QUICK, agree, inputs_of, merged
from tests.export.test_c_machines import PANELS, WITHOUT, convolution, same
from tests.program.single_op import weight

FORMS = ("sign", "ternary", "2-bit", "3-bit", "4-bit", "palette", "wide palette", "two values")


def of(p: Program, form: str, seed: int = 0) -> Program:
    """The same layer with weights of few values."""
    w = p.weights["weight"]
    return Program(**{**vars(p), "weights": {"weight": weight("weight", values(form, w.shape, w.multiplier(), seed))}})


def values(form: str, shape: tuple[int, ...], scale: np.ndarray, seed: int) -> Values:
    """Values of a form; each has its greatest and its least."""
    rng, none = np.random.default_rng(seed), np.zeros(shape[0], np.int32)
    if form == "sign":
        return SignValues(codes=(2 * rng.integers(0, 2, shape) - 1).astype(np.int8), scale=scale)
    if form == "ternary":
        return TernaryValues(codes=rng.integers(-1, 2, shape).astype(np.int8), positive=scale, negative=scale)
    if form.endswith("bit"):
        most = 1 << int(form[0]) - 1
        return AffineValues(bits=int(form[0]), codes=rng.integers(-most, most, shape).astype(np.int8), scale=scale, zero_point=none)
    book = {"palette": np.arange(-64, 64, 8), "wide palette": np.arange(-127, 128, 17), "two values": np.array([-127, 126])}[form]
    return CodebookValues(index=rng.integers(0, len(book), shape).astype(np.uint8), codebook=book.astype(np.int8), scale=scale)


SIZES = {
    "3 x 3": convolution(6, 7, 16, 32, seed=1),
    "runs of five fours": convolution(5, 5, 20, 48, dilation=[2, 2], padding=[2, 2, 2, 2], seed=2),
    "fours that fill up": convolution(4, 5, 7, 16, seed=3),
    "a panel and a half": convolution(3, 3, 8, 24, kernel=(1, 1), padding=[0, 0, 0, 0], seed=4),
    "groups": convolution(4, 4, 24, 48, groups=3, seed=5),
    "depthwise": convolution(6, 7, 20, 20, groups=20, stride=[1, 2], seed=10),
    "depthwise, lines of 19": convolution(4, 19, 40, 40, groups=40, seed=11),
    "depthwise, 5 x 5": convolution(9, 9, 32, 32, groups=32, kernel=(5, 5), padding=[2, 2, 2, 2], seed=12),
    "depthwise, 83 channels": convolution(5, 4, 83, 83, groups=83, seed=14),
    "depthwise, one pixel": convolution(3, 3, 48, 48, groups=48, padding=[0, 0, 0, 0], seed=13),
    "one pixel": convolution(1, 1, 68, 40, kernel=(1, 1), padding=[0, 0, 0, 0], seed=6),
    "one pixel of groups": convolution(3, 3, 16, 32, groups=2, padding=[0, 0, 0, 0], seed=7),
    "one pixel, many inputs": convolution(1, 1, 1030, 16, kernel=(1, 1), padding=[0, 0, 0, 0], seed=8),
    "nine pixels, many inputs": convolution(3, 3, 300, 33, kernel=(1, 1), padding=[0, 0, 0, 0], seed=9),
}
ALL = merged({f"{form}, {name}": of(p, form, i) for i, (name, p) in enumerate(SIZES.items()) for form in FORMS})


X86 = [name for name in PANELS if name.startswith("x86")]


@pytest.mark.parametrize(("machine", "flags"), [(m, QUICK) for m in X86] + [("pi5", WITHOUT), ("x86-64-v4", ("-O3", "-fPIC"))])
def test_sizes(machine: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    same(ALL, tmp_path, machine, flags)


@pytest.mark.parametrize("machine", X86)
def test_another_compiler(machine: str, tmp_path: Path) -> None:
    inputs = inputs_of(ALL)
    library = host.build(c.write(ALL, tmp_path, machine=machine), compiler=" ".join(compiler.ziglang()), flags=("-O1", "-fPIC"))
    agree(ALL, library.run(inputs), run(ALL, inputs))


def greatest(p: Program) -> Program:
    """The same layer with the least value in the even channels, the greatest in the others."""
    w = p.weights["weight"]
    book = isinstance(w.values, CodebookValues)
    codes = w.values.index if book else w.values.codes
    rows = np.where(np.arange(w.shape[0]) % 2, codes.max(), codes.min()).astype(codes.dtype)
    filled = np.broadcast_to(rows.reshape(-1, 1, 1, 1), w.shape).copy()
    changed = replace(w, values=replace(w.values, **{"index" if book else "codes": filled}))
    return Program(**{**vars(p), "weights": {"weight": changed}})


@pytest.mark.parametrize("name", ["3 x 3", "one pixel, many inputs"])
@pytest.mark.parametrize("machine", X86)
def test_the_greatest_sums(machine: str, name: str, tmp_path: Path) -> None:
    """Where all bytes and weights are as great as they can be, sums of 16 bits have no more room than is said."""
    programs = {form: greatest(of(SIZES[name], form)) for form in FORMS}
    p = merged(programs)
    inputs = [np.concatenate([np.full_like(x[:1], low) for low in (-128, 127)]) for x in inputs_of(p)]
    agree(p, host.build(c.write(p, tmp_path, machine=machine), flags=QUICK).run(inputs), run(p, inputs))


@pytest.mark.parametrize("machine", PANELS)
def test_each_alone_brings_just_its_kernels(machine: str, tmp_path: Path) -> None:
    for form in ("sign", "4-bit"):
        source = c.write(of(SIZES["one pixel"], form), tmp_path, machine=machine).main
        compiler.compile_c(["gcc"], [*host.STRICT, "-O2", "-c", "-o", "/dev/null", source], what="it")


def test_which_layers_are_stored_so() -> None:
    """Those that take about as many bytes as their rows do."""
    full, narrow, odd = convolution(4, 4, 64, 64, seed=1), convolution(4, 4, 64, 3, seed=2), convolution(4, 4, 3, 16, seed=3)
    for machine in PANELS:
        assert "k_few_i8" not in c.model(full, machine=machine).kernels
        for form in FORMS:
            assert {"k_few_i8", "k_unpack"} & set(c.model(of(full, form), machine=machine).kernels) == {"k_few_i8"}, form
            assert "k_unpack" in c.model(of(narrow, form), machine=machine).kernels, "thirteen channels in sixteen aren't there"
        assert "k_unpack" in c.model(of(odd, "sign"), machine=machine).kernels, "zeros between −1 and +1 take a second bit"
    for machine in MACHINES.keys() - set(PANELS):
        assert "k_few_i8" not in c.model(of(full, "4-bit"), machine=machine).kernels
    depth = convolution(6, 6, 64, 64, groups=64, seed=4)
    for form in FORMS:
        assert {"k_few_depth_i8", "k_unpack"} & set(c.model(of(depth, form), machine="pi4").kernels) == {"k_few_depth_i8"}, form
    assert 1 < MOST < 1.5


def test_numbers_lie_as_the_instructions_want_them() -> None:
    numbers = np.arange(64, dtype=np.uint8).reshape(1, 1, 64)
    four, three, two, one = (packed(numbers & (1 << bits) - 1, bits)[0, 0] for bits in (4, 3, 2, 1))
    assert [len(each) for each in (four, three, two, one)] == [32, 24, 16, 8]
    assert four[5] == (5 | (37 & 15) << 4) and two[3] == (3 | 3 << 2 | 3 << 4 | 3 << 6) and one[2] == 0b10101010
    assert (three[:16] == two).all() and (three[16:] == 0b11110000).all()
