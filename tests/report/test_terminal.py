"""The tables show the record's figures, at any width."""

import pytest
from rich.console import Console

from karui.report import record, terminal
from tests.report.sample import sample


def shown(width: int, **changes: object) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    terminal.show(sample() | changes, console, layers=True)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_show(width: int) -> None:
    text = shown(width)
    for words in ("20.6× smaller", "91.39 %", "84.0 kB", "86.3 kB", "✓ chosen", "inside the budget", "91.5 %", "model.karui"):
        assert words in text, words
    assert max(map(len, text.splitlines())) <= width


def test_where_samples_leave() -> None:
    assert "93.6 % leave at exits.0, after 256 k MACs" in shown(100, exits=[{"name": "exits.0", "share": 0.936, "macs": 256_000}])


def test_outside_the_budget() -> None:
    text = shown(100, winner=None, verdict={"ok": False, "lines": ["bytes: nothing reaches 20 kB"]})
    assert "✗ outside the budget" in text and "nothing reaches 20 kB" in text and "chosen" not in text


def test_columns_of_limits_that_were_not_set_are_left_out() -> None:
    assert "peak RAM" in shown(120).partition("What was tried")[2]
    assert "peak RAM" not in shown(120, budget={"drop": 0.3}).partition("What was tried")[2].partition("Layer by layer")[0]


def test_analysis_adds_up() -> None:
    row = {"op": "linear", "output_shape": (10,), "params": 1000, "macs": 2000, "weight_bytes": 4000, "activation_bytes": 40}
    layers = [dict(row, name="a"), dict(row, name="b")]
    facts = {"layers": layers, "params": 2000, "macs": 4000, "weight_bytes": 8000, "peak": {"nbytes": 60, "layer": "a"}}
    table = terminal.analysis(facts, title="net")
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    total = next(line for line in console.export_text().splitlines() if line.strip().startswith("total"))
    assert total.split() == ["total", "2.00", "k", "4.00", "k", "8.00", "kB", "60", "B"]


def test_bench_takes_rows_or_their_json() -> None:
    rows = record.of(sample()).bench
    assert terminal.bench(rows).row_count == terminal.bench([row.model_dump() for row in rows]).row_count == 4


def test_places_in_one_table() -> None:
    equal = record.Parity(runner="host", samples=4, differing=0.0, greatest=0.0, ok=True)
    other = equal.model_copy(update={"ok": False, "greatest": 0.5})
    nearly = equal.model_copy(update={"ok": None, "differing": 0.5, "greatest": 1e-7})
    times = {"median_ms": 0.5, "p10_ms": 0.4, "p90_ms": 0.7}
    rows = [
        record.Placed(place="host", form="int8", about="a PC", machine="x86-64-v4", bytes=1000, arena=64, **times),
        record.Placed(place="host", form="float", about="a PC", machine="x86-64-v4", bytes=1000, arena=64, parity=nearly, **times),
        record.Placed(place="cortex-m4", form="int8", machine="cortex-m4", bytes=900, arena=64, instructions=1_230_000, parity=equal),
        record.Placed(place="pi4", form="int8", machine="pi4", bytes=800, arena=64, parity=other),
        record.Placed(place="ssh://pi@host", form="int8", note="no connection"),
    ]
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal.places(rows))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines() if line.strip()]
    host, near, m4, pi4, gone, *below = lines[2:]
    assert host == "host int8 1.00 kB 64 B 0.500 ms 0.400 … 0.700 ms —"
    assert near == "host float 1.00 kB 64 B 0.500 ms 0.400 … 0.700 ms ± 1e-07"
    assert m4 == "cortex-m4 int8 900 B 64 B emulated 1.23 M instr. yes"
    assert pi4 == "pi4 int8 800 B 64 B emulated — no"
    assert gone == "ssh://pi@host int8 — — — — failed"
    assert below[0] == "host: a PC, C for x86-64-v4"
    assert " ".join(below[1:]) == "pi4, int8: gives other outputs, by up to 50 % of the largest ssh://pi@host: no connection"


def test_a_runtime_that_is_missing_says_so_under_the_table() -> None:
    table = terminal.bench([record.Bench(runner="litert", form="float", note="LiteRT is not installed")])
    assert table.row_count == 1 and "LiteRT is not installed" in str(table.caption)
