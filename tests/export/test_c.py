"""A model in C as a whole: clean under strict compilers and sanitizers, small, re-entrant, deterministic, free of heap and stdio."""

import importlib.util
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from karui.errors import RecipeError, UnsupportedOp
from karui.export import c, c_text
from karui.program.interpreter import run
from karui.program.program import Output, Program
from karui.run import compiler, host
from karui.run.elf import sections
from tests.export.many import QUICK, agree, check
from tests.golden.every import every
from tests.program import builders
from tests.program.single_op import affine, floats, normal, program, tensor

BUILDERS: dict[str, Callable[..., Program]] = builders.ALL
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
HEAP_AND_STDIO = re.compile(r"malloc|calloc|realloc|free|printf|puts|fopen|exit")


def undefined(source: Path) -> set[str]:
    """Symbols that the object wants from elsewhere; at -O1 the compiler adds none of its own but memcpy and memset."""
    obj = source.with_suffix(".o")
    compiler.compile_c(["gcc"], [*STRICT, "-O1", "-c", "-o", obj, source], what=source.name)
    lines = subprocess.run(["nm", "-u", obj], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1] for line in lines.splitlines() if line.strip()}


@pytest.mark.parametrize("integer", [True, False], ids=["int8", "float"])
@pytest.mark.parametrize("name", BUILDERS)
def test_networks_like_the_interpreter(name: str, integer: bool, tmp_path: Path) -> None:
    for sparsity in (0.0, 0.9):
        p = BUILDERS[name](integer=integer, sparsity=sparsity)
        check(p, tmp_path, builders.sample(p, 20))


@pytest.mark.parametrize("integer", [True, False], ids=["int8", "float"])
def test_symbols(integer: bool, tmp_path: Path) -> None:
    p = builders.lenet(integer=integer, pixels=True, sparsity=0.8)
    source = c.write(p, tmp_path, name="tiny").main
    wanted = undefined(source)
    assert wanted <= {"memcpy", "memset"}, "no heap, no stdio, no libm"
    defined = subprocess.run(["nm", "--defined-only", source.with_suffix(".o")], capture_output=True, text=True, check=True).stdout
    assert all(line.split()[2].startswith("tiny_") for line in defined.splitlines() if not line.split()[2].startswith(".")), defined
    assert "math.h" not in source.read_text() or not integer


def test_nothing_is_written_to_but_the_arena(tmp_path: Path) -> None:
    for p in (builders.residual(integer=True, sparsity=0.5), builders.depthwise()):
        source = c.write(p, tmp_path).main
        compiler.compile_c(["gcc"], [*STRICT, "-O2", "-c", "-o", tmp_path / "m.o", source], what="model")
        found = sections(tmp_path / "m.o")
        assert found.data == found.bss == 0


def test_float_functions_come_from_libm_alone(tmp_path: Path) -> None:
    p = program("softmax", [tensor("x", (3,), None)], [tensor("y", (3,), None)], axis=0)
    source = c.write(p, tmp_path).main
    assert undefined(source) <= {"memcpy", "memset", "expf"}
    assert "-lm" in (tmp_path / "Makefile").read_text()


