"""Filters that look at the text so far, or at a list: seen tokens made less likely, repeats and bans put out.

They are filters like those of filters.py, logits (..., V) in and out, and run before them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def repetition_penalty(logits: Tensor, histories: Sequence, penalty: float) -> Tensor:
    """Make tokens that were seen before less likely: divide a positive logit by the penalty, multiply a negative one.

    logits: (..., V); histories: the ids so far, prompt included, one list per row (for logits (V,) the list itself).
    Returns (..., V). ValueError unless penalty >= 1. Keskar et al. 2019, arXiv:1909.05858, section 4.1.

    >>> repetition_penalty(torch.tensor([2., -1., 3.]), [0, 1, 1], 2.)
    tensor([ 1., -2.,  3.])
    """
    seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)  # (..., V)
    for row, ids in zip(seen.view(-1, seen.shape[-1]), _per_row(logits, histories), strict=True):
        row[ids] = True

    bounds = torch.finfo(logits.dtype)
    precise = logits.double()
    penalised = torch.where(precise > 0, precise / penalty, precise * penalty).clamp(bounds.min, bounds.max)
    return torch.where(seen & (logits > -torch.inf), penalised.to(logits.dtype), logits)


def no_repeat_ngram(logits: Tensor, histories: Sequence, n: int) -> Tensor:
    """Forbid every token that would complete an n-gram for the second time; a row may be left with no token at all.

    logits: (..., V); histories: the ids so far, prompt included, one list per row (for logits (V,) the list itself).
    Returns (..., V). ValueError unless n >= 1. Paulus et al. 2017, arXiv:1705.04304, section 2.5.

    >>> no_repeat_ngram(torch.zeros(4), [1, 2, 3, 1], n=2)  # after the second 1, another 2 would repeat (1, 2)
    tensor([0., 0., -inf, 0.])
    """
    logits = logits.clone(memory_format=torch.contiguous_format)
    for row, ids in zip(logits.view(-1, logits.shape[-1]), _per_row(logits, histories), strict=True):
        start = len(ids) - (n - 1)  # where the n-gram that the next token completes begins
        row[[ids[i + n - 1] for i in range(start) if ids[i : i + n - 1] == ids[start:]]] = -torch.inf
    return logits


def ban(logits: Tensor, banned_ids: Sequence[int]) -> Tensor:
    """Forbid the given ids; a row may be left with no token at all.

    logits: (..., V). Returns (..., V). ValueError if an id is not in the vocabulary.

    >>> ban(torch.zeros(3), [1])
    tensor([0., -inf, 0.])
    """
    return logits.index_fill(-1, torch.tensor(banned_ids, dtype=torch.long, device=logits.device), -torch.inf)


def _per_row(logits: Tensor, histories: Sequence) -> Sequence[list[int]]:
    return [histories] if logits.dim() == 1 else histories
