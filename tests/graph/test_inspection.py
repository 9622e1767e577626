"""Hostile and damaged files: each is refused by name, in one line, and nothing in it runs."""

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from karui.errors import FileError
from karui.graph import archive
from karui.graph.network import Network
from tests.graph.nets import network_of

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "net.pt2"
    network_of("mlp").save(path)
    return path.read_bytes()


def members_of(data: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def write(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return path


def edited(name: str, change: Callable[[Any], None]) -> Callable[[Members, Path], None]:
    """Change one JSON member."""

    def apply(members: Members, mark: Path) -> None:
        content = json.loads(members[name])
        change(content)
        members[name] = json.dumps(content).replace("MARK", str(mark)).encode()

    return apply


MODEL = "archive/models/model.json"
FACTS = "archive/extra/karui.json"
WEIGHTS = "archive/data/weights/model_weights_config.json"


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def first_node(model: Any) -> Any:
    return model["graph_module"]["graph"]["nodes"][0]


def first_size(model: Any) -> Any:
    return model["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]


def signature(model: Any) -> Any:
    return model["graph_module"]["module_call_graph"][0]["signature"]


def spec(kind: str, context: str = "null") -> str:
    return json.dumps([1, {"type": kind, "context": context, "children_spec": []}])


def evil_sample(members: Members, mark: Path) -> None:
    buffer = io.BytesIO()
    torch.save((Evil(mark),), buffer)
    members["archive/data/sample_inputs/model.pt"] = buffer.getvalue()


def evil_weight(members: Members, mark: Path) -> None:
    members["archive/data/weights/weight_0"] = pickle.dumps(Evil(mark))
    edited(WEIGHTS, lambda config: config["config"]["a.weight"].update(use_pickle=True))(members, mark)


def evil_constant(members: Members, mark: Path) -> None:
    members["archive/data/constants/opaque_obj_0"] = pickle.dumps(Evil(mark))
    edited(
        "archive/data/constants/model_constants_config.json",
        lambda config: config["config"].update(c={"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}),
    )(members, mark)


def renamed(old: str, new: str) -> Callable[[Members, Path], None]:
    """Another name wherever one stands; the name of a file to touch is spelled without a dot, which splits the names of parameters."""

    def swap(value: Any, other: str) -> Any:
        if isinstance(value, dict):
            return {swap(key, other): swap(inner, other) for key, inner in value.items()}
        if isinstance(value, list):
            return [swap(inner, other) for inner in value]
        return other if value == old else value

    def apply(members: Members, mark: Path) -> None:
        spelled = "+".join(f"chr({ord(c)})" for c in str(mark))
        for name in members:
            if name.endswith(".json"):
                members[name] = json.dumps(swap(json.loads(members[name]), new.replace("MARK", spelled))).encode()

    return apply


def argument(model: Any) -> None:
    signature(model)["forward_arg_names"] = ["x=print()"]


CALL = "__import__('pathlib').Path('MARK').touch()"
ATTACKS: dict[str, tuple[Callable[[Members, Path], None], str]] = {
    "pickled sample": (evil_sample, "sample_inputs/model.pt"),
    "pickled weight": (evil_weight, "data/weights/weight_0' \\('a.weight'\\) is marked as pickled"),
    "pickled constant": (evil_constant, "opaque_obj_0"),
    "python function": (edited(MODEL, lambda m: first_node(m).update(target="torch.os.system")), "torch.os.system"),
    "operator": (edited(MODEL, lambda m: first_node(m).update(target="_operator.methodcaller")), "_operator.methodcaller"),
    "TorchScript op": (edited(MODEL, lambda m: first_node(m).update(target="torch.ops.aten.save.default")), "aten.save"),
    "file op": (edited(MODEL, lambda m: first_node(m).update(target="torch.ops.aten.from_file.default")), "from_file"),
    "unknown op": (edited(MODEL, lambda m: first_node(m).update(target="torch.ops.aten.nonesuch.default")), "nonesuch"),
    "extension": (edited(MODEL, lambda m: first_node(m).update(target="#their.op")), "#their.op"),
    "other namespace": (edited(MODEL, lambda m: first_node(m).update(target="torch.ops.prims.svd.default")), "prims.svd"),
    "evaluated size": (edited(MODEL, lambda m: first_size(m).update(expr_str=CALL)), "plain arithmetic"),
    "size by attribute": (edited(MODEL, lambda m: first_size(m).update(expr_str="Integer(1).__class__")), "plain arithmetic"),
    "size by string": (edited(MODEL, lambda m: first_size(m).update(expr_str=f'Symbol("{CALL}")')), "plain arithmetic"),
    "lambda size": (edited(MODEL, lambda m: first_size(m).update(expr_str="(lambda: 1)()")), "plain arithmetic"),
    "imported type": (edited(MODEL, lambda m: signature(m).update(in_spec=spec("collections.defaultdict", "{}"))), "defaultdict"),
    "imported enum": (edited(MODEL, lambda m: signature(m).update(in_spec=spec("builtins.dict", '{"__enum__": true}'))), "enum"),
    "input's name is code": (renamed("x", "x=open(MARK, chr(119))"), "more than a name"),
    "parameter's name is code": (renamed("a.weight", 'a"), open(MARK, chr(119)), ("'), "more than a name"),
    "argument's name is code": (edited(MODEL, argument), "more than a name"),
    "keyword is code": (edited(MODEL, lambda m: signature(m).update(in_spec=spec("builtins.dict", '["x=print()"]'))), "more than a name"),
    "name is a path": (edited(FACTS, lambda facts: facts.update(name="../../evil")), "called '../../evil', expected the name of a file"),
    "name is a parent": (edited(FACTS, lambda facts: facts.update(name="..")), "expected the name of a file"),
    "name is no text": (edited(FACTS, lambda facts: facts.update(name=["a"])), "can't be loaded|name of a file"),
    "layer on two lines": (edited(FACTS, lambda facts: facts["nodes"][0].__setitem__(2, "a\nb")), "a layer called 'a.*nb'"),
    "escape in an output": (edited(FACTS, lambda facts: facts.update(outputs=["\x1b[2J"])), "printable"),
    "library": (lambda members, mark: members.update({"archive/data/aotinductor/model/a.so": b"\x7fELF"}), "aotinductor/model/a.so"),
    "old pickled weights": (lambda members, mark: members.update({"archive/data/weights/model.pt": b""}), "weights/model.pt"),
    "second model": (lambda members, mark: members.update({"archive/models/other.json": b"{}"}), "models/other.json"),
    "second root": (lambda members, mark: members.update({"other/version": b"3"}), "root folders"),
    "same name in capitals": (lambda members, mark: members.update({"archive/extra/KARUI.json": b"{}"}), "there twice"),
    "claims to be huge": (
        edited(WEIGHTS, lambda c: c["config"]["a.weight"]["tensor_meta"].update(sizes=[{"as_int": 1 << 40}])),
        "claims to be larger",
    ),
    "missing weight": (lambda members, mark: members.pop("archive/data/weights/weight_0") and None, "weight_0"),
    "missing graph": (lambda members, mark: members.pop(MODEL) and None, "models/model.json"),
    "graph is no JSON": (lambda members, mark: members.update({MODEL: b"{"}), "not JSON"),
    "graph is deep": (lambda members, mark: members.update({MODEL: b"[" * 200_000}), "not JSON"),
    "graph is a list": (lambda members, mark: members.update({MODEL: b"[1]"}), "can't be read"),
    "facts are wrong": (edited("archive/extra/karui.json", lambda facts: facts.pop("outputs")), "can't be loaded"),
    "weights are a list": (lambda members, mark: members.update({WEIGHTS: b"[]"}), "can't read"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_name(name: str, good: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change, word = ATTACKS[name]
    members, mark = members_of(good), tmp_path / "mark"
    change(members, mark)
    path = write(tmp_path / "evil.pt2", members)
    with pytest.raises(FileError, match=word) as caught:
        Network.load(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    assert capfd.readouterr() == ("", "")


def test_the_attacks_would_work_on_torch_itself(good: bytes, tmp_path: Path) -> None:
    """The reason for all this: torch.export.load runs what three of these files say."""
    for number, name in enumerate(("pickled weight", "evaluated size", "input's name is code")):
        members, mark = members_of(good), tmp_path / f"mark{number}"
        ATTACKS[name][0](members, mark)
        path = write(tmp_path / "evil.pt2", members)
        with contextlib.suppress(Exception):
            torch.export.load(path)
        assert mark.exists(), name


def test_a_rewritten_good_file_loads(good: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "same.pt2", members_of(good))
    assert Network.load(path).name == "mlp"


def two_faced(shown: Members, hidden: Members) -> bytes:
    """A file of two archives: what is before it moves the places of a directory for Python's reader, and not for torch's."""
    assert [(n, len(b)) for n, b in shown.items()] == [(n, len(b)) for n, b in hidden.items()]
    faces = []
    for members in (hidden, shown):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as zipped:
            for name, content in members.items():
                zipped.writestr(zipfile.ZipInfo(name), content)
        faces.append(buffer.getvalue())
    return faces[0][:-22] + faces[1]  # the directory of the second, read without its shift, is that of the first


def test_a_file_of_two_faces_is_loaded_as_it_was_inspected(good: bytes, tmp_path: Path) -> None:
    shown, hidden = members_of(good), members_of(good)
    name = "archive/data/weights/weight_0"
    hidden[name] = bytes(len(hidden[name]))
    path = tmp_path / "two.pt2"
    path.write_bytes(two_faced(shown, hidden))
    assert not torch.export.load(path).state_dict["a.weight"].any()  # torch's reader sees the zeros
    weight = Network.load(path).get("a.weight")
    assert torch.equal(weight.detach().reshape(-1), torch.frombuffer(bytearray(shown[name]), dtype=torch.float32))


def test_a_name_that_loading_would_refuse_is_not_written(tmp_path: Path) -> None:
    network = network_of("mlp")
    network.name = "a/b"
    with pytest.raises(FileError, match="called 'a/b'"):
        network.save(tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_compressed_members_are_refused(good: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "small.pt2", members_of(good), zipfile.ZIP_DEFLATED)
    with pytest.raises(FileError, match="compressed"):
        Network.load(path)


def test_a_file_over_the_limit_is_not_read(good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.pt2").write_bytes(good)
    monkeypatch.setattr(archive, "MAX_FILE", 1000)
    with pytest.raises(FileError, match="at most 1,000"):
        Network.load(tmp_path / "net.pt2")


def test_truncated_files_are_refused(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt2"
    for share in range(20):
        path.write_bytes(good[: len(good) * share // 20])
        with pytest.raises(FileError, match="not a whole .pt2 file"):
            Network.load(path)


def test_flipped_bytes_never_escape(good: bytes, tmp_path: Path) -> None:
    """A damaged byte gives a FileError, or a network of other numbers; nothing else."""
    path = tmp_path / "flipped.pt2"
    for place in range(100, len(good), len(good) // 40):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x5A]) + good[place + 1 :])
        try:
            Network.load(path)
        except FileError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other.pt2").write_bytes(content)
    with pytest.raises(FileError, match="not a whole .pt2 file"):
        Network.load(tmp_path / "other.pt2")


def test_a_folder_or_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="can't read"):
        Network.load(tmp_path)
    with pytest.raises(FileError, match="can't read"):
        Network.load(tmp_path / "none.pt2")
