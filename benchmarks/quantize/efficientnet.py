"""Lines 4 and 4b: EfficientNet-Lite0 in 8 and in 4 bits after training, from 200 photos without labels.

Every fifth photo calibrates. Settings are chosen inside that fifth: calibrated on 150 of them, the squared change of the scores measured
on the other 50, one setting after the other. (The divergence would be the plainer choice, but a few photos make most of its mean: on 50 of
them it orders the settings by chance.) What is chosen is calibrated on all 200, lowered, and its C program is run on the
other 800. The peers' static quantization has the same 200 photos, and the same 800.
"""

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.harness import Row, at_least, at_most, skipped
from benchmarks.subjects import Subject, agreement, efficientnet_subject, kl_divergence, outputs_of
from karui.compress.quantize.int8 import Quantize
from karui.data import Data, Part
from karui.errors import DataError, ToolError
from karui.export import c as c_target
from karui.finetune.phases import Phase, run_phases
from karui.graph.network import Network
from karui.lower import lower
from karui.program import codec
from karui.program.program import Program
from karui.run import host
from karui.search import scores

CANDIDATES: tuple[dict[str, Any], ...] = (
    {},
    {"observer": "percentile"},
    {"observer": "mse"},
    {"observer": "entropy"},
    {"weight_range": "mse"},
    {"rounding": "gptq"},
    {"bias_correction": True},
    {"rounding": "nearest", "bias_correction": True},
)
RANGES: dict[str, Any] = {"observer": "mse", "weight_range": "mse"}
BITS4: dict[str, dict[str, Any]] = {
    "round to nearest": {"rounding": "nearest"},
    "GPTQ": {"rounding": "gptq", "bias_correction": True},
    "AdaRound": {"rounding": "adaround", "bias_correction": True},
}


def rows(quick: bool) -> Iterator[Row]:
    """int8 beside its peers."""
    try:
        subject = efficientnet_subject()
    except (DataError, ToolError) as reason:
        yield skipped("4 efficientnet_lite0", str(reason))
        return
    yield from compared(subject, halves=halves(subject.data), test=subject.data.test)


def halves(data: Data) -> tuple[Data, Part]:
    """Of the calibration photos, three in four to calibrate with, and the fourth to choose by."""
    part = data.calibration
    chosen = [i for i in range(len(part)) if i % 4]  # type: ignore[arg-type]
    fit = part.subset(chosen, name="photos to fit")  # type: ignore[attr-defined]
    held = part.subset(slice(0, None, 4), name="photos to choose by")  # type: ignore[attr-defined]
    return replace(data, calibration=fit), held


def compared(subject: Subject, *, halves: tuple[Data, Part], test: Part) -> Iterator[Row]:
    """Settings chosen, then every figure on the photos for the test."""
    network, (fit, held) = subject.network, halves
    near, far = (outputs_of(network, part) for part in (held, test))
    chosen: dict[str, Any] = {}
    least = math.inf
    for more in CANDIDATES:  # what was best so far, and one thing more
        made = quantized(network, fit, **{**chosen, **more})
        value = float((outputs_of(made, held) - near).square().mean() / near.square().mean())
        label = ", ".join(f"{key}={each}" for key, each in {**chosen, **more}.items()) or "as it is"
        yield Row(case=f"4 int8, {label}", figure="change² / scores², the 50 photos to choose by", value=value)
        if value < least:
            least, chosen = value, {**chosen, **more}
    yield from _int8(subject, chosen, far, test)
    for peer in peers.STATIC:
        try:
            outputs, spent = peers.outputs(peer, network, subject.data.calibration, test)
        except ToolError as reason:
            yield skipped(f"4 int8, {peer}", str(reason))
            continue
        yield from _figures(f"4 int8, {peer}", outputs, far, spent)


def narrow(quick: bool) -> Iterator[Row]:
    """Line 4b: int4 weights, then int4 and int8 within 60 % of int8's bytes."""
    try:
        subject = efficientnet_subject()
    except (DataError, ToolError) as reason:
        yield skipped("4b efficientnet_lite0", str(reason))
        return
    far = outputs_of(subject.network, subject.data.test)
    for name in BITS4:
        yield from in_4_bits(name, subject, far)
    yield from _mixed(subject, far)


def in_4_bits(name: str, subject: Subject, far: Tensor) -> Iterator[Row]:
    """One of ``BITS4``."""
    start = time.perf_counter()
    made = quantized(subject.network, subject.data, **RANGES, **BITS4[name], bits=4)
    spent = time.perf_counter() - start
    outputs = program_outputs(lower(made), subject.data.test)
    yield from _figures(f"4b int4 weights, {name}", outputs, far, spent)
    if name != "round to nearest":
        yield at_least(f"4b int4 weights, {name}", "agreement", 100 * float(agreement(outputs, far).mean()), 85, "%")


def _mixed(subject: Subject, far: Tensor) -> Iterator[Row]:
    start = time.perf_counter()
    made = quantized(subject.network, subject.data, **RANGES, **BITS4["GPTQ"], bits=(4, 8), bytes=0.6)
    spent = time.perf_counter() - start
    program = lower(made)
    outputs, case = program_outputs(program, subject.data.test), "4b mixed int4 and int8, GPTQ"
    yield from _figures(case, outputs, far, spent)
    wide = lower(quantized(subject.network, subject.data))
    share = sum(map(codec.weight_bytes, program.weights.values())) / sum(map(codec.weight_bytes, wide.weights.values()))
    yield at_most(case, "bytes of weights / int8's", share, 0.6)
    yield at_least(case, "agreement", 100 * float(agreement(outputs, far).mean()), 95, "%")


def _int8(subject: Subject, chosen: dict[str, Any], far: Tensor, test: Part) -> Iterator[Row]:
    start = time.perf_counter()
    made = quantized(subject.network, subject.data, **chosen)
    spent = time.perf_counter() - start
    outputs = program_outputs(lower(made), test)
    case = f"4 int8, karui ({', '.join(f'{k}={v}' for k, v in chosen.items())})"
    yield from _figures(case, outputs, far, spent)
    yield at_most("4 int8, karui", "KL", float(kl_divergence(outputs, far).mean()), 0.007, "nat", peer="0.0100: onnxruntime u8s8")


def _figures(case: str, outputs: Tensor, far: Tensor, spent: float) -> Iterator[Row]:
    same, kl = agreement(outputs, far), kl_divergence(outputs, far)
    half = 1.96 * math.sqrt(float(same.mean() * (1 - same.mean())) / len(same))
    yield Row(case=case, figure="agreement with float, ± the 95 % interval", value=100 * float(same.mean()), unit="%", spread=100 * half)
    yield Row(case=case, figure="KL(float ‖ it)", value=float(kl.mean()), unit="nat", spread=float(kl.std() / math.sqrt(len(kl))))
    yield Row(case=case, figure="time to quantize", value=spent, unit="s")


def quantized(network: Network, data: Data, **settings: Any) -> Network:
    """Quantized after training with all calibration photos."""
    return run_phases(network, data, [Phase(techniques=(Quantize(samples=200, **settings),))]).network


def program_outputs(program: Program, part: Part) -> Tensor:
    """What the C program gives for every photo, bit for bit the interpreter's answers: [N, classes]."""
    with tempfile.TemporaryDirectory() as scratch:
        library = host.load(c_target.write(program, Path(scratch)))
        found = [scores.outputs_of(program, library.run(scores.feeds(program, batch)))[0] for batch in part.batches(25)]
    return torch.cat(found)
