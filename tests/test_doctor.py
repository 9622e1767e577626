"""What the doctor says agrees with what happens."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from karui import doctor
from karui.cli.main import main
from karui.compress.quantize.int8 import Quantize
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.testing.subjects import small_network, small_programs


def verdicts(network: Network, names: tuple[str, ...] = ()) -> dict[str, tuple[str, str]]:
    return {f.subject: (f.verdict, f.words) for f in doctor.examine(network, names)}


def captured(module: nn.Module, *shape: int) -> Network:
    return capture(module.eval(), torch.randn(2, *shape))


def test_a_network_that_can_do_everything() -> None:
    network = small_network()
    before = network.fingerprint()
    found = verdicts(network, ("c", "onnx"))
    assert [verdict for verdict, _ in found.values()] == ["yes"] * 6, found
    assert list(found) == ["trains", "prunes", "lowers", "int8", "c", "onnx"]
    assert "5 of 5 layers in integers" in found["int8"][1] and "int8: equal" in found["c"][1]
    assert network.fingerprint() == before


class Sorting(nn.Module):
    """Trains and prunes, but no target has a sort."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x))).sort(-1).values


def test_an_op_without_a_rule_is_named_before_hours_are_spent() -> None:
    found = verdicts(captured(Sorting(), 8), ("onnx",))
    assert found["trains"][0] == "yes" and found["prunes"][0] == "yes"
    assert found["lowers"][0] == "no" and "aten.sort" in found["lowers"][1]
    assert found["int8"][0] == "no" and found["onnx"] == ("no", "there is no program to write")


class Fixed(nn.Module):
    """Has nothing to train."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


def test_a_network_without_weights() -> None:
    found = verdicts(captured(Fixed(), 8))
    assert found["trains"] == ("no", "it has no parameters that may be trained")
    assert found["prunes"][0] == "no" and found["lowers"][0] == "yes" and found["int8"][0] != "yes"


def test_a_layer_that_stays_in_float_makes_int8_partial() -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x)[0][:, -1])

    verdict, words = verdicts(captured(Sequence(), 5, 4))["int8"]
    assert verdict == "partly" and "1 of 2 layers in integers" in words and "gru" in words


def test_floats_that_are_a_little_wrong_are_wrong_and_integers_may_be_some_steps_off() -> None:
    real = np.linspace(-1, 1, 50, dtype=np.float32)
    assert doctor._agreement([real * 1.00005], [real], exact=True)[0] and not doctor._agreement([real * 1.01], [real], exact=True)[0]
    codes = np.arange(-100, 100, dtype=np.int8)
    assert doctor._agreement([codes + np.int8(3)], [codes], exact=False) == (True, "at most 3 steps away")
    assert (
        not doctor._agreement([codes[::-1]], [codes], exact=False)[0]
        and not doctor._agreement([codes + np.int8(1)], [codes], exact=True)[0]
    )


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "zoo:lenet5", "--to", "onnx"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[name, "yes"] for name in ("trains", "prunes", "lowers", "int8", "onnx")]
    assert main(["doctor", "zoo:lenet5", "--to", "onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["int8"]["verdict"] == "yes"


def test_an_unknown_target_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "zoo:lenet5", "--to", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err


def test_integers_are_expected_as_a_runtime_rounds() -> None:
    program = small_programs()["int8"]
    inputs = [np.random.default_rng(0).standard_normal((200, 8, 8, 1)).astype(np.float32)]
    ours, theirs = (doctor._expected(program, inputs, exact=exact)[0] for exact in (True, False))
    assert 0 < np.abs(ours.astype(int) - theirs).max() <= 3


def test_integers_are_exact_only_where_no_floats_lie_between() -> None:
    class Middle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.up, self.two = nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.relu(self.up(torch.relu(self.one(x)))))

    programs = {}
    for name, module in (("floats", Middle()), ("integers", nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)))):
        network = captured(module, 2, 8, 8)
        doctor._attached(network, Quantize())
        programs[name] = lower(network.eval())
    assert doctor.integers_only(programs["integers"]) and not doctor.integers_only(programs["floats"])
