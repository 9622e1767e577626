"""Recipes go to TOML and come back equal; every mistake is one line that names the place and the cure."""

import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from karui import recipe
from karui.budget import Budget
from karui.compress.distill.hinton import Distill
from karui.compress.prune.channels import PruneChannels
from karui.compress.prune.weights import Prune
from karui.compress.quantize.int8 import Quantize
from karui.errors import FileError, RecipeError
from karui.finetune.loop import Training
from karui.finetune.phases import Phase
from karui.recipe import Recipe, dump, load, parse, resolve, save

FULL = """
network = "zoo:lenet5"
data = "fashion-mnist"
teacher = "zoo:resnet20"
seed = 3

[budget]
drop = 1
bytes = 100_000
target = "onnx"

[[phases]]
training = {epochs = 2, lr = 0.05, schedule = "step", milestones = [0.4, 0.8]}

[[phases.techniques]]
technique = "distill.hinton"
alpha = 0.5

[[phases.techniques]]
technique = "prune.weights"
sparsity = 0.9
exclude = ["fc2*"]

[[phases]]

[[phases.techniques]]
technique = "quantize.int8"
"""


def wanted() -> Recipe:
    return Recipe(
        network="zoo:lenet5",
        data="fashion-mnist",
        teacher="zoo:resnet20",
        seed=3,
        budget=Budget(drop=1.0, bytes=100_000, target="onnx"),
        phases=(
            Phase(
                techniques=(Prune(sparsity=0.9, exclude=("fc2*",)), Distill(alpha=0.5)),
                training=Training(epochs=2, lr=0.05, schedule="step", milestones=(0.4, 0.8)),
            ),
            Phase(techniques=(Quantize(),)),
        ),
    )


