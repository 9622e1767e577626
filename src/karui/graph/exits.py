"""Early exits: an op that takes a branch's scores where they are sure, as a torch custom op with its gradient.

Teerapittayanon et al. 2016, "BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks", arXiv:1709.01686, Algorithm 2. A
batch computes both values and chooses sample by sample; a device computes one sample and stops at the first exit that is sure. So the op
is pure, and exits nest: ``exit_if(e1, exit_if(e2, late, t2), t1)``. It stands between activations: it is no form.

``torch.ops.karui.exit_if(early, late, threshold)``    early where its greatest two scores differ by the threshold, else late
"""

import torch
from torch import Tensor


def margin(scores: Tensor) -> Tensor:
    """The greatest score less the second greatest, of each sample: ``[N, classes]`` → ``[N]``. Of logits it is log(p₁ / p₂)."""
    first, second = scores.topk(2, dim=1).values.unbind(1)
    return first - second


@torch.library.custom_op("karui::exit_if", mutates_args=())
def exit_if(early: Tensor, late: Tensor, threshold: Tensor) -> Tensor:
    """Per sample ``early`` where its margin is ``threshold`` or more, else ``late``.

    early, late: scores ``[N, classes]``, two classes or more. threshold: float32, ``[]`` or ``[1]``; +inf: nobody leaves. The gradient goes
    to the value that was taken; none to the threshold.
    """
    return torch.where(_sure(early, threshold), early, late)


@exit_if.register_fake
def _(early: Tensor, late: Tensor, threshold: Tensor) -> Tensor:
    return torch.empty_like(late)


def _sure(early: Tensor, threshold: Tensor) -> Tensor:
    return (margin(early) >= threshold.reshape(())).unsqueeze(1)


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    early, _, threshold = inputs
    ctx.save_for_backward(_sure(early.detach(), threshold))


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    (sure,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return grad * sure, grad * ~sure, None


exit_if.register_autograd(_backward, setup_context=_setup)

EXIT_IF = torch.ops.karui.exit_if.default
