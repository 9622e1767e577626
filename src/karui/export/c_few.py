"""Integer layers whose weights are of at most sixteen values: how their numbers lie for c_runtime/few.c."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from karui.export.c_panels import DEEP, SLACK, WIDE, Numbers, in_panels, reals_of, taps_of
from karui.export.c_source import Source, structure
from karui.export.c_weights import Coded
from karui.program.arithmetic import bounds
from karui.program.program import Op

MOST = 1.25  # of the bytes of a weight as it is stored row by row: panels may take that much more, as they are much faster to open
ROOM = 2**15 - 1  # what 16 bits hold


@dataclass(frozen=True, kw_only=True, eq=False)
class Few:
    """Weights by panel and four, as numbers of ``bits`` bits.

    codes: uint8 ``[panels, fours, 8 · bits]``. values: int8 ``[16]``, what numbers mean.
    """

    bits: int
    codes: NDArray[np.uint8]
    values: NDArray[np.int8]

    @property
    def nbytes(self) -> int:
        """Bytes of read-only memory."""
        return self.codes.nbytes + self.values.nbytes

    @property
    def room(self) -> int:
        """How often a sum of 16 bits bears the products of two bytes without a sign and two of the values."""
        return int(ROOM // (2 * 255 * max(1, int(np.abs(self.values.astype(np.int64)).max()))))


def few_of(n: Numbers) -> Few | None:
    """None where there are more than sixteen values."""
    return _numbered(n.codes, n.fours, filled=n.fields["length"] % DEEP > 0)


def few_taps_of(n: Numbers) -> Few | None:
    """The same of a depthwise layer: its panels' taps, one after the other, by fours: ``[1, fours, 8 · bits]``."""
    whole = taps_of(n)
    return _numbered(n.codes, np.pad(whole.reshape(-1), (0, -whole.size % 64)).reshape(1, -1, 64), filled=False)


def _numbered(codes: NDArray[np.int8], whole: NDArray[np.int8], *, filled: bool) -> Few | None:
    """Codes, and how they lie; filled: zeros that stand for nothing lie among them and count."""
    values = np.unique(codes)
    if filled:  # inputs that fill up a four must meet zeros
        values = np.union1d(values, np.zeros(1, np.int8))
    if len(values) > 16:
        return None
    bits = max(1, (len(values) - 1).bit_length())
    if 0 not in values:  # then channels that fill up a panel, which are never stored, may be anything; small ones can't overflow a sum
        whole = np.where(whole == 0, values[np.abs(values.astype(np.int32)).argmin()], whole)
    numbers = np.searchsorted(values, whole).astype(np.uint8)
    table = np.zeros(16, np.int8)
    table[: len(values)] = values
    return Few(bits=bits, codes=packed(numbers, bits), values=table)


def packed(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers ``[panels, fours, 64]`` as ``k_few`` wants them."""
    if bits == 1:
        return np.packbits(numbers, axis=2, bitorder="little")
    if bits == 3:
        return np.concatenate([packed((numbers & 3).astype(np.uint8), 2), packed((numbers >> 2).astype(np.uint8), 1)], axis=2)
    parts = numbers.reshape(*numbers.shape[:2], 8 // bits, 8 * bits)
    by = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(parts << by, axis=2).astype(np.uint8)


def near(few: Few, w: Coded) -> bool:
    """Whether panels of few bits take about as many bytes as the weight as it is stored, or fewer."""
    return few.nbytes <= MOST * sum(array.nbytes for array in w.tables.values())


def few_depthwise(source: Source, op: Op, n: Numbers, few: Few) -> None:
    """A convolution with one filter for each channel."""
    channels = n.fields["o"]
    alike = replace(n, groups=1, outputs=channels, each=-(-channels // WIDE))
    _call(source, op, "k_few_depth_i8", alike, few, copy=n.copy + WIDE + channels, opened=few.codes.shape[1] * WIDE * DEEP)


def fews(source: Source, op: Op, n: Numbers, few: Few) -> None:
    """A convolution or linear layer with one multiplier a channel."""
    opened = min(2, n.each) * few.codes.shape[1] * WIDE * DEEP if n.fields["pixels"] > 1 else 0
    _call(source, op, "k_few_i8", n, few, copy=n.copy + SLACK, opened=opened)


def _call(source: Source, op: Op, kernel: str, n: Numbers, few: Few, *, copy: int, opened: int) -> None:
    """The layer's constants, and the call."""
    low, high = bounds(op, source.tensor(op.outputs[0]))
    fields = {
        name: source.table(f"{op.name}.panel.{name}", each) for name, each in (in_panels(n, n.folded) | reals_of(source, op, n)).items()
    }
    lay = source.constant(f"{op.name}.panels", "k_panels", structure(**n.fields))
    panel = source.constant(f"{op.name}.panel", "k_panel_weight", structure(**fields, quick=int(n.quick), low=low, high=high))
    tables = {"codes": source.table(f"{op.name}.few.codes", few.codes), "values": source.table(f"{op.name}.few.values", few.values)}
    weight = source.constant(f"{op.name}.few", "k_few", structure(**tables, bits=few.bits, room=few.room))
    places = source.place(op.inputs[0]), source.place(op.outputs[0]), f"&{lay}", f"&{panel}", f"&{weight}"
    scratch = source.take("uint8_t", copy), source.take("int8_t", opened) if opened else "NULL"
    source.call(kernel, *places, source.set(), f"{source.use(source.machine.few)}()", *scratch)
