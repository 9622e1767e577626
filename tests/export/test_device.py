"""The device folder: built and run as on a board, with no Python on its path."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from karui.export import c, device
from karui.program.interpreter import run
from karui.program.program import Array, Output, Program
from tests import board
from tests.board import call, refused
from tests.board import picture as pgm
from tests.program import builders
from tests.program.single_op import program, tensor

LABELS = tuple("T-shirt trouser pullover dress coat sandal shirt sneaker bag boot".split())


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose path holds a compiler and make, and no Python."""
    return board.environment(tmp_path_factory.mktemp("bin"))


def make(p: Program, folder: Path, bare: dict[str, str]) -> Path:
    device.write(p, folder)
    board.make(folder, bare)
    return folder


def labelled(p: Program) -> Program:
    out = p.outputs[0]
    return Program(**{**vars(p), "outputs": (type(out)(name=out.name, tensor=out.tensor, labels=LABELS),)})


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory, bare: dict[str, str]) -> tuple[Program, Path]:
    p = labelled(builders.lenet(integer=True, pixels=True, sparsity=0.7))
    return p, make(p, tmp_path_factory.mktemp("grey"), bare)


def logits(p: Program, inputs: list[Array]) -> Array:
    found = run(p, inputs)[0]
    quant = p.tensor(p.outputs[0].tensor).quant
    return found.astype(np.float64) if quant is None else quant.scale * (found.astype(np.float64) - quant.zero_point)


def test_200_pictures_as_the_interpreter_sees_them(grey: tuple[Program, Path], bare: dict[str, str], tmp_path: Path) -> None:
    p, folder = grey
    pictures = np.random.default_rng(0).integers(0, 256, (200, *p.tensor(p.inputs[0].tensor).shape)).astype(np.uint8)
    expected = logits(p, [pictures])
    paths = [pgm(tmp_path / f"{i}.pgm", picture) for i, picture in enumerate(pictures)]
    every = call(folder, bare, "--all", *paths)
    assert every.returncode == 0, every.stderr
    found = np.array([float(line.split("\t")[1]) for line in every.stdout.splitlines()]).reshape(200, 10)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    best = call(folder, bare, *paths[:3])
    for line, values in zip(best.stdout.splitlines(), expected, strict=False):
        label, score, time, _file = line.split("\t")
        share = np.exp(values - values.max()) / np.exp(values - values.max()).sum()
        assert label == LABELS[values.argmax()]
        assert float(score) == pytest.approx(share.max(), abs=1e-4)
        assert time.endswith(" ms") and float(time[:-3]) > 0


def test_pictures_of_other_sizes_and_colours(grey: tuple[Program, Path], bare: dict[str, str], tmp_path: Path) -> None:
    p, folder = grey
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, (16, 16, 1)).astype(np.uint8)
    flat = np.broadcast_to(rng.integers(0, 256, (1, 1, 3)), (16, 16, 3)).astype(np.uint8)
    weights = np.array([19595, 38470, 7471])
    of_flat = ((flat.astype(np.int64) @ weights + 32768) >> 16).astype(np.uint8)[..., None]
    boxes = rng.integers(0, 256, (48, 32, 1)).astype(np.uint8)
    mean = (boxes.reshape(16, 3, 16, 2, 1).sum((1, 3)) + 3) // 6
    two = small.astype(">u2") * 257
    cases = {
        "doubled": (pgm(tmp_path / "doubled.pgm", small.repeat(2, 0).repeat(2, 1)), small),
        "quarter": (pgm(tmp_path / "quarter.pgm", small[:4, :4]), small[:4, :4].repeat(4, 0).repeat(4, 1)),
        "boxes": (pgm(tmp_path / "boxes.pgm", boxes), mean.astype(np.uint8)),
        "colour": (pgm(tmp_path / "colour.ppm", flat), of_flat),
        "two bytes": (tmp_path / "two.pgm", small),
    }
    cases["two bytes"][0].write_bytes(b"P5 16 16 65535\n" + two.tobytes())
    for name, (path, seen) in cases.items():
        done = call(folder, bare, "--all", path)
        assert done.returncode == 0, done.stderr
        found = [float(line.split("\t")[1]) for line in done.stdout.splitlines()]
        np.testing.assert_allclose(found, logits(p, [seen[None]])[0], rtol=1e-6, err_msg=name)


