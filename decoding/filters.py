"""Filters: logits in, logits out (G7 to G9). A token that is out has the logit -inf, so the softmax of what a filter
returns is the renormalised distribution over the tokens that are left.

Every filter takes (..., V), any float dtype, any device, gives the same back, and computes in float64.
Here stand the definitions. `from decoding import top_p` gives the same functions with their arguments checked first.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from decoding.repetition import ban, no_repeat_ngram, repetition_penalty
from plain_or_fast import has_twin

OUT = -math.inf
ROUNDING = 1e-6  # tolerance δ: a cumulative probability this far below p still counts as reaching it


def temperature(logits: Tensor, t: float) -> Tensor:
    """Sharpen (t < 1) or flatten (t > 1) the distribution by dividing the logits by t (G9).

    logits: (..., V). Returns (..., V), the largest moved to 0; t = 1 changes nothing, t = 0 leaves the most probable
    token only. ValueError unless t >= 0. Ackley et al. 1985, section 2; Ficler & Goldberg 2017, arXiv:1707.02633.

    >>> temperature(torch.tensor([.2, .8]).log(), .5).softmax(-1)  # .04 and .64, renormalised
    tensor([0.0588, 0.9412])
    """
    if t == 1:
        return logits
    if t == 0:
        best = logits.argmax(-1, keepdim=True)  # (..., 1): the first of several maxima, by its documentation
        return torch.full_like(logits, OUT).scatter(-1, best, logits.gather(-1, best))

    # subtract the largest, divide, and stay finite in the dtype of the logits
    largest = logits.double().amax(-1, keepdim=True)  # (..., 1)
    divided = (logits.double() - largest) / min(t, torch.finfo(torch.float64).max)  # inf / inf is NaN
    lowest = torch.finfo(logits.dtype).min
    return divided.clamp(min=lowest).to(logits.dtype).masked_fill(logits == OUT, OUT)


@has_twin("decoding.fast.ranking")
def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most probable tokens; of equally probable ones, those with the lowest ids (G7).

    logits: (..., V). Returns (..., V): kept logits unchanged, the others -inf. ValueError unless k >= 1.
    Fan et al. 2018, arXiv:1805.04833, section 5.4.

    >>> top_k(torch.tensor([.31, .29, .18, .12, .10]).log(), 3).softmax(-1)  # .31, .29 and .18, divided by their sum
    tensor([0.3974, 0.3718, 0.2308, 0.0000, 0.0000])
    """
    order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V) ids, the most probable first
    return logits.scatter(-1, order[..., k:], OUT)


@has_twin("decoding.fast.ranking")
def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most probable tokens whose total probability reaches p (G8).

    logits: (..., V); -inf marks a token that is already out. Returns (..., V): kept logits unchanged, the others -inf.
    p = 1 changes nothing. ValueError unless 0 <= p <= 1. Holtzman et al. 2020, arXiv:1904.09751, section 3.1.

    >>> how = torch.tensor([.31, .29, .18, .12, .10]).log()  # "How …": .31 and .29 are the lecture's
    >>> top_p(how, .88).isfinite().sum().item()
    4
    >>> top_p(torch.tensor([.89, .05, .03, .02, .01]).log(), .88).isfinite().sum().item()  # "Thanks a lot"
    1
    """
    if p == 1:
        return logits

    # sort, and add up the probabilities
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)  # (..., V) each
    mass = ranked.double().softmax(-1).cumsum(-1)  # (..., V): of each token and all more probable ones

    # cut: a token is out if the tokens before it already reach p
    reached = mass >= p - ROUNDING  # (..., V)
    out = torch.zeros_like(reached)
    out[..., 1:] = reached[..., :-1]
    return torch.empty_like(logits).scatter(-1, order, ranked.masked_fill(out, OUT))  # in the vocabulary's order


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens at least p times as probable as the most probable one.

    logits: (..., V). Returns (..., V): kept logits unchanged, the others -inf; p = 0 changes nothing, p = 1 keeps the
    maxima. ValueError unless 0 <= p <= 1. Nguyen et al. 2024, arXiv:2407.01082, section 3.

    >>> min_p(torch.tensor([.6, .3, .1]).log(), .5).softmax(-1)
    tensor([0.6667, 0.3333, 0.0000])
    """
    if p == 0:
        return logits
    relative = logits.double() - logits.double().amax(-1, keepdim=True)  # log(probability / largest probability)
    lowest = math.log(p) - ROUNDING if p < 1 else 0.0
    return logits.masked_fill(relative < lowest, OUT)


def apply_filters(logits: Tensor, histories: Sequence, settings) -> Tensor:
    """What all filters that are switched on leave of the logits; arguments as in `filter_steps`."""
    steps = list(filter_steps(logits, histories, settings))
    _, filtered = steps[-1]
    return filtered


def filter_steps(logits: Tensor, histories: Sequence, settings) -> Iterator[tuple[str, Tensor]]:
    """Apply the filters that are switched on, in this order: yield ("model", logits), then each name and what is left.

    logits: (..., V); histories: the ids so far, one list per row (for logits (V,) the list itself); settings: a
    Settings. A row that the first two leave without a token stays -inf to the end.

    >>> from decoding import Settings
    >>> settings = Settings(max_new_tokens=1, banned_ids=[0], top_k=1)
    >>> steps = filter_steps(torch.tensor([.5, .25, .25]).log(), [0], settings)
    >>> [(name, left.softmax(-1).tolist()) for name, left in steps]
    [('model', [0.5, 0.25, 0.25]), ('banned_ids', [0.0, 0.5, 0.5]), ('top_k', [0.0, 1.0, 0.0])]
    """
    yield "model", logits
    if settings.banned_ids:
        logits = ban(logits, settings.banned_ids)
        yield "banned_ids", logits
    if settings.no_repeat_ngram is not None:
        logits = no_repeat_ngram(logits, histories, settings.no_repeat_ngram)
        yield "no_repeat_ngram", logits
    if settings.repetition_penalty != 1:
        logits = repetition_penalty(logits, histories, settings.repetition_penalty)
        yield "repetition_penalty", logits
    if settings.temperature != 1:
        logits = temperature(logits, settings.temperature)
        yield "temperature", logits
    if settings.top_k is not None:
        logits = top_k(logits, settings.top_k)
        yield "top_k", logits
    if settings.min_p is not None:
        logits = min_p(logits, settings.min_p)
        yield "min_p", logits
    if settings.top_p is not None:
        logits = top_p(logits, settings.top_p)
        yield "top_p", logits


def check_logits(logits: Tensor, rows: Sequence[int] | None = None) -> None:
    """ValueError if a row of (..., V) logits is not a distribution: NaN, +inf or only -inf. rows: their numbers."""
    largest = logits.amax(-1)  # (...): NaN wins every comparison, then +inf
    if math.isfinite(largest.sum()):  # one number to check; a sum of finite ones that overflows is looked at below
        return
    for row, value in zip(rows or range(largest.numel()), largest.flatten().tolist()):
        if not math.isfinite(value):
            raise ValueError(f"largest logit of row {row} is {value!r}; expected finite logits, or -inf for some")
