"""Which kernel computes a layer, by a machine's table; what is refused aloud; and that every choice gives the interpreter's integers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from karui.errors import FileError, RecipeError
from karui.export import c, ceilings, targets
from karui.export.c_cost import at_best
from karui.export.c_plan import Planner, form_of
from karui.export.ceilings import Table
from karui.program.interpreter import run
from karui.program.program import Op, Program
from karui.run import host
from karui.run.calibration_layers import layers
from tests.export.many import QUICK, agree, inputs_of, merged
from tests.export.test_c_machines import convolution
from tests.program.single_op import affine, tensor
from tests.program.single_op import program as single
from tests.program.weights import make_weight

MACHINE = "x86-64-v3"
PEAKS = {"int8": 100.0, "binary": 400.0, "float": 50.0, "l2": 60.0, "dram": 8.0}


def table(**costs: float) -> Table:
    """Every count costs 1 ns a thousand, but for those that are given."""
    names = ("call", "copied", "stored", "patch", "pixel", "rows.mac", "rows.fill", "lists.mac", "panels.mac", "panels.one", "panels.tile")
    names += ("panels.fill", "listed.mac", "depth.mac", "codes.bytes", "codes.packed", "codes.table", "codes.huffman")
    names += ("where.bitmask", "where.gaps", "where.runs", "where.huffman")
    names += tuple(f"few.{what}{bits}" for what in ("open", "one", "wide") for bits in (1, 2, 3, 4)) + ("few.mac",)
    plain = dict.fromkeys(names, 0.001)
    found = plain | {name.replace("_", "."): cost for name, cost in costs.items()}
    return Table(machine=MACHINE, processor="a test's", measured=True, source="a test", ceilings=PEAKS, costs=found)


def planned(p: Program, found: Table | None, *, keep_forms: bool = False) -> Planner:
    planner = Planner(table=found, keep_forms=keep_forms)
    c.model(p, machine=MACHINE, planner=planner)
    return planner


def one(values: str, support: str = "dense", *, bits: int = 8, density: float = 0.5) -> Program:
    """A linear layer of 32 × 64 weights over one pixel."""
    w = make_weight(support, values, (32, 64), seed=3, density=density, bits=bits, name="weight")
    if values == "affine":
        none = np.zeros(32, np.int32)
        w = replace(
            w, values=replace(w.values, group=0, zero_point=none, scale=np.full(32, 0.01, np.float32), codes=w.codes().astype(np.int8))
        )
    if values == "ternary":
        w = replace(w, values=replace(w.values, negative=w.values.positive))
    p = single("linear", [tensor("x", (64,), affine(0.05, 3))], [tensor("y", (32,), affine(2.0, -5))], {})
    return Program(**{**vars(p), "weights": {"weight": w}, "ops": tuple(replace(op, weights={"weight": "weight"}) for op in p.ops)})


def test_the_cheaper_kernel_is_taken() -> None:
    p = convolution(6, 6, 8, 32)
    dear, cheap = table(panels_mac=1.0), table(rows_mac=1.0)
    assert [each.kernel for each in planned(p, dear).layers] == ["rows"]
    assert [each.kernel for each in planned(p, cheap).layers] == ["panels"]


def test_without_a_table_the_text_is_as_before() -> None:
    p = convolution(6, 6, 8, 32)
    assert c.model(p, machine=MACHINE).source == c.model(p, machine=MACHINE, planner=Planner()).source


def test_a_slower_form_is_refused_aloud(tmp_path: Path) -> None:
    p, dear = one("ternary"), table(codes_packed=5.0, few_one2=5.0)
    said = planned(p, dear).remarks
    assert len(said) == 1
    assert said[0].startswith("layer: ternary weights are slower than int8 on x86-64-v3 (predicted 0.0")
    assert "stored as int8, 2048 bytes instead of 5" in said[0]
    artefact = c.write(p, tmp_path, machine=MACHINE, table=dear)
    assert artefact.facts["remarks"] == said
    assert not {"k_codes_packed", "k_few_i8"} & set(artefact.facts["kernels"])
    kept = planned(p, dear, keep_forms=True)
    assert "kept for their 5" in kept.remarks[0]


def test_a_form_that_is_no_slower_stays() -> None:
    assert planned(one("ternary"), table(few_one2=0.0)).remarks == []


def test_panels_of_few_bits_that_take_more_bytes_are_taken_aloud() -> None:
    """Rows take the fewest bytes, but are slow to read; panels with four channels that aren't there are smaller than int8, and fast."""
    w = make_weight("dense", "ternary", (12, 64), seed=3, name="weight")
    w = replace(w, values=replace(w.values, negative=w.values.positive))
    p = single("linear", [tensor("x", (64,), affine(0.05, 3))], [tensor("y", (12,), affine(2.0, -5))], {})
    p = Program(**{**vars(p), "weights": {"weight": w}, "ops": tuple(replace(op, weights={"weight": "weight"}) for op in p.ops)})
    assert "k_few_i8" not in c.model(p, machine=MACHINE).kernels
    dear = table(codes_packed=5.0, rows_mac=1.0)
    said = planned(p, dear)
    assert [each.kernel for each in said.layers] == ["few"]
    assert "stored in panels of 2 bits, 272 bytes instead of 193" in said.remarks[0]
    assert [each.kernel for each in planned(p, dear, keep_forms=True).layers] == ["panels"]


