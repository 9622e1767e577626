"""Constants of a model in C: as arrays, written piece by piece, and as a file that the assembler takes in. Both are the same model."""

import shutil
import subprocess
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from karui.errors import RecipeError, UnsupportedOp
from karui.export import c, c_constants, device
from karui.program.interpreter import run
from karui.program.program import Array, Program
from karui.run import compiler, cross, host, qemu
from tests.export.many import QUICK, agree, inputs_of
from tests.golden.every import every
from tests.program import builders

ZIG = " ".join(compiler.ziglang())


def lenet(*, integer: bool = True) -> Program:
    return builders.lenet(integer=integer, pixels=True)


def text(array: Array) -> str:
    return "".join(c_constants.as_array("k_x", c_constants.checked("x", array)))


# ── Arrays ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "float32"])
def test_numbers_come_back(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_constants, "PIECE", 40)  # several pieces
    rng = np.random.default_rng(0)
    info = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    numbers = (rng.standard_normal(1000) * 10.0 ** rng.integers(-30, 30, 1000)).astype(dtype) if dtype == "float32" else None
    array = rng.integers(info.min, info.max, 1000, dtype, endpoint=True) if numbers is None else np.append(numbers, np.float32(3.0))
    if dtype == "int64":
        array = array // 2  # C has no constant for the least one
    written = text(array)
    assert max(map(len, written.splitlines())) <= 120
    source = f"#include <stdint.h>\n#include <stdio.h>\n{written}int main(void) {{ return !fwrite(k_x, sizeof k_x, 1, stdout); }}\n"
    (tmp_path / "x.c").write_text(source)
    compiler.compile_c(["gcc"], [*host.STRICT, "-o", tmp_path / "x", tmp_path / "x.c"], what="x")
    assert subprocess.run([tmp_path / "x"], capture_output=True, check=True).stdout == array.tobytes()


def test_none_and_what_is_not_finite() -> None:
    assert text(np.empty(0, np.int8)) == "static const int8_t k_x[1] = {\n0\n};\n"
    for bad in (np.nan, np.inf):
        with pytest.raises(UnsupportedOp, match="'x' holds values that aren't finite"):
            text(np.array([1.0, bad], np.float32))


def test_the_text_of_the_weights_is_never_in_memory(tmp_path: Path) -> None:
    p = wide(400_000)
    tracemalloc.start()
    try:
        c.write(p, tmp_path, weights="array")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "model.c").stat().st_size > 4.8e6
    assert most < 2.5 * 1.6e6, "the floats, and no text of them"


def wide(count: int) -> Program:
    """A linear layer of that many floats."""
    p = builders.lenet()
    op = next(op for op in p.ops if op.kind == "linear")
    weight = p.weights[op.weights["weight"]]
    rows = count // weight.shape[1]
    values = replace(weight.values, data=np.random.default_rng(0).standard_normal((rows, weight.shape[1])).astype(np.float32))
    x, y = p.tensor(op.inputs[0]), p.tensor(op.outputs[0])
    return Program(
        name="wide",
        tensors={x.name: x, y.name: replace(y, shape=(rows,))},
        weights={weight.name: replace(weight, shape=(rows, weight.shape[1]), values=values)},
        ops=(replace(op, weights={"weight": weight.name}),),
        inputs=(replace(p.inputs[0], tensor=x.name, pixels=None),),
        outputs=(replace(p.outputs[0], tensor=y.name),),
    )


# ── A file of bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("compiler_", ["gcc", ZIG], ids=["gcc", "zig"])
@pytest.mark.parametrize("machine", ["portable", "x86-64-v4"])
def test_like_the_interpreter(machine: str, compiler_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_constants, "SMALL", 16)  # many kinds of tables
    for p in (lenet(), every()):
        folder = tmp_path / p.name / ("an odd folder" if compiler_ == ZIG else 'an "odd" folder')  # zig can't compile in the other
        artifact = c.write(p, folder, machine=machine, weights="incbin")
        assert {"model_weights.S", "model_weights.bin"} <= {file.name for file in artifact.files}
        library = host.build(artifact, compiler=compiler_, flags=QUICK)
        inputs = inputs_of(p)
        agree(p, library.run(inputs), run(p, inputs))


def test_the_bytes_are_those_of_arrays(tmp_path: Path) -> None:
    p = lenet(integer=False)
    sizes = {form: host.build(c.write(p, tmp_path / form, weights=form), flags=QUICK).sections for form in ("array", "incbin")}
    assert abs(sizes["array"].flash - sizes["incbin"].flash) < 0.02 * sizes["array"].flash
    assert sizes["incbin"].data == sizes["array"].data and sizes["incbin"].bss == 0


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs QEMU: apt-get install qemu-user")
def test_on_another_processor(tmp_path: Path) -> None:
    p = lenet()
    inputs = inputs_of(p, 2)
    agree(p, qemu.build(c.write(p, tmp_path, weights="incbin"), "cortex-a72", flags=("-O1",)).run(inputs), run(p, inputs))


