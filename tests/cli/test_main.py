"""The command line, with an api that answers at once: what it passes on, what it prints, and how it ends."""

import errno
import json
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import karui
from karui.budget import Budget
from karui.cli import listing, main, sizes
from karui.compress.prune.channels import PruneChannels
from karui.compress.prune.weights import Prune
from karui.errors import BudgetError, KaruiError, RecipeError
from karui.export.ceilings import Table
from karui.report import record
from tests.report.sample import sample
from tests.report.test_sensitivity import facts

RECIPE = """
network = "zoo:lenet5"
data = "fashion-mnist"
seed = 7
[budget]
drop = 0.4
bytes = 100_000
"""


REMARK = "1-bit weights are slower than int8"


class FakeApi(SimpleNamespace):
    """Remembers calls; each verb answers, or raises ``error``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(calls=[], error=None, folder=folder)
        record.write(sample(), folder)

    def _called(self, verb: str, /, *args: Any, **kwargs: Any) -> None:
        self.calls.append((verb, args, kwargs))
        if self.error is not None:
            raise self.error

    def compress(self, *args: Any, **kwargs: Any) -> Any:
        self._called("compress", *args, **kwargs)
        return SimpleNamespace(record=record.of(sample()), folder=self.folder)

    def demo(self, *args: Any, **kwargs: Any) -> Any:
        self._called("demo", *args, **kwargs)
        return SimpleNamespace(record=record.of(sample()), folder=self.folder)

    def sensitivity(self, *args: Any, **kwargs: Any) -> Any:
        self._called("sensitivity", *args, **kwargs)
        return SimpleNamespace(record=facts(), folder=self.folder)

    def bench(self, *args: Any) -> Any:
        self._called("bench", *args)
        return record.of(sample()).bench

    def bench_on(self, run: Path, places: list[str]) -> Any:
        self._called("bench_on", run, places)
        return [record.Placed(place=place, form="float", note="it is off" if place.startswith("ssh") else "") for place in places]

    def report(self, run: Path) -> Path:
        self._called("report", run)
        return run / "report.html"

    def export(self, *args: Any, **kwargs: Any) -> Any:
        self._called("export", *args, **kwargs)
        return {name: SimpleNamespace(main=self.folder / name, facts={"remarks": [f"fc1: {REMARK}"]}) for name in args[1]}

    def calibrate(self, machines: Any) -> dict[Path, Table]:
        self.calls.append(("calibrate", (machines,), {}))
        peaks = {"int8": 100.0, "binary": 400.0, "float": 50.0}
        return {
            self.folder / "t.json": Table(machine="pi4", processor="a test's", measured=True, source="a test", ceilings=peaks, error=0.05)
        }


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    fake = FakeApi(tmp_path)
    monkeypatch.setitem(sys.modules, "karui.api", fake)
    monkeypatch.setattr(karui, "api", fake, raising=False)
    resolve = SimpleNamespace(data_of=lambda text, folder=None: (text, folder), network_of=lambda text, data, folder=None: (text, folder))
    monkeypatch.setitem(sys.modules, "karui.resolve", resolve)
    monkeypatch.setattr(karui, "resolve", resolve, raising=False)
    return fake


def test_compress_passes_every_option_on(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    words = "compress -n zoo:lenet5 -d digits --drop 0.25 --bytes 86.3k --peak-ram 24KiB --latency-ms 2 --target onnx --seed 3 -o run -q"
    assert main(words.split()) == 0
    ((_, args, kwargs),) = api.calls
    assert args[:2] == (("zoo:lenet5", None), ("digits", None))
    assert args[2] == Budget(drop=0.25, bytes=86_300, peak_ram=24_576, latency_ms=2.0, target="onnx")
    assert args[3] is None
    assert kwargs["seed"] == 3 and kwargs["out"] == Path("run") and kwargs["teacher"] is None
    assert "inside the budget" in capsys.readouterr().out


def test_sensitivity_passes_every_option_on(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    words = "sensitivity zoo:lenet5 -d digits -o run --pattern 1x4 --importance wanda --levels 0.5,0.9 --include conv*,fc1 --exclude conv2"
    assert main([*words.split(), *"--samples 300 --drop 1.5 --seed 3 -q".split()]) == 0
    ((_, args, kwargs),) = api.calls
    assert args == ("zoo:lenet5", "digits", Prune(pattern="1x4", importance="wanda", include=("conv*", "fc1"), exclude="conv2"))
    assert (kwargs["levels"], kwargs["samples"], kwargs["drop"], kwargs["seed"]) == ([0.5, 0.9], 300, 1.5, 3)
    assert kwargs["out"] == Path("run") and kwargs["command"].startswith("karui")
    out = capsys.readouterr().out
    assert "blocks.0.conv1" in out and "91.55" in out and str(api.folder / "sensitivity.html") in out
    assert main("sensitivity zoo:lenet5 -d digits --structure channels -q".split()) == 0
    assert api.calls[1][1][2] == PruneChannels() and api.calls[1][2]["levels"] is None and api.calls[1][2]["out"] is None


def test_options_go_over_the_recipe(api: FakeApi, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    assert main(["compress", str(path), "--drop", "0.1", "-d", "digits", "-q"]) == 0
    ((_, args, kwargs),) = api.calls
    assert args[:2] == (("zoo:lenet5", tmp_path), ("digits", None))  # the recipe's reference is looked for beside it
    assert args[2] == Budget(drop=0.1, bytes=100_000)
    assert kwargs["seed"] == 7


def test_json_is_all_that_stdout_holds(api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = ["sensitivity", "zoo:lenet5", "-d", "digits", "--json"]
    for words in (["demo", "--json"], ["report", str(tmp_path), "--json"], ["bench", str(tmp_path), "--json"], scan):
        assert main(words) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts
    assert main(["export", str(tmp_path), "--to", "c, onnx", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {name: str(tmp_path / name) for name in ("c", "onnx")}
    assert told.err == f"fc1: {REMARK}\n", "once, beside it"


def test_calibrate(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--target", "pi4"]) == 0
    out = capsys.readouterr().out
    assert api.calls[-1][1] == (["pi4"],) and "100.0 MAC/ns" in out and "t.json" in out and "5%" in out
    assert main(["calibrate", "--json"]) == 0
    assert api.calls[-1][1] == (None,)
    assert json.loads(capsys.readouterr().out)[str(api.folder / "t.json")]["processor"] == "a test's"


def test_export_for_a_machine(api: FakeApi, tmp_path: Path) -> None:
    for words, machine in (([], None), (["--target", "x86-64-v4"], "x86-64-v4"), (["--machine", "x86-64-v3"], "x86-64-v3")):
        assert main(["export", str(tmp_path), "--to", "c", *words]) == 0
        assert api.calls[-1][2] == {"machine": machine, "weights": None, "keep_forms": False, "opset": None}
    assert main(["export", str(tmp_path), "--to", "onnx", "--opset", "20"]) == 0
    assert api.calls[-1][2] == {"machine": None, "weights": None, "keep_forms": False, "opset": 20}
    assert main(["export", str(tmp_path), "--to", "c", "--weights", "incbin"]) == 0
    assert api.calls[-1][2]["weights"] == "incbin"


def test_bench_elsewhere(api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path), "--on", "pi4", "--on", "host"]) == 0
    assert api.calls[-1][1] == (tmp_path, ["pi4", "host"]) and "pi4" in capsys.readouterr().out
    assert main(["bench", str(tmp_path), "--on", "ssh://pi@host", "--json"]) == 1, "a place that isn't there"
    assert json.loads(capsys.readouterr().out)[0]["note"] == "it is off"


def test_tables(api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "20.6× smaller" in out and "fc1" in out and "report.html" in out
    assert main(["bench", str(tmp_path)]) == 0
    assert "onnxruntime" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KaruiError("layer 'a' is odd; try b"), 1, "layer 'a' is odd; try b"),
        (RecipeError("two\nlines"), 2, "two lines"),
        (BudgetError("nothing fits"), 3, "nothing fits"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full; free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "'/x': Permission denied"),
        (MemoryError(), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "the same command goes on"),
        (ValueError("surprise"), 1, "ValueError: surprise (a fault of karui's: KARUI_DEBUG=1"),
    ],
)
def test_one_line_and_an_exit_code(api: FakeApi, error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    api.error = error
    assert main(["demo", "-q"]) == code
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()  # click ends the line of ^C first
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]
    assert captured.out == ""


def test_debug_shows_the_traceback(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KARUI_DEBUG", "1")
    api.error = ValueError("surprise")
    with pytest.raises(ValueError, match="surprise"):
        main(["demo", "-q"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compres"], "did you mean 'compress'"),
        (["compress", "--drop", "x"], "--drop"),
        (["compress", "-n", "zoo:lenet5"], "data (--data NAME)"),
        (["compress", "-d", "digits"], "a network (--network"),
        (["compress", "-n", "a", "-d", "b", "--bytes", "many"], "--bytes: 'many' is not a size"),
        (["list", "colours"], "'colours' is none of"),
        (["export"], "run"),
        (["sensitivity"], "network"),
        (["sensitivity", "zoo:lenet5"], "data (--data NAME) is needed"),
        (["sensitivity", "zoo:lenet5", "-d", "digits", "--levels", "half"], "--levels: 'half' is no list of shares"),
        (["sensitivity", "zoo:lenet5", "-d", "digits", "--samples", "few"], "--samples"),
        (["sensitivity", "zoo:lenet5", "-d", "digits", "--structure", "bits"], "expected weights or channels, got 'bits'"),
        (["sensitivity", "zoo:lenet5", "-d", "digits", "--structure", "channels", "--pattern", "2:4"], "whole channels have none"),
        (["sensitivity", "zoo:lenet5", "-d", "digits", "--pattern", "big"], "'big' is no pattern"),
        (["sensitivity", "zoo:lenet5", "-d", "digits", "--importance", "luck"], "'luck'"),
    ],
)
def test_mistakes_of_the_call(api: FakeApi, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1 and message.lower() in err.lower()
    assert api.calls == []


def test_a_missing_recipe_and_a_missing_run(api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(tmp_path / "none.toml")]) == 1
    assert "none.toml" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["report", str(empty)]) == 1
    assert "karui compress -o" in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"karui {karui.__version__}"
    for words in ([], ["--help"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert all(verb in out for verb in ("compress", "analyse", "sensitivity", "export", "bench", "report", "demo", "list"))


def test_help_answers_in_half_a_second() -> None:
    """By the processor's clock, which doesn't count what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "karui", "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "compress" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from karui.cli import main; main(['--help']); print([m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_list_finds_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(listing.KINDS)
    assert {"prune.weights", "prune.channels", "quantize.int8", "distill.hinton"} <= set(found["techniques"])
    assert {"c", "onnx"} <= set(found["targets"])
    assert {"zoo:lenet5", "zoo:resnet20"} <= set(found["networks"])
    assert {"fashion-mnist", "cifar-10"} <= set(found["datasets"])
    assert all(found["techniques"].values())


@pytest.mark.parametrize(
    ("text", "count"), [("86300", 86_300), ("86.3k", 86_300), ("86.3 kB", 86_300), ("84KiB", 86_016), ("1.5M", 1_500_000), ("1_000", 1000)]
)
def test_sizes(text: str, count: int) -> None:
    assert sizes.parse(text, "--bytes") == count


@pytest.mark.parametrize("text", ["", "k", "-5", "3 apples", "1e9"])
def test_not_sizes(text: str) -> None:
    with pytest.raises(RecipeError, match="--bytes"):
        sizes.parse(text, "--bytes")
