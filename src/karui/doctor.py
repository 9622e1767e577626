"""What will and won't work with a network, tried on copies with noise before hours are spent: training, pruning, int8, each target."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from karui.analyse.cost import measure
from karui.compress.prune.channels import PruneChannels
from karui.compress.quantize.int8 import Quantize
from karui.compress.technique import Technique
from karui.data import Data
from karui.errors import KaruiError, RecipeError, ToolError, UnsupportedOp, first_line
from karui.export.targets import targets
from karui.finetune.attach import attach_all, own_random_numbers
from karui.graph.network import Network
from karui.lower.lower import lower
from karui.program import interpreter
from karui.program.arithmetic import quantization, quantize
from karui.program.layout import dequantize, to_network, to_program
from karui.program.program import Array, Program
from karui.run.runners import runners
from karui.verify.cost import random_inputs
from karui.verify.parity import compare

Verdict = Literal["yes", "partly", "no"]
SAMPLES = 8  # of noise, for calibration
RATIO = 0.3  # of the channels, to see whether they can leave
LITTLE = 0.05  # share of the MACs that has to go for that to be worth it
NEAR = 0.05  # of an output's range: the root mean square by which integers may be off where a runtime rounds its own way


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was tried. subject: "trains", "prunes", "int8", or a target's name; words: why, or how much of it."""

    subject: str
    verdict: Verdict
    words: str


def examine(network: Network, names: Sequence[str] | None = None) -> Iterator[Finding]:
    """Try everything, in the order of the flow, and tell as it is found; the network is left as it was.

    names: targets; all that can be run here where it is left out. What fails is told with the error's own words.
    """
    known = sorted(set(targets()) & set(runners()))
    for name in names or ():
        if name not in known:
            raise RecipeError(f"target '{name}' can't be run here; choose from {', '.join(known)}")
    network = network.copy().eval()
    yield _tried("trains", lambda: _trains(network))
    yield _tried("prunes", lambda: _prunes(network))
    programs: dict[str, Program] = {}
    yield _tried("lowers", lambda: _lowers(network, programs))
    yield _tried("int8", lambda: _int8(network, programs))
    for name in known if names is None else names:
        yield _tried(name, partial(_target, name, programs))


def _tried(subject: str, attempt: Callable[[], tuple[Verdict, str]]) -> Finding:
    try:
        verdict, words = attempt()
    except KaruiError as error:
        verdict, words = "no", str(error)
    except (Exception, RecursionError) as error:  # a fault of karui's own is a finding, too
        verdict, words = "no", f"{first_line(error)} (a fault of karui's; please report it)"
    return Finding(subject=subject, verdict=verdict, words=words)


# ── before the waist ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _trains(network: Network) -> tuple[Verdict, str]:
    """One step of gradient descent."""
    subject = network.copy().train()
    weights = {name: p for name, p in subject.parameters().items() if p.requires_grad}
    if not weights:
        return "no", "it has no parameters that may be trained"
    optimizer = torch.optim.SGD(weights.values(), lr=1e-4)
    loss = sum(((y.float() ** 2).mean() for y in subject(*subject.example(SAMPLES)) if y.is_floating_point()), torch.zeros(()))
    loss.backward()
    without = [name for name, p in weights.items() if p.grad is None]
    strange = [name for name, p in weights.items() if p.grad is not None and not bool(p.grad.isfinite().all())]
    optimizer.step()
    if strange:
        return "partly", f"the gradient of '{strange[0]}' is not finite on noise"
    if without:
        return "partly", f"no gradient reaches '{without[0]}'" + (f" and {len(without) - 1} more" if len(without) > 1 else "")
    return "yes", f"{len(weights)} parameters get gradients"


def _prunes(network: Network) -> tuple[Verdict, str]:
    """Three channels in ten out of every group."""
    subject = network.copy()
    before = measure(subject).macs
    _attached(subject, PruneChannels(pruning_ratio=RATIO))
    with torch.no_grad():
        subject.eval()(*subject.example(SAMPLES))
    after = measure(subject).macs
    share = 1 - after / before if before else 0.0
    words = f"{RATIO:.0%} of the channels out: {share:.0%} of the MACs gone"
    return ("yes" if share >= LITTLE else "partly"), words


def _attached(network: Network, technique: Technique) -> None:
    """Put a technique on a network, as a phase without training does, with noise for data."""
    inputs = network.example(SAMPLES)
    part = (inputs if len(inputs) > 1 else inputs[0], torch.zeros(SAMPLES, dtype=torch.int64))
    data = Data.of(train=part, validation=part, test=part, name="noise")
    with own_random_numbers(network):
        for attached in attach_all(network, (technique,), data, teacher=network.copy(), steps=0, seed=0):
            attached.finish()


