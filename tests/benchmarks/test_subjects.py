"""What the benchmarks share: metrics by hand, and a cure for what is missing."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import subjects
from karui.data import Data
from karui.errors import DataError, KaruiError, ToolError
from karui.graph.doors.torch import capture


def refused(*words: str, kind: type[KaruiError]) -> "pytest.RaisesExc[KaruiError]":
    return pytest.raises(kind, check=lambda error: "\n" not in str(error) and all(word in str(error) for word in words))


def test_agreement_and_kl_by_hand() -> None:
    reference = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    outputs = torch.tensor([[0.0, 5.0], [0.0, 1.0], [1.0, 0.0]])
    assert subjects.agreement(outputs, reference).tolist() == [1, 0, 1]
    p, q = reference.softmax(1), outputs.softmax(1)
    assert torch.allclose(subjects.kl_divergence(outputs, reference), (p * (p / q).log()).sum(1), atol=1e-6)
    assert subjects.kl_divergence(reference + 3, reference).abs().max() < 1e-6


def test_a_network_agrees_with_itself_only() -> None:
    torch.manual_seed(0)
    data = subjects.motion(100)
    first, second = (capture(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 6)).eval(), data.example(2)) for _ in range(2))
    judged = subjects.against(data, first)
    assert judged.metric.name == "agreement" and judged.train is data.train

    def score(network: object) -> float:
        return float(judged.metric.function((subjects.outputs_of(network, judged.test),), judged.test.targets).mean())

    assert score(first) == 1 and score(second) < 0.6


def test_synthetic_motion_is_repeatable_and_says_what_it_is() -> None:
    data: Data = subjects.motion(50)
    assert "synthetic" in data.name and data.example(3)[0].shape == (3, 6, 128)
    assert data.fingerprint() == subjects.motion(50).fingerprint() != subjects.motion(50, seed=1).fingerprint()


def test_photos_are_labelled_by_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "imagenet-sample"
    folder.mkdir()
    for i in range(1000):
        image.new("RGB", (4, 4), (i % 256, i // 256, 0)).save(folder / f"n{i:08}_thing{i}.jpg", quality=95, subsampling=0)
    monkeypatch.setenv("KARUI_DATA", str(tmp_path))
    data = subjects.imagenet_photos(4)
    assert data.calibration.targets.tolist() == list(range(0, 1000, 5)) and len(data.test) == 800
    assert not set(data.test.targets.tolist()) & set(data.calibration.targets.tolist())
    assert data.labels[17] == "thing17"
    x, y = data.test.inputs[0][:, 0, 2, 2].int(), data.test.targets
    assert int((x - (y % 256)).abs().max()) <= 4  # the picture that goes with the label, but for JPEG
    batch = next(data.test.batches(1))
    assert torch.allclose(batch.inputs[0][0, 0, 2, 2], (x[0] - 127) / 128)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KARUI_DATA", raising=False)
    with refused("KARUI_DATA is not set", kind=DataError):
        subjects.imagenet_photos()
    monkeypatch.setenv("KARUI_DATA", str(tmp_path))
    with refused("0 .jpg files", "1000", kind=DataError):
        subjects.imagenet_photos()
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with refused("pip install", "efficientnet-lite-pytorch", kind=ToolError):
        subjects.efficientnet_lite0()
    with refused("ds_cnn", kind=DataError):
        subjects.zoo_subject("ds_cnn")


def test_a_subject_of_the_zoo() -> None:
    subject = subjects.zoo_subject("lenet5", sample=True)
    assert subject.name == subject.network.name == "lenet5" and subject.data.name == "fashion-mnist (sample)"
