"""Line 4: a module as torch writes it in ONNX, through karui, and out as ONNX again: the same outputs under the same names."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import karui
from benchmarks.doors import sequences, vision
from benchmarks.doors.catalogue import subjects
from benchmarks.doors.files import write_onnx
from benchmarks.doors.opened import Opened, of_torch
from benchmarks.harness import Row, skipped
from karui import zoo
from karui.errors import DataError, ToolError
from karui.export import onnx as onnx_target
from karui.lower import lower
from karui.verify.parity import compare

OURS = {
    "resnet8": of_torch(lambda: zoo.build("resnet8"), (3, 32, 32)),
    "unet": of_torch(vision.UNet, (3, 64, 64)),
    "espcn": of_torch(vision.Espcn, (1, 32, 32)),
    "two_inputs": of_torch(vision.TwoInputs, (1, 32, 32), (8,)),
    "two_heads": of_torch(vision.TwoHeads, (3, 64, 64)),
    "tcn": of_torch(sequences.Tcn, (6, 128)),
    "words": of_torch(sequences.Words, (49, 10)),
}
OTHERS = ("torchvision/mobilenet_v3_small", "torchvision/shufflenet_v2_x0_5", "timm/mobilenetv4_conv_small")


def rows(quick: bool) -> Iterator[Row]:
    """Ours, then those of other packages."""
    for name, opening in list(OURS.items())[: 2 if quick else None]:
        yield from _row(name, opening)
    if not quick:
        for each in (each for each in subjects() if each.name in OTHERS):
            yield from _row(each.name, each.open)


def _row(name: str, opening: Any) -> Iterator[Row]:
    case = f"4 {name}"
    with TemporaryDirectory() as scratch:
        try:
            opened = opening(Path(scratch))
            found = trip(opened, Path(scratch))
        except (DataError, ToolError, ImportError) as reason:
            yield skipped(case, str(reason))
            return
    for figure, (value, ok) in found.items():
        goal = "≤ 0.0001" if isinstance(value, float) else None
        yield Row(case=case, figure=figure, value=value, goal=goal, ok=ok)


def trip(opened: Opened, folder: Path) -> dict[str, tuple[float | str, bool]]:
    """What left beside what came in: outputs of three samples at once, names, sizes, and the opset."""
    first = _signed(write_onnx(opened.source, opened.example or (), folder / "first.onnx"))
    last = onnx_target.write(lower(karui.capture(first).eval()), folder / "again").main
    before, after = _session(first), _session(last)
    found: dict[str, tuple[float | str, bool]] = {}
    names = [[each.name for each in (*session.get_inputs(), *session.get_outputs())] for session in (before, after)]
    found["names of inputs and outputs kept"] = ("yes" if names[0] == names[1] else f"{names[0]} became {names[1]}", names[0] == names[1])
    same, words = _sizes(before, after)
    found["sizes kept, batch free"] = (words, same)
    opsets = [_opset(path) for path in (first, last)]
    found["opset kept"] = (f"{opsets[0]} → {opsets[1]}", opsets[1] == opsets[0])
    properties = [_properties(path) for path in (first, last)]
    lost = sorted(set(properties[0].items()) - set(properties[1].items()))
    found["metadata kept"] = (f"{len(properties[0])} entries" if not lost else f"lost {lost[0]}", not lost)
    expected = before.run(None, {each.name: x for each, x in zip(before.get_inputs(), opened.inputs, strict=True)})
    got = after.run(None, {each.name: x for each, x in zip(after.get_inputs(), opened.inputs, strict=True)})
    worst = max(compare(b, a, rule="tolerance").max_error / float(np.abs(a).max()) for a, b in zip(expected, got, strict=True))
    found["greatest difference, of the greatest output"] = (worst, worst <= 1e-4)
    return found


def _signed(path: Path) -> Path:
    """The file with entries of somebody's own."""
    import onnx

    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {"author": "somebody", "classes": "cat,dog"})
    onnx.save(proto, path)
    return path


def _properties(path: Path) -> dict[str, str]:
    import onnx

    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _sizes(before: Any, after: Any) -> tuple[bool, str]:
    """Axes behind the batch, and whether the batch is open in both."""
    pairs = [*zip(before.get_inputs(), after.get_inputs()), *zip(before.get_outputs(), after.get_outputs())]
    for a, b in pairs:
        if isinstance(b.shape[0], int) or a.type != b.type or [s for s in a.shape[1:] if isinstance(s, int)] != b.shape[1:]:
            return False, f"'{a.name}' {a.type} {a.shape} became {b.type} {b.shape}"
    return True, "yes"


def _opset(path: Path) -> int:
    import onnx

    return next(int(each.version) for each in onnx.load(str(path), load_external_data=False).opset_import if each.domain in ("", "ai.onnx"))
