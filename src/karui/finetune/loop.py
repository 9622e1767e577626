"""The one training loop. It knows of techniques only what ``Attached`` says.

One seed, one result: the order of the data is derived from (seed, phase, epoch) and every other random number of a step from (seed, phase,
step), so a run that goes on from a checkpoint ends bit-equal to one that was never interrupted.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from karui.compress.technique import Attached
from karui.data import Batch, Data
from karui.errors import DataError, KaruiError, ToolError, first_line
from karui.finetune.attach import own_random_numbers
from karui.finetune.checkpoint import Checkpoints, Snapshot, graph_bytes, of_graph_bytes
from karui.finetune.evaluate import device_of, score, to_device
from karui.finetune.history import Epoch, History
from karui.finetune.memory import load_states, parameters_of, put_tensors, states_of, tensors_of
from karui.finetune.optimizer import Optimizer
from karui.finetune.progress import SILENT, Progress
from karui.finetune.schedule import derive, factor
from karui.finetune.training import Training as Training
from karui.graph.network import Network


def _check_shapes(network: Network, batch: Batch, name: str) -> None:
    """Samples of another shape than the network's end in words, not in a kernel's error."""
    wanted, found = [list(i.shape) for i in network.inputs], [list(x.shape[1:]) for x in batch.inputs]
    if wanted != found:
        raise DataError(f"{name}: its samples have shape {found}, network '{network.name}' takes {wanted}; choose data or network to match")


@dataclass(kw_only=True)
class _State:
    """What changes while the loop runs; all of it is in a checkpoint."""

    optimizer: Optimizer
    forward: Callable[..., tuple[Tensor, ...]]
    history: History
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    lr: float = 0.0
    waited: int = 0
    best_score: float | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    restructured: bool = False

    def facts(self) -> dict[str, Any]:
        names = ("loss_sum", "loss_count", "lr", "waited", "best_score")
        return {"history": self.history.to_json()} | {name: getattr(self, name) for name in names}

    def take(self, facts: dict[str, Any]) -> None:
        for name, value in facts.items():
            setattr(self, name, History.of_json(value) if name == "history" else value)


@dataclass(frozen=True, kw_only=True)
class _Loop:
    """What stays while the loop runs."""

    network: Network
    data: Data
    training: Training
    attached: Sequence[Attached]
    seed: int
    phase: int
    steps: int
    per_epoch: int
    device: torch.device
    structure: object
    checkpoint: Checkpoints | None
    progress: Progress


def finetune(
    network: Network,
    data: Data,
    training: Training,
    attached: Sequence[Attached] = (),
    *,
    seed: int = 0,
    phase: int = 0,
    label: str = "training",
    checkpoint: Checkpoints | None = None,
    progress: Progress = SILENT,
) -> History:
    """Train ``network`` in place, with the hooks of ``attached``, and return what happened; ``Attached.finish`` is left to the caller.

    phase: its place in a run; it takes part in every seed. checkpoint: where to go on from and to save to.
    Raises DataError for samples that don't fit the network, KaruiError when the loss or a weight is no longer finite, RunError for a
    checkpoint of another run, ToolError when ``torch.compile`` fails.
    """
    steps = training.count(data.train)
    if steps == 0:
        return History(metric=data.metric.name, unit=data.metric.unit)
    loop = _Loop(
        network=network,
        data=data,
        training=training,
        attached=attached,
        seed=seed,
        phase=phase,
        steps=steps,
        per_epoch=data.train.steps(training.batch_size),
        device=device_of(network),
        structure=_structure(network),
        checkpoint=checkpoint,
        progress=progress,
    )
    with own_random_numbers(network):
        state = _begin(loop)
        progress.start(steps, label, done=state.step)
        try:
            while state.step < steps and not state.history.stopped:
                network.train()
                _epoch(loop, state)
        finally:
            progress.finish()
    if state.best and training.early_stop:
        put_tensors(network, attached, state.best)
    if training.channels_last:
        network.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return state.history


def _optimizer(loop: _Loop) -> Optimizer:
    t = loop.training
    return Optimizer(
        loop.network,
        kind=t.optimizer,
        lr=t.lr,
        momentum=t.momentum,
        nesterov=t.nesterov,
        weight_decay=t.weight_decay,
        scale_lr=t.scale_lr,
        more=parameters_of(loop.attached),
    )


def _forward(loop: _Loop) -> Callable[..., tuple[Tensor, ...]]:
    """The network's forward pass; laid out and compiled anew each time its structure changed."""
    network = loop.network
    if loop.training.channels_last:
        network.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not loop.training.compile:
        return network.__call__
    compiled: dict[str, Callable[..., tuple[Tensor, ...]]] = {}

    def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        text = network.module.code  # a form put on it, or a dropout's new rate, is new code; torch.compile itself wouldn't see it
        try:
            if text not in compiled:
                compiled[text] = torch.compile(network.module.forward)
            return network.sorted_out(compiled[text](*inputs))
        except Exception as error:  # the compiler's errors have no common class
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise ToolError(f"training: torch.compile failed ({reason}); install a C++ compiler, or set compile = false") from error

    return forward


