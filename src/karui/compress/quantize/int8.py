"""8-bit integers: after training with calibration samples (PTQ), or while training goes on (QAT)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, fx, nn

from karui.analyse import observe
from karui.analyse.observe import Observer
from karui.compress.quantize.ranges import CODES, WeightRange, affine, best_share, channel_scale, observer_of
from karui.compress.quantize.rounding import Rounding, RoundingName, nearest, round_layers, roundable, rounding_of
from karui.compress.select import patterns, refuse_formatted, weights
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.data import Batch, Part
from karui.errors import RecipeError
from karui.graph import edit, placement
from karui.graph.carry import parameter_of
from karui.graph.network import Network

FAKE_QUANTIZE = torch.ops.karui.fake_quantize.default
TRANSPOSED = frozenset({torch.ops.aten.conv_transpose1d.default, torch.ops.aten.conv_transpose2d.input})

CALIBRATION_BATCH = 64
LONG_ENOUGH = 20  # training steps: fewer change no range that matters


@dataclass(frozen=True, kw_only=True)
class Quantize(Technique):
    """Integers for weights and activations, after Jacob et al. 2018, "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", §2–3: ``real = scale · (code − zero_point)``.

    Weights are symmetric per output channel, ``scale = max|w| / (2^(bits−1) − 1)``, so zero is zero. While training goes on the scale
    follows the weights, step by step. Activations have 8 bits and one scale per tensor, from the range that ``observer`` saw on the first
    ``samples`` calibration samples, widened to hold zero, which is exactly representable. Training steps go through both by the
    straight-through estimator; as ranges drift while a network learns, it is calibrated again after each tenth of the steps (of 20 or
    more). learn_scales: scales are trained instead (Esser et al. 2020, "Learned step size quantization", eq. 2 and 3), and stay near what
    was observed, hence positive.

    bits: of weights, 2 to 8. weight_range: "minmax", or "mse": each channel's range is cut off where that leaves the least squared error.
    rounding: "nearest", "gptq", "adaround", or a function (see ``rounding``): which way each weight goes, told by calibration samples.
    bias_correction: biases take over what the mean of each layer's outputs loses (Nagel et al. 2019, "Data-free quantization through weight
    equalization and bias correction", §4.2). Both are done once, before any training. observer: "minmax", "moving_average", "percentile",
    "mse", "entropy", or a function ``(seen, value) → seen`` with ``low`` and ``high``. include, exclude: patterns over the names of layers;
    the others stay float. A network that is quantized already is calibrated anew.
    """

    stage: ClassVar[Stage] = "numbers"

    bits: int = 8
    weight_range: WeightRange = "minmax"
    rounding: RoundingName | Rounding = "nearest"
    bias_correction: bool = False
    observer: Literal["minmax", "moving_average", "percentile", "mse", "entropy"] | Observer = "minmax"
    samples: int = 512
    learn_scales: bool = False
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise RecipeError(f"bits: expected 2 to 8, got {self.bits}")
        if self.samples < 1:
            raise RecipeError(f"samples: expected 1 or more, got {self.samples}")
        for name in ("include", "exclude"):
            object.__setattr__(self, name, patterns(getattr(self, name), name))
        if self.weight_range not in get_args(WeightRange):
            raise RecipeError(f"weight_range: expected one of {', '.join(get_args(WeightRange))}, got {self.weight_range!r}")
        observer_of(self.observer)
        rounding_of(self.rounding)

    def attach(self, network: Network, context: Context) -> "Quantizing":
        """Put quantizers on weights, then observe and put quantizers on activations."""
        layers = weights(network, self.include, self.exclude)
        refuse_formatted(network, layers, but=FAKE_QUANTIZE)
        axes = {name: axis for name, nodes in layers.items() if (axis := channel_axis(nodes)) is not None}
        shares = {name: self._on_weight(network, name, axis) for name, axis in axes.items()}
        nodes = needed_points(network)
        for node in nodes:
            _take_off(network, edit.form_on_edge(node))
        ranges = self.observe(network, nodes, context)
        scales = [self._on_activation(network, node, ranges[node.name]) for node in nodes]
        if self.bias_correction or rounding_of(self.rounding) is not nearest:
            self._round(network, context, {name: nodes for name, nodes in layers.items() if name in axes})
        return Quantizing(self, network, context, shares, tuple(scales))

    def _round(self, network: Network, context: Context, layers: dict[str, list[fx.Node]]) -> None:
        before, training = network.copy().eval(), network.training
        for node in [node for node in before.module.graph.nodes if node.target is FAKE_QUANTIZE]:
            edit.remove_form(before, edit.form_of(node))
        grids = {name: (network.get(f"{name}_scale"), self._top) for name in roundable(layers)}
        batches = list(first(context.data.calibration, self.samples))
        round_layers(network.eval(), before, batches, grids, rounding_of(self.rounding), bias_correction=self.bias_correction)
        network.train(training)

    def observe(self, network: Network, nodes: list[fx.Node], context: Context) -> dict[str, Any]:
        """What the observer sees of the nodes' values, by node name."""
        return observe.observe(network, first(context.data.calibration, self.samples), nodes, observer_of(self.observer))

    def _on_weight(self, network: Network, name: str, axis: int) -> Tensor:
        """Put a quantizer on a weight; returns what share of each channel's range it covers."""
        _take_off(network, quantizer_on(network, name))
        value = edit.value_of(network, name)
        scale = channel_scale(value, axis, self._top)
        share = best_share(value, scale, axis, self._top) if self.weight_range == "mse" else torch.ones_like(scale)
        scale = scale * share
        state = {"scale": nn.Parameter(scale) if self.learn_scales else scale, "zero_point": torch.zeros_like(scale)}
        edit.put_on_parameter(network, name, FAKE_QUANTIZE, state=state, args=("scale", "zero_point", -self._top, self._top, axis))
        return share

    def _on_activation(self, network: Network, node: fx.Node, seen: Any) -> str:
        scale, zero_point = affine(seen.low, seen.high)
        state = {"scale": nn.Parameter(scale) if self.learn_scales else scale, "zero_point": zero_point}
        placed = edit.put_on_edge(network, node, FAKE_QUANTIZE, state=state, args=("scale", "zero_point", -CODES - 1, CODES, None))
        return edit.form_of(placed).state["scale"]

    @property
    def _top(self) -> int:
        return 2 ** (self.bits - 1) - 1


