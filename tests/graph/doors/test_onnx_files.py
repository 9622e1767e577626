"""What comes in from outside: ports, examples, damaged and hostile files."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from karui.errors import CaptureError, FileError, UnsupportedOp
from karui.export import onnx as target
from karui.graph.doors.onnx import read
from karui.graph.network import Network
from karui.lower import lower
from tests.graph.doors.onnx_models import agree, check, expected, model, saved
from tests.graph.doors.test_onnx_integers import coded_layer, codes
from tests.graph.doors.test_onnx_sequence import recurrent

N, F = helper.make_node, np.float32


def real(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(F)


def small() -> Any:
    nodes = [
        N("Conv", ["x", "conv.weight", "conv.bias"], ["c"], name="/conv/Conv", pads=[1, 1, 1, 1]),
        N("BatchNormalization", ["c", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"], ["n"], name="/bn/BatchNormalization"),
        N("Relu", ["n"], ["r"], name="/relu/Relu"),
        N("GlobalAveragePool", ["r"], ["g"]),
        N("Flatten", ["g"], ["f"]),
        N("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], name="/fc/Gemm", transB=1),
    ]
    constants = {
        "conv.weight": real(4, 3, 3, 3), "conv.bias": real(4), "fc.weight": real(5, 4), "fc.bias": real(5),
        "bn.weight": real(4), "bn.bias": real(4), "bn.running_mean": real(4), "bn.running_var": np.abs(real(4)) + 1,
    }  # fmt: skip
    return model(nodes, {"x": ["N", 3, 8, 8]}, constants)


# ── what a network looks like ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_ports_and_training(tmp_path: Path) -> None:
    path = saved(small(), tmp_path, "small.onnx")
    network = read(path)
    assert (network.name, network.inputs[0].name, network.inputs[0].shape, network.outputs) == ("small", "x", (3, 8, 8), ("y",))
    assert set(network.parameters()) == {"conv.weight", "conv.bias", "fc.weight", "fc.bias", "bn.weight", "bn.bias"}
    assert set(network.buffers()) == {"bn.running_mean", "bn.running_var"}
    layers = {str(n.target).split(".")[1]: network.layer_of(n) for n in network.module.graph.nodes if n.op == "call_function"}
    assert (layers["conv2d"], layers["batch_norm"], layers["linear"]) == ("conv", "bn", "fc")
    assert not network.training
    before = network.get("bn.running_mean").clone()
    network.train()(torch.randn(4, 3, 8, 8))[0].sum().backward()
    assert network.get("conv.weight").grad is not None and not torch.equal(before, network.get("bn.running_mean"))
    assert read(path, name="other").name == "other"


def test_a_network_is_saved_and_loaded(tmp_path: Path) -> None:
    network = read(saved(small(), tmp_path))
    network.save(tmp_path / "net.pt2")
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(Network.load(tmp_path / "net.pt2")(x)[0], network(x)[0])


def test_what_the_file_says_of_itself_goes_out_again(tmp_path: Path) -> None:
    proto = model([N("Relu", ["x"], ["y"])], {"x": ["N", 4]}, opset=20)
    proto.producer_name = "somebody"
    helper.set_model_props(proto, {"author": "Ada", "two\nlines": "no"})
    network = read(saved(proto, tmp_path))
    network.save(tmp_path / "net.pt2")
    for each in (network, network.copy(), Network.load(tmp_path / "net.pt2")):
        again = onnx.load(target.write(lower(each), tmp_path / "again").main)
        assert again.opset_import[0].version == 20
        assert {p.key: p.value for p in again.metadata_props}["author"] == "Ada" and len(again.metadata_props) == 2
    old = read(saved(model([N("Relu", ["x"], ["y"])], {"x": ["N", 4]}, opset=13), tmp_path))
    assert onnx.load(target.write(lower(old), tmp_path / "old").main).opset_import[0].version == target.OPSET


def test_equal_vectors_of_one_number_are_not_shared(tmp_path: Path) -> None:
    nodes = [N("Conv", ["x", "w", "zeros"], ["c"], name="a"), N("Conv", ["c", "v", "zeros"], ["y"], name="b")]
    constants = {"w": real(3, 3, 1, 1), "v": real(3, 3, 1, 1), "zeros": np.zeros(3, F)}
    assert len(read(saved(model(nodes, {"x": ["N", 3, 4, 4]}, constants), tmp_path)).parameters()) == 4


def test_several_inputs_and_outputs_and_constants_beside_samples(tmp_path: Path) -> None:
    nodes = [
        N("Shape", ["x"], ["shape"], start=0, end=1),
        N("Concat", ["shape", "rest"], ["wide"], axis=0),
        N("Expand", ["token", "wide"], ["t"]),
        N("Concat", ["t", "x"], ["y"], axis=1),
        N("Add", ["k", "k"], ["z"]),
    ]
    constants = {"token": real(1, 1, 6), "rest": np.array([1, 6], np.int64)}
    proto = model(nodes, {"x": ["N", 4, 6], "k": ["N", 2]}, constants, outputs=("z", "y"))
    network = check(proto, tmp_path, [real(3, 4, 6), real(3, 2)])
    assert network.outputs == ("z", "y") and "token" in network.parameters()


def test_a_fixed_batch_of_one_moves_through_attention(tmp_path: Path) -> None:
    """Sequence first, heads beside the batch, and all axes written as numbers: as exporters write multi-head attention."""
    nodes = [
        N("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
        N("Reshape", ["a", "split"], ["b"]),
        N("Transpose", ["b"], ["q"], perm=[1, 0, 2]),
        N("Transpose", ["b"], ["k"], perm=[1, 2, 0]),
        N("MatMul", ["q", "k"], ["s"]),
        N("Softmax", ["s"], ["p"], axis=-1),
        N("MatMul", ["p", "q"], ["o"]),
        N("Transpose", ["o"], ["t"], perm=[1, 0, 2]),
        N("Reshape", ["t", "rows"], ["f"]),
        N("Gemm", ["f", "w"], ["g"]),
        N("Reshape", ["g", "joined"], ["j"]),
        N("Transpose", ["j"], ["y"], perm=[1, 0, 2]),
    ]
    lists = {"split": [5, 2, 4], "rows": [5, 8], "joined": [5, 1, 8]}
    constants = {"w": real(8, 8), **{name: np.array(each, np.int64) for name, each in lists.items()}}
    check(model(nodes, {"x": [1, 5, 8]}, constants), tmp_path, [real(3, 5, 8)])


def test_a_branch_of_a_known_condition_and_functions_are_drawn(tmp_path: Path) -> None:
    def branch(kind: str) -> Any:
        return helper.make_graph([N(kind, ["x"], ["out"])], kind, [], [onnx.ValueInfoProto(name="out")])

    nodes = [
        N("If", ["yes"], ["a"], then_branch=branch("Relu"), else_branch=branch("Neg")),
        N("twice", ["a"], ["y"], domain="own", alpha=0.3),
    ]
    proto = model(nodes, {"x": ["N", 4]}, {"yes": np.array(True)})
    inner = N("LeakyRelu", ["s"], ["r"])
    inner.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT))
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(
        helper.make_function(
            "own", "twice", ["i"], ["r"], [N("Sub", ["i", "i"], ["z"]), N("Sub", ["z", "i"], ["s"]), inner], opsets, ["alpha"]
        )
    )
    proto.opset_import.append(helper.make_opsetid("own", 1))
    check(proto, tmp_path, [real(3, 4)])


def test_free_sizes_need_an_example(tmp_path: Path) -> None:
    path = saved(model([N("GlobalMaxPool", ["x"], ["y"])], {"x": ["N", 3, "h", "w"]}), tmp_path)
    with pytest.raises(CaptureError, match="input 'x' has a free size in axis 2; pass an example"):
        read(path)
    assert read(path, torch.zeros(1, 3, 5, 6)).inputs[0].shape == (3, 5, 6)
    for example, words in ((torch.zeros(1, 4, 5, 6), "pass one that fits"), ([torch.zeros(1, 3)] * 2, "one for each")):
        with pytest.raises(CaptureError, match=words):
            read(path, example)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floats_become_float32(kind: int, tmp_path: Path) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    path = saved(model([N("MatMul", ["x", "w"], ["y"])], {"x": ["N", 6]}, {"w": real(6, 5).astype(dtype)}, kinds={"x": kind}), tmp_path)
    x = real(3, 6)
    (found,) = read(path)(torch.from_numpy(x))
    np.testing.assert_allclose(found.detach().numpy(), expected(path, [x.astype(dtype)])[0].astype(F), rtol=1e-2, atol=1e-2)


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_unknown_ops_and_control_flow_are_named(tmp_path: Path) -> None:
    body = helper.make_graph(
        [N("Identity", ["c"], ["d"])], "body", [onnx.ValueInfoProto(name=n) for n in "ic"], [onnx.ValueInfoProto(name="d")]
    )
    condition = [N("ReduceSum", ["x"], ["s"], keepdims=0), N("Greater", ["s", "s"], ["g"])]
    cases = [
        ([N("NonMaxSuppression", ["x", "x"], ["y"], name="/head/nms")], "'head.nms' has the op NonMaxSuppression"),
        ([N("Thing", ["x"], ["y"], name="odd", domain="my.own")], "'odd' has the op my.own.Thing"),
        ([N("Loop", ["", "", "x"], ["y"], name="again", body=body)], "'again' has the op Loop, a loop"),
        ([N("Softmax", ["x"], ["y"], name="soft", axis=0)], "'soft' has an op along the batch axis"),
        ([N("Reshape", ["x", "x"], ["y"], name="view")], "'view' has a computed shape"),
    ]
    for nodes, words in cases:
        with pytest.raises(UnsupportedOp, match=words):
            read(saved(model(nodes, {"x": ["N", 4]}), tmp_path))
    branch = helper.make_graph([N("Relu", ["x"], ["o"])], "b", [], [onnx.ValueInfoProto(name="o")])
    conditional = [*condition[1:], N("If", ["g"], ["y"], name="maybe", then_branch=branch, else_branch=branch)]
    with pytest.raises(UnsupportedOp, match="'maybe' has the op If on a computed condition"):
        read(saved(model(conditional, {"x": ["N", 4], "s": ["N"]}), tmp_path))


def test_ports_without_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="first axis of input 'h' is no batch"):
        read(saved(model([N("Add", ["x", "h"], ["y"])], {"x": [1, 4], "h": [2, 4]}), tmp_path))
    branch = helper.make_graph([N("Relu", ["x"], ["o"])], "b", [], [onnx.ValueInfoProto(name="o")])
    flow = N("If", ["h"], ["y"], name="maybe", then_branch=branch, else_branch=branch)
    with pytest.raises(CaptureError, match="'h' is no batch.*'maybe' is If: control flow"):
        read(saved(model([flow], {"x": [1, 4], "h": [2, 4]}), tmp_path))
    with pytest.raises(CaptureError, match="output 'y' has no batch as first axis"):
        read(saved(model([N("Transpose", ["x"], ["y"], perm=[1, 0])], {"x": ["N", 4]}), tmp_path))
    with pytest.raises(CaptureError, match="output 'y' doesn't depend on any input"):
        read(saved(model([N("Identity", ["c"], ["y"])], {"x": ["N", 4]}, {"c": real(3, 4)}), tmp_path))
    with pytest.raises(CaptureError, match="input 'x' has no axes"):
        read(saved(model([N("Relu", ["x"], ["y"])], {"x": []}), tmp_path))


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, data in (("empty", b""), ("text", b"hello, I am no model\n" * 9), ("cut", small().SerializeToString()[:300])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FileError, match=f"'{name}'"):
            read(tmp_path / name)
    for path in (tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(FileError, match="can't read"):
            read(path)


def test_references_and_sizes_are_checked(tmp_path: Path) -> None:
    proto = small()
    proto.graph.node[1].input[0] = "r"  # a cycle
    with pytest.raises(FileError, match="'bn.BatchNormalization' reads 'r', which nothing before it makes"):
        read(saved(proto, tmp_path))
    proto = small()
    proto.graph.initializer[0].dims[0] = 2**40
    with pytest.raises(FileError, match="'conv.weight' has .* bytes"):
        read(saved(proto, tmp_path))
    proto = small()
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40
    with pytest.raises(CaptureError, match="input 'x' has the shape"):
        read(saved(proto, tmp_path))
    many = model(
        [N("ConstantOfShape", ["s"], ["c"]), N("Add", ["x", "c"], ["y"])], {"x": ["N", 4]}, {"s": np.array([2**20, 2**20], np.int64)}
    )
    with pytest.raises(UnsupportedOp, match="a constant of 1,099,511,627,776 elements"):
        read(saved(many, tmp_path))
    with pytest.raises(UnsupportedOp, match="opset 5"):
        read(saved(model([N("Relu", ["x"], ["y"])], {"x": ["N", 4]}, opset=5), tmp_path))


def test_names_that_are_no_text(tmp_path: Path) -> None:
    data = small().SerializeToString()
    for name in (b"/bn/BatchNormalization", b"conv.weight"):
        for letter in (255, 10):
            (tmp_path / "net.onnx").write_bytes(data.replace(name, name[:-1] + bytes([letter])))
            with pytest.raises(FileError, match="a name in it is no text"):
                read(tmp_path / "net.onnx")


def test_functions_that_call_themselves_end(tmp_path: Path) -> None:
    proto = model([N("deep", ["x"], ["y"], domain="own")], {"x": ["N", 4]})
    calls = [N("deep", ["i"], ["a"], domain="own"), N("deep", ["a"], ["o"], domain="own")]
    proto.functions.append(helper.make_function("own", "deep", ["i"], ["o"], calls, [helper.make_opsetid("own", 1)]))
    with pytest.raises(FileError, match="nested"):
        read(saved(proto, tmp_path))


def external(folder: Path, location: str, *, length: int | None = None) -> Path:
    proto = model([N("MatMul", ["x", "w"], ["y"])], {"x": ["N", 6]}, {"w": real(6, 5)})
    held = proto.graph.initializer[0]
    (folder / "weights.bin").write_bytes(b"skip" + held.raw_data)
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "4", **({} if length is None else {"length": str(length)})}.items():
        held.external_data.add(key=key, value=value)
    return saved(proto, folder)


def test_weights_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(124))
    path = external(tmp_path / "in", "weights.bin")
    agree(read(path), path, [real(3, 6)])
    with pytest.raises(FileError, match="which isn't beside it"):
        read(external(tmp_path / "in", "other.bin"))
    for place in ("../outside.bin", str(tmp_path / "outside.bin"), ""):
        with pytest.raises(FileError, match="not safe to open"):
            read(external(tmp_path / "in", place))
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(FileError, match="not safe to open"):
        read(external(tmp_path / "in", "link.bin"))
    for length in (10**9, 8):
        with pytest.raises(FileError):
            read(external(tmp_path / "in", "weights.bin", length=length))


# ── fuzz ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def seeds() -> list[bytes]:
    nodes, constants = coded_layer("Conv", codes(5, 4, 3, 3), np.full(5, 0.02, F), codes(5, dtype=np.int32))
    rnn, held = recurrent("LSTM", "bidirectional")
    moves = [
        N("Shape", ["x"], ["s"]),
        N("Slice", ["s", "zero", "one"], ["n"]),
        N("Concat", ["n", "rest"], ["t"], axis=0),
        N("Reshape", ["x", "t"], ["a"]),
        N("Gather", ["a", "one"], ["b"], axis=1),
        N("Pad", ["b", "pads"], ["c"]),
        N("Resize", ["c", "", "scales"], ["d"], mode="linear"),
        N("MaxPool", ["d"], ["e"], kernel_shape=[2], auto_pad="SAME_UPPER"),
        N("Split", ["e"], ["f", "g"], axis=2),
        N("Einsum", ["f", "g"], ["h"], equation="bci,bcj->bij"),
        N("Tile", ["h", "twice"], ["i"]),
        N("CumSum", ["i", "axis"], ["y"]),
    ]
    lists = {"zero": [0], "one": [1], "rest": [4, 6], "pads": [0, 0, 1, 0, 0, 1], "twice": [1, 2, 1]}
    more: dict[str, np.ndarray] = {name: np.array(each, np.int64) for name, each in lists.items()}
    more |= {"scales": np.array([1, 1, 2], F), "axis": np.array(1, np.int64)}
    protos = [
        small(),
        model(nodes, {"x": ["N", 4, 6, 6]}, constants),
        model(rnn, {"x": ["N", 5, 4]}, held),
        model(moves, {"x": ["N", 24]}, more),
    ]
    return [proto.SerializeToString() for proto in protos]


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(changed) or 1)
        how = dice.randrange(6)
        if how < 3 and changed:
            changed[at] = dice.choice((0, 1, 2, 255, 127, 128, changed[at] ^ (1 << dice.randrange(8)), dice.randrange(256)))
        elif how == 3:
            del changed[at : at + dice.randrange(1, 9)]
        elif how == 4:
            changed[at:at] = changed[at : at + dice.randrange(1, 9)]
        else:
            changed = changed[: max(at, 1)]
    return bytes(changed)


def mutated(data: bytes, dice: random.Random) -> bytes:
    """One field of one message changed: a number, a name, a kind."""
    proto = onnx.ModelProto.FromString(data)
    graph = proto.graph
    node = dice.choice(graph.node)
    number = dice.choice((0, 1, -1, 2, 3, 7, 64, 2**31 - 1, 2**31, 2**62, -(2**62)))
    how = dice.randrange(7)
    if how == 0 and node.attribute:
        attribute = dice.choice(node.attribute)
        if attribute.ints:
            attribute.ints[dice.randrange(len(attribute.ints))] = number
        else:
            attribute.i, attribute.type = number, dice.choice((attribute.type, onnx.AttributeProto.INT, onnx.AttributeProto.FLOATS))
    elif how == 1:
        node.op_type = dice.choice([other.op_type for other in graph.node] + ["Softmax", "Expand", "TopK", "OneHot", "Range", "LRN"])
    elif how == 2 and node.input:
        node.input[dice.randrange(len(node.input))] = dice.choice([each.name for each in graph.initializer] + ["x", "", "none"])
    elif how == 3:
        held = dice.choice(graph.initializer)
        array = np.array(onnx.numpy_helper.to_array(held))
        if array.size:
            array.reshape(-1)[dice.randrange(array.size)] = np.clip(
                number, *((-(2**31), 2**31 - 1) if array.dtype != np.int64 else (-(2**62), 2**62))
            ).astype(array.dtype)
        held.CopyFrom(onnx.numpy_helper.from_array(array, held.name))
    elif how == 4:
        held = dice.choice(graph.initializer)
        if held.dims:
            held.dims[dice.randrange(len(held.dims))] = number
        held.data_type = dice.choice((held.data_type, dice.randrange(24)))
    elif how == 5:
        shape = graph.input[0].type.tensor_type.shape
        shape.dim[dice.randrange(len(shape.dim))].dim_value = number
    else:
        proto.opset_import[0].version = dice.randrange(7, 27)
    return proto.SerializeToString()


def survives(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    start = time.monotonic()
    try:
        read(path)
    except (CaptureError, UnsupportedOp, FileError) as error:
        assert "\n" not in str(error) and len(str(error)) < 700
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_raise_karuis_errors(seed: int, tmp_path: Path) -> None:
    dice, data = random.Random(seed), seeds()[seed]
    for i in range(120):
        survives(tmp_path / "net.onnx", (damaged if i % 2 else mutated)(data, dice))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_many_damaged_files(seed: int, tmp_path: Path) -> None:
    dice, data = random.Random(1000 + seed), seeds()[seed % 4]
    for i in range(250):
        survives(tmp_path / "net.onnx", (damaged if i % 2 else mutated)(data, dice))


def test_what_a_mutation_is_made_of_is_sound(tmp_path: Path) -> None:
    for data in seeds():
        (tmp_path / "net.onnx").write_bytes(data)
        read(tmp_path / "net.onnx")
