"""Filters: logits (..., V) in, logits (..., V) out (G7 to G9). A token that is out has the logit -inf: the softmax
renormalises what is left. `from decoding import top_p` gives the same functions, and a bad argument is a ValueError."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from decoding.settings import name_of, use_own
from plain_or_fast import has_twin

OUT = -math.inf
ROUNDING = 1e-6  # tolerance δ: a cumulative probability this far below p still counts as reaching it


def temperature(logits: Tensor, t: float) -> Tensor:
    """Sharpen (t < 1) or flatten (t > 1) the distribution: divide the logits by t >= 0; 0 keeps the argmax alone (G9).

    Returns logits whose largest is 0; t = 1 changes nothing. Ackley et al. 1985, section 2.

    >>> temperature(torch.tensor([.2, .8]).log(), .5).softmax(-1)  # .04 and .64, renormalised
    tensor([0.0588, 0.9412])
    """
    if t == 1:
        return logits
    if t == 0:
        return top_k(logits, 1)

    # subtract the largest, divide, and stay finite in the dtype of the logits
    largest = logits.double().amax(-1, keepdim=True)  # (..., 1)
    divided = (logits.double() - largest) / float(min(t, torch.finfo(torch.float64).max))  # inf / inf is NaN
    return divided.clamp(min=torch.finfo(logits.dtype).min).to(logits.dtype).masked_fill(logits == OUT, OUT)


@has_twin("decoding.fast.ranking")
def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most probable tokens; of equals, those with the lowest ids (G7). Fan et al. 2018, arXiv:1805.04833.

    >>> top_k(torch.tensor([.31, .29, .18, .12, .10]).log(), 3).softmax(-1)  # .31, .29 and .18, divided by their sum
    tensor([0.3974, 0.3718, 0.2308, 0.0000, 0.0000])
    """
    order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V) ids, the most probable first
    return logits.scatter(-1, order[..., k:], OUT)


@has_twin("decoding.fast.ranking")
def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most probable tokens whose total probability reaches p, 0 <= p <= 1 (G8).

    p = 1 changes nothing. Holtzman et al. 2020, arXiv:1904.09751, section 3.1.

    >>> how = torch.tensor([.31, .29, .18, .12, .10]).log()  # "How …": .31 and .29 are the lecture's
    >>> top_p(how, .88).isfinite().sum().item()
    4
    """
    if p == 1:
        return logits

    # sort, and add up the probabilities
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)  # (..., V) each
    mass = ranked.double().softmax(-1).cumsum(-1)  # (..., V): of each token and all more probable ones

    # cut: a token is out if the tokens before it already reach p
    out = (mass >= p - ROUNDING).roll(1, -1)  # (..., V)
    out[..., 0] = False
    return torch.empty_like(logits).scatter(-1, order, ranked.masked_fill(out, OUT))  # in the vocabulary's order


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens at least p times as probable as the most probable one: all for p = 0, the maxima for p = 1.

    Nguyen et al. 2024, arXiv:2407.01082, section 3.

    >>> min_p(torch.tensor([.6, .3, .1]).log(), .5).softmax(-1)
    tensor([0.6667, 0.3333, 0.0000])
    """
    if p == 0:
        return logits
    relative = logits.double() - logits.double().amax(-1, keepdim=True)  # log(probability / largest probability)
    lowest = math.log(p) - ROUNDING if p < 1 else 0.0
    return logits.masked_fill(relative < lowest, OUT)


def repetition_penalty(logits: Tensor, histories: Sequence, penalty: float) -> Tensor:
    """Divide the positive logits of tokens seen before by the penalty >= 1, and multiply negative ones.

    histories: the ids so far, one list per row (for logits (V,) the list itself). Keskar et al. 2019, arXiv:1909.05858.

    >>> repetition_penalty(torch.tensor([2., -1., 3.]), [0, 1, 1], 2.)
    tensor([ 1., -2.,  3.])
    """
    bounds = torch.finfo(logits.dtype)
    logits = logits.clone(memory_format=torch.contiguous_format)
    for row, ids in _rows(logits, histories):
        seen = row[ids].double()
        penalised = torch.where(seen > 0, seen / float(penalty), seen * float(penalty)).clamp(bounds.min, bounds.max)
        row[ids] = penalised.to(row.dtype).masked_fill(seen == OUT, OUT)
    return logits


def no_repeat_ngram(logits: Tensor, histories: Sequence, n: int) -> Tensor:
    """Forbid each token that would complete an n-gram for the second time (Paulus et al. 2017, arXiv:1705.04304).

    >>> no_repeat_ngram(torch.zeros(4), [1, 2, 3, 1], n=2)  # after the second 1, another 2 would repeat (1, 2)
    tensor([0., 0., -inf, 0.])
    """
    logits = logits.clone(memory_format=torch.contiguous_format)
    for row, ids in _rows(logits, histories):
        start = len(ids) - (n - 1)  # where the n-gram that the next token completes begins
        repeats = [ids[i + n - 1] for i in range(start) if ids[i : i + n - 1] == ids[start:]]
        row[repeats] = OUT
    return logits


def _rows(logits: Tensor, histories: Sequence) -> Iterator[tuple[Tensor, list[int]]]:
    return zip(logits.view(-1, logits.shape[-1]), [histories] if logits.dim() == 1 else histories, strict=True)


def ban(logits: Tensor, banned_ids: Sequence[int]) -> Tensor:
    """Forbid the given ids. A row may lose all its tokens."""
    return logits.index_fill(-1, torch.tensor(banned_ids, dtype=torch.long, device=logits.device), OUT)


def filter_steps(logits: Tensor, histories: Sequence, settings, length=math.inf) -> Iterator[tuple[str, Tensor]]:
    """Yield ("model", logits), then each filter that is switched on, in this order, with what it leaves of them.

    length: the token to be chosen is the length-th new one; the first min_new_tokens are no end tokens.
    """
    yield "model", logits
    if settings.banned_ids:
        yield "banned_ids", (logits := ban(logits, settings.banned_ids))
    if settings.end_ids and length <= settings.min_new_tokens:
        yield "min_new_tokens", (logits := ban(logits, [*settings.end_ids]))
    if settings.no_repeat_ngram is not None:
        yield "no_repeat_ngram", (logits := no_repeat_ngram(logits, histories, settings.no_repeat_ngram))
    if settings.repetition_penalty != 1:
        yield "repetition_penalty", (logits := repetition_penalty(logits, histories, settings.repetition_penalty))
    if settings.temperature not in (0, 1):
        yield "temperature", (logits := temperature(logits, settings.temperature))
    if settings.top_k is not None:
        yield "top_k", (logits := top_k(logits, settings.top_k))
    if settings.min_p is not None:
        yield "min_p", (logits := min_p(logits, settings.min_p))
    if settings.top_p is not None:
        yield "top_p", (logits := top_p(logits, settings.top_p))
    for own in settings.filters:
        yield name_of(own), (logits := use_own(own, logits))
    if settings.temperature == 0:  # greedy: the best of what is left
        yield "temperature", (logits := temperature(logits, 0))