class Quantizing(Attached):
    """Quantizers while training goes on.

    quantized: the weights, each with the share of its channels' ranges that is covered. activations: the other quantizers' scales.
    """

    def __init__(
        self, settings: Quantize, network: Network, context: Context, quantized: dict[str, Tensor], activations: tuple[str, ...]
    ) -> None:
        self.settings, self.network, self.context = settings, network, context
        self.quantized, self.activations = quantized, activations
        self.settles = 0.9 if not settings.learn_scales and context.steps >= LONG_ENOUGH else 0.0  # the last calibration
        self.observed = {name: network.get(name).detach().clone() for name in activations}

    def step(self, progress: float) -> bool:
        """Let scales of weights follow them; calibrate again at the moment for it; keep learned scales near what was observed."""
        self._settle()
        if not self.settings.learn_scales and recalibrates(progress, self.context.steps):
            self._recalibrate()
        return False

    def _recalibrate(self) -> None:
        twin = self.network.copy()  # switching the network itself to evaluation would make a compiled one compile again
        forms = [edit.form_of(node) for node in twin.module.graph.nodes if node.target is FAKE_QUANTIZE]
        points = {form.node.all_input_nodes[0]: form.state for form in forms if form.state.get("scale") in self.activations}
        ranges = self.settings.observe(twin, list(points), self.context)
        for node, state in points.items():
            scale, zero_point = affine(ranges[node.name].low, ranges[node.name].high)
            self.network.get(state["scale"]).copy_(scale)
            self.network.get(state["zero_point"]).copy_(zero_point)

    def finish(self) -> dict[str, Any]:
        """Fit the scales to the last step's weights; tells how many values are quantized, and which layers stay float."""
        if self.context.steps:  # weights that were rounded after training lie on their grid
            self._settle()
        every = weights(self.network, ("*",), ())
        stay = [name for name in every if name not in self.quantized]
        return {"weights": len(self.quantized), "activations": len(self.activations), "float": stay}

    def _settle(self) -> None:
        for name, share in self.quantized.items():
            follow(self.network, name, share)
        if self.settings.learn_scales:
            with torch.no_grad():
                for name, seen in self.observed.items():
                    self.network.get(name).clamp_(seen.to(self.network.get(name).device) / 8, seen.to(self.network.get(name).device) * 2)


def recalibrates(progress: float, steps: int) -> bool:
    """Whether the step at ``progress`` is the first at or after one of the moments 1/10 … 9/10; told from the step alone, so it resumes."""
    tenth, before = (math.floor(10 * p + 1e-9) for p in (progress, progress - 1 / max(steps, 1)))
    return steps >= LONG_ENOUGH and before >= 0 and tenth != before and tenth < 10


