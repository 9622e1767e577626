import pytest
import torch
from torch import nn
from torch.fx import Graph, Node

from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.coupling import coupling
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.zoo.lenet import lenet5
from tests.graph.nets import NETS, network_of

K = torch.ops.karui
MASK, FAKE_QUANTIZE, BINARIZE = K.mask.default, K.fake_quantize.default, K.binarize.default


@pytest.fixture
def lenet() -> Network:
    torch.manual_seed(0)
    return capture(lenet5(), torch.randn(2, 1, 28, 28)).eval()


def quantize(network: Network, name: str, learned: bool = False) -> Node:
    scale = network.get(name).detach().abs().flatten(1).amax(1) / 127
    state = {"scale": nn.Parameter(scale) if learned else scale, "zero_point": torch.zeros_like(scale)}
    return edit.put_on_parameter(network, name, FAKE_QUANTIZE, state=state, args=("scale", "zero_point", -127, 127, 0))


def test_forms_chain_on_a_parameter(lenet: Network) -> None:
    mask = (lenet.get("conv2.weight").abs() > 0.01).float()
    edit.put_on_parameter(lenet, "conv2.weight", MASK, state={"mask": mask})
    quantize(lenet, "conv2.weight", learned=True)
    first, second = edit.forms_on(lenet, "conv2.weight")
    assert (first.op, first.state) == (MASK, {"mask": "conv2.weight_mask"})
    assert second.state == {"scale": "conv2.weight_scale", "zero_point": "conv2.weight_zero_point"}
    assert second.constants == {"qmin": -127, "qmax": 127, "axis": 0}
    assert "conv2.weight_scale" in lenet.parameters()
    assert "conv2.weight_mask" in lenet.buffers()
    masked = lenet.get("conv2.weight").detach() * mask
    expected = K.fake_quantize(masked, lenet.get("conv2.weight_scale"), torch.zeros(50), -127, 127, 0)
    assert torch.equal(edit.value_of(lenet, "conv2.weight"), expected)
    x = torch.randn(2, 1, 28, 28)
    plain = lenet.copy()
    for form in reversed(edit.forms_on(plain, "conv2.weight")):
        edit.remove_form(plain, form)
    plain.set("conv2.weight", expected)
    torch.testing.assert_close(lenet(x)[0], plain(x)[0], rtol=0, atol=0)
    assert plain.state().keys() == capture(lenet5(), x).state().keys()


def test_a_form_is_seen_by_every_user_of_a_tied_parameter() -> None:
    network = network_of("shared")
    zero = torch.zeros_like(network.get("e.weight"))
    form = edit.put_on_parameter(network, "d.weight", MASK, state={"mask": zero})
    assert edit.forms_on(network, "e.weight")[0].state == {"mask": "e.weight_mask"}
    assert {user.target for user in form.users} == {torch.ops.aten.embedding.default, torch.ops.aten.linear.default}
    edit.put_on_parameter(network, "l.weight", MASK, state={"mask": torch.zeros(8, 8)})
    assert len(edit.chain_of(network, "l.weight")[-1].users) == 2
    assert torch.equal(network(*NETS["shared"][1])[0], torch.zeros(2, 20))


def test_a_form_on_an_edge_moves_all_users(lenet: Network) -> None:
    network = network_of("resnet")
    node = next(n for n in network.module.graph.nodes if len(n.users) > 1 and n.op == "call_function")
    users = set(node.users)
    state = {"scale": torch.tensor(0.1), "zero_point": torch.tensor(0.0)}
    form = edit.put_on_edge(network, node, FAKE_QUANTIZE, state=state, args=("scale", "zero_point", -128, 127, None))
    assert set(node.users) == {form}
    assert set(form.users) == users
    found = edit.form_on_edge(node)
    assert found is not None
    assert found.node is form
    assert found.state["scale"] == f"{node.name}_scale"
    inner = next(n for n in lenet.module.graph.nodes if n.op == "placeholder")
    edit.put_on_edge(lenet, inner, MASK, state={"mask": torch.zeros(1, 28, 28)}, name="pixels")
    assert "pixels_mask" in lenet.buffers()
    last = next(iter(lenet.module.graph.find_nodes(op="output"))).args[0][0]
    edit.put_on_edge(lenet, last, BINARIZE, args=(None,))
    assert set(lenet(torch.randn(2, 1, 28, 28))[0].abs().flatten().tolist()) == {1.0}


def test_the_same_state_twice_is_refused(lenet: Network) -> None:
    mask = torch.ones_like(lenet.get("fc1.weight"))
    edit.put_on_parameter(lenet, "fc1.weight", MASK, state={"mask": mask})
    with pytest.raises(RecipeError, match=r"'fc1.weight_mask' is there already"):
        edit.put_on_parameter(lenet, "fc1.weight", MASK, state={"mask": mask})
    assert len(edit.forms_on(lenet, "fc1.weight")) == 1


