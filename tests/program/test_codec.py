import copy
import json
import random
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.errors import FileError, KaruiError
from karui.program import codec
from karui.program.coding.reading import Sections
from karui.program.coding.weight import decode_weight, encode_weight
from karui.program.program import Op, Output, Program, Tensor, Weight
from tests.program.builders import ALL, lenet, residual
from tests.program.weights import SUPPORTS, VALUES, make_weight, same_weight, weights


def holding(*held: Weight) -> Program:
    """A Program whose constants are these weights."""
    names = [w.name for w in held]
    return Program(
        name="holding",
        tensors={n: Tensor(name=n, shape=w.shape) for n, w in zip(names, held)},
        weights={w.name: w for w in held},
        ops=tuple(Op(kind="constant", name=n, inputs=(), outputs=(n,), weights={"value": n}) for n in names),
        inputs=(),
        outputs=tuple(Output(name=n, tensor=n) for n in names),
    )


def same_program(a: Program, b: Program) -> bool:
    fields = ("name", "tensors", "ops", "inputs", "outputs", "states", "metadata")
    weights_same = list(a.weights) == list(b.weights) and all(same_weight(a.weights[n], b.weights[n]) for n in a.weights)
    return weights_same and all(getattr(a, f) == getattr(b, f) for f in fields)


@settings(max_examples=250, deadline=None)
@given(weights())
def test_every_weight_round_trips_exactly(weight):
    entry, data = encode_weight(weight)
    sections = Sections(data)
    back = decode_weight(json.loads(json.dumps(entry)), sections)
    assert same_weight(weight, back)
    assert sections.at == len(data) == codec.weight_bytes(weight)


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("values", VALUES)
def test_every_pair_is_a_file(support, values, tmp_path):
    weight = make_weight(support, values, (12, 5, 8), seed=1, bits=4)
    program = holding(weight)
    codec.save(program, tmp_path / "w.karui")
    back = codec.load(tmp_path / "w.karui")
    assert same_program(program, back)
    assert np.array_equal(back.weights["w"].real(), weight.real())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("integer", [False, True])
def test_networks_round_trip(name, integer):
    program = replace(ALL[name](integer=integer, sparsity=0.8), metadata={"made": "by hand", "名前": "軽い"})
    data = codec.encode(program)
    assert same_program(program, codec.decode(data))
    assert codec.encode(codec.decode(data)) == data


def test_pixels_labels_and_states_round_trip():
    program = residual(integer=True, pixels=True)
    program = replace(program, states=((program.ops[1].outputs[0], "state"),))
    state = replace(program.tensor(program.ops[1].outputs[0]), name="state")
    program = replace(program, tensors={**program.tensors, "state": state})
    assert same_program(program, codec.decode(codec.encode(program)))
    assert codec.decode(codec.encode(lenet())).outputs[0].labels == tuple("0123456789")


def test_it_is_a_safetensors_file(tmp_path):
    codec.save(lenet(integer=True), tmp_path / "m.karui")
    arrays = safetensors.numpy.load_file(tmp_path / "m.karui")
    facts = json.loads(zlib.decompress(arrays["program"].tobytes()))
    assert facts["ops"][0]["kind"] == "quantize"
    with safetensors.safe_open(tmp_path / "m.karui", "numpy") as file:
        assert file.metadata()["format_version"] == "1"


def test_a_sparse_int8_lenet5_fits_into_50_kb(tmp_path):
    program = lenet(integer=True, pixels=True, sparsity=0.95, width=(20, 50, 500), size=28)
    assert sum(np.prod(w.shape) for n, w in program.weights.items() if n.endswith("weight")) == 430_500
    size = codec.save(program, tmp_path / "lenet.karui")
    assert size == (tmp_path / "lenet.karui").stat().st_size < 50_000


