"""Any layer of weights as a 2-D convolution: its sizes, for every kernel of layers in C."""

from dataclasses import dataclass
from math import prod

from karui.export.c_source import Source
from karui.program.program import Op
from karui.program.windows import edges, square


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The fields of ``k_layer``, by name, without the two that the exporter chooses."""

    fields: dict[str, int]

    def __getitem__(self, name: str) -> int:
        return self.fields[name]

    @property
    def pixels(self) -> int:
        """Output pixels."""
        return self["oh"] * self["ow"]

    @property
    def depthwise(self) -> bool:
        """One filter for each channel."""
        return 1 < self["groups"] == self["c"] == self["o"]

    @property
    def bordered(self) -> tuple[int, int]:
        """Rows and pixels of a row of the image in its border, as far as it is read."""
        high = max(self["top"] + self["h"], (self["oh"] - 1) * self["sy"] + (self["kh"] - 1) * self["dy"] + 1)
        return high, max(self["left"] + self["w"], (self["ow"] - 1) * self["sx"] + (self["kw"] - 1) * self["dx"] + 1)


def geometry(source: Source, op: Op) -> Geometry:
    """Sizes of any layer as those of a 2-D convolution."""
    x, y, a = source.tensor(op.inputs[0]).shape, source.tensor(op.outputs[0]).shape, op.attributes
    weight = source.program.weights[op.weights["weight"]].shape
    if op.kind == "linear":
        h, w, oh, ow, kh, kw = 1, prod(x[:-1]), 1, prod(x[:-1]), 1, 1
        stride, edge, dilation, groups = (1, 1), edges([0, 0]), (1, 1), 1
    else:
        h, w = (1, x[0]) if op.kind == "conv1d" else x[:2]
        oh, ow = (1, y[0]) if op.kind == "conv1d" else y[:2]
        kh, kw = (1, weight[1]) if op.kind == "conv1d" else weight[1:3]
        stride, edge, dilation, groups = square(a["stride"]), edges(a["padding"]), square(a["dilation"]), a["groups"]
        if kh == kw == 1 and stride == (1, 1) and not any(edge) and op.kind != "conv_transpose2d":
            h, w, oh, ow = 1, h * w, 1, h * w
    fields = dict(h=h, w=w, c=x[-1], oh=oh, ow=ow, o=weight[0], kh=kh, kw=kw, sy=stride[0], sx=stride[1], top=edge[0], left=edge[1])
    return Geometry(fields={**fields, "dy": dilation[0], "dx": dilation[1], "groups": groups})