def test_kernels_without_a_cost_are_left_to_the_rules() -> None:
    p = one("ternary")
    lacking = table()
    lacking = replace(lacking, costs={name: cost for name, cost in lacking.costs.items() if name != "few.one2"})
    planner = planned(p, lacking)
    assert [(each.kernel, each.predicted_ms) for each in planner.layers] == [("few", None)]
    assert planner.layers[0].best_ms > 0


@pytest.mark.parametrize(
    "choice", ["panels_mac", "rows_mac", "lists_mac", "listed_mac", "codes_packed", "few_one2", "few_wide4", "codes_bytes", "where_bitmask"]
)
def test_every_choice_gives_the_same_integers(choice: str, tmp_path: Path) -> None:
    """Where one kernel or decoder is dear, others are taken; all weights are there that the planner is asked about."""
    parts = {"conv": convolution(6, 6, 8, 32), "one": one("affine"), "few": one("affine", "element", density=0.1)}
    parts |= {"ternary": one("ternary"), "book": one("codebook", bits=4), "four": one("affine", bits=4), "block": one("affine", "block")}
    parts |= {"depth": convolution(6, 7, 20, 20, groups=20)}
    p = merged({name: each for name, each in parts.items() if _integer(each)})
    costs = table(**{choice: 10.0})
    inputs = inputs_of(p, seed=2)
    for keep in (False, True):
        library = host.build(c.write(p, tmp_path / str(keep), machine=MACHINE, table=costs, keep_forms=keep), flags=QUICK)
        agree(p, library.run(inputs), run(p, inputs))


def _integer(p: Program) -> bool:
    try:
        return p.weights["weight"].codes() is not None
    except TypeError:
        return False


def test_every_calibrated_layer_runs_with_its_kernel(tmp_path: Path) -> None:
    program, kernels = layers()
    keep = [i for i, op in enumerate(program.ops) if program.weights[op.weights["weight"]].stored < 20_000]
    p = replace(program, ops=tuple(program.ops[i] for i in keep), inputs=_of(program.inputs, keep), outputs=_of(program.outputs, keep))
    planner = Planner(forced=kernels)
    built = c.model(p, machine=MACHINE, planner=planner)
    assert len(planner.counted) == len(keep) > 30
    assert {name.partition(".")[0] for found in planner.counted for name in found} >= {
        "rows",
        "panels",
        "listed",
        "lists",
        "codes",
        "where",
    }
    inputs = inputs_of(p, count=1)
    library = host.build(c.write_files(p, tmp_path, built.files(), target="c", main="model.c", built=built), flags=QUICK)
    agree(p, library.run(inputs), run(p, inputs))


def _of(ends: tuple[object, ...], keep: list[int]) -> tuple[object, ...]:
    return tuple(ends[i] for i in keep)


def test_forms_in_words() -> None:
    assert form_of(one("sign").weights["weight"]) == "1-bit weights"
    assert form_of(one("affine", bits=4).weights["weight"]) == "4-bit weights"
    assert form_of(one("codebook", bits=4).weights["weight"]).startswith("weights with a palette of ")
    assert form_of(one("affine", "element").weights["weight"]).startswith("weights of which ")


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_table_is_kept_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ceilings.find(MACHINE) is None
    path = ceilings.keep(table())
    assert path == tmp_path / "karui" / "machines" / "x86-64-v3.json"
    assert ceilings.find(MACHINE) == table()


@pytest.mark.parametrize("machine", ["pi4", "pi5", "cortex-m4"])
def test_what_karui_brings_is_marked(machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = ceilings.find(machine)
    assert found is not None and found.machine == machine
    assert not found.measured and len(found.source) > 40 and not found.costs
    assert at_best(found.ceilings["int8"] * 1000, 0, found) == pytest.approx(1000)


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 2},
        {"machine": "abacus"},
        {"ceilings": {"int8": 1.0}},
        {"ceilings": {**PEAKS, "int8": float("nan")}},
        {"ceilings": {**PEAKS, "int8": 0}},
        {"ceilings": {**PEAKS, "speed": 1.0}},
        {"costs": {"call": -1.0}},
        {"costs": {"call": "much"}},
        {"measured": "yes"},
        {"extra": 1},
    ],
)
def test_a_damaged_table_is_refused(damage: dict[str, object], tmp_path: Path) -> None:
    path = ceilings.keep(table(), tmp_path / "t.json")
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | damage), encoding="utf-8")
    with pytest.raises(FileError, match="karui calibrate"):
        ceilings.read(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(FileError, match="karui calibrate"):
        ceilings.read(path)


def test_only_c_keeps_forms(tmp_path: Path) -> None:
    p = convolution(6, 6, 8, 32)
    with pytest.raises(RecipeError, match="keep_forms"):
        targets.write_all(p, ["onnx"], tmp_path, keep_forms=True)
    written = targets.write_all(p, ["c", "onnx"], tmp_path, machine=MACHINE, table=table(rows_mac=1.0))
    assert written["c"].facts["layers"][0]["kernel"] == "panels" and "layers" not in written["onnx"].facts
    assert isinstance(p.ops[0], Op)
