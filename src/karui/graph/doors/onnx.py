"""An ONNX file → Network: its nodes in order, each through the rule of its op.

Constants fold by the same rules that draw, so what exporters compute of shapes vanishes. A file of a fixed batch of 1 gets a free batch.
Where a file computes in integers (QuantizeLinear … DequantizeLinear, QLinearConv …) the network computes in reals that are rounded to the
same grids, and trains; its inputs and outputs are reals then, too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from karui.errors import CaptureError, FileError, KaruiError, UnsupportedOp, first_line
from karui.graph.doors import (
    onnx_gather,
    onnx_layers,
    onnx_microsoft,
    onnx_norms,
    onnx_pointwise,
    onnx_pools,
    onnx_quantized,
    onnx_reduce,
    onnx_resize,
    onnx_sequence,
    onnx_shapes,
)
from karui.graph.doors.drawing import Drawing, Value, path_of
from karui.graph.doors.onnx_file import CODES, File, domain_of, dtype_of, kind_of, load, package, tensor_of
from karui.graph.doors.onnx_node import Coded, Node, Rule, Whole
from karui.graph.network import InputSpec, Network
from karui.names import LONGEST, is_file_name, is_name

_TABLES = (
    onnx_layers,
    onnx_norms,
    onnx_pointwise,
    onnx_shapes,
    onnx_gather,
    onnx_resize,
    onnx_pools,
    onnx_reduce,
    onnx_sequence,
    onnx_quantized,
)
RULES: Mapping[str, Rule] = {name: rule for table in _TABLES for name, rule in table.RULES.items()}
MICROSOFT: Mapping[str, Rule] = {**onnx_microsoft.RULES, **onnx_quantized.MICROSOFT}
_CONTROL = ("Loop", "Scan", "SequenceMap")
_MOST = 100_000  # nodes, those of functions and branches among them
_DEEPEST = 30  # functions within functions, branches within branches

Scope = dict[str, Value | Coded | None]


def read(path: str | PathLike[str], example: Tensor | Sequence[Tensor] | None = None, *, name: str | None = None) -> Network:
    """The network of an ``.onnx`` file, in evaluation; its weights train.

    example: the tensor or tensors that it takes, where the file leaves sizes other than the batch open. name: what the network is called,
    else the file's stem. Raises in one line: FileError for a file that is missing, damaged or not safe; UnsupportedOp naming the node and
    its op; CaptureError where inputs or outputs have no batch as first axis.
    """
    file = load(Path(path))
    name = name or Path(path).stem
    if not is_file_name(name):
        raise FileError(f"'{file.source}': a network can't be called {name[:40]!r}; pass name=")
    return _Reader(file).network(example, name)


class _Reader:
    """One file on its way into a drawing."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.drawing = Drawing(file.source)
        self.count = 0
        self.fixed = False

    def network(self, example: Any, name: str) -> Network:
        """Inputs, nodes, outputs."""
        graph = self.file.model.graph
        readers = _readers(graph.node) + Counter(each.name for each in graph.output)
        scope = self._constants(graph)
        try:
            self._inputs(graph, scope, example)
        except CaptureError as error:  # where the inputs hide it, say what would stop the file anyway
            flow = next((node for node in graph.node if node.op_type in (*_CONTROL, "If")), None)
            if flow is None:
                raise
            raise CaptureError(f"{error}; and '{flow.name[:80]}' is {flow.op_type}: control flow, which one graph can't hold") from None
        self._walk(graph.node, scope, readers, {})
        outputs: dict[str, Value] = {}
        for each in graph.output:
            self.file.check_text(each.name)
            value = scope.get(each.name)
            if value is None or not is_name(each.name):
                raise self.file.damaged(f"nothing makes its output {each.name[:80]!r}")
            outputs[each.name] = value.value if isinstance(value, Coded) else value
        if not outputs:
            raise self.file.damaged("it has no outputs")
        network = self.drawing.finish(outputs, name)
        network.metadata = self._metadata()
        return network

    def _metadata(self) -> dict[str, str]:
        """What the file says of itself, under keys that ``export.onnx`` reads; of properties those that are lines of text."""
        model = self.file.model
        own = {"opset": str(self.file.opsets.get("", "")), "producer": str(model.producer_name)}
        lines = {
            f"property.{p.key}": str(p.value)
            for p in model.metadata_props[:64]
            if is_name(p.key) and p.key != "karui" and len(p.value) < 4096
        }
        return {f"onnx.{key}": text for key, text in (own | lines).items() if text}

    # ── constants and inputs ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _constants(self, graph: Any) -> Scope:
        if graph.sparse_initializer:
            raise UnsupportedOp(f"'{self.file.source}' has sparse constants; export them dense")
        found: Scope = {}
        for each in graph.initializer:
            self.file.check_text(each.name)
            tensor, kind = tensor_of(self.file, each), kind_of(each.data_type)
            whole = Whole(two=tensor, three=tensor, name=each.name, kind=kind)
            found[each.name] = whole if kind in CODES else self.drawing.known(tensor, each.name)
        return found

    def _inputs(self, graph: Any, scope: Scope, example: Any) -> None:
        given = [each for each in graph.input if each.name not in scope]
        if not given:
            raise CaptureError(f"'{self.file.source}' has no inputs; expected at least one")
        shapes = _examples(self.file.source, example, len(given))
        self.file.check_text(*(each.name for each in given))
        self._check_batches(given)
        self.fixed = True
        for each, shape in zip(given, shapes, strict=True):
            spec, one = self._spec(each, shape)
            self.fixed &= one
            self.drawing.layer = each.name
            scope[each.name] = onnx_quantized.entry(self.drawing, spec, _coding(graph, each.name, scope))

    def _check_batches(self, given: Sequence[Any]) -> None:
        """The first axes of all inputs are one batch, so they can't have several sizes above 1, or such a one and a free one."""
        first = {each.name: each.type.tensor_type.shape.dim[0] for each in given if each.type.tensor_type.shape.dim}
        sizes = {name: dim.dim_value if dim.WhichOneof("value") == "dim_value" else 0 for name, dim in first.items()}
        odd = next((name for name, size in sizes.items() if size > 1 and set(sizes.values()) != {size}), None)
        if odd is not None:
            raise CaptureError(f"'{self.file.source}': the first axis of input '{odd[:80]}' is no batch, which all inputs need there")

    def _spec(self, port: Any, shape: Sequence[int] | None) -> tuple[InputSpec, bool]:
        """An input without its batch, and whether the file has it for one sample."""
        where = f"'{self.file.source}': input '{port.name[:80]}'"
        if port.type.WhichOneof("value") != "tensor_type":
            raise CaptureError(f"{where} is no tensor; expected tensors with the batch as first axis")
        kind = port.type.tensor_type
        dtype = dtype_of(kind.elem_type)
        if dtype is None or not is_name(port.name):
            raise CaptureError(f"{where} holds {kind_of(kind.elem_type) or kind.elem_type}; expected numbers")
        sizes = [each.dim_value if each.WhichOneof("value") == "dim_value" else None for each in kind.shape.dim]
        if not kind.HasField("shape") and shape is not None:
            sizes = [None] * len(shape)
        if not sizes:
            raise CaptureError(f"{where} has no axes in the file; expected the batch as first one, or pass an example")
        if shape is not None and (len(shape) != len(sizes) or any(b not in (None, a) for a, b in zip(shape[1:], sizes[1:]))):
            raise CaptureError(f"{where} is {[s or '?' for s in sizes]} in the file, the example is {list(shape)}; pass one that fits")
        own = [size or 0 for size in (sizes[1:] if shape is None else shape[1:])]
        for axis, size in enumerate(own, start=1):
            if size < 1:
                raise CaptureError(f"{where} has a free size in axis {axis}; pass an example, or its shape: FILE.onnx@3x96x96")
        return InputSpec(name=port.name, shape=tuple(own), dtype=str(dtype).removeprefix("torch.")), sizes[0] == 1

    # ── nodes ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _walk(self, nodes: Any, scope: Scope, readers: Counter[str], given: Mapping[str, Any], depth: int = 0) -> None:
        """Nodes in the file's order; ``given``: the attributes that a function was called with."""
        if depth > _DEEPEST:
            raise self.file.damaged(f"its functions or branches are nested {depth} deep")
        for node in nodes:
            self.count += 1
            if self.count > _MOST:
                raise UnsupportedOp(f"'{self.file.source}' has more than {_MOST:,} nodes; split the network")
            made = self._node(node, scope, readers, given, depth)
            for output, value in zip(node.output, made):
                if output:
                    scope[output] = value

    def _node(self, node: Any, scope: Scope, readers: Counter[str], given: Mapping[str, Any], depth: int) -> Sequence[Any]:
        self.file.check_text(node.name, node.op_type, node.domain, *node.input, *node.output)
        self.drawing.layer = _layer(node)
        inputs = tuple(self._input(name, scope) for name in node.input)
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        attributes = {each.name: value for each in node.attribute if (value := self._attribute(each, given)) is not None}
        function = self.file.functions.get((node.domain, node.op_type))
        if function is not None:
            return self._function(function, inputs, attributes, depth)
        domain = domain_of(node.domain)
        if domain == "" and node.op_type == "If":
            return self._branch(node, inputs, scope, given, depth)
        rule = (RULES if domain == "" else MICROSOFT if domain == "com.microsoft" else {}).get(node.op_type)
        if rule is None:
            self._unknown(node, domain)
        seen = Node(
            drawing=self.drawing,
            kind=node.op_type,
            opset=self.file.opsets.get(domain, 1),
            inputs=inputs,
            attributes=attributes,
            wanted=tuple(bool(readers[name]) for name in node.output),
            alone=tuple(readers[name] == 1 for name in node.input),
            fixed=self.fixed,
        )
        return self._applied(rule, seen)

    def _applied(self, rule: Any, node: Node) -> Sequence[Any]:
        try:
            made = rule(self.drawing, onnx_quantized.uncoded(node))
        except KaruiError:
            raise
        except Exception as error:  # torch raises many kinds for numbers that make no sense
            self.drawing.refuse(f"operands that don't fit ({node.kind}: {first_line(error)[:120]})", "check the file")
        made = made if isinstance(made, tuple) else (made,)
        return onnx_quantized.recoded(node, made)

    def _unknown(self, node: Any, domain: str) -> None:
        op = f"{domain}.{node.op_type}" if domain else node.op_type
        if node.op_type in _CONTROL:
            self.drawing.refuse(f"the op {op}, a loop", "export the network with its loop unrolled, or without it")
        self.drawing.refuse(f"the op {op[:80]}, for which there is no rule", "end the network before it, or write it with other ops")

    def _input(self, name: str, scope: Scope) -> Value | Coded | None:
        if name == "":
            return None
        value = scope.get(name)
        if value is None:
            raise self.file.damaged(f"'{self.drawing.layer[:80]}' reads '{name[:80]}', which nothing before it makes")
        return value

    def _attribute(self, proto: Any, given: Mapping[str, Any]) -> Any:
        """As plain data; a graph stays what it is."""
        types = package().AttributeProto
        if proto.ref_attr_name:
            return given.get(proto.ref_attr_name)
        if proto.type == types.TENSOR:
            return tensor_of(self.file, proto.t)
        if proto.type == types.STRING:
            return proto.s.decode("utf-8", "replace")
        if proto.type == types.STRINGS:
            return [each.decode("utf-8", "replace") for each in proto.strings]
        plain = {types.INT: "i", types.FLOAT: "f", types.GRAPH: "g"}
        lists = {types.INTS: "ints", types.FLOATS: "floats"}
        if proto.type in plain:
            return getattr(proto, plain[proto.type])
        return list(getattr(proto, lists[proto.type])) if proto.type in lists else None

    def _function(self, function: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], depth: int) -> Sequence[Any]:
        """One of the file's own ops: its nodes in its place."""
        defaults = {each.name: self._attribute(each, {}) for each in function.attribute_proto}
        scope: Scope = dict.fromkeys(function.input)
        scope |= dict(zip(function.input, inputs))
        for each in function.input:  # an input that is left out is no mistake
            if scope[each] is None:
                del scope[each]
        readers = _readers(function.node) + Counter(function.output)
        nodes = [self._without(node, scope, function) for node in function.node]
        self._walk(nodes, scope, readers, {**defaults, **attributes}, depth + 1)
        return [scope.get(each) for each in function.output]

    @staticmethod
    def _without(node: Any, scope: Scope, function: Any) -> Any:
        """A function's node; what the caller left out is left out of it."""
        absent = {each for each in function.input if each not in scope}
        if not absent.intersection(node.input):
            return node
        copy = type(node)()
        copy.CopyFrom(node)
        copy.input[:] = ["" if each in absent else each for each in node.input]
        return copy

    def _branch(self, node: Any, inputs: Sequence[Any], scope: Scope, given: Mapping[str, Any], depth: int) -> Sequence[Any]:
        """An If whose condition is known: the branch it takes."""
        condition = self.drawing.number(inputs[0]) if inputs and not isinstance(inputs[0], Coded) else None
        if condition is None:
            self.drawing.refuse("the op If on a computed condition", "export the network without it")
        attributes = {each.name: each.g for each in node.attribute if each.HasField("g")}
        graph = attributes.get("then_branch" if condition else "else_branch")
        if graph is None:
            raise self.file.damaged(f"'{self.drawing.layer[:80]}' lacks a branch")
        inside = {**scope, **self._constants(graph)}
        readers = _readers(graph.node) + Counter({name: 2 for name in scope}) + Counter(each.name for each in graph.output)
        self._walk(graph.node, inside, readers, given, depth + 1)
        return [inside.get(each.name) for each in graph.output]


