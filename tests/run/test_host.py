"""A model in C, compiled and called from Python."""

from pathlib import Path

import numpy as np
import pytest

from karui.errors import DataError, FileError
from karui.export import c, device
from karui.program.interpreter import run
from karui.run import host
from tests.export.many import QUICK
from tests.program import builders
from tests.program.single_op import program, tensor


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> host.Library:
    folder = tmp_path_factory.mktemp("c")
    return host.build(c.write(builders.lenet(integer=True, pixels=True), folder, name="net"), flags=QUICK)


def test_the_header_says_it_all(library: host.Library) -> None:
    signature = library.signature
    assert signature.name == "net" and not signature.stateful
    assert signature.inputs == (host.Port(name="input", dtype="uint8", shape=(16, 16, 1)),)
    assert signature.outputs == (host.Port(name="output", dtype="int8", shape=(10,)),)
    assert signature.arena_bytes > 0 and library.sections.rodata > 4000


def test_a_folder_is_as_good_as_an_artifact(tmp_path: Path) -> None:
    p = builders.sensor()
    inputs = builders.sample(p, 5)
    for target in (c, device):
        target.write(p, tmp_path / target.__name__)
        np.testing.assert_allclose(host.build(tmp_path / target.__name__, flags=QUICK).run(inputs)[0], run(p, inputs)[0], atol=1e-5)


def test_several_inputs_outputs_and_a_scalar(tmp_path: Path) -> None:
    p = program("mean", [tensor("x", (3, 2), None)], [tensor("y", (), None)], axes=[0, 1], keepdims=False, clamp=None)
    built = host.build(c.write(p, tmp_path), flags=QUICK)
    assert built.signature.outputs[0].shape == ()
    assert built.run([np.ones((4, 3, 2), np.float32)])[0].tolist() == [1.0] * 4


def test_arrays_that_lie_otherwise_and_no_samples(library: host.Library) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 1)).astype(np.uint8)
    expected = library.run([pictures])[0]
    assert np.array_equal(library.run([np.asfortranarray(pictures)])[0], expected)
    assert np.array_equal(library.run([pictures[::-1]])[0], expected[::-1])
    assert library.run([pictures[:0]])[0].shape == (0, 10)


def test_call_runs_the_first_sample(library: host.Library) -> None:
    once = library.call([np.zeros((3, 16, 16, 1), np.uint8)])
    assert once() is None and once() is None


def test_inputs_that_do_not_fit(library: host.Library) -> None:
    good = np.zeros((2, 16, 16, 1), np.uint8)
    for bad, message in (([], "takes 1 inputs"), ([good[:, :8]], r"uint8 \[N, 16, 16, 1\]"), ([good.astype(np.int8)], "is int8")):
        with pytest.raises(DataError, match=message):
            library.run(bad)


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds no model in C"):
        host.build(tmp_path)
    (tmp_path / "other.h").write_text("int other(void);")
    (tmp_path / "other.c").write_text("")
    with pytest.raises(FileError, match="not the header of a model that karui wrote"):
        host.build(tmp_path)
    c.write(builders.sensor(), tmp_path)
    with pytest.raises(FileError, match="holds 2 models"):
        host.build(tmp_path)
    assert host.build(tmp_path, name="model", flags=QUICK).signature.name == "model"
