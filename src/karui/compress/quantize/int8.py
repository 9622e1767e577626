"""8-bit integers: after training with calibration samples (PTQ), or while training goes on (QAT)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, fx, nn

from karui.analyse import observe
from karui.analyse.observe import Observer
from karui.compress.quantize import mixed
from karui.compress.quantize.points import (
    BINARIZE,
    FAKE_QUANTIZE,
    channel_axis,
    in_codes,
    is_for,
    is_narrowing,
    needed_points,
    quantizer_behind,
    readers_of,
)
from karui.compress.quantize.ranges import WeightRange, affine, best_share, channel_scale, observer_of
from karui.compress.quantize.rounding import Rounding, RoundingName, nearest, round_layers, roundable, rounding_of
from karui.compress.select import patterns, refuse_unfit, weights
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.data import Batch, Part
from karui.errors import DataError, RecipeError
from karui.graph import edit
from karui.graph.network import Network

CALIBRATION_BATCH = 64
NOT_FINITE = object()
SENSITIVITY_SAMPLES = 128  # that tell which layers bear few bits
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
    was observed, hence positive. hold_batch_norm: the progress in [0, 1] from which batch-norms normalise by their running statistics,
    which then stay, as they will on the device (Jacob et al. 2018, §3.2); None: never.

    bits: of weights, 2 to 8; with 2 they are ternary. Weights that are ±1 already (``BinaryConnect``, ``Binarize``) stay so. Several, with
    ``bytes``, the share to spend of what all weights take at the most bits: each layer gets one of them, as ``mixed`` measures and plans.
    activation_bits: 1 to 8, of what the chosen layers read; where others read it too (a shortcut), those get their 8. First and last layers
    rarely bear few: exclude them, and give them a ``Quantize`` of their own. weight_range: "minmax", or "mse": each channel's range is cut
    off where that leaves the least squared error. rounding: "nearest", "gptq", "adaround", or a function (see ``rounding``): which way each
    weight goes, told by calibration samples. bias_correction: biases take over what the mean of each layer's outputs loses (Nagel et al.
    2019, "Data-free quantization through weight equalization and bias correction", §4.2). Both are done once, before any training.
    observer: "minmax", "moving_average", "percentile", "mse", "entropy", or a function ``(seen, value) → seen`` with ``low`` and ``high``.
    include, exclude: patterns over the names of layers; the others stay float. A network that is quantized already is calibrated anew.
    """

    stage: ClassVar[Stage] = "numbers"

    bits: int | tuple[int, ...] = 8
    bytes: float | None = None
    activation_bits: int = 8
    weight_range: WeightRange = "minmax"
    rounding: RoundingName | Rounding = "nearest"
    bias_correction: bool = False
    observer: Literal["minmax", "moving_average", "percentile", "mse", "entropy"] | Observer = "minmax"
    samples: int = 512
    learn_scales: bool = False
    hold_batch_norm: float | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_bits()
        if not 1 <= self.activation_bits <= 8:
            raise RecipeError(f"activation_bits: expected 1 to 8, got {self.activation_bits}")
        if self.samples < 1:
            raise RecipeError(f"samples: expected 1 or more, got {self.samples}")
        if self.hold_batch_norm is not None and not 0 <= self.hold_batch_norm <= 1:
            raise RecipeError(f"hold_batch_norm: expected a part of the training, in [0, 1], got {self.hold_batch_norm}")
        for name in ("include", "exclude"):
            object.__setattr__(self, name, patterns(getattr(self, name), name))
        if self.weight_range not in get_args(WeightRange):
            raise RecipeError(f"weight_range: expected one of {', '.join(get_args(WeightRange))}, got {self.weight_range!r}")
        observer_of(self.observer)
        rounding_of(self.rounding)

    def _check_bits(self) -> None:
        if not isinstance(self.bits, int):
            object.__setattr__(self, "bits", tuple(sorted(set(self.bits))))
        if not self._choices or not all(2 <= each <= 8 for each in self._choices):
            raise RecipeError(f"bits: expected 2 to 8, got {self.bits}")
        if (self.bytes is None) != (len(self._choices) == 1):
            raise RecipeError("bits: several go with bytes, the share of the bytes to spend, and one without")
        if self.bytes is not None and not 0 < self.bytes <= 1:
            raise RecipeError(f"bytes: expected the share to spend of what weights take at the most bits, in (0, 1], got {self.bytes}")

    @property
    def _choices(self) -> tuple[int, ...]:
        return (self.bits,) if isinstance(self.bits, int) else self.bits

    def attach(self, network: Network, context: Context) -> "Quantizing":
        """Put quantizers on weights, then observe and put quantizers on activations."""
        layers = weights(network, self.include, self.exclude)
        refuse_unfit(network, layers, but=(FAKE_QUANTIZE, BINARIZE))
        binary = {name for name in layers if any(form.op is BINARIZE for form in edit.forms_on(network, name))}
        axes = {name: axis for name, nodes in layers.items() if (axis := channel_axis(nodes)) is not None and name not in binary}
        for name in axes:
            _take_off(network, quantizer_on(network, name))
        widths, facts = self._widths(network, context, {name: layers[name] for name in axes})
        shares = {name: self._on_weight(network, name, axis, mixed.top_at(widths[name])) for name, axis in axes.items()}
        scales = self._on_activations(network, context, {node for name in axes.keys() | binary for node in layers[name]})
        if self.bias_correction or rounding_of(self.rounding) is not nearest:
            self._round(network, context, {name: nodes for name, nodes in layers.items() if name in axes})
        return Quantizing(self, network, context, shares, scales, facts)

    def _widths(self, network: Network, context: Context, layers: dict[str, list[fx.Node]]) -> tuple[dict[str, int], dict[str, Any]]:
        """The bits of each weight; where they were chosen, what is to be told of it."""
        if self.bytes is None:
            return dict.fromkeys(layers, self._choices[0]), {}
        batches = list(first(context.data.calibration, min(self.samples, SENSITIVITY_SAMPLES)))
        rule = rounding_of(self.rounding)
        found = mixed.measured(network, layers, self._choices, batches, rule, bias_correction=self.bias_correction)
        widths = mixed.spent(found, self.bytes)
        told = {"frontier": [list(point) for point in mixed.frontier(found)], "chosen": list(mixed.cost(found, widths))}
        return widths, {"bits": widths, **told}

    def _on_activations(self, network: Network, context: Context, readers: set[fx.Node]) -> tuple[str, ...]:
        """Observe values and put quantizers on them, with ``activation_bits`` for what ``readers`` read; returns their scales' names."""
        for node in [n for n in network.module.graph.nodes if is_narrowing(n) and not readers.isdisjoint(n.users)]:
            edit.remove_form(network, edit.form_of(node))
        widths = {node: self._width(node, readers) for node in needed_points(network)}
        for node in widths:
            _take_off(network, edit.form_on_edge(node))
        scales = self._put(network, context, widths)
        if self.activation_bits < 8:
            wide = {node.args[0]: 0 for node in network.module.graph.nodes if node in readers and self._too_wide(node.args[0])}
            scales += self._put(network, context, dict.fromkeys(wide, self.activation_bits), readers)
        return scales

    def _width(self, point: fx.Node, readers: set[fx.Node]) -> int:
        """The bits of a value; those that an earlier technique gave it stay where it is for other layers than ours."""
        if is_for(point, readers):
            return self.activation_bits
        form = edit.form_on_edge(point)
        ours = not readers.isdisjoint(readers_of(point))
        return 8 if ours or form is None or form.op is not FAKE_QUANTIZE else bits_of(form)

    def _too_wide(self, value: fx.Node) -> bool:
        behind = quantizer_behind(value)
        return behind is not None and bits_of(edit.form_of(behind)) > self.activation_bits

    def _put(self, network: Network, context: Context, widths: dict[fx.Node, int], users: set[fx.Node] | None = None) -> tuple[str, ...]:
        ranges = self.observe(network, widths, context)
        return tuple(self._on_activation(network, node, ranges[node.name], bits, users) for node, bits in widths.items())

    def _round(self, network: Network, context: Context, layers: dict[str, list[fx.Node]]) -> None:
        before, training = network.copy().eval(), network.training
        for node in [node for node in before.module.graph.nodes if node.target is FAKE_QUANTIZE]:
            edit.remove_form(before, edit.form_of(node))
        grids = {name: (network.get(f"{name}_scale"), top_of(network, name)) for name in roundable(layers)}
        batches = list(first(context.data.calibration, self.samples))
        round_layers(network.eval(), before, batches, grids, rounding_of(self.rounding), bias_correction=self.bias_correction)
        network.train(training)

    def observe(self, network: Network, widths: dict[fx.Node, int], context: Context) -> dict[str, Any]:
        """What the observer sees of values that get so many bits, by node name."""
        seen: dict[str, Any] = {}
        for bits in sorted(set(widths.values())):
            nodes = [node for node, width in widths.items() if width == bits]
            observer = _marked(observer_of(self.observer, bits))
            seen |= observe.observe(network, first(context.data.calibration, self.samples), nodes, observer)
        for node in (node for node in widths if seen[node.name] is NOT_FINITE):
            where = network.layer_of(node) or node.name
            raise DataError(f"calibration: '{where}' gives values that are not finite; check data and network")
        return seen

    def _on_weight(self, network: Network, name: str, axis: int, top: int) -> Tensor:
        """Put a quantizer with codes up to ``top`` on a weight; returns what share of each channel's range it covers."""
        value = edit.value_of(network, name)
        scale = channel_scale(value, axis, top)
        share = best_share(value, scale, axis, top) if self.weight_range == "mse" else torch.ones_like(scale)
        scale = scale * share
        state = {"scale": nn.Parameter(scale) if self.learn_scales else scale, "zero_point": torch.zeros_like(scale)}
        edit.put_on_parameter(network, name, FAKE_QUANTIZE, state=state, args=("scale", "zero_point", -top, top, axis))
        return share

    def _on_activation(self, network: Network, node: fx.Node, seen: Any, bits: int, users: set[fx.Node] | None) -> str:
        scale, zero_point = affine(seen.low, seen.high, bits)
        state = {"scale": nn.Parameter(scale) if self.learn_scales else scale, "zero_point": zero_point}
        args = ("scale", "zero_point", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, None)
        name = node.name if users is None else f"{node.name}_narrow"
        placed = edit.put_on_edge(network, node, FAKE_QUANTIZE, state=state, args=args, name=name, users=users)
        return edit.form_of(placed).state["scale"]


