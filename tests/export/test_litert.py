"""``.tflite`` files in LiteRT: floats within 1e-4 of the greatest, integers bit for bit, with its reference kernels and with XNNPACK's."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from karui.errors import UnsupportedOp
from karui.export import litert as target
from karui.export.litert_ops import RULES
from karui.export.litert_unary import FUNCTIONS
from karui.program import unary
from karui.program.interpreter import Arithmetic, run
from karui.program.kinds import KINDS
from karui.program.program import Array, Output, Program
from karui.run.litert import load
from tests.export.many import inputs_of, merged
from tests.export.test_c_layers import LAYERS, integral, one_layer
from tests.export.test_c_ops import GROUPS
from tests.program.builders import ALL, lenet, residual, sample
from tests.program.weights import SUPPORTS, VALUES, make_weight

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="LiteRT is not installed (karui[litert])")

KERNELS: list[Arithmetic] = ["litert_ref", "xnnpack"]
both = pytest.mark.parametrize("arithmetic", KERNELS)
ONLY_OPTIMIZED = ("elu", "celu", "selu", "ceil", "round")  # of ELU, CEIL and ROUND the runtime has no reference kernel


def agree(p: Program, found: list[Array], expected: list[Array], *, off: int = 0) -> None:
    """Floats within 1e-4 of the greatest; codes equal, or at most ``off`` apart on a tenth of the values."""
    for out, a, b in zip(p.outputs, found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, out.name
        if a.dtype != np.float32:
            apart = np.abs(a.astype(int) - b.astype(int))
            assert apart.max(initial=0) <= off and (apart > 0).mean() <= 0.1, f"{out.name}: {apart.max()}, {(apart > 0).mean():.3f}"
            continue
        assert np.array_equal(np.isfinite(a), np.isfinite(b)), out.name
        finite = np.isfinite(b)
        worst = np.abs(a[finite] - b[finite]).max(initial=0) / max(np.abs(b[finite]).max(initial=0), 1e-30)
        assert worst <= 1e-4, f"{out.name}: {worst:.2e}"


def check(p: Program, folder: Path, arithmetic: Arithmetic, inputs: list[Array] | None = None, *, off: int = 0) -> None:
    """Against the arithmetic of the kernels that run; against ``karui`` where ``off`` says that it is none of LiteRT's."""
    inputs = inputs_of(p) if inputs is None else inputs
    found = load(target.write(p, folder), reference=arithmetic == "litert_ref").run(inputs)
    agree(p, found, run(p, inputs, arithmetic="karui" if off else arithmetic), off=off)


def split(programs: Mapping[str, Program]) -> tuple[dict[str, Program], dict[str, Program]]:
    """Those that LiteRT's arithmetics have a meaning for, and those that it computes in floats between int8 tensors."""
    exact, other = {}, {}
    for name, p in programs.items():
        try:
            run(p, inputs_of(p, 1), arithmetic="litert_ref")
        except UnsupportedOp:
            other[name] = p
        else:
            exact[name] = p
    return exact, other


def check_all(programs: Mapping[str, Program], folder: Path, arithmetic: Arithmetic) -> None:
    exact, other = split(programs)
    check(merged(exact), folder, arithmetic)
    if other:
        check(merged(other), folder, arithmetic, off=1)


# ── whole networks ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ALL)
@both
def test_float_networks(name: str, arithmetic: Arithmetic, tmp_path: Path) -> None:
    p = ALL[name](sparsity=0.5)
    check(p, tmp_path, arithmetic, sample(p, 20))


@pytest.mark.parametrize("name", ALL)
@both
def test_int8_networks(name: str, arithmetic: Arithmetic, tmp_path: Path) -> None:
    p = ALL[name](integer=True)
    if name == "residual":  # ends in a dequantize: the codes before it
        p = replace(p, outputs=(Output(name="output", tensor="fc_y"),))
    check(p, tmp_path, arithmetic, sample(p, 100))


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("network", [lenet, residual])
@both
def test_pixels_go_in_as_bytes(network: Any, integer: bool, arithmetic: Arithmetic, tmp_path: Path) -> None:
    p = network(integer=integer, pixels=True)
    check(p, tmp_path, arithmetic, sample(p, 50))


def operators(p: Program) -> Counter[str]:
    """What the file has in it, by name."""
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if k.isupper()}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(target.encode(p), 0))
    return Counter(names[model.operatorCodes[o.opcodeIndex].builtinCode] for o in model.subgraphs[0].operators)


def test_layers_of_int8_are_integer_operators_and_nothing_else() -> None:
    assert operators(lenet(integer=True)) == {"QUANTIZE": 1, "CONV_2D": 2, "MAX_POOL_2D": 1, "RESHAPE": 1, "FULLY_CONNECTED": 2}
    p = residual(integer=True)
    assert operators(p) == {"QUANTIZE": 1, "CONV_2D": 6, "PAD": 1, "ADD": 2, "MEAN": 1, "FULLY_CONNECTED": 1, "DEQUANTIZE": 1}


def test_convolutions_of_sequences_are_reshaped_once() -> None:
    assert operators(ALL["sensor"]())["RESHAPE"] == 2  # into an image of one row, and flat


def test_int8_files_are_a_quarter_of_float() -> None:
    sizes = [len(target.encode(lenet(integer=i, width=(20, 50, 500), size=28))) for i in (True, False)]
    assert sizes[0] < 0.26 * sizes[1]


# ── op by op ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("group", GROUPS)
@both
def test_every_kind(group: str, arithmetic: Arithmetic, tmp_path: Path) -> None:
    left_out = ONLY_OPTIMIZED if arithmetic == "litert_ref" else ()
    check_all({name: p for name, p in GROUPS[group]() if name not in left_out}, tmp_path, arithmetic)


def pairs(support: str, integer: bool) -> dict[str, Program]:
    """As ``all_pairs``, each for itself."""
    found = {}
    for values in VALUES:
        for i, (name, (kind, _, shape, _)) in enumerate(LAYERS.items()):
            if integer and (values == "float" or kind == "conv_transpose2d"):
                continue
            for bits, density in ((8, 0.3), (4, 0.7), (2, 0.05)):
                w = make_weight(support, values, shape, seed=100 * i + bits, density=density, bits=bits, name="weight")
                found[f"{values}{bits} {name}"] = one_layer(name, integral(w) if integer else w, integer=integer, seed=i)
    return found


@pytest.mark.parametrize("integer", [True, False], ids=["int8", "float"])
@pytest.mark.parametrize("support", SUPPORTS)
@both
def test_every_pair(support: str, integer: bool, arithmetic: Arithmetic, tmp_path: Path) -> None:
    check_all(pairs(support, integer), tmp_path, arithmetic)


def test_every_kind_and_function_has_a_rule() -> None:
    assert set(RULES) == set(KINDS) and set(FUNCTIONS) == set(unary.FUNCTIONS)
