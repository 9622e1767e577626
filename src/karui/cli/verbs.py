"""The verbs, one function each. What they print comes from ``report.terminal``, or is the same facts as JSON."""

import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from karui import __version__
from karui.budget import Budget
from karui.cli import sizes
from karui.errors import RecipeError

if TYPE_CHECKING:
    from karui.api import Result
    from karui.compress.prune.channels import PruneChannels
    from karui.compress.prune.weights import Prune
    from karui.finetune.progress import Progress
    from karui.recipe import Recipe

app = typer.Typer(
    name="karui",
    help="A trained network, data and a budget in; the smallest network inside the budget out, as a file that runs, with the proof.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="the folder that 'karui compress -o' wrote")]
AsJson = Annotated[bool, typer.Option("--json", help="print the facts as JSON, and nothing else, on stdout")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
Control = Annotated[bool, typer.Option("--control", help="also train the original as long as the winner, uncompressed, and show it beside")]
NETWORK = "zoo:NAME, a .pt2, .onnx or .tflite file (FILE@3x96x96 where it leaves sizes open), or package.module:function"
Seed = Annotated[int | None, typer.Option(help="one seed, one result (0, or the recipe's)")]


@app.callback(invoke_without_command=True)
def root(context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    """Karui's own options."""
    if version or context.invoked_subcommand is None:
        print(f"karui {__version__}" if version else context.get_help())
        raise typer.Exit


@app.command()
def compress(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE.toml", help="what to compress, and how; options go over it")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="RUN", help="the run's folder (runs/NAME); again: go on")] = None,
    network: Annotated[str | None, typer.Option("--network", "-n", help=NETWORK)] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="a data set's name or package.module:function")] = None,
    teacher: Annotated[str | None, typer.Option(help="whom to distil from, as --network (the network itself)")] = None,
    drop: Annotated[float | None, typer.Option(help="the most that the metric may lose, in its unit (0.5)")] = None,
    max_bytes: Annotated[str | None, typer.Option("--bytes", help="limit of the artefact: 86300, 86.3k, 84KiB")] = None,
    peak_ram: Annotated[str | None, typer.Option("--peak-ram", help="limit of the arena, as --bytes")] = None,
    latency_ms: Annotated[float | None, typer.Option("--latency-ms", help="limit of one sample's median time, one thread")] = None,
    target: Annotated[str | None, typer.Option(help="what the limits are measured on (c)")] = None,
    name: Annotated[str | None, typer.Option(help="what the report and the files are called")] = None,
    seed: Seed = None,
    control: Control = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find the smallest network inside the budget. Without a recipe, a ladder of them is tried."""
    from karui import api, resolve
    from karui.recipe import Recipe, load

    plan = load(recipe) if recipe is not None else Recipe()
    limits = {"drop": drop, "bytes": max_bytes, "peak_ram": peak_ram, "latency_ms": latency_ms, "target": target}
    subject, samples = network or plan.network, data or plan.data
    if subject is None or samples is None:
        lacking = "a network (--network zoo:NAME, a .pt2, .onnx or .tflite file)" if subject is None else "data (--data NAME)"
        raise RecipeError(f"compress: {lacking} is needed; 'karui list' shows what there is, and a recipe may name both")
    given = resolve.data_of(samples, folder=_beside(plan, data))
    tutor = teacher or plan.teacher
    with _progress(quiet) as progress:
        result = api.compress(
            resolve.network_of(subject, given, folder=_beside(plan, network)),
            given,
            _budget(plan, limits),
            plan if plan.phases else None,
            teacher=None if tutor is None else resolve.network_of(tutor, given, folder=_beside(plan, teacher)),
            out=out,
            name=name,
            seed=plan.seed if seed is None else seed,
            control=control,
            command=_command(),
            progress=progress,
        )
    _show(result, as_json)


@app.command()
def analyse(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help=NETWORK)],
    data: Annotated[str | None, typer.Option("--data", "-d", help="needed where the network is a plain module")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a network costs. Parameters, MACs, weight bytes and activation memory, per layer and in all."""
    from karui import api
    from karui.report import terminal

    facts = {"network": network, **api.analyse(network, data).as_dict()}
    if as_json:
        _print_json(facts)
    else:
        _console().print(terminal.analysis(facts, title=network))


@app.command()
def doctor(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help=NETWORK)],
    data: Annotated[str | None, typer.Option("--data", "-d", help="needed where the network is a plain module")] = None,
    to: Annotated[str | None, typer.Option(help="targets to try, with commas (all that can be run here)")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what will and won't work. Training, pruning, int8 and each target are tried on copies, with noise for data; takes a minute."""
    from karui import doctor as room
    from karui import resolve
    from karui.report import terminal

    subject = resolve.network_of(network, None if data is None else resolve.data_of(data))
    found = room.examine(subject, None if to is None else _split(to))
    if as_json:
        _print_json({"network": network, **{f.subject: {"verdict": f.verdict, "words": f.words} for f in found}})
    else:
        terminal.findings(((f.subject, f.verdict, f.words) for f in found), _console())


@app.command()
def sensitivity(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help=NETWORK)],
    data: Annotated[str | None, typer.Option("--data", "-d", help="a data set's name or package.module:function")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="RUN", help="the scan's folder; again: go on")] = None,
    structure: Annotated[str, typer.Option(help="what is pruned: weights or channels")] = "weights",
    pattern: Annotated[str | None, typer.Option(help="which weights leave together: element, 1x4, 2:4 (element)")] = None,
    importance: Annotated[str | None, typer.Option(help="what is pruned first (magnitude; of channels: l2_norm)")] = None,
    levels: Annotated[str | None, typer.Option(metavar="LIST", help="shares to prune, with commas: 0.5,0.9,0.95")] = None,
    include: Annotated[str, typer.Option(metavar="LIST", help="names of layers or patterns, with commas")] = "*",
    exclude: Annotated[str, typer.Option(metavar="LIST", help="as --include, for those to leave out")] = "",
    samples: Annotated[int, typer.Option(help="judge on that many of the validation part")] = 2000,
    drop: Annotated[float, typer.Option(help="what a layer may cost, in the metric's unit")] = 0.5,
    seed: Seed = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show how much each layer bears. Each is pruned by itself, without training, and judged on the validation part."""
    from karui import api
    from karui.report import sensitivity as report

    if data is None:
        raise RecipeError("sensitivity: data (--data NAME) is needed; 'karui list' shows what there is")
    chosen = {"include": _split(include), "exclude": _split(exclude), "pattern": pattern, "importance": importance}
    technique = _pruning(structure, {name: value for name, value in chosen.items() if value is not None})
    shares = None if levels is None else _shares(levels)
    with _progress(quiet) as progress:
        found = api.sensitivity(
            network,
            data,
            technique,
            levels=shares,
            samples=samples,
            drop=drop,
            out=out,
            seed=seed or 0,
            command=_command(),
            progress=progress,
        )
    if as_json:
        _print_json(report.to_dict(found.record) | {"folder": str(found.folder)})
    else:
        report.show(found.record, _console())
        _print_pairs({"report": str(found.folder / report.PAGE_NAME)})


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=f"a run's folder, a .karui file, or a network as it is: {NETWORK}")],
    to: Annotated[str, typer.Option(help="targets, with commas: karui list targets")] = "c,onnx,device",
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="where to write (RUN/export)")] = None,
    machine: Annotated[
        str | None, typer.Option("--target", "--machine", metavar="MACHINE", help="what C is to be fast on: karui list machines (portable)")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="of C: as array, or as a file that it takes in, incbin (from 4 MiB on)")] = None,
    keep_forms: Annotated[bool, typer.Option("--keep-forms", help="of C: weights stay as they are, even where int8 is faster")] = False,
    opset: Annotated[int | None, typer.Option(help="of ONNX: 17 to 23 (the file's that it came from, else 17)")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the compressed network for a target. Or any network, as it is."""
    from karui import api

    artefacts = api.export(run, _split(to), out, machine=machine, weights=weights, keep_forms=keep_forms, opset=opset)
    for remark in dict.fromkeys(line for artefact in artefacts.values() for line in artefact.facts.get("remarks", ())):
        print(remark, file=sys.stderr)
    written = {name: str(artefact.main) for name, artefact in artefacts.items()}
    if as_json:
        _print_json(written)
    else:
        _print_pairs(written)


