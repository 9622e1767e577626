"""Target ``device``: the folder that is copied to a board. ``make`` there, then ``./model picture.ppm`` or ``./model window.csv``.

It holds the model in C and a program around it that reads pictures (binary PGM and PPM, of any size) where the network takes pixels, and
texts of numbers elsewhere; it prints the label, its score and the milliseconds. It needs a C compiler and nothing else.
"""

from importlib.resources import files
from pathlib import Path
from typing import Literal

from karui.export import c_files, c_text
from karui.export.artifact import Artifact
from karui.export.c import model, write_files
from karui.program.program import Input, Program, Tensor
from karui.workspace import Content

HEAD = """\
/* {title}. usage: {usage}
 * Prints for each sample {told}. With --all: every output instead. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "{name}.h"

"""
MAIN = """\
/* int32_t gives the arena its alignment */
static int32_t arena[({upper}_ARENA_BYTES + 3) / 4];
{buffers}
static int run(void)
{{
{reset}    return {name}_run({arguments}, arena);
}}

/* Milliseconds of a run: the mean over a twentieth of a second, measured on the first sample. */
static double milliseconds(void)
{{
    static double mean = -1.0;
    const clock_t start = clock();
    clock_t spent = 0;
    long runs = 0;
    if (mean >= 0.0)
        return mean;
    do {{
        run();
        runs++;
        spent = start == (clock_t)-1 ? CLOCKS_PER_SEC : clock() - start; /* -1: there is no clock */
    }} while (spent < CLOCKS_PER_SEC / 20);
    mean = start == (clock_t)-1 ? 0.0 : 1e3 * (double)spent / CLOCKS_PER_SEC / (double)runs;
    return mean;
}}

/* Each line of an answer ends in the sample's name where there are several samples. */
static void end_line(const char *name)
{{
    if (name != NULL)
        printf("\\t%s", name);
    printf("\\n");
}}

/* One sample: `files` holds one file for each input. */
static int sample(char **files, int all, const char *name)
{{
    long i;
{reads}    if (run())
        return complain(files[0], "the network refuses this input");
{answer}    return 0;
}}

int main(int argc, char **argv)
{{
    const int all = argc > 1 && strcmp(argv[1], "--all") == 0, first = 1 + all;
    int i, failed = 0;
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {{
        printf("usage: {usage}\\nPrints for each sample {told}.\\n--all: every output instead.\\n");
        return 0;
    }}
    if (argc <= first || argv[first][0] == '-' || (argc - first) % {upper}_INPUTS != 0)
        return complain("usage", "{usage}");
    for (i = first; i < argc; i += {upper}_INPUTS) /* a bad file doesn't keep the others from their answers */
        failed |= sample(argv + i, all, argc - first > {upper}_INPUTS ? argv[i] : NULL);
    return failed;
}}
"""
CLASSES = """\
    if (!all) {{
        static float values[{upper}_{out}_COUNT];
        long best;
        for (i = 0; i < {upper}_{out}_COUNT; i++)
            values[i] = {value};
        best = greatest(values, {upper}_{out}_COUNT);
        printf("{label}\\t%.4f\\t%.3f ms", {best}, (double){score}, milliseconds());
        end_line(name);
        return 0;
    }}
"""
NUMBERS = """\
    if (!all) {{
        printf("%.3f ms", milliseconds());
        end_line(name);
    }}
"""
EACH = """\
    for (i = 0; i < {upper}_{out}_COUNT; i++) {{
        printf("{before}%ld\\t%.7g{columns}", {called}i, (double)({value}){column});
        end_line(name);
    }}
"""


def write(
    program: Program, folder: Path, *, name: str = "model", machine: str = "portable", weights: Literal["array", "incbin"] | None = None
) -> Artifact:
    """Write the folder's files, each whole or not at all.

    Args:
        name, machine, weights: as target ``c``.

    Raises:
        UnsupportedOp, RecipeError: as target ``c``.
    """
    built = model(program, name=name, machine=machine, weights=weights)
    texts: dict[str, Content] = {
        **built.files(),
        "main.c": main(program, name),
        "Makefile": c_files.makefile(name, needs_libm=True, program="main", blob=bool(built.blob)),
        "README.md": readme(program, name),
    }
    return write_files(program, Path(folder), texts, target="device", main=f"{name}.c", built=built)


