"""Pools of codes: the interpreter's numbers on every machine, whatever number of channels and wherever the border lies."""

from pathlib import Path
from typing import Any

import pytest

from karui.export import c
from karui.export.machines import MACHINES
from karui.program.interpreter import run
from karui.program.program import Program
from karui.run import host
from tests.export.many import QUICK, agree, inputs_of, merged
from tests.program.single_op import affine, program, tensor

CHANNELS = (1, 15, 16, 40, 64, 65, 130)


def pool(kind: str, channels: int, **attributes: Any) -> Program:
    """Over 9 × 8 pixels, windows of 3 × 2, strides of 2 and 3, a border on three sides; the mean's zero point isn't zero."""
    x, y = affine(0.05, 7), affine(0.04, -20)
    a: dict[str, Any] = {"kernel": [3, 2], "stride": [2, 3], "padding": [1, 0, 1, 1]} | attributes
    (kh, kw), (sy, sx), (top, left, bottom, right) = a["kernel"], a["stride"], a["padding"]
    out = ((9 + top + bottom - kh) // sy + 1, (8 + left + right - kw) // sx + 1, channels)
    return program(kind, [tensor("x", (9, 8, channels), x)], [tensor("y", out, y if kind == "avg_pool2d" else x)], {}, **a)


def cases() -> dict[str, Program]:
    found = {}
    for channels in CHANNELS:
        found[f"max {channels}"] = pool("max_pool2d", channels)
        found[f"max whole {channels}"] = pool("max_pool2d", channels, padding=[0, 0, 0, 0])
        for counted in (True, False):
            found[f"mean {counted} {channels}"] = pool("avg_pool2d", channels, count_include_pad=counted, clamp=[-5, None])
    return found


@pytest.mark.parametrize("flags", [QUICK, (*QUICK, "-DMODEL_PLAIN")], ids=["O1", "no sets"])
@pytest.mark.parametrize("machine", MACHINES)
def test_pools(machine: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    p = merged(cases())
    inputs = inputs_of(p, seed=2)
    agree(p, host.build(c.write(p, tmp_path, machine=machine), flags=flags).run(inputs), run(p, inputs))