def test_every_support_and_value_as_constants_and_a_state(tmp_path: Path) -> None:
    check(every(), tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
def test_clang_agrees_and_has_no_complaint(tmp_path: Path) -> None:
    for integer in (True, False):
        p = builders.depthwise(integer=integer, sparsity=0.5)
        inputs = builders.sample(p, 4)
        library = host.build(c.write(p, tmp_path / str(integer)), compiler=" ".join(compiler.ziglang()), flags=("-O1", "-fPIC"))
        agree(p, library.run(inputs), run(p, inputs))


def test_headers_are_good_cpp(tmp_path: Path) -> None:
    p = builders.lenet(integer=True, pixels=True)
    c.write(Program(**{**vars(p), "outputs": (replace(p.outputs[0], labels=("a", 'b "quoted"?', "ü")),)}), tmp_path, name="net")
    user = tmp_path / "user.cpp"
    user.write_text(
        '#include "net.h"\nint main() { static int32_t arena[NET_ARENA_BYTES / 4 + 1]; static uint8_t x[NET_INPUT_COUNT];\n'
        "  static int8_t y[NET_OUTPUT_COUNT]; float scale = NET_OUTPUT_SCALE; int shape[] = NET_INPUT_SHAPE;\n"
        "  return net_run(x, y, arena) + (scale > 0 ? 0 : 1) + (shape[0] - 16) + NET_OUTPUT_ZERO_POINT * 0 + (net_labels[1][0] != 'b'); }\n"
    )
    compiler.compile_c(["gcc"], [*STRICT, "-c", "-o", tmp_path / "net.o", tmp_path / "net.c"], what="model")
    compiler.compile_c(["g++"], ["-Wall", "-Wextra", "-Werror", "-pedantic", "-o", tmp_path / "user", user, tmp_path / "net.o"], what="C++")
    assert subprocess.run([tmp_path / "user"], check=False).returncode == 0


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """The example program over every kind of network, with exactly the memory that the header asks for."""
    from tests.export.many import merged
    from tests.export.test_c_layers import all_pairs
    from tests.export.test_c_ops import GROUPS

    programs = {f"pairs{s}{i}": all_pairs(s, i) for s in ("element", "block", "n:m", "dense") for i in (True, False)}
    programs |= {name: merged(dict(group())) for name, group in GROUPS.items() if name != "functions"}
    for key, p in programs.items():
        folder = tmp_path / re.sub(r"\W", "", key)
        c.write(p, folder)
        flags = [*STRICT, "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        compiler.compile_c(["gcc"], [*flags, "-o", folder / "example", folder / "example.c", folder / "model.c", "-lm"], what=key)
        done = subprocess.run([folder / "example"], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, f"{key}: {done.stderr[:800]}"


def test_the_same_program_gives_the_same_text(tmp_path: Path) -> None:
    for i in range(2):
        c.write(builders.lenet(integer=True, sparsity=0.8), tmp_path / str(i))
    for file in (tmp_path / "0").iterdir():
        assert file.read_bytes() == (tmp_path / "1" / file.name).read_bytes()


def test_other_files_of_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    c.write(builders.sensor(), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_sparse_lenet_fits_into_60_kilobytes(tmp_path: Path) -> None:
    p = builders.lenet(width=(20, 50, 500), size=28, pixels=True, integer=True, sparsity=0.95)
    assert sum(w.stored for n, w in p.weights.items() if n.endswith(".weight")) > 20_000
    library = check(p, tmp_path, builders.sample(p, 3), flags=("-O2", "-fPIC", "-fno-asynchronous-unwind-tables"))
    assert library.sections.flash < 60_000
    assert library.signature.arena_bytes < 24_000


def test_re_entrant(tmp_path: Path) -> None:
    """Two samples at once in two threads, each with an arena of its own, as alone."""
    from concurrent.futures import ThreadPoolExecutor

    p = builders.residual(integer=True)
    library = host.build(c.write(p, tmp_path), flags=QUICK)
    batches = [builders.sample(p, 30, seed) for seed in range(4)]
    alone = [library.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(library.run, batches))
    for a, b in zip(alone, together, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_an_arena_that_is_missing_or_crooked_is_refused(tmp_path: Path) -> None:
    library = host.build(c.write(builders.sensor(), tmp_path), flags=QUICK)
    x, y, arena = np.zeros((32, 4), np.float32), np.zeros(5, np.float32), np.zeros(library.signature.arena_bytes // 4 + 2, np.int32)
    call = library._code.model_run
    assert call(x.ctypes.data, y.ctypes.data, None) == 1
    assert call(x.ctypes.data, y.ctypes.data, arena.ctypes.data + 1) == 1
    assert call(x.ctypes.data, y.ctypes.data, arena.ctypes.data) == 0


def counter(quant: bool) -> Program:
    """total = total before + input: the state of a stream."""
    q = affine(0.5, 3) if quant else None
    p = program("add", [tensor("x", (3,), q), tensor("before", (3,), q)], [tensor("total", (3,), q)], clamp=None)
    return Program(**{**vars(p), "inputs": p.inputs[:1], "states": (("total", "before"),)})


@pytest.mark.parametrize("quant", [True, False], ids=["int8", "float"])
def test_states_go_from_call_to_call_and_start_at_zero(quant: bool, tmp_path: Path) -> None:
    p = counter(quant)
    library = host.build(c.write(p, tmp_path), flags=QUICK)
    x = np.arange(12).reshape(4, 3).astype(np.int8 if quant else np.float32)
    assert np.array_equal(library.run([x])[0], run(p, [x])[0])
    states, expected = None, []
    for row in x:
        kept = run(p, [row[None]], states=states, keep=True)
        states = {"before": kept["total"]}
        expected.append(kept["total"][0])
    assert np.array_equal(library.run([x], stream=True)[0], np.stack(expected))
    assert np.array_equal(library.run([x], stream=True)[0], np.stack(expected)), "a second stream starts anew"


@pytest.mark.parametrize("name", ["2net", "a-b", "int", "class", "", "n" * 42, "a b", "example", "é"])
def test_names_that_c_can_not_take(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="prefix of C symbols"):
        c.write(builders.sensor(), tmp_path, name=name)
    assert not list(tmp_path.iterdir())


def test_hostile_names_stay_in_comments(tmp_path: Path) -> None:
    p = builders.sensor()
    ops = tuple(replace(op, name=f'*/ #include "x" {i} \\') for i, op in enumerate(p.ops))
    p = Program(**{**vars(p), "ops": ops, "name": "*/ int x; /*", "inputs": (replace(p.inputs[0], name="??/ */"),)})
    p = Program(**{**vars(p), "outputs": (Output(name="a", tensor=p.outputs[0].tensor, labels=('"; int x; "', "\\", "ä??/", "", "e")),)})
    check(p, tmp_path)


@pytest.mark.parametrize("name", ["k_net", "K_x"])
def test_texts_that_look_like_kernels_stay_as_they_are(name: str, tmp_path: Path) -> None:
    labels = ("k_means", "K_x", "a k_dense_i8", "_k_", "k_")
    p = builders.sensor()
    ops = tuple(replace(op, name=f"k_{i}.K_fc") for i, op in enumerate(p.ops))
    out = Output(name="K_out", tensor=p.outputs[0].tensor, labels=labels)
    p = replace(p, name="k_nn", ops=ops, inputs=(replace(p.inputs[0], name="k_in"),), outputs=(out,))
    text = c.write(p, tmp_path, name=name).main.read_text()
    assert f'#include "{name}.h"' in text and "/* k_nn: written" in text and "/* k_0.K_fc: " in text and "\0" not in text
    loop = f"for (i = 0; i < 5; i++) puts({name}_labels[i]);"
    main = f'#include <stdio.h>\n#include "{name}.h"\nint main(void) {{ int i; {loop} return 0; }}\n'
    (tmp_path / "main.c").write_text(main)
    files = [tmp_path / "main.c", tmp_path / f"{name}.c"]
    compiler.compile_c(["gcc"], [*STRICT, "-o", tmp_path / "main", *files, "-lm"], what="main.c")
    assert subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout.splitlines() == list(labels)


def test_names_that_differ_in_capitals_alone_stay_two(tmp_path: Path) -> None:
    check(program("add", [tensor("a", (2,), None), tensor("A", (2,), None)], [tensor("y", (2,), None)], clamp=None), tmp_path)


def test_names_that_become_one_stay_two(tmp_path: Path) -> None:
    p = program("add", [tensor("a.b", (2,), None), tensor("a_b", (2,), None)], [tensor("y", (2,), None)], clamp=None)
    check(p, tmp_path)
    assert "input_a_b_2" in (tmp_path / "model.h").read_text()


def test_numbers_that_c_can_not_hold(tmp_path: Path) -> None:
    bad = normal(2, 3)
    bad[0, 0] = np.nan
    p = program("linear", [tensor("x", (3,), None)], [tensor("y", (2,), None)], {"weight": floats(bad)}, clamp=None)
    with pytest.raises(UnsupportedOp, match="finite"):
        c.write(p, tmp_path)
    assert not list(tmp_path.iterdir())


def test_make_builds_the_example(tmp_path: Path) -> None:
    p = builders.lenet(integer=True)
    c.write(p, tmp_path)
    subprocess.run(["make", "CFLAGS=-O1"], cwd=tmp_path, capture_output=True, check=True)
    lines = subprocess.run(["./example"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    codes = run(p, [np.zeros((1, 16, 16, 1), np.float32)])[0][0]
    quant = p.tensor(p.outputs[0].tensor).quant
    assert isinstance(quant, builders.Affine)
    np.testing.assert_allclose([float(line.split()[1]) for line in lines], (codes - float(quant.zero_point)) * quant.scale, rtol=1e-5)


@pytest.mark.parametrize("text", ["y = fmaxf(a, b);", "k_low(-INFINITY)", "if (isnan(x))", "return expf(x);"])
def test_math_is_included_where_c_wants_it(text: str) -> None:
    assert c_text.uses_math(text)


@pytest.mark.parametrize("text", ["memcpy(a, b, sizeof(float));", "/* expf(x), INFINITY */ int x;", "if(x) k_leaf(y);"])
def test_math_is_left_out_where_it_does_not(text: str) -> None:
    assert not c_text.uses_math(text)