def takes_picture(entry: Input, tensor: Tensor) -> bool:
    """Pixels of one or three colours, which a picture file can give."""
    return entry.pixels is not None and tensor.dtype == "uint8" and tensor.layout == "nhwc" and tensor.shape[2] in (1, 3)


def main(program: Program, name: str) -> str:
    """main.c."""
    pictures = [takes_picture(entry, program.tensor(entry.tensor)) for entry in program.inputs]
    words = dict(name=name, upper=name.upper(), title=c_text.comment(program.name), usage=usage(program, name), told=told(program))
    out_name = c_files.parameters(program.outputs, "output")[0]
    words |= dict(out=out_name.upper(), value=real(program, name, 0, out_name))
    words |= dict(buffers=_buffers(program, name), reads=_reads(program, name), answer=_answer(program, words))
    words["arguments"] = ", ".join([*c_files.parameters(program.inputs, "input"), *c_files.parameters(program.outputs, "output")])
    words["reset"] = f"    {name}_reset(arena);\n" if program.states else ""
    parts = ["start"] + ["picture"] * any(pictures) + ["numbers"] * (not all(pictures)) + ["answer"] * _classifies(program)
    bodies = [(files("karui.export") / "device_runtime" / f"{part}.c").read_text(encoding="utf-8") + "\n" for part in parts]
    return HEAD.format(**words) + "".join(bodies) + MAIN.format(**words)


def usage(program: Program, name: str) -> str:
    """How the program is called."""
    return f"./{name} [--all] {' '.join(_given(program))} ..."


def _given(program: Program) -> list[str]:
    """What it takes, one word an input."""
    pictures = [takes_picture(entry, program.tensor(entry.tensor)) for entry in program.inputs]
    names = ["picture.ppm" if picture else "window.csv" for picture in pictures]
    return names if len(set(names)) == len(names) else [f"{i}-{name}" for i, name in enumerate(names, 1)]


def told(program: Program) -> str:
    """What it prints of a sample."""
    if _classifies(program):
        return "the label, its score (0 ... 1) and the milliseconds that the network takes"
    return "the milliseconds that the network takes, then every output"


def real(program: Program, name: str, place: int, out: str) -> str:
    """The number that element ``i`` of an output stands for."""
    tensor = program.tensor(program.outputs[place].tensor)
    if tensor.quant is None:
        return f"(float){out}[i]"
    prefix = f"{name.upper()}_{out.upper()}"
    return f"{prefix}_SCALE * (float)({out}[i] - {prefix}_ZERO_POINT)"


def _classifies(program: Program) -> bool:
    tensor = program.tensor(program.outputs[0].tensor)
    return len(tensor.shape) == 1 and tensor.count > 1


def _answer(program: Program, words: dict[str, str]) -> str:
    tensor, labels = program.tensor(program.outputs[0].tensor), program.outputs[0].labels
    known = _classifies(program) and len(labels) == tensor.count and c_files.labels(program) == labels
    every = "".join(_each(program, words, place, known and place == 0) for place in range(len(program.outputs)))
    if not _classifies(program):
        return NUMBERS.format() + every
    made_by = next((op.kind for op in program.ops if tensor.name in op.outputs), "")
    words["label"], words["best"] = ("%s", f"{words['name']}_labels[best]") if known else ("class %ld", "best")
    words["score"] = "values[best]" if made_by == "softmax" else f"share(values, {words['upper']}_{words['out']}_COUNT, best)"
    return CLASSES.format(**words) + every


def _each(program: Program, words: dict[str, str], place: int, labelled: bool) -> str:
    """An output, a line for each element; behind its name where there are several outputs."""
    out = c_files.parameters(program.outputs, "output")[place]
    several = len(program.outputs) > 1
    own = {
        "out": out.upper(),
        "value": real(program, words["name"], place, out),
        "before": "%s\\t" if several else "",
        "called": f"{c_text.string(program.outputs[place].name)}, " if several else "",
        "columns": "\\t%s" if labelled else "",
        "column": f", {words['name']}_labels[i]" if labelled else "",
    }
    return EACH.format(**{**words, **own})


