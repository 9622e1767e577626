"""The small networks of full runs, kept beside their results: accuracy and bytes, measured again in seconds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import RESULTS, Row, skipped
from karui import datasets
from karui.errors import DataError
from karui.export import onnx as onnx_target
from karui.graph.network import Network
from karui.lower import lower
from karui.program import codec
from karui.run import onnxruntime as ort
from karui.search.scores import program_scores


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A benchmark's. lines: a program's name → the line that makes it. data: a line → the data it is judged on."""

    benchmark: str
    lines: Mapping[str, str]
    data: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return RESULTS / self.benchmark

    def keep(self, name: str, network: Network) -> None:
        """Put a network of the full run beside the results, if it is one of those to keep."""
        if name in self.lines:
            self.folder.mkdir(parents=True, exist_ok=True)
            codec.save(lower(network), self.folder / f"{name}.karui")

    def unless_quick(self, full: Callable[[bool], Iterator[Row]], line: str) -> Callable[[bool], Iterator[Row]]:
        """A line that takes long: quick, only what it kept is measured again."""
        return lambda quick: self.rows(line) if quick else full(quick)

    def rows(self, line: str) -> Iterator[Row]:
        """Test accuracy (onnxruntime) and bytes of the line's kept programs; a row that says so, where it has none."""
        if line not in self.lines.values():
            yield skipped(line, "its network is too large to keep; the full run measures it")
        for name in (name for name, of in self.lines.items() if of == line):
            file = self.folder / f"{name}.karui"
            if not file.exists():
                yield skipped(f"{line} {name}, kept", f"'{file.name}' is written by the full run")
                continue
            yield Row(case=f"{line} {name}, kept", figure=".karui file", value=file.stat().st_size, unit="B")
            try:
                data = datasets.load(self.data[line], augment=False)
            except DataError as reason:
                yield skipped(f"{line} {name}, kept", str(reason))
                continue
            program = codec.load(file)
            with TemporaryDirectory() as scratch:
                runner = ort.load(onnx_target.write(program, Path(scratch)).main)
                scores = program_scores(runner.run, program, data.test, data.metric)
            yield Row(case=f"{line} {name}, kept", figure="test accuracy", value=float(scores.mean()) * data.metric.scale, unit="%")
