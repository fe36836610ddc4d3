"""The same as decoding/filters.py and beam.py, faster; tests/test_decoding_twins.py holds the two equal.

A stable sort of the whole vocabulary is the slow part. `torch.topk` is fast but doesn't promise which of equal logits
it takes, so equals are put right here; on the CPU NumPy sorts values several times as fast as PyTorch.
"""

import torch
from torch import Tensor

from decoding.filters import OUT, ROUNDING


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most probable tokens; of equally probable ones, those with the lowest ids."""
    if k >= logits.shape[-1]:
        return logits
    return _keep(logits, logits.topk(k).values[..., -1:], k)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most probable tokens whose total probability reaches p."""
    if p == 1:
        return logits
    ranked = _ranked(logits)  # (..., V)
    mass = ranked.double().softmax(-1).cumsum(-1)  # (..., V)
    rank = torch.searchsorted(mass, torch.full_like(mass[..., :1], p - ROUNDING))  # (..., 1): where it reaches p
    rank = rank.clamp(max=logits.shape[-1] - 1)  # a row of -inf only has no mass
    return _keep(logits, ranked.gather(-1, rank), rank + 1)


def best_candidates(scores: Tensor, n: int) -> tuple[list[int], list[float]]:
    """The n best of (N,) scores, best first, the lowest index first among equals; impossible ones left out."""
    worst = scores.topk(min(n, len(scores))).values[-1]
    candidates = ((scores >= worst) & (scores > OUT)).nonzero().squeeze(-1)  # subtle: more than n if some are equal
    ranked, order = scores[candidates].sort(descending=True, stable=True)
    return candidates[order[:n]].tolist(), ranked[:n].tolist()


def _ranked(logits: Tensor) -> Tensor:
    """The logits of each row from the largest to the smallest."""
    if logits.device.type != "cpu":
        return logits.sort(descending=True).values
    negated = -(logits if logits.dtype == torch.float64 else logits.float()).detach()  # NumPy sorts upwards, in place
    negated.numpy().sort()
    return -negated


def _keep(logits: Tensor, worst: Tensor, k: int | Tensor) -> Tensor:
    """The k best of each row, given the k-th best logit; of those equal to it, the lowest ids."""
    out = logits < worst  # (..., V)
    surplus = (~out).sum(-1, keepdim=True) - k  # (..., 1): tokens too many, tied with the k-th
    if (surplus > 0).any():
        tied = logits == worst
        out |= tied & (tied.sum(-1, keepdim=True) - tied.cumsum(-1) < surplus)
    return logits.masked_fill(out, OUT)
