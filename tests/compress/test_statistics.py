import torch
from torch import nn
from torch.nn import functional as F

from karui.compress.layerwise import LAYERS, walk
from karui.compress.statistics import Behind, estimate_batch_norm, moments
from karui.graph.doors.torch import capture
from tests.compress.tiny import data, small


def nodes_of(network):
    return {node.args[1].target: node for node in network.module.graph.nodes if str(node.target) in LAYERS}


def batches():
    return list(data().calibration.batches(32))


def test_what_follows_a_layer() -> None:
    network = small()
    nodes = nodes_of(network)
    assert Behind.of(network, nodes["conv1.weight"], variance=True) == Behind(mean="bn1.running_mean", variance="bn1.running_var", eps=1e-5)
    assert Behind.of(network, nodes["conv1.weight"], variance=False) == Behind(mean="bn1.running_mean", eps=1e-5)
    assert Behind.of(network, nodes["deep.weight"], variance=True) == Behind(bias="deep.bias")
    bare = capture(nn.Linear(3, 2, bias=False), torch.randn(2, 3))
    (node,) = (n for n in bare.module.graph.nodes if n.op == "call_function")
    assert Behind.of(bare, node, variance=True) is None


def test_the_moments_of_a_layer() -> None:
    for site in walk(small(), batches(), ("conv2.weight", "fc1.weight")):
        mean, variance = moments(site)
        values = torch.cat(site.outputs()).movedim(1, 0).flatten(1)
        torch.testing.assert_close(mean.float(), values.mean(1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(variance.float(), values.var(1, correction=0), atol=1e-5, rtol=1e-4)


def test_signals_keep_their_size() -> None:
    """A convolution whose channels are scaled is no other network behind its batch-norm; a bias takes over a shift of the mean."""
    network = small()
    scale = torch.linspace(0.5, 2, 8)
    behind = {name: Behind.of(network, nodes_of(network)[name], variance=True) for name in ("conv1.weight", "fc2.weight")}
    old = {site.parameter: moments(site) for site in walk(network, batches(), behind)}
    before = torch.cat([network(*batch.inputs)[0] for batch in batches()]).detach()
    with torch.no_grad():
        network.get("conv1.weight").mul_(scale.reshape(8, 1, 1, 1))
    for site in walk(network, batches(), ("conv1.weight",)):
        behind["conv1.weight"].follow(network, old["conv1.weight"], moments(site))
    after = torch.cat([network(*batch.inputs)[0] for batch in batches()]).detach()
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        network.get("fc2.weight").mul_(0.5)
    for site in walk(network, batches(), ("fc2.weight",)):
        behind["fc2.weight"].follow(network, old["fc2.weight"], moments(site))
    last = torch.cat([network(*batch.inputs)[0] for batch in batches()]).detach()
    torch.testing.assert_close(last.mean(0), before.mean(0), atol=1e-4, rtol=1e-3)


def test_a_channel_that_is_gone_stays_quiet() -> None:
    network = small()
    behind = Behind.of(network, nodes_of(network)["conv1.weight"], variance=True)
    (site,) = walk(network, batches(), ("conv1.weight",))
    old, spread = moments(site), network.get("bn1.running_var").clone()
    with torch.no_grad():
        network.get("conv1.weight")[3] = 0
    behind.follow(network, old, moments(site))
    assert torch.isfinite(network.get("bn1.running_mean")).all()
    torch.testing.assert_close(network.get("bn1.running_var")[3] + 1e-5, 0.02 * (spread[3] + 1e-5))


def test_batch_norm_is_estimated_anew() -> None:
    network = small()
    with torch.no_grad():
        network.get("conv1.weight").mul_(3)
    estimate_batch_norm(network, batches())
    x = torch.cat([batch.inputs[0] for batch in batches()])
    before = F.conv2d(x, network.get("conv1.weight"), padding=1).detach()
    torch.testing.assert_close(network.get("bn1.running_mean"), before.mean((0, 2, 3)))
    torch.testing.assert_close(network.get("bn1.running_var"), before.var((0, 2, 3), correction=0))
    assert not network.training
