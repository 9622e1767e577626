"""Line 7: random layers of every support and every way of writing values, on each set of instructions, against the interpreter.

A sixth of them are of signs over activations of one or two bits, which have kernels of their own; some have a table before them.

A hundred of them are one program, so that a compiler is called a hundred times less; AddressSanitizer and UBSan watch those of the host, in
a process of their own.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import Row, skipped
from karui.errors import ToolError
from karui.export import c as c_target
from karui.program import interpreter
from karui.program.program import Affine, Op, Program, Sign
from karui.program.shapes import output_shapes
from karui.run import cross, host, qemu
from tests.export.many import inputs_of, merged
from tests.export.test_c_layers import integral
from tests.export.test_c_signs import stacked, steps
from tests.program.single_op import affine, floats, tensor
from tests.program.single_op import program as single
from tests.program.weights import SUPPORTS, VALUES, make_weight

BATCH = 100
HOST = (("x86-64-v3", ()), ("x86-64-v4", ()), ("x86-64-v4, its plain set", ("-DMODEL_PLAIN",)))
EMULATED = (("pi4", "cortex-a72"), ("pi5", "cortex-a76"), ("cortex-m4", "cortex-m4"), ("cortex-m7", "cortex-m7"))
COUNTS = {"host": (10_000, 100), "qemu": (300, 100)}  # of the full run, of a quick one


def rows(quick: bool) -> Iterator[Row]:
    """The host's sets, then the emulated processors'."""
    for machine, flags in HOST:
        count = COUNTS["host"][quick]
        batches, one = range(0, count, BATCH), partial(_sanitized, machine.partition(",")[0], flags)
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as workers:
            wrong = sum(workers.map(one, batches))
        yield Row(case=f"7 {machine}, sanitized", figure=f"of {count} random layers, wrong", value=wrong, goal="0", ok=wrong == 0)
    for machine, processor in EMULATED:
        count, wrong = COUNTS["qemu"][quick], 0
        try:
            for first in range(0, count, BATCH):
                wrong += emulated(machine, processor, first)
        except ToolError as reason:
            yield skipped(f"7 {machine} on {processor}", str(reason))
            continue
        yield Row(case=f"7 {machine} on {processor}", figure=f"of {count} random layers, wrong", value=wrong, goal="0", ok=wrong == 0)


def batch(first: int) -> Program:
    """A hundred layers side by side."""
    return merged({f"p{seed}": random_layer(seed) for seed in range(first, first + BATCH)})


def random_layer(seed: int) -> Program:
    """A convolution or linear layer of any geometry around any weight, with a bias and a clamp."""
    rng = np.random.default_rng(seed)

    def draw(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    kind = ("conv2d", "conv2d", "conv2d", "conv1d", "linear")[draw(0, 4)]
    axes = {"conv2d": 2, "conv1d": 1, "linear": 0}[kind]
    groups = draw(2, 6) if axes and rng.random() < 0.3 else 1
    inputs, outputs = (draw(1, 70 // groups) * groups for _ in range(2))
    if groups > 1 and rng.random() < 0.5:
        inputs = outputs = groups  # depthwise
    kernel = [draw(1, 5 if axes == 1 else 4) for _ in range(axes)]
    dilation, stride = [draw(1, 2) for _ in range(axes)], [draw(1, 3) for _ in range(axes)]
    padding = [draw(0, 2) for _ in range(2 * axes)]
    size = [draw(max(1, d * (k - 1) + 1), 12) for k, d in zip(kernel, dilation, strict=True)] or [draw(1, 3)] * draw(0, 1)
    shape = (*size, inputs)
    attributes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    attributes = {} if kind == "linear" else attributes
    if kind == "conv1d":
        attributes |= {"stride": stride[0], "dilation": dilation[0]}
    support, values, x = SUPPORTS[draw(0, 3)], VALUES[draw(1, 4)], affine(0.05, draw(-128, 127))
    if rng.random() < 1 / 6:
        few = draw(1, 2)
        support, values = "dense", "sign"
        x = Sign(scale=0.05) if rng.random() < 0.3 else Affine(bits=few, scale=0.05, zero_point=draw(-few, few - 1))
    w = make_weight(
        support, values, (outputs, *kernel, inputs // groups), seed=seed, density=float(rng.random()), bits=draw(1, 8), name="weight"
    )
    out = output_shapes(Op(kind=kind, name="", inputs=(), outputs=("y",), attributes=attributes), [shape], {"weight": w.shape}, [])[0]
    y = affine(0.02 * 10 ** rng.random(), draw(-100, 100))
    bias = floats(rng.standard_normal(outputs).astype(np.float32))
    ends = [tensor("x", shape, x)], [tensor("y", out, y)]
    made = single(kind, *ends, {"weight": bias, "bias": bias}, **attributes, clamp=[draw(-128, 0), draw(1, 127)])
    made = Program(**{**vars(made), "weights": {**made.weights, "weight": integral(w)}})
    if isinstance(x, Affine) and x.bits == 1 and rng.random() < 0.5:
        made = stacked(made, first=steps(shape, x, [-1] * (few := draw(1, 255)) + [0] * (256 - few)))
    return made


def emulated(machine: str, processor: str, first: int) -> int:
    """Wrong layers of a batch on a processor in QEMU."""
    program = batch(first)
    inputs = inputs_of(program, 1, seed=first)
    with TemporaryDirectory() as scratch:
        found = qemu.build(c_target.write(program, Path(scratch), machine=machine), processor, flags=("-O1",)).run(inputs)
    return _wrong(found, interpreter.run(program, inputs))


def _sanitized(machine: str, flags: tuple[str, ...], first: int) -> int:
    """Wrong layers of a batch; all of them where a sanitizer stops the program."""
    program = batch(first)
    inputs = inputs_of(program, 1, seed=first)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        artefact = c_target.write(program, folder, machine=machine)
        (folder / "main.c").write_text(cross.around(host.read_header(artefact.main.with_suffix(".h"))), encoding="utf-8")
        sanitize = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        command = ["cc", "-std=c99", *sanitize, *flags, "-o", folder / "program", artefact.main, folder / "main.c", "-lm"]
        subprocess.run(command, check=True, stderr=sys.stderr)
        done = subprocess.run([folder / "program"], input=b"".join(np.ascontiguousarray(x).tobytes() for x in inputs), capture_output=True)
    if done.returncode:
        print(done.stderr.decode()[:2000], file=sys.stderr)
        return BATCH
    outputs = [program.tensor(out.tensor) for out in program.outputs]
    parts = np.split(np.frombuffer(done.stdout, np.int8), np.cumsum([t.count for t in outputs])[:-1])
    return _wrong([part.reshape(1, *t.shape) for part, t in zip(parts, outputs, strict=True)], interpreter.run(program, inputs))


def _wrong(found: list[np.ndarray], expected: list[np.ndarray]) -> int:
    return sum(not np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
