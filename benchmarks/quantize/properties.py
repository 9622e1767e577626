"""Line 7: what holds whatever the numbers are, tried many times; defined behaviour at the edges; and bad input."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Row
from benchmarks.refusals import Cases, attached, refused
from karui.compress.quantize.binarize import Binarize
from karui.compress.quantize.binaryconnect import BinaryConnect
from karui.compress.quantize.int8 import Quantize
from karui.compress.quantize.palette import Palette
from karui.compress.quantize.ranges import affine, channel_scale
from karui.compress.technique import Technique
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.program import codec
from karui.program.coding.bits import pack, unpack
from karui.program.program import AffineValues

TRIALS = 200
FAKE_QUANTIZE = torch.ops.karui.fake_quantize


def rows(quick: bool) -> Iterator[Row]:
    """Properties, edges, refusals."""
    for name, tried in PROPERTIES.items():
        held = sum(tried(np.random.default_rng(seed)) for seed in range(TRIALS))
        yield Row(case=f"7 {name}", figure=f"held, of {TRIALS} random trials", value=held, goal=f"{TRIALS}", ok=held == TRIALS)
    for name, technique in EDGES.items():
        yield from _edges(name, technique)
    yield from refused("7", net(), REFUSALS)


# ── properties ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _half_a_step(rng: np.random.Generator) -> bool:
    """Weights, along their channels, in any width."""
    bits, size = int(rng.integers(2, 9)), 10 ** rng.uniform(-4, 3)
    weight = torch.from_numpy(rng.standard_normal((int(rng.integers(1, 9)), 30)).astype(np.float32) * np.float32(size))
    top = 2 ** (bits - 1) - 1
    step = channel_scale(weight, 0, top)
    error = (FAKE_QUANTIZE(weight, step, torch.zeros_like(step), -top, top, 0) - weight).abs()
    return bool((error <= 0.5001 * step[:, None]).all())


def _activations(rng: np.random.Generator) -> bool:
    """Values inside the range, and zero exactly."""
    bits, (low, high) = int(rng.integers(1, 9)), sorted(rng.normal(0, 10 ** rng.uniform(-3, 3), 2))
    scale, zero_point = affine(low, high, bits)
    least = -(2 ** (bits - 1))
    ends = [(code - float(zero_point)) * float(scale) for code in (least, -least - 1)]
    value = torch.from_numpy(rng.uniform(*ends, 100).astype(np.float32))
    value[0] = 0
    found = FAKE_QUANTIZE(value, scale, zero_point, least, -least - 1, None)
    return bool(((found - value).abs() <= 0.5001 * scale).all()) and float(found[0]) == 0.0


def _packing(rng: np.random.Generator) -> bool:
    """Every width, any shape."""
    width, shape = int(rng.integers(1, 33)), tuple(rng.integers(0, 7, int(rng.integers(1, 5))))
    symbols = rng.integers(0, 2**width, shape)
    return bool((unpack(pack(symbols, width), width, symbols.size) == symbols.ravel()).all())


def _permuted(rng: np.random.Generator) -> bool:
    """A network whose output channels stand in another order has codes in that order, scales too."""
    network, order = net(int(rng.integers(1 << 30))), torch.from_numpy(rng.permutation(8))
    other = network.copy()
    for name in ("stem.weight", "stem.bias"):
        other.get(name).detach().copy_(network.get(name).detach()[order])
    settings = {"bits": int(rng.integers(2, 9)), "weight_range": rng.choice(["minmax", "mse"])}
    found = []
    for each in (network, other):
        attached(each, Quantize(**settings, include=("stem",)))
        found.append(lower(each).weights["stem.weight"].values)
    one, two = found
    assert isinstance(one, AffineValues) and isinstance(two, AffineValues)
    return bool((one.codes[order.numpy()] == two.codes).all() and (one.scale[order.numpy()] == two.scale).all())


def _written(rng: np.random.Generator) -> bool:
    """A file gives back the same codes, whatever the format."""
    network, formats = (
        net(int(rng.integers(1 << 30))),
        [Quantize(bits=int(rng.integers(2, 9))), Palette(bits=int(rng.integers(1, 9))), Binarize()],
    )
    attached(network, formats[int(rng.integers(3))])
    return _same_again(network)


def _same_again(network: Network) -> bool:
    program = lower(network)
    again = codec.decode(codec.encode(program))
    return all((w.real() == again.weights[n].real()).all() and (w.mask == again.weights[n].mask).all() for n, w in program.weights.items())


PROPERTIES: dict[str, Callable[[np.random.Generator], bool]] = {
    "weights: the error is at most half a step": _half_a_step,
    "activations: the error is at most half a step, and zero is exact": _activations,
    "packed, and unpacked again": _packing,
    "permuted channels have permuted codes": _permuted,
    "written, and read again": _written,
}


# ── edges ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

EDGES: dict[str, Technique] = {
    "int8": Quantize(),
    "int4, GPTQ": Quantize(bits=4, rounding="gptq", weight_range="mse", observer="mse"),
    "int4, AdaRound": Quantize(bits=4, rounding="adaround", bias_correction=True, observer="entropy"),
    "1w2a": Quantize(bits=2, activation_bits=2, observer="mse"),
    "palette": Palette(bits=3),
    "binary": Binarize(),
    "BinaryConnect": BinaryConnect(),
}


def _edges(name: str, technique: Technique) -> Iterator[Row]:
    """Channels of zeros, constant channels, a layer of zeros, one sample of nothing: finite answers, and a file."""
    changes: dict[str, Callable[[Tensor], None]] = {
        "a channel of zeros": lambda w: w[2].zero_(),  # type: ignore[arg-type, return-value]
        "a constant channel": lambda w: w[2].fill_(0.3),  # type: ignore[arg-type, return-value]
        "a layer of zeros": lambda w: w.zero_(),  # type: ignore[arg-type, return-value]
    }
    for label, change in changes.items():
        network = net()
        change(network.get("stem.weight").detach())
        attached(network, technique, samples=1)
        answer = network(torch.ones(2, 3, 8, 8))[0]
        ok = bool(torch.isfinite(answer).all()) and _same_again(network)
        yield Row(case=f"7 {name}, {label}, one sample", figure="finite; read as written", value=str(ok), goal="True", ok=ok)


# ── bad input ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Net(nn.Module):
    """A convolution and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(torch.relu(self.stem(x)).mean((2, 3)))))


