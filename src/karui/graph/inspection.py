"""A ``.pt2`` file from outside, looked at before anything in it is believed.

``torch.export.load`` unpickles whatever the archive marks as pickled, imports what its tree specs name, hands its size expressions to sympy
(which evaluates them as Python) and looks its ops up by dotted path. So an archive passes only if its members are of known kinds, stored
uncompressed (their size is then bounded by the file's), no tensor is pickled, the sample inputs load with ``weights_only=True``, every op
is ATen's or karui's, every name is an identifier (torch.fx writes names into the Python that it compiles), and every expression is plain
arithmetic on sizes. What is loaded then is an archive made anew of the members that were looked at: a file may be two archives at once, and
torch's reader need not see the one that Python's did.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch

from karui.errors import FileError
from karui.names import is_name

MAX_FILE = 4 << 30
MAX_JSON = 256 << 20

_MEMBERS = (
    r"models/model\.json",
    r"data/weights/(weight_\d+|model_weights_config\.json)",
    r"data/constants/(tensor_\d+|model_constants_config\.json)",
    r"data/sample_inputs/model\.pt",
    r"extra/[\w.-]+",
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)",
)
_MEMBER = re.compile("|".join(f"(?:{m})" for m in _MEMBERS))
_OPERATORS = re.compile(
    r"_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|torch\.sym_(max|min|float|int|not|sum|ite|sqrt)|math\.(ceil|floor|trunc|sqrt)"
)
_ATEN = re.compile(r"torch\.ops\.(aten|karui)\.(\w+)\.(\w+)")
_IDENTIFIER = re.compile(r"\w*", re.ASCII)
_SYMBOL = re.compile(r"(zuf|zf|s|u|f|z)\d+")
# What sympy's srepr of a size is made of: its own nodes and torch's functions of sizes.
_SIZE_CALLS = frozenset(
    "Symbol Integer Float Rational Add Mul Pow Mod Max Min Equality Unequality GreaterThan LessThan StrictGreaterThan StrictLessThan"
    " And Or Not FloorDiv CleanDiv CeilDiv PythonMod ModularIndexing Where CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt"
    " RoundDecimal ToFloat IntTrueDiv FloatTrueDiv PowByNatural FloatPow Identity".split()
)
_SIZE_NODES = (ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.UnaryOp, ast.USub)
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
_FORBIDDEN = ("as_graph", "as_custom_obj", "as_operator", "as_opaque")


def inspect(data: bytes, path: Path) -> dict[str, bytes]:
    """The archive's members by name (without the root folder), if it is safe to load; raises FileError, which names the bad member."""
    members = _members(data, path)
    for kind in ("weights", "constants"):
        name = f"data/{kind}/model_{kind}_config.json"
        _check_tensors(_json(members, name, path), members, f"data/{kind}/", path)
    _check_sample(members.get("data/sample_inputs/model.pt", b""), path)
    _check_graph(_json(members, "models/model.json", path), path)
    return members