def _begin(loop: _Loop) -> _State:
    """The state at the first step, or where the checkpoint says."""
    snapshot = loop.checkpoint.load() if loop.checkpoint else None
    if snapshot and loop.checkpoint:
        _return_to(loop, snapshot, loop.checkpoint.path.parent)
    history = History(metric=loop.data.metric.name, unit=loop.data.metric.unit)
    state = _State(optimizer=_optimizer(loop), forward=_forward(loop), history=history)
    if snapshot:
        state.step, state.best, state.restructured = snapshot.step, snapshot.best, snapshot.graph is not None
        state.take({name: value for name, value in snapshot.facts.items() if name != "techniques"})
        state.optimizer.load_state(snapshot.optimizer)
    return state


def _return_to(loop: _Loop, snapshot: Snapshot, folder: Path) -> None:
    """Put the network, and what techniques hold beside it, where they were at ``snapshot``."""
    if snapshot.graph is not None:
        loop.network.become(of_graph_bytes(snapshot.graph, folder))
    load_states(loop.attached, snapshot.techniques, snapshot.facts["techniques"])
    put_tensors(loop.network, loop.attached, snapshot.network)


def _structure(network: Network) -> tuple[int, dict[str, torch.Size]]:
    """What a list of tensors alone can't restore, for comparing."""
    return network.structure, {name: tensor.shape for name, tensor in network.state().items()}


def _save(loop: _Loop, state: _State, checkpoint: Checkpoints) -> None:
    state.restructured = state.restructured or _structure(loop.network) != loop.structure
    remembered, told = states_of(loop.attached)
    checkpoint.save(
        Snapshot(
            step=state.step,
            network=tensors_of(loop.network, loop.attached),
            techniques=remembered,
            optimizer=state.optimizer.state(),
            best=state.best,
            graph=graph_bytes(loop.network, checkpoint.path.parent) if state.restructured else None,
            facts=state.facts() | {"techniques": told},
        )
    )


def _epoch(loop: _Loop, state: _State) -> None:
    """From where the state is to the end of its epoch, or of the phase."""
    epoch, done = divmod(state.step, loop.per_epoch)
    end = min((epoch + 1) * loop.per_epoch, loop.steps)
    for batch in loop.data.train.batches(loop.training.batch_size, seed=derive(loop.seed, "data", loop.phase, epoch), skip=done):
        _step(loop, state, batch)
        if state.step == end:
            _judge(loop, state, epoch)
        if loop.checkpoint and loop.checkpoint.due():
            _save(loop, state, loop.checkpoint)
        if state.step == end:
            return
    raise DataError(
        f"{loop.data.name}: the train part gave {state.step - epoch * loop.per_epoch} batches, {loop.per_epoch} when it was counted; "
        "an iterable must give as many batches each time"
    )


def _step(loop: _Loop, state: _State, batch: Batch) -> None:
    training, network = loop.training, loop.network
    if state.step == 0:
        _check_shapes(network, batch, loop.data.name)
    seed = derive(loop.seed, "step", loop.phase, state.step)
    torch.manual_seed(seed)
    state.optimizer.zero_grad()  # before the techniques' step: what it sees is the same in a resumed run
    _advance_techniques(loop, state)
    # A technique that draws random numbers, or not, changes nothing for dropout: its numbers are those of the step alone
    torch.manual_seed(seed)
    state.lr = state.optimizer.set_factor(
        factor(training.schedule, state.step, loop.steps, warmup=training.warmup, milestones=training.milestones, gamma=training.gamma)
    )
    batch = _laid_out(to_device(batch, loop.device), training)
    loss = _loss(loop, state, batch)
    loss.backward()
    for each in loop.attached:
        each.after_backward(state.step / loop.steps)
    if training.clip is not None:
        torch.nn.utils.clip_grad_norm_(state.optimizer.parameters, training.clip)
    state.optimizer.step()
    state.step += 1
    state.loss_sum += float(loss.detach())
    state.loss_count += 1
    loop.progress.advance(f"loss {state.loss_sum / state.loss_count:.4f}")


