"""A quantized network as an integer program: per op, fed with the graph's own integers, then top-1 end to end."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from karui.compress.prune.weights import Prune
from karui.graph.network import Network
from karui.lower import lower
from karui.program import interpreter
from karui.program.layout import to_program
from karui.program.program import Affine, Program
from karui.search.scores import outputs_of
from karui.zoo.lenet import lenet5
from karui.zoo.resnet import resnet8
from tests.lower.networks import made, noise
from tests.lower.quantized import quantized


def graph_codes(network: Network, program: Program, example: torch.Tensor) -> dict[str, NDArray[np.int64]]:
    """The integers that the graph's activation quantizers stand for: program tensor → [N, …] codes in the program's layout."""
    found: dict[str, NDArray[np.int64]] = {}

    class Reader(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            tensor = program.tensors.get(f"{n.name}_codes")
            if tensor is not None and isinstance(tensor.quant, Affine):
                codes = np.rint(value.numpy() / np.float32(tensor.quant.scale)) + tensor.quant.zero_point
                found[tensor.name] = to_program(codes, tensor.layout).astype(np.int64)
            return value

    with torch.no_grad():
        Reader(network.module).run(example)
    return found


NETWORKS = {
    "lenet5": lambda: (lenet5(), noise(64, 1, 28, 28)),
    "resnet8": lambda: (resnet8(), noise(64, 3, 32, 32)),
    "inverted residuals": lambda: (made("inverted residuals")[0], noise(64, 3, 12, 12)),
    "sensor": lambda: (made("sensor")[0], noise(64, 6, 32)),
    "squeeze": lambda: (made("squeeze")[0], noise(64, 3, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_integer_op_agrees_with_the_graph_within_one_step(name: str) -> None:
    torch.manual_seed(0)
    module, example = NETWORKS[name]()
    network = quantized(module, example)
    program = lower(network)
    codes = graph_codes(network, program, example)
    compared, differing = 0, 0
    for op in program.ops:
        out = op.outputs[0]
        if out not in codes or not op.inputs or not all(i in codes for i in op.inputs):
            continue
        inputs = [codes[i].astype(np.int8) for i in op.inputs]
        got = interpreter.run_op(program, op, inputs, batch=len(example))[0].astype(np.int64)
        off = np.abs(got - codes[out])
        assert off.max() <= 1, f"{op.kind} '{op.name}'"
        compared, differing = compared + off.size, differing + int((off > 0).sum())
    assert compared > 64 * 20
    assert differing < 1e-3 * compared


def test_lenet_is_integers_from_the_first_op_to_the_last() -> None:
    program = lower(quantized(lenet5(), noise(32, 1, 28, 28)))
    kinds = [(op.kind, program.tensor(op.outputs[0]).dtype) for op in program.ops]
    assert kinds[0] == ("quantize", "int8")
    assert all(dtype == "int8" for _, dtype in kinds)
    assert [kind for kind, _ in kinds[1:]] == ["conv2d", "max_pool2d", "conv2d", "max_pool2d", "reshape", "linear", "linear"]


@pytest.mark.parametrize("name", ["pre-activation", "u-net", "attention", "two outputs"])
def test_what_has_no_integer_form_stays_float(name: str) -> None:
    """Islands, and the same answer as the graph gives with its fake-quantized values."""
    module, (example,) = made(name)
    example = torch.cat([example] * 8) + 0.1 * noise(24, *example.shape[1:])
    network = quantized(module, example)
    program = lower(network)
    dtypes = {program.tensor(op.outputs[0]).dtype for op in program.ops}
    assert dtypes == ({"int8"} if name == "two outputs" else {"int8", "float32"})  # SiLU and sigmoid are tables
    laid = np.ascontiguousarray(to_program(example.numpy(), program.tensor(program.inputs[0].tensor).layout))
    got = outputs_of(program, interpreter.run(program, [laid]))
    with torch.no_grad():
        want = network(example)
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= 0.06 * b.abs().max()  # a few steps of 1/255, propagated


def test_masks_become_support_and_negative_norms_flip_codes() -> None:
    torch.manual_seed(0)
    module, (example,) = made("inverted residuals")
    example = torch.cat([example] * 8)
    network = quantized(module, example, Prune(sparsity=0.5))
    program = lower(network)
    weights = [program.weights[op.weights["weight"]] for op in program.ops if "weight" in op.weights]
    kept, count = sum(w.stored for w in weights), sum(int(np.prod(w.shape)) for w in weights)
    assert abs(kept / count - 0.5) < 0.01
    assert all((w.codes()[~w.mask] == 0).all() for w in weights)
    laid = np.ascontiguousarray(to_program(example.numpy(), "nhwc"))
    got = interpreter.run(program, [laid])[0].argmax(1)
    with torch.no_grad():
        want = network(example)[0].argmax(1).numpy()
    assert (got == want).mean() >= 0.9
