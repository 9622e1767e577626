"""Layers of one bit by tables, for Cortex-M: plain C's twin of each kernel, the numbers behind them, and the memory they take."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from karui.export import c
from karui.export.c_signs_tables import MOST, ROWS, SUMS, TILE, TWELVE, _shorter, parts_of
from karui.program.interpreter import run
from karui.program.program import Program
from karui.run import bare
from tests.export.many import QUICK, agree, inputs_of, merged
from tests.export.test_c_signs import ACTIVATIONS, SIZES, STACKS, behind, bits, layer, same, stacked, table
from tests.program.single_op import affine, tensor

MACHINE = "cortex-m4"
needs_boards = pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="needs QEMU: apt-get install qemu-system-arm")


def random_layer(seed: int) -> Program:
    """Any geometry that a layer of signs may have, over any activations."""
    rng = np.random.default_rng(seed)

    def draw(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    quant, groups = list(ACTIVATIONS.values())[draw(0, 4)], draw(2, 4) if rng.random() < 0.3 else 1
    width, outputs = draw(8, 90), draw(1, 70)
    dilation, stride, padding = (draw(1, 2), draw(1, 2)), (draw(1, 3), draw(1, 3)), [draw(0, 3) for _ in range(4)]
    kernel = draw(1, 3), draw(1, 3)
    shape = (draw(5, 9), draw(5, 12), width * groups)  # a kernel of three, dilated, fits
    if rng.random() < 0.1:
        return layer((*[draw(1, 4)] * draw(0, 1), draw(8, 3000)), outputs, quant, kernel=(1,), padding=(0, 0), seed=seed)
    if rng.random() < 0.2:
        return layer((draw(1, 20), width), outputs, quant, kernel=(1,), padding=(0, 0), seed=seed)
    return layer(shape, outputs * groups, quant, kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, seed=seed)


RANDOM = merged({f"p{seed}": random_layer(seed) for seed in range(40)})


@pytest.mark.parametrize(
    "flags", [QUICK, ("-O1", "-g", "-fsanitize=undefined", "-fno-sanitize-recover=all", "-fPIC")], ids=["O1", "sanitized"]
)
def test_random_layers(flags: tuple[str, ...], tmp_path: Path) -> None:
    same(RANDOM, tmp_path, MACHINE, flags)


@needs_boards
@pytest.mark.parametrize("processor", ["cortex-m4", "cortex-m7"])
def test_random_layers_on_a_processor(processor: str, tmp_path: Path) -> None:
    inputs = inputs_of(RANDOM, 2, seed=3)
    agree(RANDOM, bare.build(c.write(RANDOM, tmp_path, machine=processor), processor).run(inputs), run(RANDOM, inputs))


def test_which_layers_go_by_tables() -> None:
    """All but those of few pixels, on Cortex-M alone."""
    for name, p in SIZES.items():
        few = name.startswith(("one pixel", "linear"))
        kernels = c.model(p, machine=MACHINE).kernels
        assert ("k_signs_few" if few else "k_signs_tabled") in kernels and "k_signs_i8" not in kernels, name
        assert not {"k_signs_few", "k_signs_tabled"} & set(c.model(p).kernels), name


def test_sums_of_more_than_16_bits_are_left_to_plain_c(tmp_path: Path) -> None:
    """Codes far apart, and a border where neither is zero."""
    codes = affine(0.1, 5)
    p = behind("lookup", tensor("before", (4, 5, 16), affine(1.0)), codes, table([-120, 120]))
    wide = layer((3, 4, 33), 20, bits(2, -2), kernel=(1, 1), padding=[0] * 4)
    assert "k_signs_i8" in c.model(p, machine=MACHINE).kernels  # 144 · 240 and 144 · 125
    long = layer((2, 11_000), 3, bits(2, -2), kernel=(1,), padding=[0, 0])  # 11,000 · 3
    assert "k_signs_i8" in c.model(long, machine=MACHINE).kernels
    same(merged({"far": p, "wide": wide, "long": long}), tmp_path, MACHINE)


# ── how inputs are gone through ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sums", [4, 10_000])
@pytest.mark.parametrize(
    ("runs", "fours"), [(1, 2), (3, 12), (3, 24), (3, 48), (9, 30), (3, 58), (2, 60), (1, 62), (7, 64), (9, 150), (1, 2000)]
)
def test_parts(runs: int, fours: int, sums: int) -> None:
    parts = parts_of([10_000 * i for i in range(runs)], fours, sums)
    held, order = 0, []
    for at, count, widened in parts.pieces:
        assert count > 0 and count % 2 == 0
        assert at % 10_000 + count == fours or count % TWELVE == 0, "just a run's end isn't a multiple of twelve"
        held += count
        assert held <= MOST < 64, "four bits of each input may differ, and a count has eight"
        held = 0 if widened else held
        order += range(at, at + count)
    assert held == 0 and order == [10_000 * i + j for i in range(runs) for j in range(fours)]
    ends = np.cumsum([0] + [count for _, count, _ in parts.pieces])
    assert parts.ends[0] == (0, 0) and parts.ends[-1] == (len(parts.pieces), runs * fours)
    assert all(before == ends[pieces] for pieces, before in parts.ends)
    kept = SUMS * sums if parts.count > 1 else 0
    assert ROWS * parts.fours + kept <= ROWS * runs * fours, "parts are worth their sums"


def test_shorter_numbers_make_the_same_codes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        shift = int(rng.integers(24, 45))
        multiplier, bias = int(rng.choice([-1, 1]) * rng.integers(2**30, 2**31)), int(rng.normal() * 300 * 2.0**shift)
        low, high = sorted(rng.choice(np.arange(-128, 128), 2, replace=False).tolist())
        sums = np.arange(-int(rng.integers(0, 200)), int(rng.integers(10, 2000)))
        found = _shorter(multiplier, bias, shift, low, high, sums)
        assert found is not None
        m, b = found
        raw = (sums * m >> 16) + b
        assert max(np.abs(raw).max(), abs(m), abs(b)) < 2**31 and m & 0xFF < 32
        assert np.array_equal(np.clip(raw >> (m & 0xFF), low, high), np.clip(multiplier * sums + bias >> shift, low, high))


def test_numbers_without_shorter_ones() -> None:
    """A sum that changes the code by 2^20 takes a multiplier of 37 bits."""
    assert _shorter(2**30, 0, 10, -128, 127, np.arange(10)) is None


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("channels", "side", "fours", "pixels"),
    [(16, 32, 36, TILE), (32, 16, 72, TILE), (64, 8, 48, 64)],  # fours of a part, and pixels whose sums are kept
)
@needs_boards
def test_memory(channels: int, side: int, fours: int, pixels: int, tmp_path: Path) -> None:
    p = layer((side, side, channels), channels, bits(1, 0))
    built = bare.build(c.write(p, tmp_path, machine=MACHINE), "cortex-m4")
    inputs = inputs_of(p, 1)
    found = built.count(inputs)
    agree(p, found.outputs, run(p, inputs))
    assert built.peak_ram == (side + 2) ** 2 * channels // 4 + 4 * (ROWS * fours + SUMS * pixels)
    assert found.stack < 300


@needs_boards
def test_memory_of_few_pixels(tmp_path: Path) -> None:
    p = layer((130,), 75, bits(1, 0))
    built = bare.build(c.write(p, tmp_path, machine=MACHINE), "cortex-m4")
    inputs = inputs_of(p, 1)
    found = built.count(inputs)
    agree(p, found.outputs, run(p, inputs))
    assert built.peak_ram == 36 + 4 * (40 + SUMS), "17 bytes of bits, spread; five times eight words of four bits"
    assert found.stack < 300


def test_tensors_of_bits_take_their_own_bytes() -> None:
    first, second = layer((16, 16, 8), 64, y=bits(1, -1)), layer((16, 16, 64), 8, bits(1, -1), kernel=(1, 1), padding=[0] * 4)
    arena, others = (c.model(stacked(first, second), machine=each).arena_bytes for each in (MACHINE, "portable"))
    assert arena < 16 * 16 * 64 < others


@pytest.mark.parametrize("flags", [QUICK, ("-O3", "-fPIC")], ids=["O1", "O3"])
def test_bits_between_layers_of_tables(flags: tuple[str, ...], tmp_path: Path) -> None:
    """In the arena as it is planned for them alone, where nothing else covers for what reads or writes too far."""
    for i, (p, _) in enumerate(STACKS.values()):
        same(p, tmp_path / str(i), MACHINE, flags)