@pytest.mark.parametrize("triple", ["thumb-freestanding-eabi", "arm-linux-musleabihf", "x86-linux-musl", "riscv64-linux-musl"])
def test_every_assembler_of_elf_takes_it(triple: str, tmp_path: Path) -> None:
    c.write(lenet(), tmp_path, weights="incbin")
    compiler.compile_c([*compiler.ziglang(), "-target", triple], ["-c", "-o", tmp_path / "w.o", tmp_path / "model_weights.S",
        f'-DMODEL_WEIGHTS="{tmp_path}/model_weights.bin"'], what=triple)  # fmt: skip
    assert host.sections(tmp_path / "w.o").rodata >= (tmp_path / "model_weights.bin").stat().st_size


@pytest.mark.parametrize("target", [c, device])
def test_make_builds_it(target: object, tmp_path: Path) -> None:
    p = builders.sensor()
    target.write(p, tmp_path, weights="incbin")  # type: ignore[attr-defined]
    subprocess.run(["make", "-s", "CFLAGS=-O1"], cwd=tmp_path, check=True)
    assert (tmp_path / "model_weights.o").exists()
    if target is c:
        assert subprocess.run([tmp_path / "example"], check=True, capture_output=True).stdout
    subprocess.run(["make", "-s", "clean"], cwd=tmp_path, check=True)
    assert not [*tmp_path.glob("*.o")]


def test_sanitizers_and_cpp(tmp_path: Path) -> None:
    c.write(lenet(), tmp_path, name="net", weights="incbin")
    user = tmp_path / "user.cpp"
    user.write_text(
        '#include "net.h"\nstatic int32_t arena[NET_ARENA_BYTES / 4 + 1];\n'
        "static uint8_t x[NET_INPUT_COUNT]; static int8_t y[NET_OUTPUT_COUNT];\n"
        "int main() { return net_run(x, y, arena); }\n"
    )
    watched = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    objects = host.objects(["gcc"], tmp_path / "net.h", watched, tmp_path)
    compiler.compile_c(["g++"], [*watched, "-Wall", "-Wextra", "-Werror", "-pedantic", "-o", tmp_path / "user", user, *objects], what="C++")
    done = subprocess.run([tmp_path / "user"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    defined = subprocess.run(["nm", "--defined-only", tmp_path / "net_weights.o"], capture_output=True, text=True, check=True).stdout
    assert defined and all(line.split()[2].startswith("net_") for line in defined.splitlines())


def test_two_models_in_one_program(tmp_path: Path) -> None:
    for name, p in (("one", lenet()), ("two", builders.residual(integer=True))):
        c.write(p, tmp_path, name=name, weights="incbin")
    objects = [o for name in ("one", "two") for o in host.objects(["gcc"], tmp_path / f"{name}.h", QUICK, tmp_path)]
    compiler.compile_c(["gcc"], ["-shared", "-o", tmp_path / "both.so", *objects], what="both")


def test_new_weights_change_what_the_assembler_reads(tmp_path: Path) -> None:
    """Compilers that keep objects (zig, ccache) look at the source alone, and two trainings of a network differ in bytes only."""
    p = lenet()
    name, weight = max(p.weights.items(), key=lambda item: np.prod(item[1].shape))
    other = replace(weight, values=replace(weight.values, codes=np.ascontiguousarray(weight.values.codes[::-1])))
    for i, each in enumerate((p, Program(**{**vars(p), "weights": {**p.weights, name: other}}))):
        c.write(each, tmp_path / str(i), weights="incbin")
    sizes = [(tmp_path / i / "model_weights.bin").stat().st_size for i in "01"]
    assert sizes[0] == sizes[1] and (tmp_path / "0" / "model_weights.S").read_text() != (tmp_path / "1" / "model_weights.S").read_text()


def test_which_form_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files() -> set[str]:
        return {path.name for path in c.write(lenet(), tmp_path).files if "weights" in path.name}

    assert files() == set()
    with monkeypatch.context() as patch:
        patch.setattr(c_constants, "MANY", 1000)
        assert files() == {"model_weights.S", "model_weights.bin"}
        assert c.write(lenet(), tmp_path / "asked", weights="array").files and not (tmp_path / "asked" / "model_weights.S").exists()
    assert files() == set() and not [*tmp_path.glob("model_weights.*")], "of the other form nothing is left"
    with pytest.raises(RecipeError, match="weights 'hex': expected one of array, incbin"):
        c.write(lenet(), tmp_path, weights="hex")  # type: ignore[arg-type]


def test_a_compiler_that_can_not_is_told_what_to_do(tmp_path: Path) -> None:
    source = c.write(lenet(), tmp_path, weights="incbin").main
    done = subprocess.run(["gcc", "-U__ELF__", "-fsyntax-only", source], capture_output=True, text=True, check=False)
    assert done.returncode and "model_weights.S is for ELF" in done.stderr and "--weights array" in done.stderr


def test_the_program_for_other_processors_holds_them(tmp_path: Path) -> None:
    p = lenet()
    made = cross.compile_for(["x86_64-linux-musl"], c.write(p, tmp_path / "m", weights="incbin"), tmp_path, flags=("-O1",))
    inputs = inputs_of(p, 2)
    told = subprocess.run([made.binary], input=cross.fed(made.signature, inputs), capture_output=True, check=True).stdout
    found = cross.answered(made.signature, told, 2)
    assert found is not None
    agree(p, found, run(p, inputs))