def quantizer_on(network: Network, parameter: str) -> edit.Form | None:
    """The form that quantizes a parameter, if it has one."""
    return next((form for form in edit.forms_on(network, parameter) if form.op is FAKE_QUANTIZE), None)


def _take_off(network: Network, form: edit.Form | None) -> None:
    """Remove an earlier quantizer, so that what it hid is seen and its successor may have other settings."""
    if form is not None and form.op is FAKE_QUANTIZE:
        edit.remove_form(network, form)


def follow(network: Network, parameter: str, share: Tensor) -> None:
    """Set the scale of a weight's quantizer from the weight as it is now; a learned one is only kept within ¼ … 1 times that.

    share: of each channel's range that it covers, ``[O]``.
    """
    form = quantizer_on(network, parameter)
    assert form is not None
    with torch.no_grad():
        fitting = channel_scale(before(network, parameter, form), form.constants["axis"] or 0, form.constants["qmax"])
        scale = network.get(form.state["scale"])
        scale.copy_(scale.clamp(fitting / 4, fitting) if isinstance(scale, nn.Parameter) else fitting * share.to(fitting.device))


def before(network: Network, parameter: str, form: edit.Form) -> Tensor:
    """A parameter's value as it goes into one of its forms."""
    value = network.get(parameter).detach()
    for each in edit.forms_on(network, parameter):
        if each.node is form.node:
            break
        value = each.op(value, **{key: network.get(name).detach() for key, name in each.state.items()}, **each.constants)
    return value


def channel_axis(nodes: list[fx.Node]) -> int | None:
    """The axis of a weight's output channels; None where scales can't go along it (a grouped transposed convolution, or mixed users)."""
    transposed = {node.target in TRANSPOSED for node in nodes}
    if transposed == {False}:
        return 0
    groups = [(list(node.args) + [1] * 8)[6] for node in nodes]
    return 1 if transposed == {True} and all(g == 1 for g in groups) else None


def needed_points(network: Network) -> list[fx.Node]:
    """The activation points that an integer op makes or reads, and what float ops (a layer-norm, a GRU) hand to quantized layers.

    Values between float layers stay float.
    """
    quantized = {name for name in weights(network, ("*",), ()) if quantizer_on(network, name) is not None}
    points = placement.activation_points(network)
    needed = {p for p in points if _in_integers(_start(p), quantized) or any(_in_integers(reader, quantized) for reader in _readers(p))}
    for node in network.module.graph.nodes:
        if node.target in placement.CONVOLUTIONS | placement.LINEARS and _in_integers(node, quantized):
            needed |= _handed_over(node.all_input_nodes[0], needed)
    return [node for node in network.module.graph.nodes if node in needed]


def _handed_over(value: fx.Node, points: set[fx.Node]) -> set[fx.Node]:
    """The value to quantize so that a layer reads integers, if none on the way to it is quantized: where its last new numbers come from."""
    made: fx.Node | None = None
    while value not in points:
        if made is None and value.target not in placement.MOVES - placement.CLAMPS:
            made = value
        if value.target is FAKE_QUANTIZE:  # from an earlier phase: calibrated anew
            return {value.all_input_nodes[0]}
        if value.target not in placement.MOVES:
            return {made} if made is not None and made.op == "call_function" else set()
        value = value.all_input_nodes[0]
    return set()


def _in_integers(node: fx.Node, quantized: set[str]) -> bool:
    if node.target in placement.CONVOLUTIONS | placement.LINEARS:
        return node.target not in TRANSPOSED and parameter_of(node.args[1]) in quantized
    if node.target in placement.UNARY:  # a table of codes, where its input is one
        source = placement.source_of(node.all_input_nodes[0])
        return _in_integers(_start(source), quantized)
    return node.target in placement.ADDS | placement.MEANS | placement.POOLS | placement.CATS


def _start(point: fx.Node) -> fx.Node:
    """The op at the start of the chain that ends here."""
    node = point
    while node.target in placement.CLAMPS | placement.BATCH_NORMS and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _readers(point: fx.Node) -> Iterator[fx.Node]:
    """The ops that read a value, past what only moves it."""
    pending = list(point.users)
    seen: set[fx.Node] = set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.target in placement.MOVES or node.target is FAKE_QUANTIZE:
            pending.extend(node.users)
        else:
            yield node


def first(part: Part, samples: int) -> Iterator[Batch]:
    """The part's first samples, in order."""
    left = samples
    for batch in part.batches(min(CALIBRATION_BATCH, samples)):
        if left <= 0:
            return
        yield batch if len(batch) <= left else Batch(inputs=tuple(x[:left] for x in batch.inputs), targets=batch.targets)
        left -= len(batch)
