"""A recipe as a file: network, data, budget and phases ⇄ TOML; what was written reads back equal.

    network = "zoo:lenet5"            # or a .pt2, .onnx or .tflite file, or "package.module:function" that returns a module
    data = "fashion-mnist"            # or "package.module:function" that returns karui.Data
    seed = 0

    [budget]
    drop = 0.5                        # points of the metric
    bytes = 100_000

    [[phases]]
    training = {epochs = 3, lr = 0.01}

    [[phases.techniques]]
    technique = "prune.weights"       # the file's path under karui/compress; "package.module:Class" for one of your own
    sparsity = 0.9

A flat list, ``[[techniques]]`` with one ``[training]``, is sorted into phases (``finetune.phases_of``). Only settings that differ from
their default are written. Every mistake is one line: file, key, what was expected, the nearest name that exists.
"""

import contextlib
import dataclasses
import difflib
import importlib
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w

from karui.budget import Budget
from karui.compress import discover
from karui.compress.technique import Technique
from karui.errors import FileError, RecipeError, first_line
from karui.finetune.loop import Training
from karui.finetune.phases import Phase, name_of, phases_of
from karui.run.runners import require_measurable
from karui.workspace import atomic_write

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to compress, with what data, under what budget, how.

    network, data, teacher: references (see the module's text). No phases: the budget's ladder chooses. folder: where relative references
    are looked for; it isn't written.
    """

    network: str | None = None
    data: str | None = None
    teacher: str | None = None
    seed: int = 0
    budget: Budget | None = None
    phases: tuple[Phase, ...] = ()
    folder: Path | None = field(default=None, compare=False)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(path: str | PathLike[str]) -> Recipe:
    """Read a recipe file. Raises FileError if it can't be read, RecipeError if it makes no sense."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileError(f"recipe '{path}' is missing; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"recipe '{path}' can't be read ({error}); it should be a TOML text file") from error
    return parse(text, source=str(path), folder=path.parent)


def parse(text: str, *, source: str = "recipe", folder: Path | None = None) -> Recipe:
    """Read a recipe from TOML text. source: what messages call it. Raises RecipeError."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source}: not TOML: {error}") from error
    scalars = {f.name: f.type for f in fields(Recipe) if f.name in ("network", "data", "teacher", "seed")}
    _known(table, [*scalars, "budget", "phases", "techniques", "training"], source, "a recipe")
    held = {name: _convert(table[name], hint, f"{source}: {name}") for name, hint in scalars.items() if name in table}
    if "budget" in table:
        held["budget"] = budget = _settings(Budget, table["budget"], f"{source}: budget")
        try:
            require_measurable(budget.target, budget.limits)
        except RecipeError as error:
            raise RecipeError(f"{source}: {error}") from None
    return Recipe(**held, phases=_phases(table, source, folder), folder=folder)


def _phases(table: Mapping[str, Any], source: str, folder: Path | None) -> tuple[Phase, ...]:
    if "phases" not in table:
        training = _settings(Training, table.get("training", {}), f"{source}: training")
        techniques = _techniques(table.get("techniques", []), f"{source}: techniques", folder)
        with _named(source):
            return phases_of(techniques, training)
    for key in ("techniques", "training"):
        if key in table:
            raise RecipeError(f"{source}: {key}: a recipe has either phases or a flat list of techniques; move it into [[phases]]")
    phases = []
    for place, phase in enumerate(_tables(table["phases"], f"{source}: phases")):
        where = f"{source}: phases[{place}]"
        _known(phase, ["techniques", "training"], where, "a phase")
        techniques = _techniques(phase.get("techniques", []), f"{where}.techniques", folder)
        phases.append(Phase(techniques=techniques, training=_settings(Training, phase.get("training", {}), f"{where}.training")))
    return tuple(phases)


def _techniques(value: Any, where: str, folder: Path | None) -> tuple[Technique, ...]:
    return tuple(_technique(table, f"{where}[{place}]", folder) for place, table in enumerate(_tables(value, where)))


def _technique(table: Mapping[str, Any], where: str, folder: Path | None) -> Technique:
    if "technique" not in table:
        raise RecipeError(f'{where}.technique: lacks; name one, such as technique = "prune.weights"')
    name = _convert(table["technique"], str, f"{where}.technique")
    known = discover.techniques()
    kind: Any = known.get(name)
    if kind is None and ":" in name:
        kind = resolve(name, folder, where=f"{where}.technique")
    if not (isinstance(kind, type) and issubclass(kind, Technique)):
        raise RecipeError(f"{where}.technique: '{name}' is not a technique; {_nearest(name, known, 'known are')}")
    return _settings(kind, {key: each for key, each in table.items() if key != "technique"}, where, name)


def _settings(kind: type[T], table: Any, where: str, name: str | None = None) -> T:
    """A dataclass from a table of its fields."""
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where}: expected a table of settings, got {table!r}")
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind) if f.init]  # type: ignore[arg-type]
    _known(table, names, where, name or kind.__name__)
    held = {key: _convert(each, hints[key], f"{where}.{key}") for key, each in table.items()}
    try:
        with _named(where):
            return kind(**held)
    except TypeError as error:  # a setting without a default lacks
        raise RecipeError(f"{where}: {name or kind.__name__}: {str(error).split('__init__() ')[-1]}; give it a value") from error


def _tables(value: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise RecipeError(f"{where}: expected tables, written [[{where.rsplit(' ', 1)[-1].split('[')[0]}]]; got {value!r}")
    return value


def _known(table: Mapping[str, Any], names: Iterable[str], where: str, what: str) -> None:
    for key in table:
        if key not in names:
            separator = ": " if where.count(": ") == 0 else "."
            raise RecipeError(f"{where}{separator}{key}: {what} has no such setting; {_nearest(key, names, 'it has')}")


def _nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{close[0]}'?" if close else f"{otherwise} {', '.join(known)}"


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Put the place in front of what a technique or a budget says about its own settings."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def dump(recipe: Recipe) -> str:
    """A recipe as TOML text that ``parse`` reads back equal. Raises RecipeError for a setting that TOML can't hold, such as a function."""
    table: dict[str, Any] = {
        name: getattr(recipe, name) for name in ("network", "data", "teacher", "seed") if getattr(recipe, name) is not None
    }
    if recipe.budget is not None:
        table["budget"] = _changed(recipe.budget, "budget")
    if recipe.phases:
        table["phases"] = [_phase_table(phase, f"phases[{place}]") for place, phase in enumerate(recipe.phases)]
    text = tomli_w.dumps(table)
    if parse(text, folder=recipe.folder) != recipe:
        raise RecipeError("recipe: it wouldn't read back equal; a setting has a value of another type than its field says")
    return text


def save(recipe: Recipe, path: str | PathLike[str]) -> None:
    """Write a recipe file, atomically."""
    atomic_write(path, dump(recipe))


def _phase_table(phase: Phase, where: str) -> dict[str, Any]:
    techniques = [
        {"technique": name_of(each)} | _changed(each, f"{where}.techniques[{place}]") for place, each in enumerate(phase.techniques)
    ]
    return {"training": _changed(phase.training, f"{where}.training"), "techniques": techniques}


def _changed(settings: Any, where: str) -> dict[str, Any]:
    """The fields that differ from their default."""
    return {
        f.name: _to_toml(getattr(settings, f.name), f"{where}.{f.name}")
        for f in fields(settings)
        if f.init and getattr(settings, f.name) != _default(f)
    }


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


# ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
}