def _readers(nodes: Any) -> Counter[str]:
    """How often each value is read, by the graphs within nodes too."""
    count: Counter[str] = Counter()
    for node in nodes:
        count.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                count += _readers(attribute.g.node)
                count.update(each.name for each in attribute.g.output)
    return count


def _layer(node: Any) -> str:
    name = node.name or next((each for each in node.output if each), "") or node.op_type
    path = path_of(name)
    return path if is_name(path) else "".join(c for c in path if c.isprintable())[:LONGEST] or "node"


def _coding(graph: Any, name: str, scope: Scope) -> list[Any]:
    """What all readers of an input take off its codes: scale and zero point; empty where one of them reads it otherwise."""
    found: list[Any] = []
    for node in graph.node:
        if name in node.input:
            if node.op_type != "DequantizeLinear" or node.input[0] != name:
                return []
            found = [scope.get(each) for each in node.input[1:3]]
    return found


def _examples(source: str, example: Any, count: int) -> list[Any]:
    if example is None:
        return [None] * count
    tensors = [example] if isinstance(example, Tensor) else list(example) if isinstance(example, Sequence) else []
    if len(tensors) != count or not all(isinstance(each, Tensor) and each.dim() for each in tensors):
        raise CaptureError(f"'{source}' has {count} input(s), the example is {len(tensors)} tensor(s); pass one for each, the batch first")
    return [tuple(each.shape) for each in tensors]
