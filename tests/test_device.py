"""From a compressed network to a board: the device folder, copied alone, built by make without Python, answers as the interpreter does."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import karui
from benchmarks.subjects import motion
from karui import zoo
from karui.data import Batch, Data
from karui.export import device
from karui.finetune.loop import finetune
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.program import interpreter
from karui.program.layout import dequantize
from karui.program.program import AffineValues, Array, Program
from karui.search.scores import feeds
from karui.search.trial import lowered
from tests import board, flow

PICTURES = 200


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = board.environment(tmp_path_factory.mktemp("bin"))
    assert not any(shutil.which(name, path=found["PATH"]) for name in ("python", "python3"))
    return found


def quantized(network: Network, data: Data) -> Program:
    """int8 after training: no step of training, calibration only."""
    with karui.attach(network, [karui.Quantize(samples=128)], steps=0, data=data):
        pass
    program = lowered(network, data, network.name)
    assert all(isinstance(weight.values, AffineValues) for weight in program.weights.values() if len(weight.shape) > 1)
    return program


def moved(program: Program, folder: Path, bare: dict[str, str]) -> Path:
    """The folder as it arrives on a board: copied to an empty place, its origin gone, made there."""
    device.write(program, folder / "exported")
    shutil.copytree(folder / "exported", folder / "arrived")
    shutil.rmtree(folder / "exported")
    board.make(folder / "arrived", bare)
    return folder / "arrived"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, bare: dict[str, str]) -> tuple[Program, Path]:
    program = quantized(flow.network(), flow.data())
    return program, moved(program, tmp_path_factory.mktemp("pictures"), bare)


@pytest.fixture(scope="module")
def sensor(tmp_path_factory: pytest.TempPathFactory, bare: dict[str, str]) -> tuple[Program, Path, Data]:
    """A 1-D CNN over SYNTHETIC windows of a motion sensor."""
    data = motion(600)
    torch.manual_seed(0)
    network = capture(zoo.build("cnn1d"), data.example(2), name="cnn1d")
    finetune(network, data, karui.Training(epochs=2, batch_size=32, optimizer="adamw", lr=3e-3), seed=0)
    program = quantized(network.eval(), data)
    return program, moved(program, tmp_path_factory.mktemp("sensor"), bare), data


def first(data: Data, count: int) -> Batch:
    return next(iter(data.test.batches(count)))


def check_answers(program: Program, folder: Path, bare: dict[str, str], files: list[Path], inputs: list[Array]) -> Array:
    """All files in one call: label and score of each, then every output of each, are the interpreter's. Returns the labels' places."""
    expected = dequantize(program, 0, interpreter.run(program, inputs)[0]).astype(np.float64)
    labels = program.outputs[0].labels
    share = np.exp(expected - expected.max(1, keepdims=True))
    share = share.max(1) / share.sum(1)
    done = board.call(folder, bare, *files)
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [labels[i] for i in expected.argmax(1)]
    np.testing.assert_allclose([float(line[1]) for line in lines], share, atol=1e-4)
    assert all(line[2].endswith(" ms") and float(line[2][:-3]) > 0 for line in lines)
    assert [line[3] for line in lines] == [str(path) for path in files]
    every = [line.split("\t") for line in board.call(folder, bare, "--all", *files).stdout.splitlines()]
    np.testing.assert_allclose(np.array([float(line[1]) for line in every]).reshape(expected.shape), expected, rtol=1e-6)
    assert [line[2] for line in every[: len(labels)]] == list(labels)
    return expected.argmax(1)


def test_200_real_pictures_as_the_interpreter_sees_them(pictures: tuple[Program, Path], bare: dict[str, str], tmp_path: Path) -> None:
    program, folder = pictures
    batch = first(flow.data(), PICTURES)
    inputs = feeds(program, batch)
    assert inputs[0].dtype == np.uint8 and inputs[0].shape == (PICTURES, 28, 28, 1)
    files = [
        board.picture(tmp_path / f"{i}.ppm", x.repeat(3, 2)) if i % 2 else board.picture(tmp_path / f"{i}.pgm", x)
        for i, x in enumerate(inputs[0])
    ]
    found = check_answers(program, folder, bare, files, inputs)
    assert (found == batch.targets.numpy()).mean() > 0.7  # a network that sees clothes, so the normalisation is inside


def test_one_picture_is_one_line(pictures: tuple[Program, Path], bare: dict[str, str], tmp_path: Path) -> None:
    program, folder = pictures
    inputs = feeds(program, first(flow.data(), 1))
    done = board.call(folder, bare, board.picture(tmp_path / "picture.ppm", inputs[0][0].repeat(3, 2)))
    label, score, time = done.stdout.rstrip("\n").split("\t")
    assert label == program.outputs[0].labels[interpreter.run(program, inputs)[0].argmax()]
    assert 0 < float(score) <= 1 and time.endswith(" ms")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P6\n28 28\n255\n" + bytes(28 * 28 * 3 - 1), "ends in the middle of the picture"),
        (b"P6\n28 28", "damaged header"),
        (b"P3\n1 1\n255\n0 0 0\n", "not a binary PGM or PPM picture"),
        (b"GIF89a", "not a binary PGM or PPM picture"),
        (b"P6\n65535 65535\n255\n", "more than 100 million pixels"),
        (b"P6\n9999999999999999999 1\n255\n", "damaged header"),
        (b"P6\n-28 28\n255\n", "damaged header"),
        (None, "can't be opened"),
    ],
)
def test_bad_pictures_are_one_line_and_exit_code_1(
    pictures: tuple[Program, Path], bare: dict[str, str], tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "bad.ppm"
    if content is not None:
        path.write_bytes(content)
    board.refused(board.call(pictures[1], bare, path), f"{path}: ")
    board.refused(board.call(pictures[1], bare, "--all", path), message)


def test_windows_of_a_sensor(sensor: tuple[Program, Path, Data], bare: dict[str, str], tmp_path: Path) -> None:
    program, folder, data = sensor
    batch = first(data, 60)
    inputs = feeds(program, batch)
    assert inputs[0].shape == (60, 128, 6)
    files = [tmp_path / f"{i}.csv" for i in range(60)]
    for path, window in zip(files, inputs[0], strict=True):
        rows = "\n".join(",".join(map(repr, row.tolist())) for row in window)
        path.write_text(f"# ax,ay,az,gx,gy,gz\n{rows}\n")
    found = check_answers(program, folder, bare, files, inputs)
    assert (found == batch.targets.numpy()).mean() > 0.5


def test_a_bad_window_is_one_line_and_exit_code_1(sensor: tuple[Program, Path, Data], bare: dict[str, str], tmp_path: Path) -> None:
    row = "0,0,0,0,0,0\n"
    for content, message in (
        (row * 127, "holds 762 numbers, expected 768"),
        ("ax,ay,az\n" + row * 128, "value 1, 'ax', is not a finite number; put # before lines that hold none"),
        (row * 127 + "0,0,0,0,0,nan\n", "value 768, 'nan', is not a finite number"),
    ):
        (tmp_path / "window.csv").write_text(content)
        board.refused(board.call(sensor[1], bare, tmp_path / "window.csv"), message)


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """A few bytes changed, put in, left out or cut off, most of them near the beginning."""
    found = bytearray(content)
    for _ in range(random.integers(1, 6)):
        at = int(random.integers(0, max(1, min(len(found), 24 if random.random() < 0.7 else len(found)))))
        length = int(random.integers(0, 9))
        replacement = (random.bytes(length), b"9" * 20, b"65535", b"#", b"\0", b"-1", b"nan", b"1e309", b" ", b"\n")[random.integers(10)]
        if random.random() < 0.15:
            del found[at:]
        found[at : at + length * int(random.integers(2))] = replacement
    return bytes(found)


@pytest.mark.parametrize("kind", ["picture", "window"])
def test_hostile_files_under_the_sanitizers(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue("pictures" if kind == "picture" else "sensor")[1]
    program = tmp_path / "model"
    command = ["cc", "-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", str(program)]
    built = subprocess.run([*command, str(folder / "main.c"), str(folder / "model.c"), "-lm"], capture_output=True, check=False)
    if built.returncode:
        pytest.skip("this compiler has no sanitizers")
    random = np.random.default_rng(0)
    row = b"0.5,-1.25,3e-2,4,5,6\n"
    seeds = [b"P6\n# c\n30 28\n255\n" + random.bytes(2520), b"P5 3 90 65535\n" + random.bytes(540)] if kind == "picture" else [row * 128]
    files = [tmp_path / f"{i}" for i in range(300)]
    for i, path in enumerate(files):
        path.write_bytes(mutated(seeds[i % len(seeds)], random))
    done = subprocess.run([str(program), *map(str, files)], capture_output=True, check=False)
    refusals, answers = done.stderr.decode().splitlines(), done.stdout.decode().splitlines()
    assert done.returncode == 1 and len(refusals) + len(answers) == len(files), done.stderr.decode()[-2000:]
    assert all(line.startswith(f"{tmp_path}/") for line in refusals), refusals
    assert len(refusals) > 100 and len(answers) > 10