def _convert(value: Any, hint: Any, where: str) -> Any:
    """A value of TOML as the type that a field's hint says: lists become tuples, whole numbers floats. Raises RecipeError."""
    for option in _options(hint):
        with contextlib.suppress(LookupError):
            return _as(value, option)
    words = [_words(option) for option in _options(hint) if option is not NoneType]
    nearest = ""
    if isinstance(value, str):
        names = [n for option in _options(hint) if get_origin(option) is Literal for n in get_args(option) if isinstance(n, str)]
        close = difflib.get_close_matches(value, names, n=1)
        nearest = f"; did you mean '{close[0]}'?" if close else ""
    raise RecipeError(f"{where}: expected {' or '.join(words)}, got {value!r}{nearest}")


def _options(hint: Any) -> tuple[Any, ...]:
    hint = getattr(hint, "__value__", hint)  # type X = …
    return tuple(o for each in get_args(hint) for o in _options(each)) if get_origin(hint) in (Union, UnionType) else (hint,)


def _as(value: Any, hint: Any) -> Any:
    """``value`` as ``hint``, or LookupError."""
    origin, parts = get_origin(hint), get_args(hint)
    each: list[Any]
    if hint is Any:
        return value
    if hint in SCALARS:
        fits = isinstance(value, SCALARS[hint][0]) and (hint is bool or not isinstance(value, bool))
        if fits:
            return float(value) if hint is float else value
    elif origin is Literal:
        if value in parts and any(value == p and type(value) is type(p) for p in parts):
            return value
    elif origin in (tuple, list, Sequence, frozenset) and isinstance(value, list):
        each = _each(parts, len(value)) if origin is tuple else [parts[0]] * len(value)
        return (origin if origin in (list, frozenset) else tuple)(_first(v, h) for v, h in zip(value, each, strict=True))
    elif origin in (dict, Mapping) and isinstance(value, dict):
        return {key: _first(v, parts[1]) for key, v in value.items()}
    raise LookupError