def test_narrow_values_take_their_bits():
    for bits in (8, 4, 3, 2):
        weight = make_weight("dense", "affine", (64, 256), seed=4, bits=bits)
        scales = weight.values.scale.nbytes + weight.values.zero_point.nbytes * bool(weight.values.zero_point.any())
        assert codec.weight_bytes(weight) <= 64 * 256 * bits // 8 + scales
    assert codec.weight_bytes(make_weight("dense", "sign", (64, 256), seed=0)) <= 64 * 256 // 8 + 64 * 4
    assert codec.weight_bytes(make_weight("dense", "ternary", (64, 256), seed=0)) <= 64 * 256 // 5 + 1 + 2 * 64 * 4


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.karui"
    codec.save(lenet(), path)
    before = path.read_bytes()
    broken = replace(lenet(), outputs=(Output(name="output", tensor="nowhere"),))
    with pytest.raises(ValueError, match="nowhere"):
        codec.save(broken, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["m.karui"]


# ── files that lie ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def taken_apart(data: bytes) -> tuple[dict, bytes]:
    arrays = safetensors.numpy.load(data)
    return json.loads(zlib.decompress(arrays["program"].tobytes())), arrays["weights"].tobytes()


def put_together(facts: dict, data: bytes) -> bytes:
    return codec._container({"program": zlib.compress(json.dumps(facts).encode()), "weights": data})


def refused(data: bytes) -> str:
    with pytest.raises(FileError) as caught:
        codec.decode(data, name="x.karui")
    message = str(caught.value)
    assert "\n" not in message and "x.karui" in message and len(message) < 500
    return message


SMALL = codec.encode(lenet(integer=True, pixels=True, sparsity=0.7, width=(2, 3, 8), size=14))
EVERY = codec.encode(holding(*(make_weight(s, v, (6, 5), seed=i, bits=3, name=f"{s} {v}") for i, s in enumerate(SUPPORTS) for v in VALUES)))


@pytest.mark.parametrize("data", [b"", b"{}", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(40), SMALL[:9], SMALL[4:], b"\xff" * 64])
def test_other_files_are_refused(data):
    refused(data)


def test_every_truncation_is_refused():
    for end in range(0, len(SMALL), 7):
        refused(SMALL[:end])
    refused(SMALL + b"\0")


def test_a_plain_safetensors_file_is_named_as_one():
    assert "safetensors" in refused(safetensors.numpy.save({"w": np.zeros(3, np.float32)}))


def test_a_newer_version_is_named():
    assert "format version '2'" in refused(SMALL.replace(b'"format_version":"1"', b'"format_version":"2"'))


def test_a_header_that_inflates_without_end_is_refused():
    data = codec._container({"program": zlib.compress(b" " * (1 << 26)), "weights": b""})
    tracemalloc.start()
    refused(data)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_deep_json_is_refused():
    refused(codec._container({"program": zlib.compress(b"[" * 100_000), "weights": b""}))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("weights", 1, "shape"), [1 << 14, 1 << 14], "weights in"),
        (("weights", 1, "shape"), [1 << 40], "sizes"),
        (("weights", 1, "shape"), [-3], "sizes"),
        (("weights", 1, "support", "stored"), 3, "index"),
        (("weights", 1, "support", "bytes"), 10**9, "announced"),
        (("weights", 1, "support", "kind"), "lattice", "lattice"),
        (("weights", 1, "values", "kind"), "pickle", "pickle"),
        (("weights", 1, "values", "bits"), 9, "9 bits"),
        (("weights", 1, "values", "scale"), [7], "shape"),
        (("weights", 1, "name"), "other", "there is no weight"),
        (("ops", 1, "kind"), "system", "unknown"),
        (("ops", 1, "inputs"), ["nowhere"], "nowhere"),
        (("ops", 1, "inputs"), ["fc2_y"], "read before"),
        (("ops", 1, "outputs"), ["input_n"], "written twice"),
        (("ops", 1, "attributes", "stride"), [0, 1], "stride"),
        (("ops", 1, "attributes", "stride"), [2, 2], "follows from"),
        (("ops", 1, "attributes", "extra"), 1, "extra"),
        (("ops", 1, "attributes", "clamp"), [-128, 400], "clamp"),
        (("ops", 1, "name"), "a\nb", "printable"),
        (("tensors", 1, "shape"), [1 << 15, 1 << 15], "elements"),
        (("tensors", 1, "dtype"), "object", "object"),
        (("tensors", 1, "affine", "scale"), 0, "scale"),
        (("tensors", 1, "affine", "zero_point"), 128, "zero point"),
        (("outputs", 0, "tensor"), "nowhere", "nowhere"),
        (("outputs", 0, "labels"), ["a\x1b[31m"], "label"),
        (("inputs", 0, "pixels", "std"), [0], "std"),
        (("states",), [["fc2_y"]], "states"),
    ],
)
def test_a_header_that_lies_is_refused(path, value, message):
    facts, data = taken_apart(SMALL)
    at = facts
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    assert message in refused(put_together(facts, data))


def survives(data: bytes) -> None:
    try:
        codec.decode(data)
    except KaruiError as error:
        assert "\n" not in str(error)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from((SMALL, EVERY)), st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_are_noticed(data, flips):
    damaged = bytearray(data)
    for place, flip in flips:
        damaged[place % len(damaged)] ^= flip
    try:
        found = codec.decode(bytes(damaged))
    except KaruiError as error:
        assert "\n" not in str(error)
    else:  # a name in the container's header, or the same byte twice
        assert same_program(found, codec.decode(data))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from((SMALL, EVERY)), st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_of_weights_never_escape(data, flips):
    facts, held = taken_apart(data)
    damaged = bytearray(held)
    for place, flip in flips:
        damaged[place % len(damaged)] ^= flip
    survives(put_together(facts, bytes(damaged)))


ODD = (None, True, -1, 0, 1, 7, 1 << 20, 1 << 31, 1 << 70, 0.5, 1e300, "", "weight", "fc1_y", [], [0], [[1, 2]], {}, {"a": 1})


def mutate(node: object, rng: random.Random) -> None:
    """Change one value somewhere in a JSON tree, or take it away."""
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.15:
            if rng.random() < 0.2:
                del node[key]
            else:
                node[key] = copy.deepcopy(rng.choice(ODD))
            return
        node = node[key]


@settings(max_examples=250, deadline=None)
@given(st.sampled_from((SMALL, EVERY)), st.integers(0, 2**32), st.integers(1, 3))
def test_changed_headers_never_escape_nor_allocate_much(data, seed, changes):
    facts, held = taken_apart(data)
    rng = random.Random(seed)
    for _ in range(changes):
        mutate(facts, rng)
    damaged = put_together(facts, held)
    tracemalloc.start()
    try:
        survives(damaged)
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileError, match="nothing.karui"):
        codec.load(tmp_path / "nothing.karui")
