"""The files around a model in C: header, example, Makefile, README."""

from collections.abc import Sequence

from karui.export import c_text
from karui.export.c_source import ALIGNMENT
from karui.program.program import Affine, Input, Output, Program, Sign, Tensor


def parameters(ends: Sequence[Input] | Sequence[Output], what: str) -> list[str]:
    """What C calls inputs or outputs: ``input``, or ``input_NAME`` where there are several."""
    if len(ends) == 1:
        return [what]
    names: list[str] = []
    for end in ends:
        name, i = f"{what}_{c_text.identifier(end.name)}", 2
        while name.upper() in [known.upper() for known in names]:  # macros are in capitals
            name, i = f"{what}_{c_text.identifier(end.name)}_{i}", i + 1
        names.append(name)
    return names


def signature(program: Program) -> str:
    """The parameters of ``run``."""
    ins = zip(program.inputs, parameters(program.inputs, "input"), strict=True)
    outs = zip(program.outputs, parameters(program.outputs, "output"), strict=True)
    words = [f"const {c_text.C_TYPES[program.tensor(e.tensor).dtype]} *{text}" for e, text in ins]
    words += [f"{c_text.C_TYPES[program.tensor(o.tensor).dtype]} *{text}" for o, text in outs]
    return ", ".join([*words, "void *arena"])


def labels(program: Program) -> tuple[str, ...]:
    """The classes' names of the first output that has some."""
    return next((out.labels for out in program.outputs if out.labels), ())


def header(program: Program, arena: int, name: str) -> str:
    """NAME.h."""
    upper = name.upper()
    ends: list[tuple[Input | Output, str]] = [
        *zip(program.inputs, parameters(program.inputs, "input"), strict=True),
        *zip(program.outputs, parameters(program.outputs, "output"), strict=True),
    ]
    macros = "\n".join(_macros(program.tensor(end.tensor), f"{upper}_{text.upper()}", end, text) for end, text in ends)
    names = labels(program)
    width = max((len(label.encode()) for label in names), default=0) + 1
    label_lines = (
        f"\n#define {upper}_LABELS {len(names)}\nextern const char {name}_labels[{upper}_LABELS][{width}]; /* the classes' names */\n"
        if names
        else ""
    )
    reset = (
        ""
        if not program.states
        else f"\n/* Begin a new stream: call it before the first run on an arena. */\nvoid {name}_reset(void *arena);\n"
    )
    keeps = "it holds the stream's state between calls" if program.states else "its content means nothing between calls"
    return f"""\
/* {c_text.comment(program.name)}, compressed by karui.
 *
 * {name}_run computes one sample. It is re-entrant: all memory that it changes is the outputs and the arena. */

#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_ARENA_BYTES {arena}
#define {upper}_ARENA_ALIGNMENT {ALIGNMENT}
#define {upper}_INPUTS {len(program.inputs)}
#define {upper}_OUTPUTS {len(program.outputs)}

{macros}{label_lines}{reset}
/* `arena`: {upper}_ARENA_BYTES bytes at an address that {upper}_ARENA_ALIGNMENT divides; {keeps}.
 * Returns 0, or 1 for an arena that is NULL or misaligned, or 2 for an input code outside its table. */
int {name}_run({signature(program)});

#ifdef __cplusplus
}}
#endif

#endif
"""


def _macros(tensor: Tensor, prefix: str, end: Input | Output, text: str) -> str:
    """What the caller must know of an input or output."""
    shape = ", ".join(map(str, tensor.shape)) or "1"
    layout = {"nhwc": " (height, width, channels)", "nlc": " (length, channels)"}.get(tensor.layout, "")
    note = "; pixels as they come from a camera" if isinstance(end, Input) and end.pixels is not None else ""
    lines = [
        f"/* {text} '{c_text.comment(end.name)}': {tensor.dtype} [{shape}]{layout}{note} */",
        f"#define {prefix}_COUNT {tensor.count}",
        f"#define {prefix}_SHAPE {{{shape}}}",
        f"#define {prefix}_RANK {len(tensor.shape)}",
    ]
    if isinstance(tensor.quant, Affine):
        lines += [f"#define {prefix}_SCALE {c_text.number(tensor.quant.scale)} /* real = scale * (code - zero point) */"]
        lines += [f"#define {prefix}_ZERO_POINT ({tensor.quant.zero_point})"]
    elif isinstance(tensor.quant, Sign):
        lines += [f"#define {prefix}_SCALE {c_text.number(tensor.quant.scale)}", f"#define {prefix}_ZERO_POINT 0"]
    return "\n".join(lines) + "\n"