def _each(parts: tuple[Any, ...], count: int) -> list[Any]:
    if len(parts) == 2 and parts[1] is Ellipsis:
        return [parts[0]] * count
    if len(parts) != count:
        raise LookupError
    return list(parts)


def _first(value: Any, hint: Any) -> Any:
    for option in _options(hint):
        with contextlib.suppress(LookupError):
            return _as(value, option)
    raise LookupError


def _words(hint: Any) -> str:
    """A type in words, for messages."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in SCALARS:
        return SCALARS[hint][1]
    if origin is Literal:
        return "one of " + ", ".join(repr(p) for p in parts)
    if origin in (tuple, list, Sequence, frozenset):
        of = " or ".join(_words(o) for o in _options(parts[0]))
        return f"a list of {of}" if origin is not tuple or parts[-1] is Ellipsis else f"a list of {len(parts)}, each {of}"
    if origin in (dict, Mapping):
        return f"a table of {' or '.join(_words(o) for o in _options(parts[1]))}"
    if origin is Callable or hint is Callable:
        return "a function (in Python only)"
    return str(getattr(hint, "__name__", hint))


def _to_toml(value: Any, where: str) -> Any:
    """The inverse of ``_convert``. Raises RecipeError for what TOML hasn't."""
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_to_toml(each, f"{where}[{place}]") for place, each in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted(_to_toml(each, where) for each in value)
    if isinstance(value, Mapping):
        return {str(key): _to_toml(each, f"{where}.{key}") for key, each in value.items()}
    if value is None:
        raise RecipeError(f"{where}: TOML has no word for None; leave the setting at its default, or keep this recipe in Python")
    if callable(value):
        told = getattr(value, "__qualname__", type(value).__name__)
        raise RecipeError(f"{where}: the function '{told}' has no form in TOML; use a rule that has a name, or keep this recipe in Python")
    raise RecipeError(f"{where}: a {type(value).__name__} can't be written in TOML; use numbers, text, lists and tables")


# ── references ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def resolve(reference: str, folder: Path | None = None, *, where: str = "reference") -> Any:
    """What ``package.module:name`` names. The folder of the recipe is on the import path while the module is imported, and only then.

    Raises RecipeError if the module can't be imported or lacks the name.
    """
    module_name, _, name = reference.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise RecipeError(f"{where}: '{reference}' is not of the form package.module:function")
    with _import_path(folder, module_name.split(".")[0]):
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # the module is the user's: it may raise anything
            reason = first_line(error)
            raise RecipeError(f"{where}: '{module_name}' can't be imported ({reason}); it is looked for in '{folder or '.'}'") from error
    if not hasattr(module, name):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise RecipeError(f"{where}: '{module_name}' has no '{name}'; {_nearest(name, names, 'it has')}")
    return getattr(module, name)


@contextlib.contextmanager
def _import_path(folder: Path | None, top: str) -> Iterator[None]:
    """Look in ``folder`` first. A module of the same name from another recipe's folder makes way."""
    if folder is None:
        yield
        return
    place = folder.resolve()
    origin = getattr(sys.modules.get(top), "__file__", None)
    own = (place / f"{top}.py").exists() or (place / top / "__init__.py").exists()
    if own and origin and not Path(origin).is_relative_to(place) and not Path(origin).is_relative_to(sys.prefix):
        for name in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
            del sys.modules[name]
    importlib.invalidate_caches()
    sys.path.insert(0, str(place))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(place))
