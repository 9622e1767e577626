"""Record: everything that a run found out, as plain facts; what the page, the terminal and ``--json`` show is this and nothing else.

A record is written once as ``report.json`` in the run's folder. Units stand in the names; sizes are bytes of the artefact itself;
accuracies are in the metric's own unit (per cent for the usual one), with a 95 % interval.
"""

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from karui.errors import FileError
from karui.workspace import atomic_write

FORMAT_VERSION = 1
FILE_NAME = "report.json"


def _measured(value: Any) -> Any:
    """JSON has no NaN and no infinity: a loss that ran away is a figure that isn't there."""
    return None if isinstance(value, float) and not isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_measured)]


class Facts(BaseModel):
    """Frozen, and no field that isn't declared: a misspelt fact is an error, not a gap in the report."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricFacts(Facts):
    """How the network is judged."""

    name: str = "accuracy"
    unit: str = "%"
    higher_is_better: bool = True


class Limits(Facts):
    """The budget as it was asked for; None is no limit. ``drop`` is in the metric's unit."""

    drop: Number = None
    bytes: int | None = None
    peak_ram: int | None = None
    latency_ms: Number = None
    target: str = "c"


class Costs(Facts):
    """What a network costs; None is not measured. ``bytes`` are the target artefact's, ``latency_ms`` the median of one sample."""

    bytes: int | None = None
    peak_ram: int | None = None
    latency_ms: Number = None
    macs: int | None = None
    params: int | None = None


class Standing(Facts):
    """One network on the test part: its score with a 95 % interval [low, high] over ``n`` samples, and its costs.

    validation: its score on the validation part, by which candidates are chosen.
    bytes: artefact → bytes, e.g. ``{"karui": …, "c": …, "onnx": …}``. latency_ms: the budget's target, one sample, one thread.
    """

    accuracy: Number = None
    low: Number = None
    high: Number = None
    n: int | None = None
    validation: Number = None
    bytes: dict[str, int] = {}
    latency_ms: Number = None
    macs: int | None = None
    params: int | None = None
    peak_ram: int | None = None


class Interval(Facts):
    """A mean and its 95 % interval [low, high], in the metric's unit."""

    mean: float
    low: float
    high: float


class Parity(Facts):
    """A runner held against the interpreter on ``samples`` of the test part.

    differing: share of the output values that aren't equal. greatest: the largest difference ÷ the largest output. ok: integers equal and
    floats within 1e-4; None where nothing is promised: the runtime rounds its own way, or floats are rounded to integers within.
    """

    runner: str
    samples: int
    differing: float
    greatest: float
    ok: bool | None = None


class Candidate(Facts):
    """One way that was tried. ``validation`` is its score on the validation part; ``fits`` is None when it was not tried to the end.

    phases: one line per phase, in words ("prune 90 %, 3 epochs"). reason: why it won, lost or was stopped.
    """

    name: str
    phases: list[str] = []
    validation: Number = None
    cost: Costs = Costs()
    fits: bool | None = None
    reason: str = ""
    seconds: Number = None


class Layer(Facts):
    """One layer before and after. ``params`` and ``macs`` are the original's; ``stored`` counts the weights that the result keeps.

    sparsity: share of the result's weights that are zero, in [0, 1]. bits: per stored weight. ``*_after`` None: as before.
    """

    name: str
    op: str = ""
    params: int = 0
    macs: int = 0
    stored: int | None = None
    macs_after: int | None = None
    bytes_before: int = 0
    bytes_after: int | None = None
    sparsity: float = 0.0
    bits: float = 32


class Point(Facts):
    """One point of a training curve. ``epoch`` counts from the phase's start, fractions allowed; ``metric``: on validation."""

    candidate: str = ""
    phase: int = 0
    epoch: float
    loss: Number = None
    metric: Number = None
    lr: Number = None


class Trade(Facts):
    """One choice of bits for each layer. share: of the bytes that weights take at their greatest width. harm: what that does, added up."""

    share: float
    harm: float


class Leaving(Facts):
    """An early exit, or "the end" of a network that has some. share: of the validation samples that leave there. macs: of one of them."""

    name: str
    share: float
    macs: int


class Step(Facts):
    """What was done, and why."""

    what: str
    why: str = ""