def test_a_colour_network_takes_grey_pictures(bare: dict[str, str], tmp_path: Path) -> None:
    p = builders.residual(integer=True, pixels=True)
    folder = make(p, tmp_path / "device", bare)
    picture = np.random.default_rng(0).integers(0, 256, (12, 12, 1)).astype(np.uint8)
    done = call(folder, bare, "--all", pgm(tmp_path / "a.pgm", picture))
    found = [float(line.split("\t")[1]) for line in done.stdout.splitlines()]
    np.testing.assert_allclose(found, run(p, [picture.repeat(3, 2)[None]])[0][0], rtol=1e-6)
    assert call(folder, bare, tmp_path / "a.pgm").stdout.startswith("class ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P5\n16 16\n255\n" + bytes(100), "ends in the middle"),
        (b"P5\n16 16\n", "damaged header"),
        (b"P5\n0 16\n255\n", "damaged header"),
        (b"P5\n99999 16\n255\n", "damaged header"),
        (b"P5\n60000 60000\n255\n", "more than 100 million"),
        (b"\x89PNG\r\n", "not a binary PGM or PPM"),
        (b"", "not a binary PGM or PPM"),
        (b"P6 # a comment without an end", "damaged header"),
        (b"P6 16 -16 255 ", "damaged header"),
        (b"P5 16 16 65536 ", "damaged header"),
        (b"P5 1 65535 65535 " + bytes(131069), "ends in the middle"),
    ],
)
def test_bad_pictures(grey: tuple[Program, Path], bare: dict[str, str], tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.pgm").write_bytes(content)
    refused(call(grey[1], bare, tmp_path / "bad.pgm"), message)


def test_a_missing_file_and_no_file(grey: tuple[Program, Path], bare: dict[str, str], tmp_path: Path) -> None:
    refused(call(grey[1], bare, tmp_path / "none.pgm"), "can't be opened")
    refused(call(grey[1], bare), "usage: ./model [--all] picture.ppm ...")


def test_a_bad_picture_among_good_ones(grey: tuple[Program, Path], bare: dict[str, str], tmp_path: Path) -> None:
    good = [pgm(tmp_path / f"{i}.pgm", np.full((16, 16, 1), i, np.uint8)) for i in range(2)]
    done = call(grey[1], bare, good[0], tmp_path / "none.pgm", good[1])
    assert done.returncode == 1 and done.stderr == f"{tmp_path / 'none.pgm'}: can't be opened\n"
    assert [line.split("\t")[3] for line in done.stdout.splitlines()] == [str(path) for path in good]


def test_help(grey: tuple[Program, Path], bare: dict[str, str]) -> None:
    done = call(grey[1], bare, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: ./model [--all] picture.ppm") and not done.stderr
    refused(call(grey[1], bare, "--al"), "usage: ./model")


def test_a_folder_is_no_picture(grey: tuple[Program, Path], bare: dict[str, str], tmp_path: Path) -> None:
    refused(call(grey[1], bare, tmp_path), "can't be read")


def test_a_sensor_window(bare: dict[str, str], tmp_path: Path) -> None:
    for integer in (True, False):
        p = builders.sensor(integer=integer)
        folder = make(p, tmp_path / str(integer), bare)
        window = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
        text = "# time series\r\n" + "\r\n".join(", ".join(map(repr, row.tolist())) for row in window)
        (tmp_path / "window.csv").write_text(text)
        done = call(folder, bare, "--all", tmp_path / "window.csv")
        assert done.returncode == 0, done.stderr
        found = [float(line.split("\t")[1]) for line in done.stdout.splitlines()]
        np.testing.assert_allclose(found, logits(p, [window[None]])[0], rtol=1e-4, atol=1e-4)
        for bad, message in (
            ("1,2,3", "holds 3 numbers, expected 128"),
            ("1,two,3", "value 2, 'two', is not a finite number"),
            ("nan", "finite"),
            ("1." + 70 * "0" + "e5", "is not a finite number"),  # longer than any number is
            ("1\0junk", "value 1, '1', is not a finite number"),
            ("1,2,3# seconds\n4", "holds 4 numbers, expected 128"),
            ("\ufeff1;2", "holds 2 numbers, expected 128"),
            ("", "holds 0 numbers, expected 128"),
        ):
            (tmp_path / "bad.csv").write_text(bad, encoding="utf-8")
            refused(call(folder, bare, tmp_path / "bad.csv"), message)


def test_two_inputs_and_an_output_that_is_no_class(bare: dict[str, str], tmp_path: Path) -> None:
    p = program("add", [tensor("x", (2, 2), None), tensor("y", (2, 2), None)], [tensor("z", (2, 2), None)], clamp=None)
    folder = make(p, tmp_path / "device", bare)
    (tmp_path / "a.csv").write_text("1 2 3 4")
    (tmp_path / "b.csv").write_text("10;20;30;40\n")
    done = call(folder, bare, tmp_path / "a.csv", tmp_path / "b.csv")
    assert done.returncode == 0, done.stderr
    assert [line.split("\t") for line in done.stdout.splitlines()[1:]] == [["0", "11"], ["1", "22"], ["2", "33"], ["3", "44"]]
    refused(call(folder, bare, tmp_path / "a.csv"), "usage")


def test_every_output_is_printed(bare: dict[str, str], tmp_path: Path) -> None:
    p = program("add", [tensor("x", (3,), None), tensor("y", (3,), None)], [tensor("z", (3,), None)], clamp=None)
    p = replace(p, outputs=(*p.outputs, Output(name='a "b"% c', tensor="x")))
    folder = make(p, tmp_path / "device", bare)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("1 2 3")
    done = call(folder, bare, "--all", tmp_path / "a.csv", tmp_path / "b.csv")
    first = p.outputs[0].name
    assert done.stdout.splitlines() == [f"{first}\t{i}\t{2 * i + 2}" for i in range(3)] + [f'a "b"% c\t{i}\t{i + 1}' for i in range(3)]


def test_whole_numbers(bare: dict[str, str], tmp_path: Path) -> None:
    p = program("dequantize", [tensor("x", (3,), builders.Affine(scale=0.5, zero_point=1))], [tensor("z", (3,), None)])
    folder = make(p, tmp_path / "device", bare)
    (tmp_path / "a.csv").write_text("0.5 -1 1000")
    assert [line.split("\t")[1] for line in call(folder, bare, "--all", tmp_path / "a.csv").stdout.splitlines()] == ["0.5", "-1", "63"]


def test_the_model_is_that_of_target_c(grey: tuple[Program, Path], tmp_path: Path) -> None:
    artifact = c.write(grey[0], tmp_path)
    assert artifact.main.read_bytes() == (grey[1] / "model.c").read_bytes()
    assert {path.name for path in artifact.files} == {"model.h", "model.c", "example.c", "Makefile", "CMakeLists.txt", "README.md"}
    assert os.listdir(tmp_path) and all(path.exists() for path in artifact.files)
