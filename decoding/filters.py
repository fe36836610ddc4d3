"""Filters: logits in, logits out. A token that is out has the logit -inf, so the softmax of what a filter returns is
the renormalised distribution over the tokens that are left.

Every filter takes (..., V), any float dtype, any device, gives the same back, and counts in float32 or better. A row
with NaN or +inf, or of only -inf, is a ValueError that names it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

OUT = -math.inf
ROUNDING = 1e-6  # δ: by so much may rounded probabilities miss a target and still count as having reached it


def temperature(logits: Tensor, t: float) -> Tensor:
    """Sharpen (t < 1) or flatten (t > 1) the distribution by dividing the logits by t (G9).

    logits: (..., V). Returns (..., V), the largest moved to 0; t = 1 changes nothing, t = 0 leaves the most probable
    token only. ValueError unless t >= 0. Ackley et al. 1985, section 2; Ficler & Goldberg 2017, arXiv:1707.02633.

    >>> temperature(torch.tensor([.2, .8]).log(), .5).softmax(-1)  # .04 and .64, renormalised
    tensor([0.0588, 0.9412])
    """
    largest = check(logits)  # (..., 1)
    expect(t >= 0, "temperature", t, "a number >= 0")
    if t == 1:
        return logits
    if t == 0:  # argmax gives the first of several maxima, by its documentation
        return torch.full_like(logits, OUT).scatter(-1, logits.argmax(-1, keepdim=True), largest)
    wide = _wide(logits)
    numbers = torch.finfo(wide.dtype)
    t = min(max(t, numbers.tiny), numbers.max)  # one that is rounded to 0 would make 0 / 0, to inf, inf / inf
    return _narrow((wide - largest) / t, logits)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most probable tokens; of equally probable ones, those with the lowest ids (G7).

    logits: (..., V). Returns (..., V): kept logits unchanged, the others -inf. ValueError unless k >= 1.
    Fan et al. 2018, arXiv:1805.04833, section 5.4.

    >>> top_k(torch.tensor([.31, .29, .18, .12, .10]).log(), 3).softmax(-1)  # .31, .29 and .18, divided by their sum
    tensor([0.3974, 0.3718, 0.2308, 0.0000, 0.0000])
    """
    check(logits)
    expect(isinstance(k, int) and k >= 1, "top_k", k, "a whole number >= 1")
    return logits if k >= logits.shape[-1] else _keep(logits, logits.topk(k).values[..., -1:], k)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most probable tokens whose total probability reaches p (G8).

    logits: (..., V); -inf marks a token that is already out. Returns (..., V): kept logits unchanged, the others -inf.
    ValueError unless 0 <= p <= 1. Holtzman et al. 2020, arXiv:1904.09751, section 3.1.

    >>> how = torch.tensor([.31, .29, .18, .12, .10]).log()  # "How …": .31 and .29 are the lecture's
    >>> top_p(how, .88).isfinite().sum().item()
    4
    >>> top_p(torch.tensor([.89, .05, .03, .02, .01]).log(), .88).isfinite().sum().item()  # "Thanks a lot"
    1
    """
    check(logits)
    expect(0 <= p <= 1, "top_p", p, "a probability, 0 <= p <= 1")
    if p == 1:
        return logits
    ranked = _ranked(logits)  # (..., V)
    mass = ranked.double().softmax(-1).cumsum(-1)  # (..., V): of each token and all that are more probable
    rank = torch.searchsorted(mass, torch.full_like(mass[..., :1], p - ROUNDING))  # (..., 1): where it reaches p
    return _keep(logits, ranked.gather(-1, rank), rank + 1)  # top-k, with a k of each row's own


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens at least p times as probable as the most probable one.

    logits: (..., V). Returns (..., V): kept logits unchanged, the others -inf; p = 0 changes nothing, p = 1 keeps the
    maxima. ValueError unless 0 <= p <= 1. Nguyen et al. 2024, arXiv:2407.01082, section 3.

    >>> min_p(torch.tensor([.6, .3, .1]).log(), .5).softmax(-1)
    tensor([0.6667, 0.3333, 0.0000])
    """
    largest = check(logits).double()  # (..., 1)
    expect(0 <= p <= 1, "min_p", p, "a probability, 0 <= p <= 1")
    if p == 0:
        return logits
    lowest = math.log(p) - ROUNDING if p < 1 else 0.0
    return logits.masked_fill(logits.double() - largest < lowest, OUT)


