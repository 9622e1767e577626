"""Ternary weights with two scales a channel: the interpreter's integers, with each instruction set, in panels where there are some."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from karui.export import c
from karui.program.interpreter import run
from karui.program.program import Element, Program, TernaryValues
from karui.run import compiler, host
from tests.export.many import QUICK, agree, inputs_of, merged
from tests.export.test_c_machines import PANELS, SIZES, WITHOUT, same


def two_scales(p: Program, seed: int, zeros: float = 0.4, sparse: bool = False) -> Program:
    """The same layer with weights −1, 0 and +1, whose scales differ from channel to channel and from sign to sign."""
    w, rng = p.weights["weight"], np.random.default_rng(seed)
    codes = np.where(rng.random(w.shape) < zeros, 0, 2 * rng.integers(0, 2, w.shape) - 1).astype(np.int8)
    positive, negative = (np.exp(rng.normal(-1, 1, w.shape[0])).astype(np.float32) for _ in range(2))
    mask = rng.random(w.shape) < 0.3 if sparse else np.ones(w.shape, bool)
    values = TernaryValues(codes=np.where(mask, codes, 0).astype(np.int8), positive=positive, negative=negative)
    support = Element(mask=mask) if sparse else w.support
    return Program(**{**vars(p), "weights": {"weight": replace(w, support=support, values=values)}})


DENSE = {name: p for name, p in SIZES.items() if "weight" in p.weights and not name.startswith("blocks")}
PAIRS = {name: two_scales(p, seed) for seed, (name, p) in enumerate(DENSE.items())}
PAIRS |= {f"sparse, {name}": two_scales(DENSE[name], 5, sparse=True) for name in ("33 channels", "groups", "depthwise", "one pixel")}
PAIRS["no zeros"] = two_scales(DENSE["33 channels"], 6, zeros=0.0)
PAIRS["zeros alone"] = two_scales(DENSE["two pixels"], 7, zeros=1.0)


def test_outputs_are_not_all_at_their_bounds() -> None:
    """Else the tests below would hold little."""
    p = merged(PAIRS)
    found = run(p, inputs_of(p))
    inside = [np.mean((y > y.min()) & (y < y.max())) for y in found if y.size > 100]
    assert np.median(inside) > 0.4 and sum(share > 0.2 for share in inside) > 0.8 * len(inside)


@pytest.mark.parametrize("flags", [QUICK, WITHOUT, ("-O3", "-fPIC")], ids=["O1", "no sets", "O3"])
@pytest.mark.parametrize("machine", PANELS)
def test_two_scales(machine: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    p = merged(PAIRS)
    assert {"k_pair_i8", "k_few_pair_i8", "k_terms_i8"} & set(c.model(p, machine=machine).kernels) == {"k_pair_i8", "k_few_pair_i8"}
    same(p, tmp_path, machine, flags)


@pytest.mark.parametrize("machine", ["portable", "cortex-m4"])
def test_without_panels(machine: str, tmp_path: Path) -> None:
    p = merged(PAIRS)
    assert {"k_pair_i8", "k_terms_i8"} & set(c.model(p, machine=machine).kernels) == {"k_terms_i8"}
    same(p, tmp_path, machine)


def test_another_compiler(tmp_path: Path) -> None:
    p = merged(PAIRS)
    inputs = inputs_of(p)
    library = host.build(c.write(p, tmp_path, machine="x86-64-v4"), compiler=" ".join(compiler.ziglang()), flags=("-O2", "-fPIC"))
    agree(p, library.run(inputs), run(p, inputs))


@pytest.mark.parametrize("machine", PANELS)
@pytest.mark.parametrize("name", ["one pixel", "depthwise", "sparse, groups"])
def test_each_layer_alone_brings_just_its_kernels(name: str, machine: str, tmp_path: Path) -> None:
    source = c.write(PAIRS[name], tmp_path, machine=machine).main
    compiler.compile_c(["gcc"], [*host.STRICT, "-O2", "-c", "-o", "/dev/null", source], what="it")


def test_weights_stay_two_bits() -> None:
    """Bytes of panels are made on the device; row by row, a spare byte follows the last one."""
    for name, table, spare in (("nine pixels", "few_codes", 0), ("depthwise", "weight_values", 1)):
        built, size = c.model(PAIRS[name], machine="x86-64-v4"), DENSE[name].weights["weight"].codes().size
        assert "panel_weights" not in built.source and f"{table}[{size // 4 + spare}]" in built.source, name
