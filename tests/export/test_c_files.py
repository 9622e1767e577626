"""The folder of a model in C among other people's: a CMake project, an Arduino sketch."""

import shutil
import subprocess
from pathlib import Path

import pytest

from karui.export import c
from karui.program.program import Program
from karui.run import compiler
from tests.golden.every import every
from tests.program import builders

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake: apt-get install cmake")
USER = """\
#include "net.h"
static int32_t arena[NET_ARENA_BYTES / 4 + 1];
static uint8_t x[NET_INPUT_COUNT];
static int8_t y[NET_OUTPUT_COUNT];
"""


def lenet() -> Program:
    return builders.lenet(integer=True, pixels=True)


@needs_cmake
@pytest.mark.parametrize("weights", ["array", "incbin"])
def test_a_part_of_a_cmake_project(weights: str, tmp_path: Path) -> None:
    c.write(lenet(), tmp_path / "a folder", name="net", weights=weights)  # type: ignore[arg-type]
    (tmp_path / "main.c").write_text(f"{USER}int main(void) {{ return net_run(x, y, arena); }}\n")
    (tmp_path / "CMakeLists.txt").write_text(
        'cmake_minimum_required(VERSION 3.10)\nproject(app C)\nadd_subdirectory("a folder")\n'
        "add_executable(app main.c)\ntarget_link_libraries(app net)\n"
    )
    for words in (["-S", tmp_path, "-B", tmp_path / "build"], ["--build", tmp_path / "build"]):
        done = subprocess.run(["cmake", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert subprocess.run([tmp_path / "build" / "app"], check=False).returncode == 0


@needs_cmake
def test_a_library_by_itself_with_libm(tmp_path: Path) -> None:
    c.write(every(), tmp_path)
    for words in (["-S", tmp_path, "-B", tmp_path / "build"], ["--build", tmp_path / "build"]):
        subprocess.run(["cmake", *words], capture_output=True, check=True)
    library = tmp_path / "build" / "libmodel.a"
    listed = subprocess.run(["ar", "t", library], capture_output=True, text=True, check=True).stdout.split()
    assert listed == ["model.c.o"]


def test_a_part_of_an_arduino_sketch(tmp_path: Path) -> None:
    """What the IDE does: every source of the sketch's folder, the sketch itself as C++, sizes before speed."""
    c.write(lenet(), tmp_path / "out", name="net")
    sketch = tmp_path / "sketch"
    sketch.mkdir()
    for file in ("net.h", "net.c"):
        shutil.copy(tmp_path / "out" / file, sketch)
    (sketch / "sketch.cpp").write_text(f"{USER}void setup() {{}}\nint loop() {{ return net_run(x, y, arena); }}\n")
    (tmp_path / "core.cpp").write_text("void setup(); int loop(); int main() { setup(); return loop(); }\n")
    flags = ["-Os", "-ffunction-sections", "-fdata-sections"]
    compiler.compile_c(["gcc"], [*flags, "-std=gnu11", "-c", "-o", tmp_path / "net.o", sketch / "net.c"], what="net.c")
    sources = [sketch / "sketch.cpp", tmp_path / "core.cpp", tmp_path / "net.o"]
    compiler.compile_c(["g++"], [*flags, "-std=gnu++17", "-Wl,--gc-sections", "-o", tmp_path / "all", *sources], what="sketch")
    assert subprocess.run([tmp_path / "all"], check=False).returncode == 0
    assert "put `net.h` and `net.c` beside the sketch" in (tmp_path / "out" / "README.md").read_text()
