"""The whole flow on a small network: a budget in; a program, files that run, and the proof out."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import karui
from karui import api
from karui.errors import BudgetError, DataError, RecipeError, RunError, ToolError
from karui.export.targets import targets
from karui.finetune.evaluate import score
from karui.program import codec, interpreter
from karui.report import record
from karui.run import host
from karui.search.ladder import ladder
from karui.search.scores import feeds
from karui.testing.subjects import small_network
from tests import flow

QUICK = karui.Training(steps=40, optimizer="adamw", lr=1e-3)
RECIPE = [
    karui.Phase(techniques=(karui.Prune(sparsity=0.6), karui.Distill()), training=QUICK),
    karui.Phase(techniques=(karui.Quantize(), karui.Distill()), training=QUICK),
]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> api.Result:
    out = tmp_path_factory.mktemp("flow") / "run"
    return api.compress(flow.network(), flow.data(), karui.Budget(drop=5), RECIPE, out=out, name="small")


def test_the_flow_leaves_a_network_a_program_files_and_a_report(result: api.Result) -> None:
    for name in ("network.pt2", "program.karui", "report.html", "report.json", "export/c/model.c", "export/onnx/model.onnx"):
        assert (result.folder / name).stat().st_size > 0, name
    assert (result.folder / "export" / "device" / "Makefile").exists()
    found = result.record
    assert found.winner == "recipe" and found.verdict.ok
    assert found.final.bytes["c"] < found.baseline.bytes["c"] / 2
    assert found.final.bytes["karui"] == (result.folder / "program.karui").stat().st_size
    assert found.final.n == len(flow.data().test)
    assert found.final.low <= found.final.accuracy <= found.final.high  # type: ignore[operator]
    assert record.read(result.folder) == found
    conv = next(layer for layer in found.layers if layer.name == "fc1")
    assert conv.bits == 8 and 0.4 < conv.sparsity < 0.9


def test_a_finished_run_gains_a_dense_control(result: api.Result, tmp_path: Path) -> None:
    shutil.copytree(result.folder, tmp_path / "run")
    again = api.compress(flow.network(), flow.data(), karui.Budget(drop=5), RECIPE, out=tmp_path / "run", name="small", control=True).record
    assert result.record.control is None
    assert again.control is not None and again.control.n == len(flow.data().test)
    assert again.control.params == again.baseline.params and again.control.bytes["c"] == again.baseline.bytes["c"], "nothing is compressed"
    dense, before = ((tmp_path / "run" / "measured" / which / "c" / "model.c").read_text() for which in ("control", "original"))
    assert dense != before, "but it was trained"
    assert again.final.accuracy == result.record.final.accuracy
    assert "Control" in (tmp_path / "run" / "report.html").read_text()


def test_the_record_says_how_the_artefacts_were_held_against_the_interpreter(result: api.Result) -> None:
    c, onnx = result.record.parity
    assert (c.runner, c.ok, c.differing, c.samples) == ("c", True, 0.0, 200)
    assert (onnx.runner, onnx.ok) == ("onnxruntime", None) and onnx.greatest < 0.1
    change = result.record.change
    assert change is not None and change.low <= change.mean <= change.high
    assert change.mean == pytest.approx(result.record.final.accuracy - result.record.baseline.accuracy)  # type: ignore[operator]


def test_limits_are_measured_on_the_budgets_target(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (karui[litert])")
    budget = karui.Budget(drop=50, bytes=100_000, target="litert")
    found = api.compress(flow.network(), flow.data(), budget, [karui.Quantize()], out=tmp_path / "run", name="small").record
    assert found.final.bytes["litert"] == (tmp_path / "run" / "export" / "litert" / "model.tflite").stat().st_size
    assert found.candidates[0].cost.bytes == found.final.bytes["litert"] <= 100_000
    assert found.final.peak_ram is None, "LiteRT doesn't tell it"


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (karui.Budget(peak_ram=9, target="onnx"), "doesn't tell its peak_ram"),
        (karui.Budget(target="abacus"), "choose one of c, litert, onnx"),
    ],
)
def test_a_limit_that_nothing_can_measure_is_refused_at_once(budget: karui.Budget, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        api.compress(flow.network(), flow.data(), budget, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", ""])
def test_a_name_is_a_part_of_a_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = flow.network().copy()
    network.name = name
    with pytest.raises(RecipeError, match="can't be the name of a file"):
        api.compress(network, flow.data())
    assert not list(tmp_path.parent.glob("evil*")) and not list(tmp_path.iterdir())


def test_c_answers_as_the_interpreter_does_on_real_pictures(result: api.Result) -> None:
    batch = next(iter(flow.data().test.batches(200)))
    inputs = feeds(result.program, batch)
    got = host.build(result.folder / "export" / "c").run(inputs)[0]
    assert np.array_equal(got, interpreter.run(result.program, inputs)[0])


def test_the_program_file_and_the_network_file_are_the_winner(result: api.Result) -> None:
    program = codec.load(result.folder / "program.karui")
    assert codec.encode(program) == codec.encode(result.program)
    network = karui.Network.load(result.folder / "network.pt2").eval()
    batch = next(iter(flow.data().test.batches(100)))
    with torch.no_grad():
        ours = network(*batch.inputs)[0].argmax(1).numpy()
    theirs = interpreter.run(program, feeds(program, batch))[0].argmax(1)
    assert (ours == theirs).mean() >= 0.98


def test_the_same_call_goes_on_and_another_is_refused(result: api.Result) -> None:
    before = (result.folder / "program.karui").read_bytes()
    again = api.compress(flow.network(), flow.data(), karui.Budget(drop=5), RECIPE, out=result.folder, name="small")
    assert codec.encode(again.program) == before
    with pytest.raises(RunError, match="other settings"):
        api.compress(flow.network(), flow.data(), karui.Budget(drop=4), RECIPE, out=result.folder, name="small")


def test_techniques_in_any_order_give_the_same_program(tmp_path: Path) -> None:
    techniques = [karui.Quantize(samples=64), karui.PruneChannels(pruning_ratio=0.25), karui.Prune(sparsity=0.5)]
    files = []
    for i, order in enumerate((techniques, techniques[::-1])):
        found = api.compress(flow.network(), flow.data(), karui.Budget(drop=100), order, out=tmp_path / str(i), name="small", effort=0.01)
        files.append((found.folder / "program.karui").read_bytes())
    assert files[0] == files[1]


def test_export_bench_and_report_work_on_a_finished_run(result: api.Result, tmp_path: Path) -> None:
    written = api.export(result.folder, ["c"], tmp_path / "out")
    assert written["c"].main.exists()
    with pytest.raises(RecipeError, match="target 'tpu' is unknown"):
        api.export(result.folder, ["tpu"], tmp_path / "out")
    rows = api.bench(result.folder)
    assert {(r.runner, r.form) for r in rows} == {(a, b) for a in ("c", "onnxruntime") for b in ("float", "compressed")}
    assert all(r.median_ms and r.bytes for r in rows)
    assert api.report(result.folder).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_bench_takes_what_the_run_was_exported_for(result: api.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(result.folder, tmp_path / "run")
    api.export(tmp_path / "run", ["litert"])
    rows = api.bench(tmp_path / "run")
    assert {(r.runner, r.form) for r in rows if r.runner == "litert"} == {("litert", "float"), ("litert", "compressed")}
    assert all(r.median_ms and not r.note for r in rows)

    def missing(_: object) -> None:
        raise ToolError("LiteRT is not installed")

    monkeypatch.setattr("karui.run.litert.load", missing)
    rows = api.bench(tmp_path / "run")
    assert {r.note for r in rows if r.runner == "litert"} == {"LiteRT is not installed"} and len(rows) == 6


def test_bench_at_several_places(result: api.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karui.run.ssh.look", lambda address: (_ for _ in ()).throw(ToolError(f"'{address}': no connection")))
    rows = api.bench_on(result.folder, ["host", "ssh://pi@away"])
    assert [(r.place, r.form) for r in rows] == [(p, f) for p in ("host", "ssh://pi@away") for f in ("float", "compressed")]
    for row in rows[:2]:
        assert row.parity is not None and row.parity.ok and row.median_ms and row.bytes and row.arena
    assert all(row.note == "'ssh://pi@away': no connection" and row.bytes is None for row in rows[2:])
    assert rows[1].bytes < rows[0].bytes  # type: ignore[operator]
    with pytest.raises(RecipeError, match=r"place 'pi' is unknown; choose from host, pi4, .* or a device: ssh://user@host"):
        api.bench_on(result.folder, ["host", "pi"])


def test_an_export_lies_in_the_run_or_beside_the_file(result: api.Result, tmp_path: Path) -> None:
    shutil.copytree(result.folder, tmp_path / "net.v2")
    shutil.copy(result.folder / "program.karui", tmp_path / "net.karui")
    assert api.export(tmp_path / "net.v2", ["c"])["c"].folder == tmp_path / "net.v2" / "export" / "c"
    assert api.export(tmp_path / "net.karui", ["c"])["c"].folder == tmp_path / "net" / "export" / "c"


def test_an_export_for_a_machine(result: api.Result, tmp_path: Path) -> None:
    found = result.export(["c", "onnx", "device"], tmp_path / "both", machine="x86-64-v4")
    assert all("dpbusd" in found[name].main.read_text() for name in ("c", "device"))
    with pytest.raises(RecipeError, match="'onnx' is the same for every machine"):
        result.export(["onnx"], tmp_path / "one", machine="x86-64-v4")
    with pytest.raises(RecipeError, match="machine 'pi' is unknown"):
        result.export(["c"], tmp_path / "two", machine="pi")
    assert not list(tmp_path.glob("two/*"))


def test_targets_are_found_by_their_files() -> None:
    assert {"c", "device", "litert", "onnx"} <= set(targets())


def test_what_a_layer_bears_by_itself_it_bears(tmp_path: Path) -> None:
    """The scan's levels, as techniques: one layer at its level costs what the scan said, on the validation part."""
    found = karui.sensitivity(flow.network(), flow.data(), levels=(0.3, 0.6, 0.9), drop=2.0, out=tmp_path / "run")
    levels = found.record.levels()
    assert levels.keys() <= {"conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"} and levels["fc1.weight"] >= 0.6
    network = flow.network()
    with karui.attach(network, [karui.Prune(sparsity=levels["fc1.weight"], include="fc1")], steps=0, data=flow.data()):
        pass
    row = next(row for row in found.record.rows if row.layer == "fc1.weight")
    (value,) = (cell.value for cell in row.cells if cell.level == levels["fc1.weight"])
    assert value == score(network, flow.data().validation, flow.data().metric) >= found.record.baseline - 2.0
    assert (found.folder / "sensitivity.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_an_impossible_budget_says_which_limit_and_what_came_nearest(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"bytes ≤ 100: the nearest is recipe with [\d,]+"):
        api.compress(flow.network(), flow.data(), karui.Budget(bytes=100), RECIPE, out=tmp_path / "run", name="small")
    found = record.read(tmp_path / "run")
    assert found.winner is None and not found.verdict.ok
    assert "not trained" in found.candidates[0].reason


def test_data_with_a_nan_is_named(tmp_path: Path) -> None:
    inputs = torch.randn(20, 1, 28, 28)
    inputs[3, 0, 0, 0] = float("nan")
    part = (inputs, torch.zeros(20, dtype=torch.int64))
    with pytest.raises(DataError, match="not finite|NaN"):
        api.compress(flow.network(), karui.Data.of(train=part, validation=part, test=part), out=tmp_path / "run")


def test_a_mixture_of_phases_and_techniques_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not a mixture"):
        api.compress(flow.network(), flow.data(), recipe=[RECIPE[0], karui.Quantize()], out=tmp_path / "run")  # type: ignore[list-item]


def test_three_budgets_give_three_winners(tmp_path: Path) -> None:
    """What loses nothing, what is smallest, what needs the least memory: each budget has its own best."""
    budgets = {
        "exact": karui.Budget(drop=0.4),
        "small": karui.Budget(drop=15),
        "memory": karui.Budget(drop=15, peak_ram=3_000),
    }
    winners = {}
    for name, budget in budgets.items():
        found = api.compress(flow.network(), flow.data(), budget, out=tmp_path / name, name="small", effort=0.1)
        winners[name] = found.record.winner
    assert len(set(winners.values())) == 3, winners


def test_the_ladder_gets_harder_within_a_family() -> None:
    rungs = ladder(flow.data())
    assert [r.name for r in rungs if r.family == "sparse"] == ["sparse-80-int8", "sparse-90-int8", "sparse-95-int8"]
    assert all(r.why for r in rungs), "the report tells each"


def test_a_network_is_exported_as_it_is(tmp_path: Path) -> None:
    network = small_network()
    network.save(tmp_path / "net.pt2")
    written = api.export(tmp_path / "net.pt2", ("onnx",))
    assert written["onnx"].main == tmp_path / "net" / "export" / "onnx" / "model.onnx"
    again = api.export(written["onnx"].main, ("onnx",), tmp_path / "again")["onnx"].main
    x = np.random.default_rng(0).standard_normal((3, 1, 8, 8), np.float32)
    once, twice = (onnxruntime.InferenceSession(path).run(None, {"x": x})[0] for path in (written["onnx"].main, again))
    assert np.abs(once - twice).max() <= 1e-5 * np.abs(once).max()


def test_neither_run_nor_network(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a karui run"):
        api.export(tmp_path / "nothing", ("onnx",))
