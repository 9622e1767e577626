"""The small pruned networks of the full run, kept beside its results: accuracy and bytes, measured again in seconds."""

from collections.abc import Iterator, Mapping
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

FOLDER = RESULTS / "prune"
LINES: Mapping[str, str] = {"lenet300-56x": "1", "lenet5-108x": "1", "resnet20-sparse-90": "2a"}
DATA: Mapping[str, str] = {"1": "mnist", "2a": "cifar-10"}


def keep(name: str, network: Network) -> None:
    """Put a network of the full run beside the results."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    codec.save(lower(network), FOLDER / f"{name}.karui")


def rows(line: str) -> Iterator[Row]:
    """Test accuracy (onnxruntime) and bytes of the line's kept programs; a row that says so, where it has none."""
    if line not in LINES.values():
        yield skipped(line, "its network is too large to keep; the full run measures it")
    for name in (name for name, of in LINES.items() if of == line):
        file = FOLDER / f"{name}.karui"
        if not file.exists():
            yield skipped(f"{line} {name}, kept", f"'{file.name}' is written by the full run")
            continue
        yield Row(case=f"{line} {name}, kept", figure=".karui file", value=file.stat().st_size, unit="B")
        try:
            data = datasets.load(DATA[line], augment=False)
        except DataError as reason:
            yield skipped(f"{line} {name}, kept", str(reason))
            continue
        program = codec.load(file)
        with TemporaryDirectory() as scratch:
            runner = ort.load(onnx_target.write(program, Path(scratch)).main)
            scores = program_scores(runner.run, program, data.test, data.metric)
        yield Row(case=f"{line} {name}, kept", figure="test accuracy", value=float(scores.mean()) * data.metric.scale, unit="%")