def net(seed: int = 0) -> Network:
    """With random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return capture(Net().eval(), torch.zeros(2, 3, 8, 8), name="net")


def broken(value: float, name: str = "body.weight") -> Network:
    """With one number that isn't one."""
    network = net()
    network.get(name).detach().flatten()[0] = value
    return network


REFUSALS: Cases = {
    "weights of 1 bit": (lambda n: Quantize(bits=1), "bits"),
    "weights of 9 bits": (lambda n: Quantize(bits=9), "bits"),
    "activations of no bits": (lambda n: Quantize(activation_bits=0), "activation_bits"),
    "activations of 9 bits": (lambda n: Quantize(activation_bits=9), "activation_bits"),
    "an index of 9 bits": (lambda n: Palette(bits=9), "bits"),
    "an observer that doesn't exist": (lambda n: Quantize(observer="best"), "best"),  # type: ignore[arg-type]
    "a rounding that doesn't exist": (lambda n: Quantize(rounding="down"), "down"),  # type: ignore[arg-type]
    "H above 1": (lambda n: BinaryConnect(H=2.0), "H"),
    "no samples": (lambda n: Quantize(samples=0), "samples"),
    "layers that don't exist": (lambda n: attached(n, Quantize(include=("nothing",))), "nothing"),
    "NaN in a weight": (lambda n: attached(broken(float("nan")), Quantize()), "body.weight"),
    "infinity in a weight": (lambda n: attached(broken(float("inf")), Palette()), "body.weight"),
    "NaN in what layers give": (lambda n: attached(broken(float("nan"), "body.bias"), Quantize()), "gives values"),
    "two formats for one weight": (lambda n: attached(formatted(), Palette()), "number format"),
}


def formatted() -> Network:
    """Quantized already."""
    network = net()
    attached(network, Quantize())
    return network