def packed(members: dict[str, bytes]) -> io.BytesIO:
    """The members as an archive that reads in one way alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    buffer.seek(0)
    return buffer


def _members(data: bytes, path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_names(archive, path)
            return {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, ValueError) as error:
        raise FileError(f"'{path}' is not a whole .pt2 file ({_short(error)}); save the network again") from None


def _check_names(archive: zipfile.ZipFile, path: Path) -> None:
    seen: set[str] = set()
    roots = {info.filename.partition("/")[0] for info in archive.infolist()}
    if len(roots) != 1:
        raise FileError(f"'{path}' is not a .pt2 file: it has {len(roots)} root folders, expected one; save the network again")
    for info in archive.infolist():
        name = info.filename.partition("/")[2]
        if not _MEMBER.fullmatch(name):
            raise FileError(f"'{path}' is not safe to open: member '{info.filename}' is of a kind that karui never loads")
        if name.lower() in seen:
            raise FileError(f"'{path}' is not safe to open: member '{info.filename}' is there twice")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise FileError(f"'{path}' is not safe to open: member '{info.filename}' is compressed or encrypted, expected plain bytes")
        if name.endswith(".json") and info.file_size > MAX_JSON:
            raise FileError(f"'{path}' is not safe to open: member '{info.filename}' has {info.file_size:,} bytes, at most {MAX_JSON:,}")
        seen.add(name.lower())


def _json(members: dict[str, bytes], name: str, path: Path) -> Any:
    if name not in members:
        raise FileError(f"'{path}' is not a .pt2 file of one network: member '{name}' is missing; save it with Network.save")
    try:
        return json.loads(members[name])
    except (ValueError, RecursionError) as error:
        raise FileError(f"'{path}' is damaged: member '{name}' is not JSON ({_short(error)}); save the network again") from None


def _check_tensors(config: Any, members: dict[str, bytes], folder: str, path: Path) -> None:
    """No member is a pickle, and none claims to be larger than its bytes."""
    try:
        for tensor, entry in config["config"].items():
            member = folder + entry["path_name"]
            if entry["use_pickle"] is not False or entry["tensor_meta"] is None:
                raise FileError(f"'{path}' is not safe to open: member '{member}' ('{tensor}') is marked as pickled, which would run code")
            if member not in members:
                raise FileError(f"'{path}' is damaged: member '{member}' ('{tensor}') is missing; save the network again")
            if prod(size["as_int"] for size in entry["tensor_meta"]["sizes"]) > len(members[member]):
                raise FileError(f"'{path}' is not safe to open: '{tensor}' claims to be larger than its member '{member}'")
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"'{path}' is damaged: {folder} has an entry karui can't read ({_short(error)}); save the network again") from None


def _check_sample(sample: bytes, path: Path) -> None:
    if not sample:
        return
    try:
        torch.load(io.BytesIO(sample), weights_only=True)
    except Exception:  # whatever an unpickler can raise means the same
        raise FileError(
            f"'{path}' is not safe to open: member 'data/sample_inputs/model.pt' holds more than plain tensors; save it without inputs"
        ) from None


# ── the graph ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_graph(model: Any, path: Path) -> None:
    registered = frozenset(torch._C._dispatch_get_all_op_names())
    try:
        for key, value in _walk(model):
            _check_entry(key, value, path)
            if key == "target" and isinstance(value, str) and not _is_harmless(value, registered):
                raise FileError(f"'{path}' is not safe to open: its graph calls '{value}', which is no op that karui loads")
        for symbol in model.get("range_constraints", {}):
            _check_size(symbol, path)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise FileError(f"'{path}' is damaged: its graph can't be read ({_short(error)}); save the network again") from None


def _check_entry(key: str, value: Any, path: Path) -> None:
    for name in value if key == "forward_arg_names" and isinstance(value, list) else (value,):
        if isinstance(name, str) and not _is_harmless_name(key, name):
            raise _no_name(name, path)
    if key in _FORBIDDEN and value is not None:
        raise FileError(f"'{path}' is not safe to open: its graph holds '{key}', which karui never loads")
    if key == "expr_str":
        _check_size(value, path)
    if key in ("in_spec", "out_spec"):
        _check_tree(value, path, arguments=key == "in_spec")


def _no_name(text: str, path: Path) -> FileError:
    return FileError(f"'{path}' is not safe to open: its graph holds the name {text[:40]!r}, which is more than a name")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of nested JSON."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            for key, inner in item.items():
                yield key, inner
                pending.append(inner)
        elif isinstance(item, list):
            pending.extend(item)


def _is_harmless(target: str, registered: frozenset[str]) -> bool:
    """An arithmetic operator, or an op of ATen's dispatcher or of karui that touches no file."""
    if _OPERATORS.fullmatch(target):
        return True
    found = _ATEN.fullmatch(target)
    if found is None:
        return False
    namespace, op, overload = found.groups()
    packet = getattr(getattr(torch.ops, namespace), op, None)
    if packet is None or overload not in packet.overloads():
        return False
    schema = getattr(packet, overload)._schema
    name = f"{namespace}::{op}" + ("" if overload == "default" else f".{overload}")
    # TorchScript's own "ops" (aten::save) answer to the same names but are not the dispatcher's.
    return name in registered and not any("filename" in argument.name for argument in schema.arguments)


def _is_harmless_name(key: str, value: str) -> bool:
    """Of nodes and inputs: an identifier. Of parameters: what can't leave the quotes that torch.fx puts about it."""
    if key in ("name", "as_name", "forward_arg_names"):
        return _IDENTIFIER.fullmatch(value) is not None
    return not key.endswith("_name") or (is_name(value) and not any(c in value for c in '"\\'))


def _check_size(expression: Any, path: Path) -> None:
    """Only arithmetic on size symbols: sympy would evaluate anything else as Python."""
    if not isinstance(expression, str) or len(expression) > 10_000 or not _is_arithmetic(expression):
        raise FileError(f"'{path}' is not safe to open: its graph holds the size {str(expression)[:40]!r}, which is not plain arithmetic")


def _is_arithmetic(expression: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _SIZE_NODES) and _is_size_node(node) for node in nodes)


def _is_size_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _SIZE_CALLS
    if isinstance(node, ast.Name):
        return node.id in _SIZE_CALLS or _SYMBOL.fullmatch(node.id) is not None or node.id in ("true", "false")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _SYMBOL.fullmatch(node.value) is not None or re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", node.value) is not None
    return True


def _check_tree(spec: Any, path: Path, *, arguments: bool) -> None:
    """Only tuples, lists and dicts: the specs of other types import what they name. Keys of ``arguments`` become names in Python."""
    if spec in (None, ""):
        return
    version, tree = json.loads(spec)
    for key, value in _walk(tree):
        if key == "type" and value not in _TREES:
            raise FileError(
                f"'{path}' is not safe to open: its inputs or outputs are of the type '{value}', expected tuples, lists or dicts"
            )
        if key == "context" and isinstance(value, str) and "__enum__" in value:
            raise FileError(f"'{path}' is not safe to open: its inputs or outputs name an enum to import")
        if key == "context" and arguments and (bad := [k for k in _keys(value) if not _IDENTIFIER.fullmatch(k)]):
            raise _no_name(bad[0], path)


def _keys(context: Any) -> list[str]:
    """The keys of a dict's spec: JSON within JSON."""
    keys = json.loads(context) if isinstance(context, str) else context
    return list(map(str, keys)) if isinstance(keys, list) else [] if keys is None else [str(keys)]


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
