"""Each operator, in each of its spellings, against onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.graph.doors.onnx_models import check, model

N = helper.make_node
F = np.float32


def real(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return np.random.default_rng(sum(shape) + len(shape)).uniform(low, high, shape).astype(F)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


class Case:
    """One node (or a few) on an input ``x``."""

    def __init__(self, *nodes: Any, x: tuple[int, ...] = (3, 4, 6), opset: int = 17, low: float = -2.0, **constants: np.ndarray) -> None:
        self.nodes, self.x, self.opset, self.constants, self.low = nodes, x, opset, constants, low

    def run(self, folder: Path, first: Any = "N") -> Any:
        proto = model(self.nodes, {"x": [first, *self.x[1:]]}, self.constants, opset=self.opset)
        return check(proto, folder, [real(*self.x, low=self.low)])


def one(kind: str, *more: str, x: tuple[int, ...] = (3, 4, 6), opset: int = 17, low: float = -2.0, **rest: Any) -> Case:
    """A node of one input and constants: those of ``rest`` that are arrays, all others are attributes."""
    constants = {k: v for k, v in rest.items() if isinstance(v, np.ndarray)}
    attributes = {k: v for k, v in rest.items() if k not in constants}
    return Case(N(kind, ["x", *more], ["y"], **attributes), x=x, opset=opset, low=low, **constants)


IMAGE = (3, 4, 7, 8)
CASES: dict[str, Case] = {
    **{kind: one(kind) for kind in "Abs Ceil Cos Elu Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu Neg Relu Round Selu".split()},
    **{kind: one(kind) for kind in "Sigmoid Sign Sin Softplus Softsign Tanh ThresholdedRelu Celu".split()},
    **{kind: one(kind, low=0.1) for kind in ("Log", "Sqrt", "Reciprocal")},
    "Mish": one("Mish", opset=18),
    "Gelu": one("Gelu", opset=20),
    "Gelu tanh": one("Gelu", opset=20, approximate="tanh"),
    "HardSigmoid 1/6": one("HardSigmoid", alpha=1 / 6, beta=0.5),
    "LeakyRelu 0.3": one("LeakyRelu", alpha=0.3),
    "Elu 0.5": one("Elu", alpha=0.5),
    "Selu own": one("Selu", alpha=1.5, gamma=1.1),
    "Shrink": one("Shrink", lambd=0.5, bias=0.0),
    "Clip 10": one("Clip", opset=10, min=0.0, max=6.0),
    "Clip 11": one("Clip", "a", "b", opset=11, a=np.array(-0.5, F), b=np.array(1, F)),
    "Clip low": one("Clip", "a", a=np.array(0, F)),
    "Clip high": one("Clip", "", "b", b=np.array(0.5, F)),
    "Add number": one("Add", "a", a=np.array(1.5, F)),
    "Add vector": one("Add", "a", a=real(6)),
    "Sub from": Case(N("Sub", ["a", "x"], ["y"]), a=np.array(1.5, F)),
    "Div number": one("Div", "a", a=np.array([3.0], F)),
    "Div of": Case(N("Div", ["a", "x"], ["y"]), a=np.array(2.0, F), low=0.5),
    "Mul matrix": one("Mul", "a", a=real(4, 6)),
    "Pow": one("Pow", "a", a=np.array(2.0, F)),
    "Pow root": one("Pow", "a", a=np.array(0.5, F), low=0.1),
    "Mod": one("Mod", "a", a=np.array(0.7, F), fmod=1),
    "Max": one("Max", "a", "b", a=np.array(0.1, F), b=real(6)),
    "Min": one("Min", "a", a=np.array(0.1, F)),
    "Sum": one("Sum", "a", "x", a=real(6)),
    "Mean": one("Mean", "a", "x", a=real(6)),
    "Where": Case(N("Where", ["c", "x", "a"], ["y"]), c=np.tri(4, 6, dtype=bool), a=np.array(-1, F)),
    "logic": Case(
        N("Greater", ["x", "a"], ["g"]),
        N("Less", ["x", "b"], ["l"]),
        N("And", ["g", "l"], ["n"]),
        N("Or", ["g", "n"], ["o"]),
        N("Xor", ["o", "l"], ["w"]),
        N("Not", ["w"], ["t"]),
        N("GreaterOrEqual", ["x", "b"], ["ge"]),
        N("LessOrEqual", ["x", "a"], ["le"]),
        N("Equal", ["ge", "le"], ["e"]),
        N("And", ["t", "e"], ["z"]),
        N("Cast", ["z"], ["y"], to=TensorProto.FLOAT),
        a=np.array(-0.5, F),
        b=np.array(0.5, F),
    ),
    "Cast": Case(N("Cast", ["x"], ["i"], to=TensorProto.INT32), N("Cast", ["i"], ["y"], to=TensorProto.FLOAT)),
    "CastLike": Case(N("CastLike", ["x", "i"], ["z"]), N("CastLike", ["z", "x"], ["y"]), i=ints(1)),
    # layers
    "Conv": one("Conv", "w", "b", x=IMAGE, w=real(5, 4, 3, 3), b=real(5)),
    "Conv rest": one("Conv", "w", x=IMAGE, w=real(4, 2, 3, 2), group=2, strides=[2, 1], dilations=[1, 2], pads=[1, 0, 1, 0]),
    "Conv uneven": one("Conv", "w", x=IMAGE, w=real(5, 4, 3, 3), pads=[0, 1, 2, 0]),
    "Conv upper": one("Conv", "w", x=IMAGE, w=real(5, 4, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    "Conv lower": one("Conv", "w", x=IMAGE, w=real(5, 4, 2, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    "Conv valid": one("Conv", "w", x=IMAGE, w=real(5, 4, 3, 3), auto_pad="VALID"),
    "Conv 1d": one("Conv", "w", w=real(5, 4, 3), pads=[1, 1]),
    "Conv 3d": one("Conv", "w", x=(3, 2, 4, 5, 6), w=real(5, 2, 3, 3, 3)),
    "Conv + Add": Case(N("Conv", ["x", "w"], ["c"]), N("Add", ["c", "b"], ["y"]), x=IMAGE, w=real(5, 4, 3, 3), b=real(1, 5, 1, 1)),
    "ConvTranspose": one(
        "ConvTranspose", "w", "b", x=IMAGE, w=real(4, 5, 3, 3), b=real(5),
        strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1],
    ),
    "ConvTranspose uneven": one("ConvTranspose", "w", x=IMAGE, w=real(4, 5, 3, 3), strides=[2, 2], pads=[0, 1, 1, 0]),
    "ConvTranspose upper": one("ConvTranspose", "w", x=IMAGE, w=real(4, 5, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    "ConvTranspose shape": one("ConvTranspose", "w", x=IMAGE, w=real(4, 5, 3, 3), strides=[2, 2], output_shape=[14, 17]),
    "ConvTranspose 1d": one("ConvTranspose", "w", w=real(4, 2, 3), strides=[2], group=2),
    "Gemm": one("Gemm", "w", "b", x=(3, 6), w=real(6, 5), b=real(5)),
    "Gemm rest": one("Gemm", "w", "b", x=(3, 6), w=real(5, 6), b=real(5), transB=1, alpha=0.5, beta=2.0),
    "Gemm one": one("Gemm", "w", "b", x=(3, 6), w=real(6, 5), b=real(1)),
    "MatMul": one("MatMul", "w", w=real(6, 5)),
    "MatMul + Add": Case(N("MatMul", ["x", "w"], ["m"]), N("Add", ["b", "m"], ["y"]), w=real(6, 5), b=real(5)),
    "MatMul left": Case(N("MatMul", ["w", "x"], ["y"]), w=real(5, 4)),
    "MatMul vector": one("MatMul", "w", w=real(6)),
    "MatMul many": one("MatMul", "w", w=real(4, 6, 5), x=(3, 4, 2, 6)),
    "MatMul live": Case(N("Transpose", ["x"], ["t"], perm=[0, 2, 1]), N("MatMul", ["x", "t"], ["y"])),
    "PRelu": one("PRelu", "w", x=IMAGE, w=real(4, 1, 1)),
    "PRelu one": one("PRelu", "w", x=IMAGE, w=real(1)),
    "PRelu last": one("PRelu", "w", w=real(6)),
    "BatchNormalization": one("BatchNormalization", "s", "b", "m", "v", x=IMAGE, s=real(4), b=real(4), m=real(4), v=real(4, low=0.5)),
    "BatchNormalization 9": one(
        "BatchNormalization", "s", "b", "m", "v", opset=9, x=IMAGE,
        s=real(4), b=real(4), m=real(4), v=real(4, low=0.5), epsilon=1e-2,
    ),
    "InstanceNormalization": one("InstanceNormalization", "s", "b", x=IMAGE, s=real(4), b=real(4)),
    "LayerNormalization": one("LayerNormalization", "s", "b", s=real(6), b=real(6)),
    "LayerNormalization axes": one("LayerNormalization", "s", s=real(4, 6), axis=1),
    "LayerNormalization wide": one("LayerNormalization", "s", "b", s=real(6), b=real(6), axis=1),
    "GroupNormalization 18": one("GroupNormalization", "s", "b", x=IMAGE, s=real(2), b=real(2), num_groups=2, opset=18),
    "GroupNormalization 21": one("GroupNormalization", "s", "b", x=IMAGE, s=real(4), b=real(4), num_groups=2, opset=21),
    "RMSNormalization": one("RMSNormalization", "s", s=real(6), opset=23),
    "LpNormalization": one("LpNormalization", axis=1),
    "LpNormalization 1": one("LpNormalization", axis=-1, p=1),
    "LRN": one("LRN", x=(3, 7, 4, 5), size=3, alpha=0.5, beta=0.6, bias=1.5),
    "Dropout": one("Dropout", "r", r=np.array(0.3, F)),
    "Dropout 11": one("Dropout", opset=11, ratio=0.3),
    # pools
    "MaxPool": one("MaxPool", x=IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]),
    "MaxPool uneven": one("MaxPool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    "MaxPool before": one("MaxPool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0]),
    "MaxPool far": one("MaxPool", x=IMAGE, kernel_shape=[3, 3], pads=[2, 2, 1, 1]),
    "MaxPool upper": one("MaxPool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    "MaxPool lower": one("MaxPool", x=IMAGE, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"),
    "MaxPool ceil": one("MaxPool", x=IMAGE, kernel_shape=[2, 3], strides=[2, 3], ceil_mode=1),
    "MaxPool dilated": one("MaxPool", x=IMAGE, kernel_shape=[2, 2], dilations=[2, 2]),
    "MaxPool 1d": one("MaxPool", kernel_shape=[2], strides=[2]),
    "AveragePool": one("AveragePool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "AveragePool counted": one("AveragePool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    "AveragePool uneven": one("AveragePool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    "AveragePool both": one("AveragePool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1),
    "AveragePool far": one("AveragePool", x=IMAGE, kernel_shape=[3, 3], pads=[2, 2, 1, 1]),
    "AveragePool upper": one("AveragePool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    "AveragePool lower": one("AveragePool", x=IMAGE, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"),
    "AveragePool ceil": one("AveragePool", x=IMAGE, kernel_shape=[2, 3], strides=[2, 3], ceil_mode=1),
    "AveragePool 1d": one("AveragePool", kernel_shape=[3], pads=[1, 1]),
    "GlobalAveragePool": one("GlobalAveragePool", x=IMAGE),
    "GlobalAveragePool 1d": one("GlobalAveragePool"),
    "GlobalMaxPool": one("GlobalMaxPool", x=IMAGE),
    # reductions
    **{
        f"{kind} {opset}": one(kind, *where, opset=opset, low=0.2, **{"a" if where else "axes": ints(-1) if where else [-1]})
        for kind in "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare".split()
        for opset, where in ((11, ()), (18, ("a",)))
    },
    "ReduceSum 11": one("ReduceSum", opset=11, axes=[1, 2], keepdims=0),
    "ReduceSum 13": one("ReduceSum", "a", opset=13, a=ints(1, -1), keepdims=0),
    "ReduceSum none": one("ReduceSum", opset=13, noop_with_empty_axes=1),
    "ReduceMean two": one("ReduceMean", x=IMAGE, axes=[2, 3], keepdims=1),
    "Softmax 11": one("Softmax", opset=11),
    "Softmax 11 last": one("Softmax", opset=11, axis=-1),
    "Softmax 13": one("Softmax", opset=13),
    "Softmax axis": one("Softmax", opset=13, axis=1),
    "LogSoftmax 11": one("LogSoftmax", opset=11),
    "LogSoftmax 13": one("LogSoftmax", opset=13, axis=1),
    "ArgMax": one("ArgMax", axis=1, keepdims=0),
    "ArgMin": one("ArgMin", axis=-1),
    "CumSum": one("CumSum", "a", a=np.array(1, np.int64)),
    "CumSum back": one("CumSum", "a", a=np.array(-1, np.int64), reverse=1, exclusive=1),
    "TopK": Case(N("TopK", ["x", "k"], ["y", "i"]), k=ints(2)),
    # shapes
    "Reshape": one("Reshape", "s", s=ints(0, -1)),
    "Reshape rest": one("Reshape", "s", s=ints(-1, 3, 8)),
    "Reshape by Shape": Case(
        N("Shape", ["x"], ["s"]), N("Gather", ["s", "zero"], ["n"]), N("Unsqueeze", ["n", "axes"], ["u"]),
        N("Concat", ["u", "rest"], ["t"], axis=0), N("Reshape", ["x", "t"], ["y"]),
        zero=np.array(0, np.int64), axes=ints(0), rest=ints(2, 12),
    ),
    "Flatten": one("Flatten", x=IMAGE),
    "Flatten last": one("Flatten", axis=-2),
    "Transpose": one("Transpose", perm=[0, 2, 1]),
    "Squeeze 11": one("Squeeze", x=(3, 1, 4, 1), opset=11, axes=[1, 3]),
    "Squeeze 13": one("Squeeze", "a", x=(3, 1, 4, 1), a=ints(-1)),
    "Unsqueeze 11": one("Unsqueeze", opset=11, axes=[1, -1]),
    "Unsqueeze 13": one("Unsqueeze", "a", a=ints(2)),
    "Expand": one("Expand", "s", x=(3, 1, 6), s=ints(1, 4, 1)),
    "Tile": one("Tile", "r", r=ints(1, 2, 3)),
    "constants": Case(
        N("ConstantOfShape", ["s"], ["c"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])),
        N("Range", ["i", "j", "k"], ["r"]),
        N("EyeLike", ["c"], ["e"]),
        N("Constant", [], ["f"], value_floats=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        N("Size", ["c"], ["n"]),
        N("Cast", ["n"], ["m"], to=TensorProto.FLOAT),
        N("Add", ["x", "c"], ["a"]), N("Mul", ["a", "r"], ["b"]), N("Add", ["b", "e"], ["d"]),
        N("Mul", ["d", "f"], ["g"]), N("Div", ["g", "m"], ["y"]),
        s=ints(4, 6), i=np.array(0.0, F), j=np.array(6.0, F), k=np.array(1.0, F),
    ),
    "Trilu": one("Trilu", upper=0),
    "Trilu up": one("Trilu", "k", k=np.array(1, np.int64)),
    # picking and joining
    "Gather one": one("Gather", "i", i=np.array(2, np.int64), axis=1),
    "Gather some": one("Gather", "i", i=ints(3, 0, -2), axis=1),
    "Gather run": one("Gather", "i", i=ints(1, 2), axis=2),
    "Gather grid": one("Gather", "i", i=np.array([[0, 3], [1, 1]]), axis=1),
    "Slice 9": one("Slice", opset=9, starts=[1, 0], ends=[3, -1], axes=[1, 2]),
    "Slice": one("Slice", "s", "e", "a", "t", s=ints(0, 5), e=ints(2**62, -(2**62)), a=ints(1, 2), t=ints(2, -1)),
    "Slice back": one("Slice", "s", "e", "a", "t", s=ints(-1), e=ints(0), a=ints(2), t=ints(-2)),
    "Split 11": Case(N("Split", ["x"], ["y", "z"], axis=2, split=[2, 4]), opset=11),
    "Split 13": Case(N("Split", ["x", "s"], ["z", "y"], axis=2), s=ints(2, 4), opset=13),
    "Split 18": Case(N("Split", ["x"], ["z", "w", "y"], axis=1, num_outputs=3), x=(3, 7, 2), opset=18),
    "Concat": one("Concat", "x", axis=1),
    "Pad 10": one("Pad", opset=10, x=IMAGE, pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.5),
    "Pad 11": one("Pad", "p", "v", opset=11, x=IMAGE, p=ints(0, 0, 1, 2, 0, 0, 0, 1), v=np.array(0.5, F)),
    "Pad axes": one("Pad", "p", "", "a", opset=18, x=IMAGE, p=ints(1, 2), a=ints(2)),
    "Pad reflect": one("Pad", "p", x=IMAGE, p=ints(0, 0, 1, 2, 0, 0, 0, 1), mode="reflect"),
    "Pad edge": one("Pad", "p", x=IMAGE, p=ints(0, 0, 1, 2, 0, 0, 0, 1), mode="edge"),
    "Pad reflect flat": one("Pad", "p", x=(3, 6), p=ints(0, 2, 0, 3), mode="reflect"),
    "Pad channels": one("Pad", "p", x=IMAGE, p=ints(0, 1, 0, 0, 0, 2, 0, 0)),
    "OneHot": Case(
        N("Cast", ["x"], ["i"], to=TensorProto.INT64),
        N("OneHot", ["i", "d", "v"], ["y"], axis=1), d=ints(5), v=np.array([0.5, 2], F),
    ),
    # resolution
    "Resize 10": one("Resize", "s", opset=10, x=IMAGE, s=np.array([1, 1, 2, 3], F)),
    "Resize nearest": one(
        "Resize", "", "s", x=IMAGE, s=np.array([1, 1, 2, 2], F),
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    ),
    "Resize pixel": one("Resize", "", "s", x=IMAGE, s=np.array([1, 1, 2, 2], F)),
    "Resize down": one("Resize", "", "s", x=IMAGE, s=np.array([1, 1, 0.6, 0.5], F)),
    "Resize linear": one("Resize", "", "s", x=IMAGE, s=np.array([1, 1, 2, 1.5], F), mode="linear"),
    "Resize corners": one(
        "Resize", "", "s", x=IMAGE, s=np.array([1, 1, 2, 1.5], F),
        mode="linear", coordinate_transformation_mode="align_corners",
    ),
    "Resize asymmetric": one(
        "Resize", "", "s", x=IMAGE, s=np.array([1, 1, 2, 1.5], F),
        mode="linear", coordinate_transformation_mode="asymmetric",
    ),
    "Resize cubic": one("Resize", "", "s", x=IMAGE, s=np.array([1, 1, 2, 1.5], F), mode="cubic"),
    "Resize axes": one("Resize", "", "", "z", opset=18, x=IMAGE, z=ints(9, 5), axes=[2, 3], mode="linear"),
    "Resize 1d": one("Resize", "", "s", s=np.array([1, 1, 2], F), mode="linear"),
    "Upsample": one("Upsample", "s", opset=9, x=IMAGE, s=np.array([1, 1, 2, 3], F)),
    "DepthToSpace": one("DepthToSpace", x=(3, 8, 3, 4), blocksize=2),
    "DepthToSpace CRD": one("DepthToSpace", x=(3, 8, 3, 4), blocksize=2, mode="CRD"),
    "SpaceToDepth": one("SpaceToDepth", x=(3, 2, 4, 6), blocksize=2),
    "Einsum": Case(N("Einsum", ["x", "w"], ["y"], equation="bij,jk->bik"), w=real(6, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_onnxruntime_does(name: str, tmp_path: Path) -> None:
    CASES[name].run(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_a_file_for_one_sample_gets_a_free_batch(name: str, tmp_path: Path) -> None:
    CASES[name].run(tmp_path, 1)