def example(program: Program, name: str) -> str:
    """example.c: the shortest program that runs the model."""
    upper = name.upper()
    ins = [(program.tensor(e.tensor), t) for e, t in zip(program.inputs, parameters(program.inputs, "input"), strict=True)]
    outs = [(program.tensor(e.tensor), t) for e, t in zip(program.outputs, parameters(program.outputs, "output"), strict=True)]
    arrays = "\n".join(f"static {c_text.C_TYPES[t.dtype]} {text}[{upper}_{text.upper()}_COUNT];" for t, text in [*ins, *outs])
    call = ", ".join([*[text for _, text in [*ins, *outs]], "arena"])
    first, text = outs[0]
    value = f"{upper}_{text.upper()}_SCALE * (float)({text}[i] - {upper}_{text.upper()}_ZERO_POINT)" if first.quant else f"(float){text}[i]"
    reset = f"    {name}_reset(arena);\n" if program.states else ""
    return f"""\
/* Runs {name} once on zeros and prints its first output. */

#include <stdio.h>

#include "{name}.h"

/* int32_t gives the arena its alignment */
static int32_t arena[({upper}_ARENA_BYTES + 3) / 4];
{arrays}

int main(void)
{{
    int i, failed;
{reset}    failed = {name}_run({call});
    if (failed) {{
        fprintf(stderr, "{name}_run failed with %d\\n", failed);
        return 1;
    }}
    for (i = 0; i < {upper}_{text.upper()}_COUNT; i++)
        printf("%d %g\\n", i, (double)({value}));
    return 0;
}}
"""


def makefile(name: str, *, needs_libm: bool, program: str = "example", blob: bool = False) -> str:
    """Makefile: ``make`` builds the program, ``make CC=…`` with another compiler. blob: weights are in a file of their own."""
    libm, binary = " -lm" if needs_libm else "", name if program == "main" else program
    objects = f"{program}.o {name}.o" + (f" {name}_weights.o" if blob else "")
    taken_in = f"""\
{name}_weights.o: {name}_weights.S {name}_weights.bin
\t$(CC) $(CFLAGS) -c -o $@ $<

"""
    return f"""\
# make            builds ./{binary}
# make CC=…       with another compiler, for another machine
CFLAGS ?= -O3
WARN = -std=c99 -Wall -Wextra -Werror -pedantic

{binary}: {objects}
\t$(CC) $(CFLAGS) $(LDFLAGS) -o $@ {objects}{libm}

{program}.o {name}.o: %.o: %.c {name}.h
\t$(CC) $(WARN) $(CFLAGS) -c -o $@ $<

{taken_in if blob else ""}clean:
\trm -f {binary} {objects}

.PHONY: clean
"""


def cmake(name: str, *, needs_libm: bool, blob: bool = False) -> str:
    """CMakeLists.txt: the model as a static library. blob: as ``makefile``."""
    weights = f"""\
# the assembler takes the weights in from where they lie
set_source_files_properties({name}_weights.S PROPERTIES
  COMPILE_DEFINITIONS "{name.upper()}_WEIGHTS=\\"${{CMAKE_CURRENT_SOURCE_DIR}}/{name}_weights.bin\\""
  OBJECT_DEPENDS "${{CMAKE_CURRENT_SOURCE_DIR}}/{name}_weights.bin")
"""
    libm = f"if(UNIX)\n  target_link_libraries({name} PUBLIC m)\nendif()\n"
    return f"""\
# cmake -B build && cmake --build build     makes a static library; or in a project of yours:
# add_subdirectory(THIS_FOLDER) and target_link_libraries(YOUR_PROGRAM {name})
cmake_minimum_required(VERSION 3.10)
project({name} C{" ASM" if blob else ""})
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()
add_library({name} STATIC {name}.c{f" {name}_weights.S" if blob else ""})
target_include_directories({name} PUBLIC "${{CMAKE_CURRENT_SOURCE_DIR}}")
set_target_properties({name} PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
{libm if needs_libm else ""}{weights if blob else ""}"""


def readme(program: Program, arena: int, name: str, *, blob: bool = False) -> str:
    """README.md of the folder."""
    stream = f", but holds the stream's state: `{name}_reset` begins a new one" if program.states else ""
    weights = f"""
The weights are the bytes of `{name}_weights.bin`, which `{name}_weights.S` takes in: compile it with the others, in this folder or with
`-D{name.upper()}_WEIGHTS='"the path of {name}_weights.bin"'`. That takes gcc or clang, ELF (Linux, and most that runs without a system) and
a little-endian processor; `karui export --weights array` writes them as arrays of C instead, for every compiler.
"""
    arduino = f"put `{name}.h` and `{name}.c` beside the sketch, nothing else, and include `{name}.h`"
    if blob:
        arduino = f"export with `--weights array`, as it takes no `{name}_weights.bin`"
    what = f"`{name}.h`, `{name}.c` and `{name}_weights.*`" if blob else f"`{name}.h` and `{name}.c`"
    return f"""\
# {c_text.comment(program.name)} in C

{what} are the model: C99, no dependencies, no heap. Add {"them" if blob else "both"} to your project and call

```c
static int32_t arena[({name.upper()}_ARENA_BYTES + 3) / 4];
{name}_run({", ".join([*parameters(program.inputs, "input"), *parameters(program.outputs, "output")])}, arena);
```

`{name}.h` says how long inputs and outputs are and what their numbers mean. The arena takes {arena} bytes; it may be shared with anything
that doesn't run at the same time{stream}. `make` builds `example.c`, which shows a call.
{weights if blob else ""}
CMake: `add_subdirectory` of this folder gives the library `{name}`. Arduino: {arduino}.
"""