def test_a_file_in_full(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(FULL)
    found = load(tmp_path / "recipe.toml")
    assert found == wanted()
    assert found.folder == tmp_path
    save(found, tmp_path / "again.toml")
    assert load(tmp_path / "again.toml") == found
    assert "allocation" not in (tmp_path / "again.toml").read_text()  # "global" is the default


def test_a_flat_list_is_sorted_into_phases() -> None:
    flat = """
    [training]
    epochs = 1
    [[techniques]]
    technique = "quantize.int8"
    [[techniques]]
    technique = "distill.hinton"
    [[techniques]]
    technique = "prune.channels"
    pruning_ratio = 0.3
    """
    training = Training(epochs=1)
    assert parse(flat).phases == (
        Phase(techniques=(PruneChannels(pruning_ratio=0.3), Distill()), training=training),
        Phase(techniques=(Quantize(), Distill()), training=training),
    )


def test_the_least_recipe() -> None:
    assert parse("") == Recipe()
    assert parse('network = "a.pt2"\n[budget]') == Recipe(network="a.pt2", budget=Budget())


trainings = st.builds(
    Training,
    epochs=st.floats(0, 100),
    steps=st.none() | st.integers(0, 1000),
    batch_size=st.integers(1, 512),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    lr=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "constant", "step", "onecycle"]),
    milestones=st.lists(st.floats(0, 1), max_size=3).map(tuple),
    clip=st.none() | st.floats(0.1, 10),
    early_stop=st.none() | st.integers(1, 9),
    amp=st.booleans(),
)
names = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=3).map(lambda n: tuple(x + "*" for x in n))
techniques = st.one_of(
    st.builds(Prune, sparsity=st.none() | st.floats(0, 0.99), allocation=st.sampled_from(["global", "uniform", "erk"]), exclude=names),
    st.builds(Distill, temperature=st.floats(0.1, 20), alpha=st.floats(0, 1), teacher=st.none() | st.just("teacher.pt2")),
    st.builds(Quantize),
)
phases = st.builds(Phase, techniques=st.lists(techniques, max_size=3).map(tuple), training=trainings)
budgets = st.builds(Budget, drop=st.floats(0, 10), bytes=st.none() | st.integers(0, 2**40), latency_ms=st.none() | st.floats(0, 1e6))
text = st.none() | st.text(st.characters(exclude_categories=["Cs"]))
recipes = st.builds(
    Recipe,
    network=text,
    data=text,
    teacher=text,
    seed=st.integers(0, 2**62),
    budget=st.none() | budgets,
    phases=st.lists(phases).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_round_trip(made: Recipe) -> None:
    assert parse(dump(made)) == made


@pytest.mark.parametrize(
    "written, said",
    [
        ("network = 3", r"r\.toml: network: expected text, got 3$"),
        ("network = \nseed = 1", r"r\.toml: not TOML: .*line 1"),
        ("nework = 'x'", r"r\.toml: nework: a recipe has no such setting; did you mean 'network'\?"),
        ("seed = 0.5", r"r\.toml: seed: expected a whole number, got 0\.5"),
        ("seed = true", r"seed: expected a whole number, got True"),
        ("budget = 3", r"budget: expected a table of settings, got 3"),
        ("[budget]\nbites = 3", r"budget\.bites: Budget has no such setting; did you mean 'bytes'\?"),
        ("[budget]\nbytes = -1", r"r\.toml: budget: .*negative"),
        ("[budget]\ntarget = 'fpga'", r"r\.toml: budget: .*'fpga'"),
        ("[training]\nlr = 'high'", r"training\.lr: expected a number, got 'high'"),
        ("[training]\nschedule = 'cosin'", r"training\.schedule: expected one of .*got 'cosin'; did you mean 'cosine'\?"),
        ("[training]\nwarmup = 3", r"r\.toml: training: training: warmup = 3"),
        ("phases = 3", r"phases: expected tables, written \[\[phases\]\]"),
        ("[[phases]]\n[training]", r"training: a recipe has either phases or a flat list"),
        ("[[phases]]\ntechnique = 'x'", r"phases\[0\]\.technique: a phase has no such setting; did you mean 'techniques'\?"),
        ("[[techniques]]\nsparsity = 0.5", r"techniques\[0\]\.technique: lacks; name one"),
        (
            "[[techniques]]\ntechnique = 'prune.weight'",
            r"techniques\[0\]\.technique: 'prune\.weight' is not a technique; did you mean 'prune\.weights'",
        ),
        ("[[techniques]]\ntechnique = 'zzz'", r"'zzz' is not a technique; known are .*quantize\.int8"),
        ("[[techniques]]\ntechnique = 'os:getcwd'", r"'os:getcwd' is not a technique"),
        ("[[techniques]]\ntechnique = 'nowhere_at_all:X'", r"techniques\[0\]\.technique: 'nowhere_at_all' can't be imported"),
        (
            "[[phases]]\n[[phases]]\n[[phases.techniques]]\ntechnique = 'prune.weights'\nsparsty = 0.5",
            r"r\.toml: phases\[1\]\.techniques\[0\]\.sparsty: prune\.weights has no such setting; did you mean 'sparsity'\?",
        ),
        ("[[techniques]]\ntechnique = 'prune.weights'\nsparsity = 1.5", r"r\.toml: techniques\[0\]: .*sparsity.*1\.5"),
        ("[[techniques]]\ntechnique = 'prune.weights'\nexclude = [1]", r"techniques\[0\]\.exclude: expected a list of text, got \[1\]"),
        ("[[techniques]]\ntechnique = 'prune.weights'\nimportance = 3", r"importance: expected .*a function \(in Python only\), got 3"),
        ("[[techniques]]\ntechnique = 'distill.hinton'", r"r\.toml: 'distill\.hinton' is a loss and needs training"),
    ],
)
def test_a_broken_recipe(written: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        parse(written, source="r.toml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("r.toml: ")


def test_files_that_can_t_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="none.toml' is missing"):
        load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="can't be read"):
        load(tmp_path / "bytes.toml")
    with pytest.raises(FileError, match="can't be read"):
        load(tmp_path)


def magnitude(weight: torch.Tensor) -> torch.Tensor:
    return weight.abs()


def test_what_toml_can_t_hold() -> None:
    made = Recipe(phases=(Phase(techniques=(Prune(importance=magnitude),)),))
    with pytest.raises(RecipeError, match=r"phases\[0\]\.techniques\[0\]\.importance: the function 'magnitude' has no form in TOML"):
        dump(made)
    with pytest.raises(RecipeError, match=r"phases\[0\]\.training\.batch_size: expected a whole number, got 2\.0"):
        dump(replace(made, phases=(Phase(training=Training(batch_size=2.0)),)))  # type: ignore[arg-type]


# ── code beside the recipe ──────────────────────────────────────────────────────────────────────────────────────────────────────

OWN = """
from dataclasses import dataclass
from typing import Any, ClassVar
from karui.compress.technique import Attached, Context, Stage, Technique

@dataclass(frozen=True, kw_only=True)
class Own(Technique):
    stage: ClassVar[Stage] = "weights"
    amount: float
    table: dict[str, float] | None = None
    pair: tuple[int, float] = (1, 2.0)

    def attach(self, network: Any, context: Context) -> Attached:
        return Attached()

def number() -> int:
    return NUMBER

NUMBER = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "karui_test_own.py").write_text(OWN)
    return tmp_path


def test_a_technique_of_one_s_own(folder: Path) -> None:
    path = list(sys.path)
    (folder / "r.toml").write_text(
        textwrap.dedent(
            """
            [[techniques]]
            technique = "karui_test_own:Own"
            amount = 2
            table = {conv1 = 0.5}
            pair = [3, 4]
            """
        )
    )
    found = load(folder / "r.toml")
    (own,) = found.phases[0].techniques
    kind: Any = type(own)
    assert own == kind(amount=2.0, table={"conv1": 0.5}, pair=(3, 4.0))
    assert sys.path == path
    assert parse(dump(found), folder=folder) == found
    for wrong, said in (
        ("", "Own.*amount"),
        ("amount = 1\ntable = {a = 'x'}", "table: expected a table of a number"),
        ("amount = 1\npair = [1]", "pair: expected a list of 2"),
    ):
        with pytest.raises(RecipeError, match=said):
            parse(f"[[techniques]]\ntechnique = 'karui_test_own:Own'\n{wrong}", folder=folder)


def test_references(folder: Path) -> None:
    path = list(sys.path)
    assert resolve("karui_test_own:number", folder)() == 1
    other = folder / "other"
    other.mkdir()
    (other / "karui_test_own.py").write_text(OWN.replace("NUMBER = 1", "NUMBER = 2"))
    assert resolve("karui_test_own:number", other)() == 2
    (folder / "karui_test_bad.py").write_text("raise ValueError('first\\nsecond')")
    for reference, said in (
        ("karui_test_own:numbr", "has no 'numbr'; did you mean 'number'"),
        ("karui_test_bad:x", r"can't be imported \(ValueError: first\)"),
        ("karui_test_none:x", "can't be imported"),
        ("no function", "not of the form"),
        ("a/b:c", "not of the form"),
    ):
        with pytest.raises(RecipeError, match=said) as caught:
            resolve(reference, folder)
        assert "\n" not in str(caught.value)
    assert sys.path == path


def test_recipes_are_data_only() -> None:
    assert not hasattr(recipe, "pickle")
    with pytest.raises(RecipeError):
        parse("[[techniques]]\ntechnique = '__import__(\"os\").getcwd()'")
