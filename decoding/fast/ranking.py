"""The same as parts of filters.py, generate.py and beam.py, faster; tests/test_decoding_twins.py holds them equal.

A stable sort of the whole vocabulary is the slow part. The least logit that is kept is found without one; of those
equal to it, the lowest ids are kept here. NumPy sorts faster than PyTorch, and has the slower softmax in fp64.
"""

import numpy as np
import torch
from torch import Tensor

from decoding.filters import OUT, ROUNDING


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most probable tokens; of equally probable ones, those with the lowest ids."""
    if k >= logits.shape[-1]:
        return logits
    return _keep(logits, array(logits.topk(k).values[..., -1:]), k)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most probable tokens whose total probability reaches p."""
    if p == 1:
        return logits
    ranked = -np.sort(-array(logits))  # (..., V)
    rank = _first(_mass(torch.from_numpy(ranked)) >= p - ROUNDING)  # (..., 1)
    return _keep(logits, np.take_along_axis(ranked, rank, -1), rank + 1)


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """One token per row: the first whose cumulative probability passes the row's uniform number."""
    mass = _mass(logits)
    below_one = uniforms.cpu().clamp(max=1 - 2**-53)[..., None]  # (..., 1): no mass passes the total itself
    return torch.as_tensor(_first(mass > below_one * mass[..., -1:])[..., 0], device=logits.device)


def best_candidates(scores: Tensor, n: int) -> tuple[list[int], list[float]]:
    """The n best of (N,) scores, best first, the lowest index first among equals; impossible ones left out."""
    worst = scores.topk(min(n, len(scores))).values[-1].item()
    scores = array(scores)
    candidates = np.flatnonzero((scores >= worst) & (scores > OUT))  # subtle: more than n if some are equal
    ranked = candidates[np.argsort(-scores[candidates], kind="stable")[:n]]
    return ranked.tolist(), scores[ranked].tolist()


def array(tensor: Tensor) -> np.ndarray:
    """The same numbers on the CPU, in fp32 or fp64; not copied if they are there."""
    return (tensor.float() if tensor.dtype.itemsize == 2 else tensor).numpy(force=True)


def _mass(logits: Tensor) -> Tensor:
    """Cumulative probabilities (..., V) on the CPU; NaN, which reaches nothing, in a row of -inf only."""
    return logits.cpu().softmax(-1, dtype=torch.float64).cumsum(-1)


def _first(found: Tensor) -> np.ndarray:
    """The first place in each row where (..., V) is true, (..., 1); 0 where it is true nowhere."""
    return array(found).argmax(-1, keepdims=True)


def _keep(logits: Tensor, worst: np.ndarray, k: int | np.ndarray) -> Tensor:
    """The k best of each row, given the k-th best logit; of those equal to it, the lowest ids."""
    x = array(logits)
    out = x < worst  # (..., V)
    surplus = x.shape[-1] - out.sum(-1, keepdims=True) - k  # (..., 1): too many, tied with the k-th
    if surplus.any():
        tied = x == worst
        out |= tied & (tied.sum(-1, keepdims=True) - tied.cumsum(-1) < surplus)
    return logits.masked_fill(torch.as_tensor(out, device=logits.device), OUT)