class Quantizing(Attached):
    """Quantizers while training goes on.

    quantized: the weights, each with the share of its channels' ranges that is covered. activations: the other quantizers' scales.
    facts: what else is told in the end.
    """

    def __init__(
        self,
        settings: Quantize,
        network: Network,
        context: Context,
        quantized: dict[str, Tensor],
        activations: tuple[str, ...],
        facts: dict[str, Any],
    ) -> None:
        self.facts = facts
        self.settings, self.network, self.context = settings, network, context
        self.quantized, self.activations = quantized, activations
        self.settles = 0.9 if not settings.learn_scales and context.steps >= LONG_ENOUGH else 0.0  # the last calibration
        self.settles = max(self.settles, settings.hold_batch_norm or 0.0)
        self.held = False
        self.observed = {name: network.get(name).detach().clone() for name in activations}

    def step(self, progress: float) -> bool:
        """Let scales of weights follow them; calibrate again at the moment for it; keep learned scales near what was observed."""
        self._settle()
        hold = self.settings.hold_batch_norm
        if hold is not None and progress >= hold and not self.held:
            self.network.hold_statistics()
            self.held = True
        if not self.settings.learn_scales and recalibrates(progress, self.context.steps):
            self._recalibrate()
        return False

    def _recalibrate(self) -> None:
        twin = self.network.copy()  # switching the network itself to evaluation would make a compiled one compile again
        forms = [edit.form_of(node) for node in twin.module.graph.nodes if node.target is FAKE_QUANTIZE]
        points = {form.node.all_input_nodes[0]: form for form in forms if form.state.get("scale") in self.activations}
        ranges = self.settings.observe(twin, {node: bits_of(form) for node, form in points.items()}, self.context)
        for node, form in points.items():
            scale, zero_point = affine(ranges[node.name].low, ranges[node.name].high, bits_of(form))
            self.network.get(form.state["scale"]).copy_(scale)
            self.network.get(form.state["zero_point"]).copy_(zero_point)

    def finish(self) -> dict[str, Any]:
        """Fit the scales to the last step's weights; tells how many values are quantized, and which layers stay float."""
        if self.held:
            self.network.hold_statistics(False)
        if self.context.steps:  # weights that were rounded after training lie on their grid
            self._settle()
        codes = in_codes(self.network)
        stay = [name for name in weights(self.network, ("*",), ()) if name not in codes]
        return {"weights": len(self.quantized), "activations": len(self.activations), "float": stay} | self.facts

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


def _marked(observer: Observer) -> Observer:
    """The same observer, which ends in NOT_FINITE where it was shown what no range can hold."""

    def seen(before: Any, value: Tensor) -> Any:
        return NOT_FINITE if before is NOT_FINITE or not bool(torch.isfinite(value).all()) else observer(before, value)

    return seen


def bits_of(form: edit.Form) -> int:
    """How many bits an activation's quantizer writes."""
    return int(form.constants["qmax"]).bit_length() + 1


def top_of(network: Network, parameter: str) -> int:
    """The greatest code of a weight's quantizer."""
    form = quantizer_on(network, parameter)
    assert form is not None
    return int(form.constants["qmax"])


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


def first(part: Part, samples: int) -> Iterator[Batch]:
    """The part's first samples, in order."""
    left = samples
    for batch in part.batches(min(CALIBRATION_BATCH, samples)):
        if left <= 0:
            return
        yield batch if len(batch) <= left else Batch(inputs=tuple(x[:left] for x in batch.inputs), targets=batch.targets)
        left -= len(batch)