class Bench(Facts):
    """One measured row: a form of the network ("float", "int8") under a runner ("c", "onnxruntime"), one sample, one thread.

    note: why it could not be measured.
    """

    runner: str
    form: str
    bytes: int | None = None
    median_ms: Number = None
    p10_ms: Number = None
    p90_ms: Number = None
    runs: int | None = None
    note: str = ""


class Placed(Facts):
    """A form of the network in C at a place: this machine, an emulated processor, a device.

    about: what the place says of itself; machine: what C was written for; samples: held against the interpreter, of which ``parity`` tells;
    instructions: of one sample, where an emulator counts them; note: why it could not be tried.
    """

    place: str
    form: str
    about: str = ""
    machine: str = ""
    bytes: int | None = None
    arena: int | None = None
    median_ms: Number = None
    p10_ms: Number = None
    p90_ms: Number = None
    instructions: int | None = None
    parity: Parity | None = None
    note: str = ""


class VerdictFacts(Facts):
    """Does the result keep the budget? One line per limit, in words."""

    ok: bool
    lines: list[str] = []


class Record(Facts):
    """A whole run.

    created: ISO 8601. seconds: the run's own time. data_sizes: part → samples. baseline: the network as it came;
    control: the network after the same extra training, uncompressed; final: the winner. change: final − baseline, over paired samples.
    artefacts: target → path, relative to the run. frontier: where bits were chosen layer by layer, the best choice for each share of the
    bytes; bits_chosen: the winner's. exits: of the winner, in the order in which they are asked, then the end.
    """

    format_version: int = FORMAT_VERSION
    name: str
    created: str
    command: str = ""
    seconds: Number = None
    versions: dict[str, str] = {}
    machine: dict[str, str] = {}
    seed: int = 0
    network: str
    data: str
    data_sizes: dict[str, int] = {}
    metric: MetricFacts = MetricFacts()
    budget: Limits = Limits()
    baseline: Standing = Standing()
    control: Standing | None = None
    change: Interval | None = None
    candidates: list[Candidate] = []
    winner: str | None = None
    final: Standing = Standing()
    layers: list[Layer] = []
    history: list[Point] = []
    frontier: list[Trade] = []
    bits_chosen: Trade | None = None
    exits: list[Leaving] = []
    steps: list[Step] = []
    parity: list[Parity] = []
    bench: list[Bench] = []
    artefacts: dict[str, str] = {}
    verdict: VerdictFacts


def of(facts: Mapping[str, Any] | Record) -> Record:
    """A record from its JSON form; FileError names the field that is wrong."""
    if isinstance(facts, Record):
        return facts
    if (version := facts.get("format_version", FORMAT_VERSION)) != FORMAT_VERSION:
        raise FileError(
            f"record: format_version {version} is not {FORMAT_VERSION}, which this karui reads; install the karui that wrote it"
        )
    try:
        return Record.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        where, what = ".".join(str(part) for part in first["loc"]) or "record", first["msg"]
        raise FileError(f"record: '{where}': {what[:1].lower()}{what[1:]}; the file is damaged or from another tool") from error


def to_dict(record: Record) -> dict[str, Any]:
    """JSON values only; ``of(to_dict(record)) == record``."""
    return record.model_dump(mode="json")


def write(record: Record | Mapping[str, Any], folder: Path) -> Path:
    """Write ``report.json`` into ``folder``, whole or not at all; returns its path."""
    path = folder / FILE_NAME
    atomic_write(path, json.dumps(to_dict(of(record)), indent=1, ensure_ascii=False) + "\n")
    return path


def read(path: Path) -> Record:
    """Read a record from ``path``, or from the run folder ``path``; FileError if it is missing or damaged."""
    path = path / FILE_NAME if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileError(f"'{path}' does not exist; give the folder that 'karui compress -o' wrote, once the run has ended") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"'{path}' can't be read as a record ({error}); give the folder that 'karui compress -o' wrote") from error
    try:
        facts = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(f"'{path}' is damaged (line {error.lineno} is not JSON); run 'karui compress' with the same -o again") from error
    if not isinstance(facts, dict):
        raise FileError(f"'{path}' holds no record; give the folder that 'karui compress -o' wrote")
    return of(facts)
