import pytest
import torch

from karui.compress.prune.evidence import Evidence
from karui.compress.prune.regrow import END, share_at, swap, swaps_at
from karui.compress.prune.schedule import at_update
from karui.compress.prune.weights import Prune
from karui.graph import edit
from tests.compress.tiny import context, data, small, train

NAMES = ("conv1.weight", "deep.weight", "conv2.weight", "fc1.weight", "fc2.weight")


def test_the_share_falls_as_a_cosine() -> None:
    assert share_at(0.0) == 0.3
    assert share_at(0.375) == pytest.approx(0.15)
    assert share_at(0.75) == share_at(1.0) == pytest.approx(0.0)


def test_swaps_come_ten_times_whatever_the_steps_are() -> None:
    for steps in (24, 50, 1000):
        moments = [-1.0, *(at_update(step / steps) for step in range(steps))]
        found = [now for before, now in zip(moments, moments[1:]) if swaps_at(now, before)]
        assert len(found) == 8 and found[0] == 0.0 and found[-1] < END


def test_a_swap_drops_the_smallest_and_grows_where_the_gradient_is_largest() -> None:
    network, on = small(), data()
    pruning = Prune(sparsity=0.6, include="fc1").attach(network, context(network))
    before, weight = network.get("fc1.weight_mask") != 0, network.get("fc1.weight").detach().clone()
    gradient = Evidence(network, on).gradient("fc1.weight").abs()
    swap(network, pruning.masked, Evidence(network, on), 0.0)
    after = network.get("fc1.weight_mask") != 0
    count = int(0.3 * int(before.sum()))
    assert after.sum() == before.sum()
    dropped, grown = before & ~after, after & ~before
    assert 0 < int(grown.sum()) == int(dropped.sum()) <= count
    smallest = weight.abs()[before].sort().values[count]
    assert weight.abs()[dropped].max() < smallest
    assert gradient[grown].min() >= gradient[~before & ~after].max()
    assert (network.get("fc1.weight")[grown] == 0).all()
    assert torch.equal(network.get("fc1.weight")[after & before], weight[after & before])


@pytest.mark.parametrize("pattern", ["element", "1x4"])
@pytest.mark.parametrize("regrow", ["latent", "gradient"])
@pytest.mark.parametrize("schedule", ["one_shot", "cubic"])
def test_weights_come_back_and_the_sparsity_is_met(regrow: str, schedule: str, pattern: str) -> None:
    network, on = small(), data()
    settings = {"sparsity": 0.8, "regrow": regrow, "schedule": schedule, "pattern": pattern, "include": "fc1"}
    attached = Prune(**settings).attach(network, context(network, steps=40, on=on))
    seen = []
    step = attached.step

    def watched(progress: float) -> bool:
        step(progress)
        seen.append((progress, network.get("fc1.weight_mask").clone()))
        return False

    attached.step = watched
    train(network, attached, on, steps=40)
    facts = attached.finish()
    assert facts["sparsity"] == pytest.approx(0.8, abs=2e-3)
    back = [progress for (_, earlier), (progress, later) in zip(seen, seen[1:]) if bool((later > earlier).any())]
    assert back and max(back) <= attached.settles
    if schedule == "one_shot":
        assert all(int(mask.sum()) == round(0.2 * mask.numel()) for _, mask in seen if pattern == "element")


def test_latent_weights_learn_until_the_end_and_no_longer() -> None:
    network, on = small(), data()
    attached = Prune(sparsity=0.8, regrow="latent", schedule="one_shot", include="fc1").attach(network, context(network, steps=10, on=on))
    (form,) = edit.forms_on(network, "fc1.weight")
    assert form.constants["dense"] is True
    gone, before = network.get("fc1.weight_mask") == 0, network.get("fc1.weight").detach().clone()
    train(network, attached, on, steps=10, stop=1)
    assert not torch.equal(network.get("fc1.weight")[gone], before[gone])
    attached.finish()
    (form,) = edit.forms_on(network, "fc1.weight")
    assert form.constants["dense"] is False and len(form.node.args) == 2


@pytest.mark.parametrize("stop", [13, 22])
@pytest.mark.parametrize("regrow", ["latent", "gradient"])
def test_a_resumed_run_is_bit_equal(stop: int, regrow: str) -> None:
    on = data()
    technique = Prune(sparsity=0.8, regrow=regrow, samples=64)
    whole, cut = small(), small()
    attached = technique.attach(whole, context(whole, steps=30, on=on))
    train(whole, attached, on, steps=30)
    attached.finish()

    first = technique.attach(cut, context(cut, steps=30, on=on))
    train(cut, first, on, steps=30, stop=stop)

    resumed = small()
    second = technique.attach(resumed, context(resumed, steps=30, on=on))
    second.load_state(first.state())
    resumed.load_state(cut.state())
    train(resumed, second, on, steps=30, start=stop)
    second.finish()
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name