def test_resize_takes_the_state_of_forms_along(lenet: Network) -> None:
    mask = torch.ones_like(lenet.get("conv1.weight"))
    mask[3] = 0
    edit.put_on_parameter(lenet, "conv1.weight", MASK, state={"mask": mask})
    quantize(lenet, "conv1.weight")
    edit.put_on_parameter(lenet, "conv2.weight", MASK, state={"mask": torch.ones_like(lenet.get("conv2.weight"))})
    quantize(lenet, "conv2.weight")
    edit.put_on_parameter(lenet, "conv1.bias", MASK, state={"mask": torch.ones(20)})
    keep = torch.tensor([0, 3, 5, 7])
    scales = lenet.get("conv1.weight_scale")[keep]
    structure = lenet.structure
    for name, axis in (("conv1.weight", 0), ("conv1.bias", 0), ("conv2.weight", 1)):
        edit.resize(lenet, name, axis, keep)
    edit.check(lenet)
    assert lenet.structure > structure
    assert lenet.get("conv1.weight_mask").shape == (4, 1, 5, 5)
    assert lenet.get("conv1.weight_mask")[1].sum() == 0
    assert torch.equal(lenet.get("conv1.weight_scale"), scales)
    assert lenet.get("conv1.bias_mask").shape == (4,)
    assert lenet.get("conv2.weight_mask").shape == (50, 4, 5, 5)
    assert lenet.get("conv2.weight_scale").shape == (50,)
    assert isinstance(lenet.parameters()["conv1.weight"], nn.Parameter)


def test_check_names_the_layer_that_stops(lenet: Network) -> None:
    edit.resize(lenet, "conv1.weight", 0, torch.arange(5))
    edit.resize(lenet, "conv1.bias", 0, torch.arange(5))
    with pytest.raises(RecipeError, match="'conv2' no longer runs"):
        edit.check(lenet)


def test_check_wants_one_row_per_sample(lenet: Network) -> None:
    graph = lenet.module.graph
    last = next(iter(graph.find_nodes(op="output")))
    with graph.inserting_before(last):
        summed = graph.call_function(torch.ops.aten.sum.dim_IntList, (last.args[0][0], [0]))
    last.args = ((summed,),)
    lenet.module.recompile()
    with pytest.raises(RecipeError, match="no longer runs at any batch size"):
        edit.check(lenet)


def test_replace_node_puts_two_factors_in_the_place_of_one(lenet: Network) -> None:
    x = torch.randn(3, 1, 28, 28)
    expected = lenet(x)[0]
    node = next(n for n in lenet.module.graph.nodes if lenet.layer_of(n) == "fc2" and n.op == "call_function")
    u, s, v = torch.linalg.svd(lenet.get("fc2.weight").detach(), full_matrices=False)
    lenet.add_parameter("fc2.inner", s[:, None] * v)
    lenet.add_parameter("fc2.outer", u)

    def build(graph: Graph) -> Node:
        inner = graph.call_function(torch.ops.aten.linear.default, (node.args[0], graph.get_attr("fc2.inner")))
        return graph.call_function(torch.ops.aten.linear.default, (inner, graph.get_attr("fc2.outer"), node.args[2]))

    structure = lenet.structure
    value = edit.replace_node(lenet, node, build)
    edit.check(lenet)
    torch.testing.assert_close(lenet(x)[0], expected, rtol=1e-4, atol=1e-5)
    assert "fc2.weight" not in lenet.parameters()
    assert lenet.layer_of(value) == "fc2"
    assert lenet.structure == structure + 1


def test_taps_give_inner_values_and_leave_the_outputs_alone(lenet: Network, tmp_path) -> None:
    x = torch.randn(3, 1, 28, 28)
    before = lenet(x)
    edit.tap(lenet, edit.end_of(lenet, "conv2"), "second")
    after = lenet(x)
    assert len(after) == len(before) == 1
    assert torch.equal(after[0], before[0])
    assert lenet.tapped["second"].shape == (3, 50, 8, 8)
    lenet.tapped["second"].sum().backward()
    assert lenet.get("conv1.weight").grad is not None
    lenet.save(tmp_path / "tapped.pt2")
    again = Network.load(tmp_path / "tapped.pt2")
    assert torch.equal(again(x)[0], before[0])
    assert torch.equal(again.tapped["second"], lenet.tapped["second"])
    copied = lenet.copy()
    edit.untap(copied)
    assert (copied.taps, copied.tapped) == ((), {})
    assert torch.equal(copied(x)[0], before[0])
    assert lenet.taps == ("second",)


def test_taps_go_by_name_and_take_what_only_they_read(lenet: Network) -> None:
    lenet.add_parameter("aside.weight", torch.ones(10, 500))
    hidden = edit.end_of(lenet, "fc1")
    graph = lenet.module.graph
    with graph.inserting_after(hidden):
        weight = graph.get_attr("aside.weight")
    with graph.inserting_after(weight):
        aside = graph.call_function(torch.ops.aten.linear.default, (hidden, weight))
    edit.tap(lenet, aside, "aside")
    edit.tap(lenet, hidden, "hidden")
    with pytest.raises(RecipeError, match="tapped as 'aside' already"):
        edit.tap(lenet, hidden, "aside")
    edit.untap(lenet, ["aside"])
    assert lenet.taps == ("hidden",)
    assert "aside.weight" not in lenet.parameters()
    lenet(torch.randn(2, 1, 28, 28))
    assert set(lenet.tapped) == {"hidden"}


def test_a_tapped_network_lowers_and_prunes_as_if_it_had_none(lenet: Network) -> None:
    plain = [output.tensor for output in lower(lenet).outputs], coupling(lenet).units.max()
    edit.tap(lenet, edit.end_of(lenet, "conv1"), "first")
    assert ([output.tensor for output in lower(lenet).outputs], coupling(lenet).units.max()) == plain
    assert all(not group.fixed for group in coupling(lenet).groups.values() if group.name == "conv1.weight")


def test_a_layer_that_is_not_there_is_told_with_those_that_are(lenet: Network) -> None:
    with pytest.raises(RecipeError, match=r"no layer 'conv3'; there are .*'conv2'"):
        edit.end_of(lenet, "conv3")