def _laid_out(batch: Batch, training: Training) -> Batch:
    """Pictures ([N, C, H, W]) in the layout that the weights have."""
    if not training.channels_last:
        return batch
    return replace(batch, inputs=tuple(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in batch.inputs))


def _advance_techniques(loop: _Loop, state: _State) -> None:
    """Let each technique's schedule move; rebuild what depends on the parameters when one says that it replaced some."""
    changed = False
    for each in loop.attached:
        changed |= each.step(state.step / loop.steps)
    if changed:
        remembered = state.optimizer.state()
        state.optimizer = _optimizer(loop)
        state.optimizer.load_state(remembered)
        state.forward = _forward(loop)
        state.best_score, state.best, state.waited = None, {}, 0  # of a network that is no more


def _loss(loop: _Loop, state: _State, batch: Batch) -> Tensor:
    """The loss to minimise; finite, or an error."""
    with torch.autocast(loop.device.type, dtype=torch.bfloat16, enabled=loop.training.amp):
        outputs = state.forward(*batch.inputs)
    if loop.training.amp:
        outputs = tuple(o.float() if o.is_floating_point() else o for o in outputs)
    try:
        loss = loop.data.loss(outputs, batch.targets)
    except (KaruiError, MemoryError):
        raise
    except Exception as error:  # the function is the user's: it may raise anything
        what = f"outputs of shape {', '.join(str(list(o.shape)) for o in outputs)}: {first_line(error)}"
        raise DataError(f"{loop.data.name}: its loss refuses {what}; check targets and loss") from error
    for each in loop.attached:
        loss = each.loss(batch, outputs, loss)
    if loss.shape != ():
        raise DataError(f"{loop.data.name}: the loss has shape {list(loss.shape)}; it should be one number, the mean over the batch")
    if not math.isfinite(float(loss.detach())):
        raise KaruiError(_not_finite(loop, state, f"the loss is {float(loss.detach())}"))
    return loss


def _not_finite(loop: _Loop, state: _State, what: str) -> str:
    lower = f"lower lr (now {state.lr:.3g})"
    cure = lower if loop.training.clip is not None else f"{lower}, or set clip = 1.0"
    return f"training: {what} at step {state.step} of {loop.steps} (phase {loop.phase}, epoch {state.step // loop.per_epoch}); {cure}"


def _judge(loop: _Loop, state: _State, epoch: int) -> None:
    """Close an epoch: score it on validation, note it, and see whether it is time to stop."""
    for name, parameter in (loop.network.parameters() | parameters_of(loop.attached)).items():
        if not torch.isfinite(parameter).all():
            raise KaruiError(_not_finite(loop, state, f"'{name}' is no longer finite"))
    metric = loop.data.metric
    value = score(loop.network, loop.data.validation, metric)
    if not math.isfinite(value):
        raise KaruiError(_not_finite(loop, state, f"metric '{metric.name}' on validation is {value}"))
    made = Epoch(epoch=epoch, step=state.step, loss=state.loss_sum / state.loss_count, score=value, lr=state.lr)
    state.history = replace(state.history, epochs=(*state.history.epochs, made))
    loop.progress.advance(f"loss {made.loss:.4f}, {metric.name} {value:.2f} {metric.unit}", steps=0)
    state.loss_sum, state.loss_count = 0.0, 0
    if loop.training.early_stop is not None:
        _consider_stopping(loop, state, value, loop.training.early_stop)


def _consider_stopping(loop: _Loop, state: _State, value: float, patience: int) -> None:
    settles = max((each.settles for each in loop.attached if each.moves), default=0.0)
    if state.step <= settles * loop.steps + 1e-9:  # step number ``state.step``, the next, may be the one that moves
        return
    sign = 1 if loop.data.metric.higher_is_better else -1
    if state.best_score is None or sign * value > sign * state.best_score:
        state.best_score, state.waited = value, 0
        state.best = {name: tensor.detach().clone() for name, tensor in tensors_of(loop.network, loop.attached).items()}
        return
    state.waited += 1
    if state.waited >= patience:
        state.history = replace(state.history, stopped=True)