def _buffers(program: Program, name: str) -> str:
    ends = [
        *zip([e.tensor for e in program.inputs], c_files.parameters(program.inputs, "input"), strict=True),
        *zip([e.tensor for e in program.outputs], c_files.parameters(program.outputs, "output"), strict=True),
    ]
    return "".join(f"static {c_text.C_TYPES[program.tensor(t).dtype]} {text}[{name.upper()}_{text.upper()}_COUNT];\n" for t, text in ends)


def _reads(program: Program, name: str) -> str:
    lines = []
    for i, (entry, text) in enumerate(zip(program.inputs, c_files.parameters(program.inputs, "input"), strict=True)):
        tensor, prefix = program.tensor(entry.tensor), f"{name.upper()}_{text.upper()}"
        if takes_picture(entry, tensor):
            h, w, channels = tensor.shape
            lines.append(f"    if (read_picture(files[{i}], {text}, {w}, {h}, {channels}))\n        return 1;\n")
        elif tensor.dtype == "float32":
            lines.append(f"    if (read_numbers(files[{i}], {text}, {prefix}_COUNT))\n        return 1;\n")
        else:
            lines.append(_rounded(tensor, text, prefix, i))
    return "".join(lines)


def _rounded(tensor: Tensor, text: str, prefix: str, i: int) -> str:
    """Numbers for an input of integers: reals become codes where there is a scale, whole numbers stay."""
    low, high = {"int8": (-128, 127), "uint8": (0, 255)}.get(tensor.dtype, (-2147483647, 2147483647))
    code = f"rint((double)numbers[i] / {prefix}_SCALE) + {prefix}_ZERO_POINT" if tensor.quant else "rint((double)numbers[i])"
    return f"""\
    {{
        static float numbers[{prefix}_COUNT];
        if (read_numbers(files[{i}], numbers, {prefix}_COUNT))
            return 1;
        for (i = 0; i < {prefix}_COUNT; i++) {{
            const double code = {code};
            {text}[i] = ({c_text.C_TYPES[tensor.dtype]})(code < {low} ? {low} : code > {high} ? {high} : code);
        }}
    }}
"""


def readme(program: Program, name: str) -> str:
    """README.md of the folder."""
    lines = [f"# {c_text.comment(program.name)} on a device\n"]
    lines += ["```sh", "make", " ".join([f"./{name}", *_given(program)]), "```\n"]
    lines.append("`make` needs a C compiler (any of C99) and nothing else; `make CC=…` takes another one. The program prints")
    lines.append(f"{told(program)} (the mean over a twentieth of a second).")
    lines.append("It takes several samples in one call, each line then ends in the file's name; `--all` prints every output.")
    lines.append("A file that it can't use is one line of error, and exit code 1.")
    for entry in program.inputs:
        lines.append(f"\n{_input_in_words(entry, program.tensor(entry.tensor))}")
    lines.append(f"\n`{name}.h` and `{name}.c` alone are the model; `{name}.h` says how to call it from a program of your own.\n")
    return "\n".join(lines)


def _input_in_words(entry: Input, tensor: Tensor) -> str:
    """What a file for an input looks like."""
    name, shape = c_text.comment(entry.name), " × ".join(map(str, tensor.shape))
    if takes_picture(entry, tensor):
        return f"""\
`{name}`: a binary PGM or PPM picture (P5, P6) of any size; it is brought to {shape}
(height × width × channels), and colours become grey or grey colours where the network wants that. The
normalisation is inside the model. `magick photo.jpg picture.ppm`, `ffmpeg -i photo.jpg picture.ppm` and
`djpeg photo.jpg > picture.ppm` all make such a picture."""
    order = "the last axis is the fastest"
    if tensor.layout == "nlc":
        order = f"a line for each of {tensor.shape[0]} steps in time, with its {tensor.shape[1]} values"
    return f"""\
`{name}`: a text of {tensor.count} numbers ({shape}: {order}),
between commas, semicolons, blanks or line ends. What stands behind a `#` is left out."""
