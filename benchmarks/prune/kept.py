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
DATA: Mapping[str, str] = {"lenet300-56x": "mnist", "lenet5-108x": "mnist", "resnet20-sparse-90": "cifar-10"}


def keep(name: str, network: Network) -> None:
    """Put a network of the full run beside the results."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    codec.save(lower(network), FOLDER / f"{name}.karui")


def rows(quick: bool) -> Iterator[Row]:
    """Test accuracy (onnxruntime) and bytes of every kept program."""
    for name, data_name in DATA.items():
        line = "1" if data_name == "mnist" else "2"
        file = FOLDER / f"{name}.karui"
        if not file.exists():
            yield skipped(f"{line} {name}, kept", f"'{file.name}' is written by the full run")
            continue
        yield Row(case=f"{line} {name}, kept", figure=".karui file", value=file.stat().st_size, unit="B")
        try:
            data = datasets.load(data_name, augment=False)
        except DataError as reason:
            yield skipped(f"{line} {name}, kept", str(reason))
            continue
        program = codec.load(file)
        with TemporaryDirectory() as scratch:
            runner = ort.load(onnx_target.write(program, Path(scratch)).main)
            scores = program_scores(runner.run, program, data.test, data.metric)
        yield Row(case=f"{line} {name}, kept", figure="test accuracy", value=float(scores.mean()) * data.metric.scale, unit="%")
