"""The solver of layer-wise methods: a weight under a new form, so that its layer's outputs stay.

A layer's output error under a change of its weight W (``[O, K]``) is ``½ tr(ΔW H ΔWᵀ)``, with the Hessian ``H = 2/n Σ x xᵀ`` of its inputs.
``solve`` changes a weight column by column and makes the columns still to come repair what each change broke (LeCun et al. 1989, "Optimal
brain damage"; Hassibi & Stork 1993, "Second order derivatives for network pruning"; in this order and blocked: Frantar et al. 2022, "GPTQ",
alg. 1, and 2023, "SparseGPT", alg. 1).
"""

from collections.abc import Callable

import torch
from torch import Tensor

EXACT = 1e12


def damped(hessian: Tensor, damping: float = 0.01) -> Tensor:
    """``[K, K]`` made safe to invert: ``damping`` times its mean diagonal is added, and inputs that were never active get a one."""
    diagonal = hessian.diagonal()
    mean = diagonal.mean().clamp_min(torch.finfo(hessian.dtype).tiny)
    return hessian + torch.diag(torch.where(diagonal == 0, 1.0, damping * mean))


def saliency(weight: Tensor, hessian: Tensor, *, damping: float = 0.01) -> Tensor:
    """What removing each single weight costs when all others may adapt: ``w² / (2 [H⁻¹]_kk)`` (Hassibi & Stork 1993, eq. 5), ``[O, K]``."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(hessian, damping)))
    return (weight.double() ** 2 / (2 * inverse.diagonal())).to(weight.dtype)


def solve(weight: Tensor, hessian: Tensor, column: Callable[[int, Tensor], Tensor], *, damping: float = 0.01, block: int = 128) -> Tensor:
    """Give each column of ``weight`` (``[O, K]``) the form ``column(k, w)`` (``w``: ``[O]``, compensated so far); returns the new weight.

    ``column`` may zero entries by a mask, round to a grid, or look up a codebook. After each, the error moves into the columns to its
    right along the rows of the Cholesky factor of H⁻¹ (GPTQ, eq. 3 and 4); in blocks, so that most of the work is matrix products.
    """
    w = weight.double().clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(hessian.double(), damping)))
    factor = torch.linalg.cholesky(inverse, upper=True)
    width = w.shape[1]
    for start in range(0, width, block):
        stop = min(start + block, width)
        errors = torch.zeros(w.shape[0], stop - start, dtype=w.dtype)
        for k in range(start, stop):
            new = column(k, w[:, k].to(weight.dtype)).double()
            errors[:, k - start] = (w[:, k] - new) / factor[k, k]
            w[:, k:stop] -= torch.outer(errors[:, k - start], factor[k, k:stop])
            w[:, k] = new
        w[:, stop:] -= errors @ factor[start:stop, stop:]
    return w.to(weight.dtype)


def prune(weight: Tensor, mask: Tensor, hessian: Tensor, *, damping: float = 0.01) -> Tensor:
    """Zero ``weight`` (``[O, K]``) where ``mask`` is 0 and let what is left compensate; ``solve`` with a mask (SparseGPT)."""
    keep = mask.to(weight.dtype)
    return solve(weight, hessian, lambda k, w: w * keep[:, k], damping=damping)


def least_squares(weight: Tensor, mask: Tensor, hessian: Tensor, *, damping: float = 0.01) -> Tensor:
    """The best weight with zeros where ``mask`` is 0: ``H_SS w_S = (H w₀)_S`` row by row. Exact; O · min(|S|, K − |S|)³.

    Where less than half leaves it is the same to solve for what the others have to take over: ``w = w₀ − H⁻¹_:R (H⁻¹_RR)⁻¹ w₀_R``.
    """
    h = damped(hessian.double(), damping)
    w = weight.double()
    target, inverse = w @ h, torch.cholesky_inverse(torch.linalg.cholesky(h))
    result = torch.zeros_like(w)
    for row, (kept, gone) in enumerate(zip(mask.bool(), ~mask.bool(), strict=True)):
        if 2 * int(kept.sum()) > len(kept):
            result[row] = w[row] - inverse[:, gone] @ _solved(inverse[gone][:, gone], w[row, gone])
            result[row, gone] = 0
        else:
            result[row, kept] = _solved(h[kept][:, kept], target[row, kept])
    return result.to(weight.dtype)


def _solved(matrix: Tensor, vector: Tensor) -> Tensor:
    """``matrix⁻¹ vector``, of a positive definite one."""
    return torch.cholesky_solve(vector[:, None], torch.linalg.cholesky(matrix))[:, 0]


def reconstruct(weight: Tensor, mask: Tensor, hessian: Tensor, *, damping: float = 0.01) -> Tensor:
    """``least_squares`` where it takes no more than about a minute (10¹² operations), else ``prune``, which is near it and K³ + O · K²."""
    kept = mask.bool().sum(1).double()
    exact = float((torch.minimum(kept, mask.shape[1] - kept) ** 3).sum()) / 3
    return (least_squares if exact < EXACT else prune)(weight, mask, hessian, damping=damping)


def adapted(weight: Tensor, hessian: Tensor, cross: Tensor) -> Tensor:
    """The weight ``[O, K]`` whose outputs on the inputs x̂ of now are nearest to those that ``weight`` gave on the inputs x of once.

    hessian: ``2/n Σ x̂ x̂ᵀ``, damped; what was added to it pulls towards ``weight``. cross: ``2/n Σ x x̂ᵀ`` with the same added. As
    ``‖W x − W' x̂‖²`` is ``‖(W_adapted − W') x̂‖²`` and a constant, whatever is made of this weight next can forget about x.
    """
    return torch.cholesky_solve((weight.double() @ cross).mT, torch.linalg.cholesky(hessian)).mT


def admm(weight: Tensor, hessian: Tensor, choose: Callable[[Tensor, float], Tensor], *, rounds: int = 30) -> Tensor:
    """A mask for ``weight`` (``[groups, O, K]``) that knows how what stays will adapt; hessian: damped, ``[groups, K, K]``.

    ``choose(worth, progress)`` gives the mask (bool, the weight's shape) that keeps the most worth, at the sparsity of this progress in
    (0, 1]. Between rounds what was cut off pushes the others the way that makes it superfluous: Boža 2024, "Fast and effective weight
    update for pruned large language models", alg. 2, with inputs of norm 1 and ρ = 1. A round costs O · K².
    """
    norm = hessian.diagonal(dim1=1, dim2=2).sqrt()[:, None]  # [groups, 1, K]
    h, w = hessian / norm.mT / norm, weight.double() * norm
    step = torch.linalg.inv(h + torch.eye(h.shape[1], dtype=h.dtype, device=h.device))
    target, kept, dual = w @ h, w, torch.zeros_like(w)
    mask = torch.ones_like(w, dtype=torch.bool)
    for place in range(rounds):
        moved = (target + kept - dual) @ step
        mask = choose((moved + dual).square(), min(1.0, (place + 1) / (0.6 * rounds)))  # gradually: the last rounds settle
        kept = (moved + dual) * mask
        dual = dual + moved - kept
    return mask


def block_saliency(weight: Tensor, inverse: Tensor, width: int) -> Tensor:
    """What removing each block of ``width`` columns costs when the rest of its row may adapt: ``½ w_bᵀ ([H⁻¹]_bb)⁻¹ w_b``.

    Kurtic et al. 2022, "The Optimal BERT Surgeon", eq. 9; of the whole Hessian one row's. weight: ``[O, K]``. inverse: H⁻¹ ``[K, K]``.
    Returns float64 ``[O, ⌈K / width⌉]``; the last block may be narrower.
    """
    whole = weight.shape[1] // width
    edges = [(i * width, (i + 1) * width) for i in range(whole)] + ([(whole * width, weight.shape[1])] if weight.shape[1] % width else [])
    found = []
    for start, stop in edges:
        w = weight[:, start:stop].double()
        found.append(0.5 * (torch.linalg.solve(inverse[start:stop, start:stop], w.mT).mT * w).sum(1))
    return torch.stack(found, 1)


def chain_saliency(weight: Tensor, inverse: Tensor, order: Tensor) -> Tensor:
    """What each weight's removal adds to the cost when those before it in ``order`` (``[K]``) are gone already: ``½ z²``, float64 ``[K]``.

    weight: one row ``[K]``. z = L⁻¹ w with the Cholesky factor L of H⁻¹ in that order: the first sums of ``½ z²`` are ``½ w_Rᵀ (H⁻¹_RR)⁻¹
    w_R``, the least error without the weights R, so one factorization tells the whole curve.
    """
    factor = torch.linalg.cholesky(inverse[order][:, order])
    z = torch.linalg.solve_triangular(factor, weight.double()[order, None], upper=False)[:, 0]
    return torch.zeros_like(z).index_copy_(0, order, 0.5 * z**2)


def error(before: Tensor, after: Tensor, hessian: Tensor) -> float:
    """``½ tr(ΔW H ΔWᵀ)``: the squared change of the layer's outputs, summed over them, for the mean input."""
    change = (before - after).double()
    return float(0.5 * ((change @ hessian.double()) * change).sum())