# ── behind it ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _lowers(network: Network, programs: dict[str, Program]) -> tuple[Verdict, str]:
    program = lower(network)
    programs["as it is" if _in_codes(program) else "float"] = program
    inputs = network.example(2)
    with torch.no_grad():
        expected = network(*inputs)
    worst = 0.0
    for i, (y, found) in enumerate(zip(expected, interpreter.run(program, _laid(program, inputs)), strict=True)):
        out = program.outputs[i]
        real = to_network(dequantize(program, i, found), program.tensor(out.tensor).layout)
        seen = compare(real, y.numpy().astype(np.float32), rule="tolerance")
        worst = max(worst, seen.max_error)
        if not seen.ok and (not _in_codes(program) or _off(real, y.numpy()) > NEAR):
            return "no", f"output '{out.name}' is {seen.max_error:.1e} away from the network's"
    return "yes", f"{len(program.ops)} ops; at most {worst:.0e} away from the network"


def _in_codes(program: Program) -> bool:
    """Whether a part of it runs in integers already: a network that came quantized."""
    return any(tensor.dtype == "int8" for tensor in program.tensors.values())


def _laid(program: Program, inputs: Sequence[torch.Tensor]) -> list[Array]:
    tensors = [program.tensor(i.tensor) for i in program.inputs]
    laid = [to_program(x.numpy(), t.layout) for x, t in zip(inputs, tensors, strict=True)]
    return [quantize(x, *quantization(t)) if t.dtype == "int8" else x.astype(t.dtype) for x, t in zip(laid, tensors, strict=True)]


def _int8(network: Network, programs: dict[str, Program]) -> tuple[Verdict, str]:
    """Post-training quantization on noise: which layers end in integers."""
    subject = network.copy()
    _attached(subject, Quantize())
    programs["int8"] = program = lower(subject.eval())
    heavy = [op for op in program.ops if op.kind in ("conv1d", "conv2d", "conv_transpose2d", "linear", "matmul", "gru", "lstm")]
    integer = [op for op in heavy if program.tensor(op.outputs[0]).dtype == "int8"]
    floats = sorted({op.kind for op in program.ops if program.tensor(op.outputs[0]).dtype == "float32" and op.kind not in _FREE})
    words = f"{len(integer)} of {len(heavy)} layers in integers" + (f"; in float: {', '.join(floats)}" if floats else "")
    return ("yes" if len(integer) == len(heavy) and heavy else "partly" if integer else "no"), words


_FREE = ("dequantize", "constant", "reshape", "transpose")


def _target(name: str, programs: dict[str, Program]) -> tuple[Verdict, str]:
    """Written, loaded and run on this machine, float and int8, beside the interpreter."""
    if not programs:
        return "no", "there is no program to write"
    told: dict[str, tuple[bool, str]] = {form: _ran(name, program) for form, program in programs.items()}
    words = "; ".join(f"{form}: {said}" for form, (_, said) in told.items())
    good = [ok for ok, _ in told.values()]
    return ("yes" if all(good) and len(good) == 2 else "partly" if any(good) else "no"), words


def _ran(name: str, program: Program) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory(prefix="karui-doctor-") as folder:
        try:
            runner = runners()[name](targets()[name](program, Path(folder)))
            inputs = random_inputs(program, 2)
            found, expected = runner.run(inputs), _expected(program, inputs, exact=runner.exact)
        except ToolError:
            raise
        except KaruiError as error:
            return False, str(error)
        return _agreement(found, expected, exact=not _in_codes(program) or (runner.exact and integers_only(program)))


def integers_only(program: Program) -> bool:
    """Whether all is in integers between the inputs' quantize and the outputs' dequantize: then C gives the interpreter's to the last bit.

    Where an op of floats lies between (a transposed convolution, a softmax), its last digit may decide how a value is rounded.
    """
    ends = {out.tensor for out in program.outputs}
    between = (op for op in program.ops if op.kind != "quantize" and not (op.kind == "dequantize" and set(op.outputs) <= ends))
    return all(program.tensor(name).dtype != "float32" for op in between for name in op.outputs)


def _expected(program: Program, inputs: Sequence[Array], *, exact: bool) -> list[Array]:
    """What a runtime should give: those that round their own way do so about as XNNPACK, and deep networks make much of the difference."""
    if not exact:
        with suppress(UnsupportedOp):
            return interpreter.run(program, inputs, arithmetic="xnnpack")
    return interpreter.run(program, inputs)


def _agreement(found: Sequence[Array], expected: Sequence[Array], *, exact: bool) -> tuple[bool, str]:
    """exact: integers have to be equal, and floats within 1e-4 of the greatest."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        seen = compare(a, b, rule="tolerance")
        worst = max(worst, seen.max_error)
        if not seen.ok and (exact or _off(a, b) > NEAR):
            return False, f"{seen.max_error:.1e} away from the interpreter"
    whole = all(b.dtype != np.float32 for b in expected)
    return True, "equal" if worst == 0 else f"at most {worst:.0f} steps away" if whole else f"at most {worst:.0e} away"


def _off(found: Array, reference: Array) -> float:
    """Root mean square of the difference, as a share of the reference's range; of 255 steps for codes.

    The greatest says little of integers: through a deep network, or a softmax, a step in the middle becomes many at an end.
    """
    a, b = found.astype(np.float64), reference.astype(np.float64)
    span = 255.0 if reference.dtype == np.int8 else float(np.ptp(b)) if b.size else 0.0
    off = float(np.sqrt(((a - b) ** 2).mean())) if b.size else 0.0
    return off / max(span, 1e-12) if np.isfinite(off) else float("inf")
