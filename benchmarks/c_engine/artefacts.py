"""Line 4: bytes of each artefact: text and read-only data of C, beside the .onnx and .tflite files of the same network."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.c_engine.networks import MACHINES
from benchmarks.c_engine.subjects import SHAPES, shape
from benchmarks.harness import Row, skipped
from karui.errors import ToolError
from karui.export import c as c_target
from karui.export import litert as litert_target
from karui.export import onnx as onnx_target
from karui.program import codec
from karui.run import host


def rows(quick: bool) -> Iterator[Row]:
    """Every network; C is compiled as its Makefile does it."""
    for name in list(SHAPES)[: 3 if quick else None]:
        try:
            program = shape(name).integer()
        except ToolError as reason:
            yield skipped(f"4 {name}", str(reason))
            continue
        with TemporaryDirectory() as scratch:
            yield Row(case=f"4 {name}", figure=".karui file", value=len(codec.encode(program)), unit="B")
            for file in (onnx_target.write(program, Path(scratch) / "o").main, litert_target.write(program, Path(scratch) / "t").main):
                yield Row(case=f"4 {name}", figure=f"{file.suffix} file", value=file.stat().st_size, unit="B")
            for machine in MACHINES:
                library = host.build(c_target.write(program, Path(scratch) / machine, machine=machine))
                yield Row(case=f"4 {name}, C, {machine}", figure="text and read-only data", value=library.bytes, unit="B")
                yield Row(case=f"4 {name}, C, {machine}", figure="arena", value=library.peak_ram, unit="B")
