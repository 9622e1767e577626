from pathlib import Path

import numpy as np
import pytest
import torch

from karui.errors import UnsupportedOp
from karui.graph.doors.tflite import read
from karui.lower.lower import lower
from karui.program.interpreter import run
from tests.graph.doors.tflite_files import Build

rng = np.random.default_rng(8)
LSTM = "UnidirectionalSequenceLSTMOptions"


def floats(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def lstm(b: Build, **fields: float) -> int:
    x = b.input([1, 6, 3])
    gates = [b.constant(floats(4, 3)) for _ in range(4)] + [b.constant(floats(4, 4)) for _ in range(4)]
    biases = [b.constant(floats(4)) for _ in range(4)]
    states = [b.tensor([1, 4], "FLOAT32") for _ in range(2)]
    for state in states:
        b.graph.tensors[state].isVariable = True
    inputs = [x, *gates, -1, -1, -1, *biases, -1, -1, *states, -1, -1, -1, -1]
    return b.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, LSTM, rank=3, **{"fusedActivationFunction": 4, **fields})


def test_an_lstm_over_a_sequence(tmp_path: Path) -> None:
    b = Build()
    y = lstm(b)
    network = read(b.save(tmp_path / "a.tflite", y))
    assert sorted(network.parameters()) == sorted(f"t.{y}.{kind}_{side}_l0" for kind in ("weight", "bias") for side in ("ih", "hh"))
    x = rng.normal(size=(1, 6, 3)).astype(np.float32)  # the kernels keep a state from call to call: one call
    import ai_edge_litert.interpreter as litert

    interpreter = litert.Interpreter(str(tmp_path / "a.tflite"), experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    with torch.no_grad():
        found = network(torch.from_numpy(x))[0].numpy()
        three = network(torch.from_numpy(np.concatenate([x * 0, x, x])))[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(three[2:], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run(lower(network), [x])[0], expected, rtol=0, atol=1e-5)


def test_other_lstms_are_refused(tmp_path: Path) -> None:
    b = Build()
    with pytest.raises(UnsupportedOp, match="clipping"):
        read(b.save(tmp_path / "a.tflite", lstm(b, cellClip=3.0)))
    b = Build()
    y = lstm(b)
    b.graph.operators[0].inputs[9] = b.graph.operators[0].inputs[12]
    with pytest.raises(UnsupportedOp, match="peepholes"):
        read(b.save(tmp_path / "a.tflite", y))
