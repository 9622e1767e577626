"""The demo, measured: the shipped LeNet-5 under its budget, beside its float twin and a dense control with the same training.

Full: runs the demo from nothing, keeps the small program it found in ``benchmarks/results/demo``, then trains the winner's recipe and the
dense control with two more seeds. Quick: measures the kept program again.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

from benchmarks.harness import RESULTS, Row, at_most, main
from karui import api, datasets
from karui.budget import Budget
from karui.data import Data
from karui.export import c as c_target
from karui.finetune.progress import RichProgress
from karui.program import codec
from karui.run import host, measure
from karui.search.ladder import ladder
from karui.search.scores import program_scores
from karui.search.trial import lowered
from karui.verify.cost import random_inputs
from karui.zoo import catalogue

KEPT = RESULTS / "demo" / "program.karui"
SHARE = 1 / 20


def rows(quick: bool) -> Iterator[Row]:
    """Every figure of the demo's line."""
    data = datasets.load("fashion-mnist", sample=True)
    with TemporaryDirectory() as scratch:
        if not quick:
            started = time.monotonic()
            with RichProgress() as progress:
                result = api.demo(Path(scratch) / "run", progress=progress)
            yield at_most("1 demo", "wall time", (time.monotonic() - started) / 60, 8, "min")
            for name in ("report.html", "export/c/model.c", "export/onnx/model.onnx", "export/device/Makefile"):
                there = (result.folder / name).exists()
                yield Row(case="1 demo", figure=f"{name} was written", value=str(there), goal="True", ok=there)
            KEPT.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(result.folder / "program.karui", KEPT)
        yield from compare(data, Path(scratch))
        if not quick:
            yield from over_seeds(data, result.record.winner or "", Path(scratch))


def compare(data: Data, folder: Path) -> Iterator[Row]:
    """The kept program beside the float twin, both compiled and run here."""
    programs = {"float": lowered(catalogue.load("lenet5"), data, "lenet5"), "compressed": codec.load(KEPT)}
    libraries = {form: host.build(c_target.write(program, folder / form)) for form, program in programs.items()}
    accuracy, flash, file = {}, {}, {}
    for form, program in programs.items():
        accuracy[form] = float(program_scores(libraries[form].run, program, data.test, data.metric).mean() * data.metric.scale)
        flash[form], file[form] = libraries[form].sections.flash, len(codec.encode(program))
        yield Row(case=f"1 demo, {form}", figure="test accuracy (C program)", value=accuracy[form], unit="%")
        yield Row(case=f"1 demo, {form}", figure="text + read-only data", value=flash[form], unit="B")
        yield Row(case=f"1 demo, {form}", figure=".karui file", value=file[form], unit="B")
    yield at_most("1 demo", "C: compressed / float", flash["compressed"] / flash["float"], SHARE, "", peer="float C")
    yield at_most("1 demo", ".karui: compressed / float", file["compressed"] / file["float"], SHARE, "", peer="float .karui")
    yield at_most("1 demo", "test accuracy lost", accuracy["float"] - accuracy["compressed"], 0.3, "points", peer="float")
    calls = {form: libraries[form].call(random_inputs(program, 1)) for form, program in programs.items()}
    timings = measure.interleaved(calls)
    for form, timing in timings.items():
        yield Row(case=f"1 demo, {form}", figure="C latency, one thread", value=timing.median_ms, unit="ms", spread=timing.p90 - timing.p10)


def over_seeds(data: Data, winner: str, folder: Path) -> Iterator[Row]:
    """The winner's recipe and the dense control, by three seeds: the demo's own, which goes on where it stopped, and two more."""
    recipe = next(rung for rung in ladder(data) if rung.name == winner).phases
    with RichProgress() as progress:
        records = [api.demo(folder / "run", control=True, progress=progress).record]
        for seed in (1, 2):
            found = api.compress(
                "zoo:lenet5", data, Budget(drop=100), recipe, out=folder / f"seed-{seed}", seed=seed, control=True, progress=progress
            )
            records.append(found.record)
    before = [r.baseline.accuracy or 0.0 for r in records]
    after = [r.final.accuracy or 0.0 for r in records]
    dense = [r.control.accuracy or 0.0 for r in records if r.control]
    lost = [b - a for b, a in zip(before, after, strict=True)]
    yield Row(case="1 demo, compressed", figure="test accuracy, mean", value=mean(after), unit="%", seeds=3, spread=stdev(after))
    yield Row(case="1 demo, dense control", figure="test accuracy, mean", value=mean(dense), unit="%", seeds=3, spread=stdev(dense))
    yield at_most("1 demo", "test accuracy lost, mean", mean(lost), 0.3, "points", peer="float", seeds=3, spread=stdev(lost))


if __name__ == "__main__":
    main("demo", rows, timings=True)