def repetition_penalty(logits: Tensor, histories: Sequence, penalty: float) -> Tensor:
    """Make tokens that were seen before less likely: divide a positive logit by the penalty, multiply a negative one.

    logits: (..., V); histories: the ids so far, prompt included, one list a row (for logits (V,) the list itself).
    Returns (..., V). ValueError unless penalty >= 1. Keskar et al. 2019, arXiv:1909.05858, section 4.1.

    >>> repetition_penalty(torch.tensor([2., -1., 3.]), [0, 1, 1], 2.)
    tensor([ 1., -2.,  3.])
    """
    check(logits)
    expect(1 <= penalty < math.inf, "repetition_penalty", penalty, "a number >= 1")
    wide = _wide(logits)
    penalty = min(penalty, torch.finfo(wide.dtype).max)  # 0 * inf is NaN
    seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)  # (..., V)
    for row, ids in zip(seen.view(-1, seen.shape[-1]), _one_per_row(logits, histories), strict=True):
        row[ids] = True
    penalised = torch.where(wide > 0, wide / penalty, wide * penalty)
    return torch.where(seen, _narrow(penalised, logits), logits)


def no_repeat_ngram(logits: Tensor, histories: Sequence, n: int) -> Tensor:
    """Forbid every token that would complete an n-gram for the second time; a row may be left with no token at all.

    logits: (..., V); histories: the ids so far, prompt included, one list a row (for logits (V,) the list itself).
    Returns (..., V). ValueError unless n >= 1. Paulus et al. 2017, arXiv:1705.04304, section 2.5.

    >>> no_repeat_ngram(torch.zeros(4), [1, 2, 3, 1], n=2)  # after the second 1, another 2 would repeat (1, 2)
    tensor([0., 0., -inf, 0.])
    """
    check(logits)
    expect(isinstance(n, int) and n >= 1, "no_repeat_ngram", n, "a whole number >= 1")
    logits = logits.clone(memory_format=torch.contiguous_format)
    for row, ids in zip(logits.view(-1, logits.shape[-1]), _one_per_row(logits, histories), strict=True):
        start = len(ids) - (n - 1)  # where the n-gram that the next token completes begins
        row[[ids[i + n - 1] for i in range(start) if ids[i : i + n - 1] == ids[start:]]] = OUT
    return logits


def ban(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Forbid the given ids; a row may be left with no token at all.

    logits: (..., V). Returns (..., V). ValueError if an id is not in the vocabulary.

    >>> ban(torch.zeros(3), [1])
    tensor([0., -inf, 0.])
    """
    check(logits)
    ids, V = list(ids), logits.shape[-1]
    expect(all(0 <= id < V for id in ids), "banned_ids", ids, f"ids from 0 to {V - 1}")
    return logits.index_fill(-1, torch.tensor(ids, dtype=torch.long, device=logits.device), OUT)


def check(logits: Tensor, names: Sequence | None = None) -> Tensor:
    """The largest logit of each row, (..., 1); ValueError if a row is no distribution. names: the rows' own, if any."""
    expect(logits.is_floating_point(), "dtype of the logits", logits.dtype, "a floating-point one")
    largest = logits.amax(-1, keepdim=True)  # (..., 1): NaN wins every comparison, then +inf
    if not math.isfinite(largest.sum()):  # one number is quickly looked at; but the sum of finite ones may overflow
        for row, value in enumerate(largest.flatten().tolist()):
            name = f"largest logit of row {names[row] if names else row}"
            expect(math.isfinite(value), name, value, "finite logits, or -inf for some, not all")
    return largest


def expect(right: bool, name: str, value, expected: str) -> None:
    """ValueError that names a bad value and what would be right."""
    if not right:
        raise ValueError(f"{name} is {value!r}; expected {expected}")


def _ranked(logits: Tensor) -> Tensor:
    """Each row from its largest logit to its smallest: on a CPU, NumPy sorts several times as quickly as PyTorch."""
    if logits.device.type != "cpu":
        return logits.sort(descending=True).values
    turned = -_wide(logits).detach()  # NumPy sorts upwards, and in place
    turned.numpy().sort()
    return -turned


def _keep(logits: Tensor, worst: Tensor, k: int | Tensor) -> Tensor:
    """The k best of each row, given the k-th best logit; of those equal to it, the lowest ids."""
    out = logits < worst  # (..., V)
    extra = (~out).sum(-1, keepdim=True) - k  # (..., 1): so many too many, since they equal the k-th
    if (extra > 0).any():  # subtle: which of equals torch.topk itself takes isn't defined
        equal = logits == worst
        out |= equal & (equal.sum(-1, keepdim=True) - equal.cumsum(-1) < extra)
    return logits.masked_fill(out, OUT)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _narrow(changed: Tensor, logits: Tensor) -> Tensor:
    """Changed logits in the dtype of the original: what was finite stays finite, what was -inf stays -inf."""
    bounds = torch.finfo(logits.dtype)
    return changed.clamp(bounds.min, bounds.max).to(logits.dtype).masked_fill(logits == OUT, OUT)


def _one_per_row(logits: Tensor, histories: Sequence) -> list[list[int]]:
    histories = [list(ids) for ids in ([histories] if logits.dim() == 1 else histories)]
    rows, V = logits[..., 0].numel(), logits.shape[-1]
    expect(len(histories) == rows, "number of histories", len(histories), f"{rows}, one for each row of logits")
    for ids in histories:
        expect(all(0 <= id < V for id in ids), "history", ids, f"ids from 0 to {V - 1}")
    return histories