@app.command()
def calibrate(
    machine: Annotated[list[str] | None, typer.Option("--target", "--machine", metavar="MACHINE", help="which; again: several")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what this processor and our kernels reach. 'karui export --target' then chooses C's kernels by it; some 20 s a machine."""
    from karui import api
    from karui.report import terminal

    tables = api.calibrate(machine)
    if as_json:
        _print_json({str(path): terminal.ceilings(table) for path, table in tables.items()})
        return
    for path, table in tables.items():
        _print_pairs({"machine": table.machine, **terminal.ceilings(table), "table": str(path)})


@app.command()
def bench(
    run: RunFolder,
    on: Annotated[
        list[str] | None, typer.Option("--on", metavar="PLACE", help="karui list places, or ssh://user@host:port; again: several")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure bytes and latency. The compressed network and the float one, together in one run: on every target here, or in C elsewhere."""
    from karui import api
    from karui.report import terminal

    if not on:
        rows = api.bench(run)
        _print_json([row.model_dump(mode="json") for row in rows]) if as_json else _console().print(terminal.bench(rows))
        return
    found = api.bench_on(run, on)
    _print_json([row.model_dump(mode="json") for row in found]) if as_json else _console().print(terminal.places(found))
    if any(row.note or (row.parity and row.parity.ok is False) for row in found):
        raise typer.Exit(1)


@app.command()
def report(run: RunFolder, as_json: AsJson = False) -> None:
    """Write the report anew. RUN/report.html, and the same facts here."""
    from karui import api
    from karui.report import record, terminal

    page = api.report(run)
    facts = record.read(run)
    if as_json:
        _print_json(record.to_dict(facts) | {"page": str(page)})
    else:
        terminal.show(facts, _console(), layers=True)
        _print_pairs({"report": str(page)})


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="the run's folder")] = Path("runs/demo"),
    seed: Seed = None,
    control: Control = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compress the LeNet-5 that comes with karui. On the bundled pictures: a few minutes, no downloads."""
    from karui import api

    with _progress(quiet) as progress:
        result = api.demo(out, seed=seed or 0, control=control, command=_command(), progress=progress)
    _show(result, as_json)


@app.command("list")
def list_all(
    what: Annotated[str | None, typer.Argument(metavar="WHAT", help="techniques, targets, machines, places, networks or datasets")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what there is to choose from. Techniques, targets, machines, places, networks, data sets, and the ops that a network may use."""
    from karui.cli import listing

    if what is not None and what not in listing.KINDS:
        raise RecipeError(f"list: '{what}' is none of {', '.join(listing.KINDS)}")
    found = {kind: names() for kind, names in listing.KINDS.items() if what in (None, kind)}
    if as_json:
        _print_json(found)
        return
    for kind, names in found.items():
        print(kind)
        _print_pairs(names, indent="  ")


# ── what the verbs share ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _command() -> str:
    """This call, as one would type it again."""
    import shlex
    import sys

    return shlex.join(["karui", *sys.argv[1:]])


def _budget(plan: "Recipe", limits: Mapping[str, Any]) -> Budget:
    """The recipe's budget with the options laid over it."""
    from dataclasses import replace

    given = {name: value for name, value in limits.items() if value is not None}
    for name in ("bytes", "peak_ram"):
        if name in given:
            given[name] = sizes.parse(given[name], f"--{name.replace('_', '-')}")
    return replace(plan.budget or Budget(), **given)


def _split(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _shares(text: str) -> list[float]:
    """Numbers between commas; which of them make sense is for the api to say."""
    try:
        return [float(each) for each in _split(text)]
    except ValueError as error:
        raise RecipeError(f"--levels: '{text}' is no list of shares such as 0.5,0.9,0.95") from error


def _pruning(structure: str, settings: Mapping[str, Any]) -> "Prune | PruneChannels":
    """The technique that a scan tries on each layer."""
    from karui.compress.prune.channels import PruneChannels
    from karui.compress.prune.weights import Prune

    if structure not in ("weights", "channels"):
        raise RecipeError(f"--structure: expected weights or channels, got '{structure}'")
    if structure == "channels" and "pattern" in settings:
        raise RecipeError("--pattern: whole channels have none; leave it out, or use --structure weights")
    return Prune(**settings) if structure == "weights" else PruneChannels(**settings)


def _beside(plan: "Recipe", option: str | None) -> Path | None:
    """References of the recipe are looked for beside it, those of the command line here."""
    return plan.folder if option is None else None


def _progress(quiet: bool) -> "AbstractContextManager[Progress]":
    from karui.finetune.progress import SILENT, RichProgress

    return nullcontext(SILENT) if quiet else RichProgress()


def _show(result: "Result", as_json: bool) -> None:
    from karui.report import record, terminal

    if as_json:
        _print_json(record.to_dict(result.record) | {"folder": str(result.folder)})
    else:
        terminal.show(result.record, _console())
        _print_pairs({"report": str(result.folder / "report.html")})


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


def _print_json(facts: Any) -> None:
    json.dump(facts, sys.stdout, indent=1, ensure_ascii=False)
    print()


def _print_pairs(pairs: Mapping[str, str], indent: str = "") -> None:
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        print(f"{indent}{name:<{width}}  {value}".rstrip())
